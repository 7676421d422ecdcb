//! Members that share partitions, come, go and crash.

use std::sync::Arc;
use std::time::Duration;

use milena::{Bus, Delivery, SubscribeError, Subscription, SubscriptionEvent};
use milena_broker::{Broker, Fault, Rule};
use milena_protocol::ApiKey;
use tokio::sync::Semaphore;

use crate::support::*;

/// A broker whose groups notice a missing member soon.
fn broker(partitions: i32) -> Broker {
    let builder = Broker::builder().config("group.initial.rebalance.delay.ms", "0");
    builder.config("group.min.session.timeout.ms", "500").topic("steps", partitions).build()
}

/// A member that notes what it handles, each taking a moment.
async fn member(broker: &Broker, journal: &Journal) -> (Bus, Subscription) {
    let bus = bus_on(broker).await;
    let log = journal.clone();
    let subscription = bus
        .subscribe(policy(), move |delivery: Delivery<Stepped>| {
            let log = log.clone();
            async move {
                let _inside = log.enter(&delivery);
                let event = delivery.event();
                // Long enough that a rebalance always meets handlers that run.
                tokio::time::sleep(Duration::from_millis(25 + event.number * 13 % 41)).await;
                if event.number % 17 == 3 && delivery.attempt() == 1 {
                    return Err("once more");
                }
                log.note(event);
                Ok(())
            }
        })
        .group("workers")
        .set("session.timeout.ms", "1000")
        .set("heartbeat.interval.ms", "200")
        .await
        .unwrap();
    (bus, subscription)
}

#[tokio::test(start_paused = true)]
async fn members_join_and_leave_under_load_without_loss_disorder_or_repeats() {
    let broker = broker(8);
    let journal = Journal::default();
    let (first_bus, first) = member(&broker, &journal).await;
    within("ready", first.ready()).await.unwrap();
    let publisher = {
        let bus = bus_on(&broker).await;
        tokio::spawn(async move {
            for number in 0..500 {
                let steps: Vec<_> = (0..20).map(|thing| stepped(format!("t-{thing}"), number)).collect();
                for receipt in bus.publish_batch(&steps).await {
                    receipt.unwrap();
                }
                // No divisor of a heartbeat: else every rebalance would come between two rounds.
                tokio::time::sleep(Duration::from_millis(37)).await;
            }
        })
    };
    until("load", || journal.len() > 100).await;
    let (second_bus, second) = member(&broker, &journal).await;
    within("shared", second.wait_for(|status| !status.partitions.is_empty())).await.unwrap();
    until("more load", || journal.len() > 2_000).await;
    let (third_bus, third) = member(&broker, &journal).await;
    within("shared by three", third.wait_for(|status| !status.partitions.is_empty())).await.unwrap();
    until("still more", || journal.len() > 4_000).await;
    let left = within("the first leaves", first_bus.close(Duration::from_secs(30))).await;
    assert!(left.is_complete(), "{left:?}");
    until("more", || journal.len() > 6_000).await;
    let left = within("the second leaves", second_bus.close(Duration::from_secs(30))).await;
    assert!(left.is_complete(), "{left:?}");
    within("published", publisher).await.unwrap();
    until("all are handled", || journal.distinct() == 10_000).await;
    assert!(within("the last leaves", third_bus.close(Duration::from_secs(30))).await.is_complete());
    journal.assert_order();
    assert_eq!(journal.len(), 10_000, "orderly rebalances repeat nothing");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_does_not_end_holds_a_rebalance_up_only_so_long_and_then_no_longer_counts() {
    let broker = broker(2);
    let gate = Arc::new(Semaphore::new(0));
    let shut = Arc::clone(&gate);
    let first_bus = bus_on(&broker).await;
    let first = first_bus
        .subscribe(policy(), move |_: Stepped| {
            let shut = Arc::clone(&shut);
            async move { shut.acquire().await.unwrap().forget() }
        })
        .group("workers")
        .revoke_timeout(Duration::from_secs(3))
        .await
        .unwrap();
    within("ready", first.ready()).await.unwrap();
    for thing in 0..8 {
        first_bus.publish(&stepped(format!("t-{thing}"), 0)).await.unwrap();
    }
    within("all are stuck", first.wait_for(|status| status.running == 8)).await.unwrap();
    let journal = Journal::default();
    let started = tokio::time::Instant::now();
    let (second_bus, second) = member(&broker, &journal).await;
    let shared = within("its share", second.wait_for(|status| status.partitions.len() == 1)).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(10), "took {:?}", started.elapsed());
    let partition = shared.partitions[0].1;
    let (_, end) = broker.log_offsets("steps", partition).unwrap();
    within("its events", second.wait_for(|status| status.counts.handled == end as u64)).await.unwrap();
    until_async("its commit", async || committed(&broker, "workers", "steps", partition).await == Some(end)).await;
    gate.add_permits(100);
    let after = within("the late ones", first.wait_for(|status| status.counts.handled + status.counts.stale >= 8))
        .await
        .unwrap();
    assert!(after.counts.stale >= end as u64, "{:?}", after.counts);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(committed(&broker, "workers", "steps", partition).await, Some(end), "a late completion commits nothing");
    for bus in [first_bus, second_bus] {
        assert!(within("close", bus.close(Duration::from_secs(20))).await.is_complete());
    }
}

/// In real time: a crash is a runtime that is gone with everything on it, and a paused clock does not reach over two.
#[test]
fn a_crash_replays_only_what_was_finished_after_the_last_commit() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (home, doomed) = (runtime(), runtime());
    let broker = home.block_on(async { broker(1) });
    let journal = Journal::default();
    doomed.block_on(async {
        let (bus, subscription) = member(&broker, &journal).await;
        for number in 0..50 {
            bus.publish(&stepped("a", number)).await.unwrap();
        }
        within("fifty", subscription.wait_for(|status| status.counts.handled == 50)).await.unwrap();
        until_async("their commit, due within 100 ms", async || {
            committed(&broker, "workers", "steps", 0).await == Some(50)
        })
        .await;
        for number in 50..60 {
            bus.publish(&stepped("a", number)).await.unwrap();
        }
        within("more", subscription.wait_for(|status| status.counts.handled >= 55)).await.unwrap();
    });
    // Everything stops where it stands: no close, no commit, no leaving.
    doomed.shutdown_timeout(Duration::from_secs(5));
    let before = journal.len();
    home.block_on(async {
        let (bus, _subscription) = member(&broker, &journal).await;
        until("the rest", || journal.distinct() == 60).await;
        assert!(within("close", bus.close(Duration::from_secs(10))).await.is_complete());
    });
    journal.assert_order();
    let replayed = &journal.of("a")[before..];
    assert!(replayed.iter().all(|number| *number >= 50), "committed before the crash, and handled again: {replayed:?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_group_there_is_no_subscription() {
    let bus = bus().await;
    let refused = bus.subscribe(policy(), |_: Stepped| async {}).await;
    assert!(matches!(refused, Err(SubscribeError::NoGroup)), "{refused:?}");
    let refused = bus.subscribe(policy(), |_: Stepped| async {}).group(" ").await;
    assert!(matches!(refused, Err(SubscribeError::NoGroup)), "{refused:?}");
    let named = Bus::builder().embedded(Broker::builder().build()).group("workers").open().await.unwrap();
    let subscription = named.subscribe(policy(), |_: Stepped| async {}).await.unwrap();
    assert_eq!(subscription.group(), "workers");
}

#[tokio::test(start_paused = true)]
async fn one_topic_is_subscribed_once_per_group_and_bus() {
    let bus = bus().await;
    let first = bus.subscribe(policy(), |_: Stepped| async {}).group("workers").await.unwrap();
    let second = bus.subscribe(policy(), |_: Stepped| async {}).group("workers").await;
    assert!(matches!(second, Err(SubscribeError::AlreadySubscribed { .. })), "it would see half of the events only");
    bus.subscribe(policy(), |_: Stepped| async {}).group("others").await.unwrap();
    let _ = within("close", first.close(Duration::from_secs(5))).await;
    bus.subscribe(policy(), |_: Stepped| async {}).group("workers").await.expect("the first is gone");
    let twice = bus.subscribe(policy(), |_: Stepped| async {}).on(|_: Stepped| async {}).group("third").await;
    assert!(matches!(twice, Err(SubscribeError::DuplicateHandler { event_type: "test.stepped" })));
    let _ = bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_of_another_service_in_the_group_raises_an_alarm() {
    let broker = Broker::builder().topic("steps", 2).topic("invoices", 2).build();
    let stranger = bus_on(&broker).await;
    let theirs =
        stranger.subscribe(policy(), |_: milena::Envelope| async {}).topic("invoices").group("workers").await.unwrap();
    within("the stranger", theirs.ready()).await.unwrap();
    let bus = bus_on(&broker).await;
    let ours = bus.subscribe(policy(), |_: Stepped| async {}).group("workers").await.unwrap();
    let mut events = ours.events();
    let members = within("the alarm", async {
        loop {
            if let SubscriptionEvent::ForeignMembers { members } = events.next().await.expect("it runs") {
                return members;
            }
        }
    })
    .await;
    assert_eq!(members.len(), 1);
    let _ = stranger.close(Duration::from_secs(10)).await;
    wait_for_event(&mut events, |event| matches!(event, SubscriptionEvent::ForeignMembersGone)).await;
    let _ = bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_rebalance_stops_only_the_partitions_that_move() {
    let broker = broker(4);
    let journal = Journal::default();
    let (first_bus, first) = member(&broker, &journal).await;
    within("ready", first.ready()).await.unwrap();
    let mut events = first.events();
    let (second_bus, second) = member(&broker, &journal).await;
    within("its share", second.wait_for(|status| status.partitions.len() == 2)).await.unwrap();
    let moved = wait_for_event(&mut events, |event| matches!(event, SubscriptionEvent::Revoked { .. })).await;
    let SubscriptionEvent::Revoked { partitions, .. } = moved else { unreachable!("it was waited for") };
    assert_eq!(partitions.len(), 2, "the two that stay are never given up");
    within("its share", first.wait_for(|status| status.partitions.len() == 2)).await.unwrap();
    for bus in [first_bus, second_bus] {
        assert!(within("close", bus.close(Duration::from_secs(20))).await.is_complete());
    }
}

#[tokio::test(start_paused = true)]
async fn the_late_answer_to_a_revocation_does_not_undo_a_newer_assignment() {
    let broker = broker(2);
    let journal = Journal::default();
    let first_bus = bus_on(&broker).await;
    let first = first_bus
        .subscribe(policy(), noting(&journal))
        .group("workers")
        .set("session.timeout.ms", "1000")
        .set("heartbeat.interval.ms", "200")
        .commit_every(Duration::from_secs(3_600), 1_000_000)
        .await
        .unwrap();
    let mut events = first.events();
    within("ready", first.ready()).await.unwrap();
    for thing in 0..10 {
        first_bus.publish(&stepped(format!("t-{thing}"), 0)).await.unwrap();
    }
    within("ten", first.wait_for(|status| status.counts.handled == 10)).await.unwrap();
    // The commit of the revocation is not answered for long, nor any heartbeat behind it: by then the partition is lost
    // and assigned anew.
    let slow = Rule::new(Fault::Delay(Duration::from_secs(20))).api(ApiKey::OffsetCommit);
    broker.faults().add(slow);
    let (second_bus, _second) = member(&broker, &journal).await;
    wait_for_event(&mut events, |event| matches!(event, SubscriptionEvent::Lost { .. })).await;
    let _ = within("the second leaves", second_bus.close(Duration::from_secs(5))).await;
    wait_for_event(
        &mut events,
        |event| matches!(event, SubscriptionEvent::Assigned { partitions } if !partitions.is_empty()),
    )
    .await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(first.status().partitions.len(), 2, "both are held anew");
    for thing in 0..10 {
        first_bus.publish(&stepped(format!("t-{thing}"), 1)).await.unwrap();
    }
    until("all are handled", || journal.distinct() == 20).await;
    assert!(within("close", first_bus.close(Duration::from_secs(30))).await.is_complete());
    journal.assert_order();
}
