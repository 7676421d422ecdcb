//! What partitions cost a consumer that have nothing: the bytes that they hold, and nothing in each turn. The brokers are on
//! other threads, so that what is counted is the client's alone.

use std::time::Duration;

use milena_broker::Broker;
use milena_client::Client;
use milena_client::consumer::{Consumer, Start};
use milena_client::producer::{Producer, Record};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::consumer_rig::{LIMIT, records};

const NODES: u16 = 3;
const TOPICS: i32 = 100;
/// Bytes that a topic of one partition may hold: its position 136, metadata 190, the name twice 48, and places in seven maps.
const MOST_BY_TOPIC: f64 = 680.0;

/// Of one consumer with so many partitions of each topic, which has read the one record of each and then had nothing to do.
struct Cost {
    held: i64,
    allocations_per_turn: f64,
}

async fn client(servers: &str) -> Client {
    Client::builder().bootstrap(servers).expect("addresses").build().await.expect("it answers")
}

fn names(topics: i32) -> impl Iterator<Item = String> + Clone {
    (0..topics).map(|topic| format!("t{topic}"))
}

fn brokers(elsewhere: &Runtime, topics: i32, of_each: i32) -> (Broker, String) {
    elsewhere.block_on(async {
        let broker = Broker::builder().nodes(NODES);
        let broker = names(topics).fold(broker, |broker, name| broker.topic(name, of_each)).build();
        let addresses = broker.listen("127.0.0.1:0").await.expect("free ports");
        let servers = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let client = client(&servers).await;
        let producer = Producer::builder(&client).build().expect("fine");
        let mut deliveries = Vec::new();
        for name in names(topics) {
            for partition in 0..of_each {
                deliveries.push(producer.send(Record::to(&name).partition(partition).value("0")).await.expect("fits"));
            }
        }
        for delivery in deliveries {
            delivery.await.expect("written");
        }
        (broker, servers)
    })
}

/// So many answers of brokers.
async fn turns(consumer: &Consumer, turns: u64) {
    let until = consumer.metrics().fetches + turns;
    let come = async {
        while consumer.metrics().fetches < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LIMIT, come).await.expect("brokers answer");
}

fn cost(topics: i32, of_each: i32) -> Cost {
    const TURNS: u64 = 60;
    let elsewhere = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let (_broker, servers) = brokers(&elsewhere, topics, of_each);
    let here = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut kept = None;
    let held = allocation_counter::measure(|| {
        kept = Some(here.block_on(async {
            let client = client(&servers).await;
            let consumer = Consumer::builder(&client).fetch_max_wait(Duration::from_millis(20)).build().expect("fine");
            let all = names(topics).flat_map(|name| (0..of_each).map(move |partition| (name.clone(), partition)));
            consumer.assign(all.map(|(name, partition)| (name, partition, Start::Beginning))).expect("open");
            for _ in 0..topics * of_each {
                timeout(LIMIT, records(&consumer)).await.expect("there is one in each");
            }
            turns(&consumer, 10 * u64::from(NODES)).await;
            consumer
        }));
    });
    let consumer = kept.expect("built");
    let idle = allocation_counter::measure(|| here.block_on(turns(&consumer, TURNS)));
    Cost { held: held.bytes_current, allocations_per_turn: idle.count_total as f64 / TURNS as f64 }
}

#[test]
fn idle_partition_holds_few_bytes_and_costs_no_turn_anything() {
    let (few, many) = (cost(TOPICS, 2), cost(TOPICS, 20));
    let bytes = (many.held - few.held) as f64 / f64::from(TOPICS * 18);
    assert!(bytes <= 260.0, "{bytes} bytes for each idle partition");
    let (few, many) = (few.allocations_per_turn, many.allocations_per_turn);
    assert!(
        many <= 20.0 && (many - few).abs() < 2.0,
        "{few} allocations of a turn, and {many} beside ten times as many"
    );
}

#[test]
fn topic_of_one_partition_holds_few_bytes() {
    let (few, many) = (cost(TOPICS, 1), cost(6 * TOPICS, 1));
    let bytes = (many.held - few.held) as f64 / f64::from(5 * TOPICS);
    assert!(bytes <= MOST_BY_TOPIC, "{bytes} bytes for each topic of one partition");
}
