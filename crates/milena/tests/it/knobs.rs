//! Each knob changes what happens: one that did nothing would fail here.

use std::time::Duration;

use milena::{Bus, WireShape};
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
        records[record].headers.iter().any(|(key, found)| key == name && found.as_deref() == Some(value))
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
