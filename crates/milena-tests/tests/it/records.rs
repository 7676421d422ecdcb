//! Records through producer and consumer: what is acknowledged is read back, exactly, alone and in groups.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use milena_client::TopicPartition;
use milena_client::consumer::Assignor;
use milena_client::consumer::Consumer;
use milena_client::producer::Producer;
use milena_client::producer::Record;
use milena_client::producer::RecordHeader;
use milena_tests::cluster::Cluster;
use milena_tests::on_every_cluster;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::client::CODECS;
use crate::client::Member;
use crate::client::TIME_LIMIT;
use crate::client::client;
use crate::client::client_and_topic;
use crate::client::read_all;

on_every_cluster!(
    every_codec_comes_back_exactly,
    many_tasks_keep_the_order_of_each,
    a_group_sees_each_record_once_and_commits_it,
);

const N_PARTITIONS: i32 = 3;

async fn every_codec_comes_back_exactly(cluster: Cluster) {
    for (name, compression) in CODECS {
        let (client, topic) = client_and_topic(&cluster, name, N_PARTITIONS).await;
        let producer = Producer::builder(&client).compression(compression).build().unwrap();
        let mut deliveries = Vec::new();
        for i in 0..1000_usize {
            // Null, empty and filled are three things; so are a header's name twice and once.
            let key = [None, Some(String::new()), Some(format!("key-{}", i % 50))][i % 3].clone();
            let value = [None, Some(String::new()), Some(format!("{i} ").repeat(i % 60 + 1))][i % 7 % 3].clone();
            let headers = [RecordHeader { key: "name", value: Some(b"a") }, RecordHeader { key: "name", value: None }];
            let mut record = Record::to(&topic).headers(&headers[..i % 3]).timestamp(1_700_000_000_000 + i as i64);
            record.key = key.as_ref().map(String::as_bytes);
            record.value = value.as_ref().map(String::as_bytes);
            let delivery = producer.send(record).await.unwrap();
            deliveries.push((i, key, value, delivery));
        }
        let mut acknowledged = BTreeMap::new();
        for (i, key, value, delivery) in deliveries {
            let metadata = timeout(TIME_LIMIT, delivery).await.expect("an answer").unwrap();
            assert_eq!(metadata.topic(), topic);
            let place = (metadata.partition(), metadata.offset().unwrap());
            assert!(acknowledged.insert(place, (i, key, value)).is_none(), "two records at {place:?}");
        }
        let read = read_all(&client, &topic, N_PARTITIONS).await;
        assert_eq!(read.len(), acknowledged.len());
        for (place, (i, key, value)) in acknowledged {
            let record = &read[&place];
            assert_eq!(record.key(), key.as_ref().map(String::as_bytes), "{name}, record {i}");
            assert_eq!(record.value(), value.as_ref().map(String::as_bytes), "{name}, record {i}");
            assert_eq!(record.timestamp, 1_700_000_000_000 + i as i64);
            let headers: Vec<_> = record.headers().iter().map(|header| (header.name(), header.value)).collect();
            assert_eq!(headers, [("name".into(), Some(&b"a"[..])), ("name".into(), None)][..i % 3]);
        }
        assert!(producer.close(TIME_LIMIT).await.clean, "nothing is left");
    }
}

async fn many_tasks_keep_the_order_of_each(cluster: Cluster) {
    const N_TASKS: usize = 4;
    const N_RECORDS: usize = 2000;
    let (client, topic) = client_and_topic(&cluster, "ordered", N_PARTITIONS).await;
    let producer = Producer::builder(&client).build().unwrap();
    let tasks: Vec<_> = (0..N_TASKS)
        .map(|task| {
            let (producer, topic) = (producer.clone(), topic.clone());
            tokio::spawn(async move {
                let key = format!("task-{task}");
                let mut deliveries = Vec::new();
                for i in 0..N_RECORDS {
                    let record = Record::to(&topic).key(&key);
                    deliveries.push(producer.send(record.value(&i.to_string())).await.unwrap());
                }
                let mut offsets = Vec::new();
                for delivery in deliveries {
                    offsets.push(delivery.await.unwrap().offset().unwrap());
                }
                offsets
            })
        })
        .collect();
    for task in tasks {
        let offsets = timeout(TIME_LIMIT, task).await.expect("answers").unwrap();
        assert!(offsets.is_sorted_by(|a, b| a < b), "acknowledged in the order of sending");
    }
    let mut next: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for record in read_all(&client, &topic, N_PARTITIONS).await.into_values() {
        let next = next.entry(record.key().unwrap().to_vec()).or_default();
        assert_eq!(
            record.value().unwrap(),
            next.to_string().as_bytes(),
            "each task's records in its order, none twice"
        );
        *next += 1;
    }
    assert_eq!(next.into_values().collect::<Vec<_>>(), [N_RECORDS; N_TASKS]);
}

async fn a_group_sees_each_record_once_and_commits_it(cluster: Cluster) {
    for assignor in [Assignor::Range, Assignor::RoundRobin, Assignor::Sticky, Assignor::CooperativeSticky] {
        let (client_a, topic) = client_and_topic(&cluster, "shared", 4).await;
        let client_b = client(&cluster).await;
        let group = cluster.unique("group");
        let producer = Producer::builder(&client_a).build().unwrap();
        let (seen, mut seen_by_all) = mpsc::channel(1000);
        let a = Member::join(&client_a, &topic, &group, assignor, seen.clone());
        let mut b = Some(Member::join(&client_b, &topic, &group, assignor, seen));
        let mut expected = BTreeSet::new();
        let mut handled = BTreeSet::new();
        // At first while the group still forms, then when one of the two has left.
        for turn in ["first", "second"] {
            for i in 0..200 {
                let (key, value) = (format!("key-{}", i % 40), format!("{turn}-{i}"));
                let record = Record::to(&topic).key(&key).value(&value).partition(i % 4);
                let metadata = producer.send(record).await.unwrap().await.unwrap();
                expected.insert((metadata.partition(), metadata.offset().unwrap()));
            }
            while handled.len() < expected.len() {
                let record = timeout(TIME_LIMIT, seen_by_all.recv()).await.expect("records come").unwrap();
                let place = (record.partition, record.offset);
                assert!(handled.insert(place), "{assignor}: {place:?} was handled twice");
            }
            if let Some(b) = b.take() {
                b.leave().await;
            }
        }
        a.leave().await;
        assert_eq!(handled, expected);

        let consumer = Consumer::builder(&client_b).group(&group).build().unwrap();
        let partitions: Vec<_> = (0..4).map(|partition| TopicPartition::new(&*topic, partition)).collect();
        let committed = consumer.committed(partitions.clone()).await.unwrap();
        for (partition, end) in consumer.end_offsets(partitions).await.unwrap() {
            assert_eq!(committed[&partition].offset, end, "{assignor}: {partition:?}");
        }
    }
}
