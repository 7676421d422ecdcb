//! Publishing: receipts, batches, topics, names.

use std::time::Duration;

use milena::{Bus, Envelope, Event, InvalidTopic, PublishError, SubscribeError, TopicStrategy};
use milena_broker::Broker;
use serde::{Deserialize, Serialize};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn a_receipt_says_where_the_event_is() {
    let bus = bus().await;
    let first = bus.publish(&stepped("a", 0)).await.unwrap();
    let second = bus.publish(&stepped("a", 1)).await.unwrap();
    assert_eq!((first.topic.as_str(), first.offset, second.offset), ("steps", Some(0), Some(1)));
    assert_eq!(first.partition, second.partition, "one aggregate, one partition");
    assert!(second.event_id > first.event_id, "ids rise with time");
    assert!(first.timestamp > 0);
}

#[tokio::test(start_paused = true)]
async fn a_missing_topic_is_created_with_the_declared_partitions() {
    let broker = Broker::builder().auto_create(false).build();
    let bus = bus_on(&broker).await;
    bus.publish(&stepped("a", 0)).await.unwrap();
    assert!(broker.log_offsets("steps", 3).is_ok());
    assert!(broker.log_offsets("steps", 4).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_batch_gives_one_result_per_event_in_order() {
    let bus = bus().await;
    let steps: Vec<_> = (0..100).map(|number| stepped(format!("t-{}", number % 7), number)).collect();
    let receipts = bus.publish_batch(&steps).await;
    assert_eq!(receipts.len(), 100);
    let mut last = std::collections::BTreeMap::new();
    for (step, receipt) in steps.iter().zip(receipts) {
        let receipt = receipt.unwrap();
        let offset = receipt.offset.unwrap();
        if let Some(before) = last.insert(step.thing.clone(), offset) {
            assert!(offset > before, "an aggregate's events are in the topic in the order of the batch");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_cannot_be_sent_withholds_later_ones_of_its_aggregate_only() {
    /// Refuses to be written when its number is odd.
    #[derive(Deserialize, Event)]
    #[event(type = "test.odd", topic = "odd", aggregate = thing)]
    struct Odd {
        thing: String,
        number: u64,
    }
    impl Serialize for Odd {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            if self.number % 2 == 1 {
                return Err(serde::ser::Error::custom("odd"));
            }
            serializer.serialize_u64(self.number)
        }
    }
    let odd = |thing: &str, number| Odd { thing: thing.to_owned(), number };
    let bus = bus().await;
    let results = bus.publish_batch(&[odd("a", 0), odd("a", 1), odd("b", 2), odd("a", 2)]).await;
    assert!(results[0].is_ok() && results[2].is_ok());
    assert!(matches!(results[1], Err(PublishError::Envelope(_))));
    assert!(matches!(&results[3], Err(PublishError::Withheld { aggregate_id }) if aggregate_id == "a"));
    assert!(!results[3].as_ref().unwrap_err().is_possibly_written());
}

#[tokio::test(start_paused = true)]
async fn an_illegal_topic_name_is_refused_at_every_entry() {
    let bus = bus().await;
    let envelope = Envelope::new("e", "t", "a", "{}").with_source("s");
    for name in ["", ".", "..", "a b", "bücher", "订单", &"x".repeat(250)] {
        let published = bus.publish_envelope(name, &envelope).await;
        assert!(matches!(published, Err(PublishError::Topic(_))), "{name}: {published:?}");
        let subscribed = bus.subscribe(policy(), |_: Envelope| async {}).topic(name).group("g").await;
        assert!(matches!(subscribed, Err(SubscribeError::Topic(_))), "{name}");
        let letters = policy().dead_letter_topic(name);
        let subscribed = bus.subscribe(letters, |_: Stepped| async {}).group("g").await;
        assert!(matches!(subscribed, Err(SubscribeError::Topic(_))), "{name}");
    }
    let long = "x".repeat(249);
    let subscribed = bus.subscribe(policy(), |_: Envelope| async {}).topic(&long).group("g").await;
    assert!(
        matches!(subscribed, Err(SubscribeError::Topic(InvalidTopic::TooLong { .. }))),
        "with .dead-letters behind it the name is too long"
    );
}

#[tokio::test(start_paused = true)]
async fn the_strategy_decides_about_topics_that_are_missing_or_differ() {
    let broker = Broker::builder().auto_create(false).topic("steps", 2).build();
    let open = |strategy| Bus::builder().embedded(broker.clone()).topic_strategy(strategy).open();
    let validating = open(TopicStrategy::Validate).await.unwrap();
    let error = validating.publish(&stepped("a", 0)).await.unwrap_err();
    assert!(error.to_string().contains("2 partitions") && error.to_string().contains("declared with 4"), "{error}");
    let missing = Envelope::new("e", "t", "a", "{}").with_source("s");
    let error = validating.publish_envelope("nowhere", &missing).await.unwrap_err();
    assert!(error.to_string().contains("nowhere does not exist"), "{error}");
    let creating = open(TopicStrategy::Create).await.unwrap();
    creating.publish(&stepped("a", 0)).await.expect("one that exists is left as it is");
    assert!(broker.log_offsets("steps", 2).is_err());
    let ignoring = open(TopicStrategy::Ignore).await.unwrap();
    ignoring.publish(&stepped("a", 1)).await.unwrap();
    for bus in [validating, creating, ignoring] {
        let _ = bus.close(Duration::from_secs(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_setting_is_an_error_at_once() {
    let opened = Bus::builder().embedded(Broker::builder().build()).set("request.timout.ms", "5").open().await;
    assert!(opened.unwrap_err().to_string().contains("request.timeout.ms"), "it names the one that was meant");
    let bus = bus().await;
    let subscribed = bus.subscribe(policy(), |_: Stepped| async {}).group("g").set("no.such.thing", "1").await;
    assert!(matches!(subscribed, Err(SubscribeError::Consumer(_))));
}

#[tokio::test(start_paused = true)]
async fn each_declaration_of_a_topic_is_validated_not_only_the_first() {
    let broker = Broker::builder().topic("steps", 2).build();
    let bus = Bus::builder().embedded(broker).topic_strategy(TopicStrategy::Validate).open().await.unwrap();
    let undeclared = bus.envelope(&stepped("a", 0)).unwrap();
    bus.publish_envelope("steps", &undeclared).await.unwrap();
    let refused = bus.publish(&stepped("a", 1)).await;
    assert!(matches!(refused, Err(PublishError::TopicUnavailable(_))), "declared with four: {refused:?}");
}
