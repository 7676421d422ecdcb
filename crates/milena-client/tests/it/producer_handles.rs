//! Many tasks with a handle each: batches belong to a partition, so that handles do not dilute them.

use std::time::Duration;

use milena_broker::Broker;
use milena_client::producer::{Producer, Record};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::producer_log::client;

/// Each task sends so many, one in every 100 ms.
const RECORDS: u32 = 20;
const TASKS: u32 = 1_000;

/// Records per batch where `tasks` share the load of [`TASKS`] tasks, each with a clone of the producer.
async fn records_per_batch(tasks: u32) -> f64 {
    let broker = Broker::builder().topic("t", 1).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).build().unwrap();
    producer.send(Record::to("t").value("0")).await.unwrap().await.unwrap();
    let before = producer.metrics();
    let (start, per_turn) = (Instant::now() + Duration::from_millis(1), TASKS / tasks);
    let mut sending = JoinSet::new();
    for number in 0..tasks {
        let producer = producer.clone();
        sending.spawn(async move {
            // The tasks' turns are spread over the 100 ms; one task alone takes all of them.
            let turns = if tasks == 1 { RECORDS * 100 } else { RECORDS };
            let every = Duration::from_millis(100) * RECORDS / turns;
            for turn in 0..turns {
                sleep_until(start + Duration::from_micros(100) * number + every * turn).await;
                for _ in 0..(per_turn * RECORDS / turns) {
                    let delivery = producer.send(Record::to("t").value("a value")).await.unwrap();
                    drop(delivery);
                }
            }
        });
    }
    while let Some(done) = sending.join_next().await {
        done.unwrap();
    }
    producer.flush().await;
    let metrics = producer.metrics();
    let (records, batches) =
        (metrics.records_acknowledged - before.records_acknowledged, metrics.batches - before.batches);
    assert_eq!(records, u64::from(RECORDS * TASKS));
    records as f64 / batches as f64
}

#[tokio::test(start_paused = true)]
async fn thousand_handles_fill_batches_as_one_does() {
    let (one, thousand) = (records_per_batch(1).await, records_per_batch(TASKS).await);
    assert!(thousand >= 0.9 * one, "{thousand} records per batch from {TASKS} tasks, {one} from one");
}
