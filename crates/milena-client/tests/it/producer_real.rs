//! The producer on every cluster, embedded and real (see CONTRIBUTING.md).

use std::time::Duration;

use milena_client::producer::{Compression, Producer, Record};

use crate::cluster::{Cluster, on_every_cluster};
use crate::producer_log::{batches, numbers};

const PARTITIONS: i32 = 3;

on_every_cluster!(every_codec_arrives, batch_that_the_broker_calls_too_large_is_split_and_sent_on);

async fn every_codec_arrives(cluster: Cluster) {
    let client = cluster.client().await;
    let topic = cluster.topic(&client, "producer", PARTITIONS).await;
    let mut sent = vec![Vec::new(); PARTITIONS as usize];
    for compression in [
        Compression::None,
        Compression::Gzip(None),
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd(None),
        Compression::Auto,
        Compression::Throughput,
        Compression::Ratio,
        Compression::SizeTable,
    ] {
        let producer = Producer::builder(&client).compression(compression).batch_size(16 * 1024).build().unwrap();
        let mut deliveries = Vec::new();
        for number in 0..9_000_u32 {
            let partition = number as i32 % PARTITIONS;
            let value = format!("{number:x>60}");
            deliveries.push(producer.send(Record::to(&topic).partition(partition).value(&value)).await.unwrap());
            sent[partition as usize].push(number);
        }
        let mut last = vec![None; PARTITIONS as usize];
        for delivery in deliveries {
            let metadata = delivery.await.unwrap();
            let before = last[metadata.partition() as usize].replace(metadata.offset().expect("an offset"));
            assert!(before < metadata.offset(), "{compression:?}: {before:?} before {metadata:?}");
        }
        let report = producer.close(Duration::from_secs(30)).await;
        assert!(report.clean, "{compression:?}: {report:?}");
        assert_eq!(producer.metrics().buffer_used, 0, "{compression:?}");
    }
    for partition in 0..PARTITIONS {
        assert_eq!(numbers(&client, &topic, partition).await, sent[partition as usize], "partition {partition}");
    }
}

async fn batch_that_the_broker_calls_too_large_is_split_and_sent_on(cluster: Cluster) {
    let client = cluster.client().await;
    let topic = cluster.topic_with(&client, "too-large", 1, &[("max.message.bytes", "20000")]).await;
    let producer = Producer::builder(&client).batch_size(256 * 1024).build().unwrap();
    let values: Vec<_> = (0..6_000).map(|number| format!("{number:x>80}")).collect();
    // The leader knows of the topic before there is anything to split: after a NOT_LEADER_OR_FOLLOWER, which may come after
    // an append, too large is no definite refusal.
    let first = producer.send(Record::to(&topic).value(&values[0])).await.unwrap().await.unwrap();
    assert_eq!(first.offset(), Some(0));
    let mut deliveries = Vec::new();
    for value in &values[1..] {
        deliveries.push(producer.send(Record::to(&topic).value(value)).await.unwrap());
    }
    for (number, delivery) in (1_i64..).zip(deliveries) {
        assert_eq!(delivery.await.unwrap().offset(), Some(number));
    }
    let metrics = producer.metrics();
    assert!(metrics.retries > 0, "none was too large: {metrics:?}");
    assert_eq!(metrics.epoch_bumps, 0, "a definite refusal leaves no gap");
    assert_eq!(numbers(&client, &topic, 0).await, (0..6_000).collect::<Vec<_>>());
    assert!(batches(&client, &topic, 0).await.len() >= 6_000 * 85 / 20_000);
}
