//! What is fetched ahead: one budget for the client, shared fairly, and next to nothing that is fetched twice.

use std::collections::BTreeMap;
use std::time::Duration;

use milena_client::consumer::{Consumer, RecordSet, Start};
use milena_protocol::compress::Compression;
use milena_protocol::record::BatchEncoder;
use tokio::time::{Instant, timeout};

use crate::consumer_rig::{LIMIT, Rig, WALL, records, tp, write};

const BATCH: usize = 1 << 10;

/// Writes batches of one record with a value of about [`BATCH`] bytes.
async fn fill(rig: &Rig, partition: i32, batches: usize) {
    for _ in 0..batches {
        let mut batch = BatchEncoder::new(Vec::new(), WALL);
        batch.append(WALL, None, Some(&[7; BATCH - 100]), &[]).expect("fits");
        write(&rig.client, "t", partition, batch.seal(Compression::None, None).expect("seals").to_bytes(), false).await;
    }
}

fn all(partitions: i32) -> impl Iterator<Item = (&'static str, i32, Start)> {
    (0..partitions).map(|partition| ("t", partition, Start::Beginning))
}

fn consumer(rig: &Rig, max_partition: usize) -> Consumer {
    rig.consumer().max_partition_fetch_bytes(max_partition).build().unwrap()
}

/// Checks that no offset is left out or shown twice.
#[derive(Default)]
struct Order(BTreeMap<i32, i64>);

impl Order {
    fn note(&mut self, set: &RecordSet) {
        for record in set {
            let next = self.0.entry(record.partition).or_insert(0);
            assert_eq!(record.offset, *next, "of {}", record.partition);
            *next += 1;
        }
    }

    fn total(&self) -> i64 {
        self.0.values().sum()
    }
}

#[tokio::test(start_paused = true)]
async fn slow_application_that_pauses_and_resumes_wastes_next_to_nothing() {
    let rig = Rig::new(3, "t", 6).await.with_prefetch(768 << 10).await;
    for partition in 0..6 {
        fill(&rig, partition, 400).await;
    }
    let consumer = consumer(&rig, 64 << 10);
    consumer.assign(all(6)).unwrap();
    let mut order = Order::default();
    let mut paused = None;
    let mut held = Vec::new();
    let mut round: i32 = 0;
    while order.total() < 2400 {
        let set = timeout(LIMIT, records(&consumer)).await.expect("goes on");
        assert!(paused.is_none_or(|paused| paused != set.partition()), "paused");
        order.note(&set);
        held.push(set);
        round += 1;
        if round % 10 == 0 {
            // Slower than the brokers' long polls, now and then.
            tokio::time::sleep(Duration::from_millis(if round % 100 == 0 { 700 } else { 20 })).await;
            held.clear();
            if let Some(paused) = paused.take() {
                consumer.resume(&tp("t", paused)).unwrap();
            } else {
                paused = Some(round / 10 % 6);
                consumer.pause(&tp("t", round / 10 % 6)).unwrap();
            }
            // The last ones may all be paused.
            if order.total() > 2000
                && let Some(paused) = paused.take()
            {
                consumer.resume(&tp("t", paused)).unwrap();
            }
        }
    }
    let metrics = consumer.metrics();
    let log = metrics.bytes_fetched - metrics.bytes_cut_off - metrics.bytes_voided;
    assert!(log as usize > 2400 * (BATCH - 100), "{metrics:?}");
    let wasted = metrics.bytes_cut_off + metrics.bytes_voided;
    assert!(wasted * 50 <= metrics.bytes_fetched, "{wasted} of {}: more than 2 %", metrics.bytes_fetched);
    assert_eq!((metrics.bytes_voided, metrics.records, metrics.record_sets), (0, 2400, 2400));
}

#[tokio::test(start_paused = true)]
async fn seek_and_revocation_void_what_they_must_and_say_how_much() {
    let rig = Rig::new(1, "t", 2).await;
    fill(&rig, 0, 20).await;
    fill(&rig, 1, 20).await;
    let consumer = consumer(&rig, 64 << 10);
    consumer.assign(all(2)).unwrap();
    let first = records(&consumer).await;
    let sent = consumer.metrics().bytes_fetched;
    consumer.seek(first.topic_partition(), Start::Offset(10)).unwrap();
    let voided = consumer.metrics().bytes_voided;
    let left = 19.0 * sent as f64 / 40.0;
    assert!((voided as f64 - left).abs() < 100.0, "{voided} of {sent}, one record of 20 was handed over");
    consumer.assign(all(0)).unwrap();
    assert!(consumer.metrics().bytes_voided > voided + 19 * 900, "the other partition's too");
}

#[tokio::test(start_paused = true)]
async fn consumer_that_leaves_its_records_unread_starves_no_other_of_its_client() {
    let budget = 128 << 10;
    let rig = Rig::new(1, "t", 2).await.with_prefetch(budget).await;
    fill(&rig, 0, 400).await;
    fill(&rig, 1, 400).await;
    let (slow, fast) = (consumer(&rig, 16 << 10), consumer(&rig, 16 << 10));
    slow.assign([("t", 0, Start::Beginning)]).unwrap();
    let first = records(&slow).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    fast.assign([("t", 1, Start::Beginning)]).unwrap();
    let began = Instant::now();
    let mut order = Order::default();
    while order.total() < 400 {
        let set = timeout(LIMIT, records(&fast)).await.expect("has a share of its own");
        order.note(&set);
        let used = fast.metrics().prefetch_used;
        assert!(used <= (budget + (16 << 10)) as u64, "{used}");
    }
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}: as if it were alone", began.elapsed());
    // And the slow one has lost nothing.
    let mut order = Order::default();
    order.note(&first);
    while order.total() < 400 {
        order.note(&timeout(LIMIT, records(&slow)).await.expect("goes on"));
    }
}

#[tokio::test(start_paused = true)]
async fn records_held_of_one_broker_are_not_in_the_way_of_another() {
    let rig = Rig::new(2, "t", 2).await.with_prefetch(64 << 10).await;
    let [one, other] = [0, 1].map(|partition| rig.broker.leader("t", partition).unwrap());
    assert_ne!(one, other);
    fill(&rig, 0, 200).await;
    fill(&rig, 1, 200).await;
    let consumer = consumer(&rig, 8 << 10);
    consumer.assign(all(2)).unwrap();
    let mut hoard = Vec::new();
    let mut read = 0;
    while read < 200 {
        let set = timeout(LIMIT, records(&consumer)).await.expect("the other goes on");
        if set.partition() == 0 {
            hoard.push(set);
        } else {
            read += set.len();
        }
    }
    assert!(hoard.len() < 50, "{}: its share is full", hoard.len());
    let began = Instant::now();
    let more = hoard.len();
    hoard.clear();
    for _ in more..200 {
        timeout(LIMIT, records(&consumer)).await.expect("goes on as soon as there is room");
    }
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn closed_consumer_gives_back_what_it_fetched_ahead_though_a_clone_of_it_lives_on() {
    let rig = Rig::new(1, "t", 2).await;
    fill(&rig, 0, 100).await;
    let (closed, other) = (consumer(&rig, 16 << 10), consumer(&rig, 16 << 10));
    closed.assign([("t", 0, Start::Beginning)]).unwrap();
    drop(records(&closed).await);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(other.metrics().prefetch_used > 0, "it has fetched ahead");
    let clone = closed.clone();
    closed.close(LIMIT).await.unwrap();
    assert_eq!(other.metrics().prefetch_used, 0);
    drop(clone);
}
