//! Each knob changes what happens: one that did nothing would fail here.

use std::time::Duration;

use milena::{Bus, OpenError, Order, PublishError, SubscribeError, WireShape};
use milena_broker::Broker;

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn commits_come_after_the_interval_or_the_number_of_records_whichever_is_first() {
    let broker = Broker::builder().topic("steps", 1).build();
    let bus = bus_on(&broker).await;
    let an_hour = Duration::from_secs(3_600);
    let by_number =
        bus.subscribe(policy(), |_: Stepped| async {}).group("number").commit_every(an_hour, 5).await.unwrap();
    let by_time = bus.subscribe(policy(), |_: Stepped| async {}).group("time").await.unwrap();
    let late = bus.subscribe(policy(), |_: Stepped| async {}).group("late").commit_every(an_hour, 1_000).await.unwrap();
    for number in 0..7 {
        bus.publish(&stepped("a", number)).await.unwrap();
    }
    for subscription in [&by_number, &by_time, &late] {
        within("seven", subscription.wait_for(|status| status.counts.handled == 7)).await.unwrap();
    }
    until_async("by time", async || committed(&broker, "time", "steps", 0).await == Some(7)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let number = committed(&broker, "number", "steps", 0).await;
    assert!(number.is_some_and(|offset| offset >= 5), "committed at five, not at the hour: {number:?}");
    assert_eq!(committed(&broker, "late", "steps", 0).await, None);
    assert!(within("close", bus.close(Duration::from_secs(10))).await.is_complete());
    assert_eq!(committed(&broker, "late", "steps", 0).await, Some(7), "closing commits what is handled");
}

#[tokio::test(start_paused = true)]
async fn a_seed_makes_the_same_ids_again() {
    let first_id = async |seed| {
        let bus = Bus::builder().embedded(Broker::builder().build()).seed(seed).open().await.unwrap();
        let id = bus.envelope(&stepped("a", 0)).unwrap().id().to_owned();
        // The time is in front; what is random follows.
        id[14..].to_owned()
    };
    assert_eq!(first_id(1).await, first_id(1).await);
    assert_ne!(first_id(1).await, first_id(2).await);
}

#[tokio::test(start_paused = true)]
async fn source_and_shape_are_on_the_wire() {
    let broker = Broker::builder().topic("steps", 1).build();
    let bus = Bus::builder().embedded(broker.clone()).source("/shop").open().await.unwrap();
    bus.publish(&stepped("a", 0)).await.unwrap();
    let json = Bus::builder().embedded(broker.clone()).wire_shape(WireShape::JsonEnvelope).open().await.unwrap();
    json.publish(&stepped("a", 1)).await.unwrap();
    let records = read_all(&broker, "steps").await;
    let has = |record: usize, name: &str, value: &[u8]| {
        records[record].headers().iter().any(|header| header.key == name.as_bytes() && header.value == Some(value))
    };
    assert!(has(0, "ce_source", b"/shop") && has(0, "ce_type", b"test.stepped"));
    assert!(has(1, "X-Event-Type", b"test.stepped") && !has(1, "ce_type", b"test.stepped"));
}

#[tokio::test(start_paused = true)]
async fn names_beyond_ascii_work_where_kafka_allows_them() {
    let broker = Broker::builder().build();
    let bus = Bus::builder().embedded(broker.clone()).client_id("bücher-客户端").open().await.unwrap();
    let subscription = bus.subscribe(policy(), |_: Stepped| async {}).group("größe-订单").await.unwrap();
    bus.publish(&stepped("straße-订单", 0)).await.unwrap();
    within("handled", subscription.wait_for(|status| status.counts.handled == 1)).await.unwrap();
    let _ = bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn without_an_order_events_of_one_aggregate_are_handled_side_by_side() {
    let bus = bus().await;
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let shut = std::sync::Arc::clone(&gate);
    let subscription = bus
        .subscribe(policy(), move |_: Stepped| {
            let shut = std::sync::Arc::clone(&shut);
            async move { shut.acquire().await.unwrap().forget() }
        })
        .group("workers")
        .order(Order::None)
        .await
        .unwrap();
    for number in 0..5 {
        bus.publish(&stepped("a", number)).await.unwrap();
    }
    within("all five at once", subscription.wait_for(|status| status.running == 5)).await.unwrap();
    gate.add_permits(5);
    assert!(within("close", bus.close(Duration::from_secs(10))).await.is_complete());
}

#[tokio::test(start_paused = true)]
async fn settings_that_the_promises_rest_on_are_refused() {
    let bus = bus().await;
    for key in ["group.id", "auto.offset.reset", "isolation.level"] {
        let refused = bus.subscribe(policy(), |_: Stepped| async {}).group("workers").set(key, "latest").await;
        assert!(matches!(&refused, Err(SubscribeError::Reserved { key: named, .. }) if *named == key), "{refused:?}");
    }
    for key in ["acks", "enable.idempotence", "partitioner"] {
        let refused = Bus::builder().embedded(Broker::builder().build()).set_producer(key, "1").open().await;
        assert!(matches!(&refused, Err(OpenError::Reserved { key: named }) if *named == key), "{refused:?}");
    }
    let unknown = Bus::builder().embedded(Broker::builder().build()).set_producer("linger", "5").open().await;
    assert!(matches!(unknown, Err(OpenError::Config(_))), "{unknown:?}");
}

#[tokio::test(start_paused = true)]
async fn settings_of_the_producer_are_the_producers() {
    let builder = Bus::builder().embedded(Broker::builder().build()).set_producer("max.request.size", "2048");
    let bus = builder.open().await.unwrap();
    let payload = format!("\"{}\"", "x".repeat(3_000));
    let large = milena::Envelope::new("e-1", "test.stepped", "a", payload).with_source("s");
    let refused = bus.publish_envelope("steps", &large).await;
    assert!(matches!(refused, Err(PublishError::Send(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn the_longest_commit_interval_there_is_does_not_overflow() {
    let broker = Broker::builder().topic("steps", 1).build();
    let bus = bus_on(&broker).await;
    let subscription = bus
        .subscribe(policy(), |_: Stepped| async {})
        .group("workers")
        .commit_every(Duration::MAX, 1_000)
        .await
        .unwrap();
    bus.publish(&stepped("a", 0)).await.unwrap();
    within("handled", subscription.wait_for(|status| status.counts.handled == 1)).await.unwrap();
    assert!(within("close", bus.close(Duration::from_secs(10))).await.is_complete());
    assert_eq!(broker.committed("workers", "steps", 0), Some(1));
}
