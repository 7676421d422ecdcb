//! What a partition costs that was written to and is idle now: bytes, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use milena_broker::Broker;
use milena_client::Client;
use milena_client::producer::{Ordering, Producer, Record};
use milena_protocol::ApiKey;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::base::links::{Links, Route};
use crate::producer_log::{client, numbers};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// Bytes that are freed with a producer, and with its client, that have written to so many partitions.
fn held(topics: usize, partitions: i32) -> (i64, i64) {
    let runtime = runtime();
    let mut builder = Broker::builder().nodes(3).seed(1);
    let names: Vec<_> = (0..topics).map(|topic| format!("t{topic}")).collect();
    for name in &names {
        builder = builder.topic(name, partitions);
    }
    let broker = builder.build();
    let client = runtime.block_on(client(&broker));
    let producer = runtime.block_on(async {
        let producer = Producer::builder(&client).build().unwrap();
        for name in &names {
            let mut deliveries = Vec::new();
            for partition in 0..partitions {
                let record = Record::to(name).partition(partition).value("0");
                deliveries.push(producer.send(record).await.unwrap());
            }
            for delivery in deliveries {
                delivery.await.unwrap();
            }
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        producer
    });
    let idle = producer.metrics().buffer_idle as i64;
    let of_producer = allocation_counter::measure(|| {
        runtime.block_on(async {
            drop(producer);
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
    });
    let of_client = allocation_counter::measure(|| {
        runtime.block_on(async {
            drop(client);
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
    });
    (-of_producer.bytes_current - idle, -of_client.bytes_current)
}

#[test]
fn idle_partition_holds_few_bytes() {
    const PARTITIONS: i32 = 10;
    let (few, many) = (held(100, PARTITIONS), held(300, PARTITIONS));
    let each = |few: i64, many: i64| (many - few) as f64 / f64::from(200 * PARTITIONS);
    let (producer, client) = (each(few.0, many.0), each(few.1, many.1));
    assert!(producer + client <= 300.0, "{producer} B in the producer and {client} B in the client's metadata");
}

/// Nothing of it is forgotten that the broker would miss, nor what need not be asked again.
#[tokio::test(start_paused = true)]
async fn partition_goes_on_after_it_was_idle_as_if_it_had_not_been() {
    for ordering in [Ordering::Partition, Ordering::Key] {
        let broker = Broker::builder().nodes(3).topic("t", 6).seed(1).build();
        let client = client(&broker).await;
        let producer = Producer::builder(&client).ordering(ordering).build().unwrap();
        let asked = |api| broker.requests().iter().filter(|count| count.api == api).map(|count| count.count).sum();
        let mut before: (u64, u64) = (0, 0);
        for round in 0..4 {
            for number in 3 * round..3 * round + 3 {
                for partition in 0..6 {
                    let value = number.to_string();
                    let record = Record::to("t").partition(partition).key("k").value(&value);
                    producer.send(record).await.unwrap().await.unwrap();
                }
            }
            let asked = (asked(ApiKey::Metadata), asked(ApiKey::InitProducerId));
            assert!(round == 0 || asked == before, "{asked:?} for metadata and a producer id, {before:?} before");
            before = asked;
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
        for partition in 0..6 {
            assert_eq!(numbers(&client, "t", partition).await, (0..12).collect::<Vec<_>>());
        }
        let metrics = producer.metrics();
        assert_eq!((metrics.retries, metrics.epoch_bumps, metrics.buffer_used), (0, 0, 0));
        // Spread anew after each time that it was idle.
        assert_eq!(metrics.spreads, if ordering == Ordering::Key { 4 * 6 } else { 0 });
    }
}

/// Of a leader that moves meanwhile it learns without being written to.
#[tokio::test(start_paused = true)]
async fn idle_partition_follows_its_leader() {
    let broker = Broker::builder().nodes(3).topic("t", 3).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).build().unwrap();
    let send = async |number: u32| {
        for partition in 0..3 {
            let value = number.to_string();
            producer.send(Record::to("t").partition(partition).value(&value)).await.unwrap().await.unwrap();
        }
    };
    send(0).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    for partition in 0..3 {
        let leader = broker.leader("t", partition).unwrap().unwrap();
        broker.move_leader("t", partition, (leader + 1) % 3).unwrap();
    }
    client.refresh_metadata().await.unwrap();
    send(1).await;
    assert_eq!(producer.metrics().retries, 0, "nobody was asked who no longer leads");
    for partition in 0..3 {
        assert_eq!(numbers(&client, "t", partition).await, [0, 1]);
    }
}

/// Its node may still have it on the list, of what was given up.
#[tokio::test(start_paused = true)]
async fn partition_that_became_idle_while_its_leader_was_away_is_sent_for_again() {
    let broker = Broker::builder().nodes(2).topic("t", 1).seed(3).build();
    let links = Links::new(&broker);
    let bootstrap = Client::builder().bootstrap("embedded-0:9092,embedded-1:9092").unwrap();
    let client = bootstrap.connector(Arc::clone(&links) as _).build().await.unwrap();
    let (timeout, request_timeout) = (Duration::from_secs(10), Duration::from_secs(9));
    let producer = Producer::builder(&client).delivery_timeout(timeout).request_timeout(request_timeout);
    let producer = producer.build().unwrap();
    let (host, back) = match broker.leader("t", 0).unwrap() {
        Some(0) => ("embedded-0", Route::Node(broker.clone(), "embedded-0")),
        _ => ("embedded-1", Route::Node(broker.clone(), "embedded-1")),
    };
    links.route(host, Route::Refused);
    let record = Record::to("t").value("0");
    producer.send(record).await.unwrap().await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(30)).await;
    links.route(host, back);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let sent = Instant::now();
    producer.send(record).await.unwrap().await.unwrap();
    assert!(sent.elapsed() < Duration::from_secs(1), "{:?}", sent.elapsed());
}

#[tokio::test(start_paused = true)]
async fn topics_that_are_asked_for_one_by_one_open_no_second_connection_to_each_broker() {
    let nodes = 8;
    let topics = 40;
    let mut broker = Broker::builder().nodes(nodes).seed(5);
    for topic in 0..topics {
        broker = broker.topic(format!("t{topic}"), 1);
    }
    let broker = broker.build();
    for topic in 0..topics {
        broker.move_leader(&format!("t{topic}"), 0, topic % i32::from(nodes)).unwrap();
    }
    let client = client(&broker).await;
    let producer = Producer::builder(&client).build().unwrap();
    for topic in 0..topics {
        producer.send(Record::to(&format!("t{topic}")).value("1")).await.unwrap().await.unwrap();
    }
    let dials: u64 = broker.requests().iter().filter(|of| of.api == ApiKey::ApiVersions).map(|of| of.count).sum();
    // One to write to each, one to ask the bootstrap server, and one or two to ask others.
    assert!(dials <= u64::from(nodes) + 3, "{dials} connections to {nodes} brokers");
}
