//! Whose order is kept: a partition's, or with `Ordering::Key` that of each key, from several open batches.

use std::collections::BTreeMap;
use std::time::Duration;

use milena_broker::Broker;
use milena_client::Client;
use milena_client::producer::{Delivery, Ordering, Producer, Record, TopicConfig};
use tokio::time::{Instant, timeout};

use crate::producer_log::{Stored, batches, client, log};

/// The numbers of each key's records, in the order of the log; keyless ones under their clone's letter.
fn by_key(stored: &[Stored]) -> BTreeMap<String, Vec<u32>> {
    let mut keys: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for record in stored {
        let value = String::from_utf8(record.value.clone().unwrap()).unwrap();
        let (key, number) = value.split_once(' ').unwrap();
        keys.entry(key.to_owned()).or_default().push(number.parse().unwrap());
    }
    keys
}

fn is_in_order(stored: &[Stored]) -> bool {
    by_key(stored).values().all(|numbers| numbers.is_sorted())
}

/// Sends `records` of 20 keys in turn, and of two clones without keys; returns them as they lie in the log.
async fn send(client: &Client, producer: &Producer, topic: &str, records: u32) -> Vec<Stored> {
    let clones = [producer.clone(), producer.clone()];
    let mut deliveries: Vec<Delivery> = Vec::new();
    for number in 0..records {
        let key = format!("key-{}", number % 20);
        let value = format!("{key} {number}");
        deliveries.push(producer.send(Record::to(topic).key(&key).value(&value)).await.unwrap());
        let clone = number as usize % 2;
        let value = format!("clone-{clone} {number}");
        deliveries.push(clones[clone].send(Record::to(topic).partition(0).value(&value)).await.unwrap());
    }
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    let stored = log(client, topic, 0).await;
    assert_eq!(stored.len(), records as usize * 2);
    stored
}

#[tokio::test(start_paused = true)]
async fn order_is_that_of_the_partition_or_of_its_keys_as_configured() {
    let broker = Broker::builder().topic("whole", 1).topic("keys", 1).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).batch_size(1_500);
    let producer = producer.topic("keys", TopicConfig::new().ordering(Ordering::Key)).build().unwrap();

    let whole = send(&client, &producer, "whole", 1_000).await;
    let number = |record: &Stored| {
        let value = String::from_utf8(record.value.clone().unwrap()).unwrap();
        value.split_once(' ').unwrap().1.parse::<u32>().unwrap()
    };
    assert!(whole.iter().map(number).is_sorted(), "of the partition");
    assert_eq!(producer.metrics().spreads, 0);

    let keys = send(&client, &producer, "keys", 1_000).await;
    assert!(is_in_order(&keys), "of each key, and of each clone: {:?}", by_key(&keys));
    assert!(!keys.iter().map(number).is_sorted(), "batches of several shares took turns");
    assert_eq!(producer.metrics().spreads, 1);
    assert!(batches(&client, "keys", 0).await.len() >= 8, "full ones");
    assert!(producer.close(Duration::from_secs(5)).await.clean);
}

#[tokio::test(start_paused = true)]
async fn lone_records_of_many_keys_go_within_their_linger_and_a_flush_takes_all() {
    let broker = Broker::builder().topic("t", 1).seed(1).build();
    let client = client(&broker).await;
    let linger = Duration::from_millis(100);
    let producer = Producer::builder(&client).ordering(Ordering::Key).linger(linger).build().unwrap();
    producer.send(Record::to("t").key("first").value("first 0")).await.unwrap().await.unwrap();
    let mut deliveries = Vec::new();
    for number in 0..40 {
        let (key, value) = (format!("key-{number}"), format!("key-{number} {number}"));
        deliveries.push(producer.send(Record::to("t").key(&key).value(&value)).await.unwrap());
    }
    for delivery in deliveries {
        // Each share's batch goes when the one before it is answered, or its linger ends.
        timeout(linger + Duration::from_millis(20), delivery).await.expect("in time").unwrap();
    }
    for number in 40..80 {
        let (key, value) = (format!("key-{number}"), format!("key-{number} {number}"));
        drop(producer.send(Record::to("t").key(&key).value(&value)).await.unwrap());
    }
    producer.flush().await;
    assert_eq!(log(&client, "t", 0).await.len(), 81);
    assert_eq!(producer.metrics().buffer_used, 0);
}

/// Real threads that write to one partition until they are in each other's way, and for as long again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tasks_in_each_others_way_spread_the_partition_and_each_key_keeps_its_order() {
    let broker = Broker::builder().topic("t", 1).build();
    let builder = Client::builder().bootstrap(broker.bootstrap()).unwrap();
    let client = builder.connector(std::sync::Arc::new(crate::link::Link(broker.clone()))).build().await.unwrap();
    let producer = Producer::builder(&client).ordering(Ordering::Key).build().unwrap();
    producer.send(Record::to("t").key("first").value("first 0")).await.unwrap().await.unwrap();
    let writers = (0..4).map(|task| {
        let producer = producer.clone();
        tokio::spawn(async move {
            let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
            let mut left = None;
            for number in 0.. {
                let key = format!("task-{task}-key-{}", number % 7);
                let value = format!("{key} {number}");
                drop(producer.send(Record::to("t").key(&key).value(&value)).await.unwrap());
                if number % 1_000 == 0 {
                    let has_spread = producer.metrics().spreads > 0;
                    assert!(has_spread || tokio::time::Instant::now() < deadline, "four tasks are in no other's way");
                    left = left.or(has_spread.then_some(20_000));
                }
                match &mut left {
                    Some(0) => return number + 1,
                    Some(left) => *left -= 1,
                    None => {}
                }
            }
            unreachable!("it ends by itself")
        })
    });
    let mut sent = 1;
    for writer in writers.collect::<Vec<_>>() {
        sent += writer.await.unwrap();
    }
    producer.flush().await;
    let metrics = producer.metrics();
    assert_eq!((metrics.records_acknowledged, metrics.buffer_used), (sent, 0));
    let stored = log(&client, "t", 0).await;
    assert_eq!(stored.len() as u64, sent);
    assert!(is_in_order(&stored), "of each key");
}

/// A share's batch may be closed before one that was opened earlier: each is told of in its own time.
#[tokio::test(start_paused = true)]
async fn record_of_a_key_is_given_up_in_its_time_though_a_later_one_was_closed_before() {
    const TIMEOUT: Duration = Duration::from_secs(10);
    let broker = Broker::builder().topic("t", 1).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).ordering(Ordering::Key).batch_size(400);
    let producer = producer.delivery_timeout(TIMEOUT).request_timeout(Duration::from_secs(1)).build().unwrap();
    producer.send(Record::to("t").key("first").value("0")).await.unwrap().await.unwrap();
    broker.remove_leader("t", 0).unwrap();
    client.refresh_metadata().await.unwrap();
    // The driver looks at the partition every few seconds: not at the very time that is asked for here.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut deliveries = Vec::new();
    for (large, keys) in [(false, 0..8), (true, 8..16)] {
        let value = vec![b'x'; if large { 500 } else { 1 }];
        for key in keys {
            let key = format!("key-{key}");
            let delivery = producer.send(Record::to("t").key(&key).value(&value)).await.unwrap();
            deliveries.push((Instant::now() + TIMEOUT, delivery));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    for (deadline, delivery) in deliveries {
        timeout(TIMEOUT * 2, delivery).await.expect("an answer").unwrap_err();
        let late = Instant::now().saturating_duration_since(deadline);
        assert!(late < Duration::from_millis(10), "{late:?} late");
    }
}

/// Two clones that take turns with one key: its records stay in order while the partition is spread, when it becomes idle
/// and is gathered, and when it is spread again.
#[tokio::test(start_paused = true)]
async fn clones_with_one_key_keep_its_order_when_the_partition_is_spread_and_gathered() {
    const TURNS: u32 = 200;
    let broker = Broker::builder().topic("t", 1).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).ordering(Ordering::Key).batch_size(600).build().unwrap();
    let clones = [producer.clone(), producer.clone()];
    let mut number = 0;
    for round in 0..3 {
        let mut deliveries = Vec::new();
        for turn in 0..TURNS {
            let (value, other) = (format!("key {number}"), format!("other-{}", turn % 30));
            let clone = &clones[turn as usize % 2];
            deliveries.push(clone.send(Record::to("t").key("key").value(&value)).await.unwrap());
            let value = format!("{other} {number}");
            deliveries.push(clone.send(Record::to("t").key(&other).value(&value)).await.unwrap());
            number += 1;
        }
        for delivery in deliveries {
            delivery.await.unwrap();
        }
        assert_eq!(producer.metrics().spreads, round + 1);
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    let stored = log(&client, "t", 0).await;
    assert!(is_in_order(&stored), "{:?}", by_key(&stored));
    assert_eq!(by_key(&stored)["key"], (0..number).collect::<Vec<_>>());
}
