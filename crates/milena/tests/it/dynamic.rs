//! Subscribing, unsubscribing, pausing, resuming and seeking while everything runs.

use std::time::Duration;

use milena::{
    Bus, CloseReport, Delivery, Envelope, Event, SeekTo, StartAt, SubscriptionError, SubscriptionEvent, TopicStrategy,
};
use milena_admin::Admin;
use milena_broker::Broker;
use serde::{Deserialize, Serialize};

use crate::support::*;

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(type = "test.rang", topic = "bells", aggregate = bell, partitions = 2)]
struct Rang {
    bell: String,
}

#[tokio::test(start_paused = true)]
async fn subscriptions_come_and_go_under_load_and_share_no_fate() {
    let bus = bus().await;
    let journal = Journal::default();
    let first = bus.subscribe(policy(), noting(&journal)).group("workers").await.unwrap();
    within("ready", first.ready()).await.unwrap();
    let mut told = first.events();
    let publisher = {
        let bus = bus.clone();
        tokio::spawn(async move {
            for number in 0..300 {
                bus.publish(&stepped("a", number)).await.unwrap();
                bus.publish(&Rang { bell: "b".into() }).await.unwrap();
            }
        })
    };
    until("load", || journal.len() > 20).await;
    // A late subscription on another topic of the same group, by a future that is dropped half-way by its caller too.
    let late = bus.subscribe(policy(), |_: Rang| async {}).group("workers").await.unwrap();
    let other = bus.subscribe(policy(), noting(&Journal::default())).group("others").await.unwrap();
    within("other runs", other.wait_for(|status| status.counts.handled > 0)).await.unwrap();
    let report: CloseReport = within("unsubscribed", other.close(Duration::from_secs(10))).await;
    assert!(report.is_complete(), "{report:?}");
    assert!(matches!(other.pause().await, Err(SubscriptionError::Closed)));
    within("published", publisher).await.unwrap();
    within("late has all", late.wait_for(|status| status.counts.handled == 300)).await.unwrap();
    within("first has all", first.wait_for(|status| status.counts.handled >= 300)).await.unwrap();
    journal.assert_order();
    assert_eq!(journal.distinct(), 300);
    let _ = bus.close(Duration::from_secs(10)).await;
    while let Some(event) = told.next().await {
        assert!(!matches!(event, SubscriptionEvent::ForeignMembers { .. }), "the bus's own members are no strangers");
    }
}

#[tokio::test(start_paused = true)]
async fn interest_may_be_declared_before_the_topic_exists() {
    let broker = Broker::builder().auto_create(false).topic("letters", 1).build();
    let bus = Bus::builder().embedded(broker.clone()).topic_strategy(TopicStrategy::Ignore).open().await.unwrap();
    let journal = Journal::default();
    let early = bus
        .subscribe(policy().dead_letter_topic("letters"), noting(&journal))
        .group("workers")
        .set("metadata.max.age.ms", "1000")
        .await;
    // The consumer has no such setting: metadata is the client's.
    assert!(early.is_err());
    let bus = Bus::builder()
        .embedded(broker.clone())
        .topic_strategy(TopicStrategy::Ignore)
        .set("metadata.max.age.ms", "1000")
        .open()
        .await
        .unwrap();
    let early = bus.subscribe(policy().dead_letter_topic("letters"), noting(&journal)).group("workers").await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    broker.create_topic("steps", 2, 1).unwrap();
    bus.publish(&stepped("a", 0)).await.unwrap();
    within("its first event", early.wait_for(|status| status.counts.handled == 1)).await.unwrap();
    let _ = bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn pause_begins_nothing_new_and_resume_goes_on_without_loss() {
    let bus = bus().await;
    let journal = Journal::default();
    let subscription = bus.subscribe(policy(), noting(&journal)).group("workers").await.unwrap();
    within("ready", subscription.ready()).await.unwrap();
    bus.publish(&stepped("a", 0)).await.unwrap();
    within("one", subscription.wait_for(|status| status.counts.handled == 1)).await.unwrap();
    subscription.pause().await.unwrap();
    for number in 1..20 {
        bus.publish(&stepped("a", number)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(400)).await;
    assert_eq!(journal.len(), 1, "paused beyond max.poll.interval, and still a member");
    assert!(!subscription.status().partitions.is_empty());
    subscription.resume().await.unwrap();
    within("all", subscription.wait_for(|status| status.counts.handled == 20)).await.unwrap();
    assert_eq!(journal.of("a"), (0..20).collect::<Vec<_>>());
    let _ = bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn seek_replays_and_skips_and_a_restart_goes_on_from_there() {
    let broker = Broker::builder().topic("steps", 1).build();
    let bus = bus_on(&broker).await;
    let journal = Journal::default();
    let subscription = bus.subscribe(policy(), noting(&journal)).group("workers").await.unwrap();
    for number in 0..10 {
        bus.publish(&stepped("a", number)).await.unwrap();
    }
    within("ten", subscription.wait_for(|status| status.counts.handled == 10)).await.unwrap();
    subscription.seek("steps", 0, SeekTo::Offset(7)).await.unwrap();
    within("three again", subscription.wait_for(|status| status.counts.handled == 13)).await.unwrap();
    assert_eq!(journal.of("a")[10..], [7, 8, 9]);
    subscription.seek("steps", 0, SeekTo::Beginning).await.unwrap();
    within("all again", subscription.wait_for(|status| status.counts.handled == 23)).await.unwrap();
    let refused = subscription.seek("steps", 9, SeekTo::End).await;
    assert!(matches!(refused, Err(SubscriptionError::NotAssigned { .. })));
    subscription.pause().await.unwrap();
    subscription.seek("steps", 0, SeekTo::Offset(4)).await.unwrap();
    let _ = within("close", bus.close(Duration::from_secs(10))).await;
    let bus = bus_on(&broker).await;
    let again = Journal::default();
    let subscription = bus.subscribe(policy(), noting(&again)).group("workers").await.unwrap();
    within("the rest", subscription.wait_for(|status| status.counts.handled == 6)).await.unwrap();
    assert_eq!(again.of("a"), [4, 5, 6, 7, 8, 9]);
    let _ = bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_late_start_begins_with_the_first_event_after_ready_and_never_skips_after_that() {
    let broker = Broker::builder().topic("steps", 2).build();
    let bus = bus_on(&broker).await;
    for number in 0..10 {
        bus.publish(&stepped("a", number)).await.unwrap();
        bus.publish(&stepped("z", number)).await.unwrap();
    }
    let journal = Journal::default();
    let latest = bus.subscribe(policy(), noting(&journal)).group("workers").start_at(StartAt::Latest).await.unwrap();
    within("ready", latest.ready()).await.unwrap();
    let _ = within("closed at once", latest.close(Duration::from_secs(5))).await;
    // Nobody listens while this is published; the group's position is committed, so it is not lost.
    bus.publish(&stepped("a", 10)).await.unwrap();
    let again = bus.subscribe(policy(), noting(&journal)).group("workers").start_at(StartAt::Latest).await.unwrap();
    bus.publish(&stepped("z", 10)).await.unwrap();
    within("both", again.wait_for(|status| status.counts.handled == 2)).await.unwrap();
    assert_eq!((journal.of("a"), journal.of("z")), (vec![10], vec![10]));
    let _ = bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn concurrency_changes_while_handlers_run() {
    let bus = bus().await;
    let subscription = bus
        .subscribe(policy(), |_: Delivery<Stepped>| async { tokio::time::sleep(Duration::from_secs(1)).await })
        .group("workers")
        .concurrency(1)
        .await
        .unwrap();
    for thing in 0..40 {
        bus.publish(&stepped(format!("t-{thing}"), 0)).await.unwrap();
    }
    within("one at a time", subscription.wait_for(|status| status.running == 1)).await.unwrap();
    subscription.set_concurrency(16).await.unwrap();
    within("sixteen", subscription.wait_for(|status| status.running == 16)).await.unwrap();
    within("all", subscription.wait_for(|status| status.counts.handled == 40)).await.unwrap();
    let _ = bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn one_subscription_serves_many_types_and_the_rest_as_envelopes() {
    let bus = bus().await;
    let journal = Journal::default();
    let seen = Journal::default();
    let (log, rest) = (journal.clone(), seen.clone());
    let subscription = bus
        .subscribe(policy(), noting(&journal))
        .on(move |rang: Rang| {
            log.note(&stepped(rang.bell, 0));
            std::future::ready(())
        })
        .on(move |envelope: Envelope| {
            rest.note(&stepped(envelope.event_type(), 0));
            std::future::ready(())
        })
        .group("workers")
        .await
        .unwrap();
    bus.publish(&stepped("a", 0)).await.unwrap();
    bus.publish(&Rang { bell: "b".into() }).await.unwrap();
    let other = Envelope::new("e-1", "test.other", "c", "{}").with_source("s");
    bus.publish_envelope("bells", &other).await.unwrap();
    within("three", subscription.wait_for(|status| status.counts.handled == 3)).await.unwrap();
    assert_eq!((journal.len(), seen.things()), (2, vec![("test.other".to_owned(), 0)]));
    let _ = bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_grows_is_told_of() {
    let broker = Broker::builder().topic("steps", 4).build();
    let bus = Bus::builder().embedded(broker.clone()).set("metadata.max.age.ms", "1000").open().await.unwrap();
    let subscription = bus.subscribe(policy(), |_: Stepped| async {}).group("workers").await.unwrap();
    let mut events = subscription.events();
    within("ready", subscription.ready()).await.unwrap();
    bus.publish(&stepped("a", 0)).await.unwrap();
    // Time moves on only when nothing is under way: its partitions are counted by then.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let plain = client(&broker).await;
    for (_, result) in Admin::new(&plain).create_partitions(&[("steps", 6)]).await.unwrap() {
        result.unwrap();
    }
    let _ = plain.close(Duration::from_secs(5)).await;
    let told = wait_for_event(&mut events, |event| matches!(event, SubscriptionEvent::PartitionsAdded { .. })).await;
    assert_eq!(told, SubscriptionEvent::PartitionsAdded { topic: "steps".into(), before: 4, now: 6 });
    within("six", subscription.wait_for(|status| status.partitions.len() == 6)).await.unwrap();
    let _ = bus.close(Duration::from_secs(10)).await;
}
