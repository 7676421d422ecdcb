//! The producer against a real Kafka, where `MILENA_KAFKA_1` or `MILENA_KAFKA_3` name one (see CONTRIBUTING.md).

use std::time::{Duration, SystemTime};

use milena_client::Client;
use milena_client::producer::{Compression, Producer, Record};
use milena_client::raw::Target;
use milena_protocol::messages::CreateTopicsRequest;
use milena_protocol::messages::create_topics_request::CreatableTopic;

use crate::producer_log::numbers;

const PARTITIONS: i32 = 3;

async fn cluster(variable: &str, replicas: i16) -> Option<(Client, String)> {
    let Ok(servers) = std::env::var(variable) else {
        eprintln!("NOT TESTED on a real Kafka: {variable} is not set");
        return None;
    };
    let client = Client::builder().bootstrap(servers).expect("addresses").build().await.expect("Kafka answers");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_micros();
    let topic = format!("producer-{now}");
    let request = CreateTopicsRequest {
        topics: vec![CreatableTopic {
            name: topic.clone().into(),
            num_partitions: PARTITIONS,
            replication_factor: replicas,
            ..CreatableTopic::default()
        }],
        timeout_ms: 30_000,
        ..CreateTopicsRequest::default()
    };
    let response = client.raw().send(Target::Controller, request).await.expect("the controller answers");
    assert!(response.topics[0].error_code.is_ok(), "{response:?}");
    Some((client, topic))
}

async fn every_codec_arrives(variable: &str, replicas: i16) {
    let Some((client, topic)) = cluster(variable, replicas).await else { return };
    let mut sent = vec![Vec::new(); PARTITIONS as usize];
    for compression in [
        Compression::None,
        Compression::Gzip(None),
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd(None),
        Compression::Auto,
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

#[tokio::test]
async fn every_codec_arrives_on_one_node() {
    every_codec_arrives("MILENA_KAFKA_1", 1).await;
}

#[tokio::test]
async fn every_codec_arrives_on_three_nodes() {
    every_codec_arrives("MILENA_KAFKA_3", 3).await;
}
