use std::time::Duration;

use milena_broker::{Broker, Fault, Rule};
use milena_protocol::ApiKey;

use super::*;
use crate::producer::{Delivery, Producer};
use crate::test_link::client_of;

const LINGER: Duration = Duration::from_millis(100);

/// A producer whose partition is spread, has batches of several shares open that have lingered, and can't send them
/// before an answer has come.
async fn ripe_shares() -> (Producer, Arc<Partition>, Vec<Delivery>) {
    let broker = Broker::builder().topic("t", 1).build();
    let slow = Rule::new(Fault::Delay(Duration::from_secs(1))).api(ApiKey::Produce).always();
    broker.faults().add(slow);
    let client = client_of(broker).build().await.unwrap();
    let producer = Producer::builder(&client).ordering(Ordering::Key).linger(LINGER).batch_size(1_000);
    let producer = producer.build().unwrap();
    let mut deliveries = Vec::new();
    for number in 0..16 {
        let key = format!("key-{number}");
        deliveries.push(producer.send(Record::to("t").key(&key).value("0")).await.unwrap());
    }
    tokio::time::sleep(LINGER * 2).await;
    let partition = Arc::clone(&producer.handle.shared.topic("t").unwrap().partitions().present()[0]);
    let state = partition.lock().unwrap();
    assert!(state.ripe && state.taking.completions().count() > 3, "several, and no longer waiting for company");
    drop(state);
    (producer, partition, deliveries)
}

#[tokio::test(start_paused = true)]
async fn share_that_fills_leaves_the_older_ones_as_ripe_as_they_were() {
    let (producer, partition, deliveries) = ripe_shares().await;
    let large = [b'x'; 2_000];
    let mut full = Vec::new();
    // One of its keys at least has a share whose batch is not the oldest.
    for number in 0..16 {
        let key = format!("large-{number}");
        full.push(producer.send(Record::to("t").key(&key).value(&large)).await.unwrap());
        let state = partition.lock().unwrap();
        let lingered = producer.handle.shared.client.clock.now() - LINGER;
        assert_eq!(state.ripe, state.taking.oldest().is_some_and(|created| created <= lingered), "after {number}");
    }
    for delivery in deliveries.into_iter().chain(full) {
        delivery.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn shares_that_have_lingered_together_are_ripe_together() {
    let (_producer, partition, deliveries) = ripe_shares().await;
    {
        let mut state = partition.lock().unwrap();
        let (open, opened) = (state.taking.completions().count(), state.opened);
        let now = state.taking.oldest().unwrap() + LINGER;
        for left in (1..open).rev() {
            assert!(state.close_oldest());
            state.ripen(now, LINGER);
            assert!(state.ripe && state.opened == opened, "{left} left");
        }
        state.ripen(now - Duration::from_millis(1), LINGER);
        assert!(!state.ripe, "not before its time");
        state.ripen(now, LINGER);
    }
    for delivery in deliveries {
        delivery.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn clones_with_one_key_keep_its_order_across_spread_and_gather() {
    let broker = Broker::builder().topic("t", 1).build();
    let slow = Rule::new(Fault::Delay(Duration::from_secs(1))).api(ApiKey::Produce).always();
    broker.faults().add(slow);
    let client = client_of(broker).build().await.unwrap();
    // Of the partition's own accord neither happens here.
    let producer = Producer::builder(&client).linger(Duration::from_secs(5)).build().unwrap();
    let clones = [producer.clone(), producer.clone()];
    let mut deliveries = vec![producer.send(Record::to("t").key("k").value("first")).await.unwrap()];
    let shared = &producer.handle.shared;
    let partition = Arc::clone(&shared.topic("t").unwrap().partitions().present()[0]);
    for round in 0..6 {
        for clone in &clones {
            deliveries.push(clone.send(Record::to("t").key("k").value("next")).await.unwrap());
        }
        let mut state = partition.lock().unwrap();
        assert!(state.taking.has_open(), "something is to be closed");
        match round % 2 {
            0 => partition.spread(shared, &mut state),
            _ => partition.gather(&mut state),
        }
    }
    producer.flush().await;
    for (number, delivery) in (0..).zip(deliveries) {
        assert_eq!(delivery.await.unwrap().offset(), Some(number));
    }
}

/// One batch needs no second look to be seen as old, also where others that share its first look were written to again.
#[tokio::test(start_paused = true)]
async fn partition_that_one_batch_woke_is_given_up_at_its_first_look() {
    let broker = Broker::builder().topic("t", 2).build();
    let client = client_of(broker).build().await.unwrap();
    let producer = Producer::builder(&client).build().unwrap();
    let send = async |partition| {
        producer.send(Record::to("t").partition(partition).value("0")).await.unwrap().await.unwrap();
    };
    send(0).await;
    send(1).await;
    let partitions: Vec<_> = producer.handle.shared.topic("t").unwrap().partitions().present().to_vec();
    let is_active = || [partitions[0].lock().is_some(), partitions[1].lock().is_some()];
    let look_after = partitions[0].settings().look_after;
    tokio::time::sleep(look_after / 2).await;
    assert_eq!(is_active(), [true, true]);
    send(1).await;
    tokio::time::sleep(look_after / 2 + Duration::from_millis(260)).await;
    assert_eq!(is_active(), [false, true], "the other has had two batches since");
    tokio::time::sleep(look_after).await;
    assert_eq!(is_active(), [false, false]);
    assert_eq!(producer.handle.shared.active_partitions.load(Relaxed), 0);
}
