//! Closing: complete, bounded, and nothing left behind.

use std::time::Duration;

use milena::{CloseReport, Delivery, Event, SubscriptionState};
use milena_broker::{Broker, Fault, Rule};
use milena_protocol::ApiKey;
use serde::{Deserialize, Serialize};

use crate::support::*;

fn alive() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn close_finishes_what_was_begun_commits_it_and_leaves_no_task() {
    let broker = Broker::builder().topic("steps", 4).build();
    let before = alive();
    let journal = Journal::default();
    let bus = bus_on(&broker).await;
    let log = journal.clone();
    let subscription = bus
        .subscribe(policy(), move |event: Stepped| {
            let log = log.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(200)).await;
                log.note(&event);
            }
        })
        .group("workers")
        .concurrency(8)
        .await
        .unwrap();
    for thing in 0..100 {
        bus.publish(&stepped(format!("t-{thing}"), 0)).await.unwrap();
    }
    within("some are running", subscription.wait_for(|status| status.running == 8)).await.unwrap();
    let report = within("close", bus.close(Duration::from_secs(30))).await;
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(report.handled, journal.len() as u64);
    assert!(journal.len() < 100, "it does not begin what is still waiting");
    assert_eq!(subscription.status().state, SubscriptionState::Closed);
    assert_eq!(bus.task_count(), 0);
    until("no task is left", || alive() <= before).await;
    // What was handled is committed, what was not is there: together everything exactly once.
    let bus = bus_on(&broker).await;
    let log = journal.clone();
    let rest = bus
        .subscribe(policy(), move |event: Stepped| {
            log.note(&event);
            std::future::ready(())
        })
        .group("workers")
        .await
        .unwrap();
    let missing = 100 - journal.len() as u64;
    within("the rest", rest.wait_for(|status| status.counts.handled == missing)).await.unwrap();
    assert!(within("close", bus.close(Duration::from_secs(10))).await.is_complete());
    assert_eq!((journal.len(), journal.distinct()), (100, 100));
}

#[tokio::test(start_paused = true)]
async fn a_close_is_bounded_and_says_what_it_left() {
    let bus = bus().await;
    let subscription = bus
        .subscribe(policy(), |delivery: Delivery<Stepped>| async move {
            if delivery.event().thing == "endless" {
                std::future::pending::<()>().await;
            }
        })
        .group("workers")
        .await
        .unwrap();
    bus.publish(&stepped("endless", 0)).await.unwrap();
    bus.publish(&stepped("quick", 0)).await.unwrap();
    within("both begun", subscription.wait_for(|status| status.counts.handled == 1 && status.running == 1))
        .await
        .unwrap();
    let started = tokio::time::Instant::now();
    let report = within("close", bus.close(Duration::from_secs(5))).await;
    assert!(started.elapsed() <= Duration::from_secs(6), "took {:?}", started.elapsed());
    assert!(!report.is_complete());
    assert_eq!((report.left, report.handled), (1, 1));
    let again: CloseReport = within("closing again", subscription.close(Duration::from_secs(5))).await;
    assert_eq!((again.handled, again.left), (1, 1), "what its end left behind does not change");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_bus_closes_its_subscriptions_in_the_background() {
    let broker = Broker::builder().topic("steps", 1).build();
    let before = alive();
    let journal = Journal::default();
    {
        let bus = bus_on(&broker).await;
        let log = journal.clone();
        let subscription = bus
            .subscribe(policy(), move |event: Stepped| {
                log.note(&event);
                std::future::ready(())
            })
            .group("workers")
            .await
            .unwrap();
        bus.publish(&stepped("a", 0)).await.unwrap();
        within("handled", subscription.wait_for(|status| status.counts.handled == 1)).await.unwrap();
    }
    until("no task is left", || alive() <= before).await;
    assert_eq!(
        committed(&broker, "workers", "steps", 0).await,
        Some(1),
        "what was handled is committed on the way out"
    );
}

#[tokio::test(start_paused = true)]
async fn a_close_that_was_asked_for_keeps_its_time_when_every_handle_is_dropped() {
    let broker = Broker::builder().topic("steps", 1).build();
    let bus = bus_on(&broker).await;
    let slow = |_: Stepped| tokio::time::sleep(Duration::from_secs(60));
    let subscription = bus.subscribe(policy(), slow).group("workers").await.unwrap();
    bus.publish(&stepped("a", 0)).await.unwrap();
    within("it runs", subscription.wait_for(|status| status.running == 1)).await.unwrap();
    let hour = Duration::from_secs(3_600);
    assert!(tokio::time::timeout(Duration::from_secs(1), subscription.close(hour)).await.is_err());
    drop((subscription, bus));
    until("it is finished and committed", || broker.committed("workers", "steps", 0) == Some(1)).await;
}

/// A bus whose one handler is running and takes `takes`, or for ever.
async fn busy(takes: Option<Duration>) -> (milena::Bus, milena::Subscription) {
    let bus = bus().await;
    let subscription = bus
        .subscribe(policy(), move |_: Stepped| async move {
            match takes {
                Some(takes) => tokio::time::sleep(takes).await,
                None => std::future::pending().await,
            }
        })
        .group("workers")
        .await
        .unwrap();
    bus.publish(&stepped("a", 0)).await.unwrap();
    within("it runs", subscription.wait_for(|status| status.running == 1)).await.unwrap();
    (bus, subscription)
}

#[tokio::test(start_paused = true)]
async fn closes_at_once_and_one_after_the_other_give_the_same_report() {
    let (bus, _subscription) = busy(Some(Duration::from_secs(10))).await;
    let minute = Duration::from_secs(60);
    let other = bus.clone();
    let (first, second) = tokio::join!(bus.close(minute), other.close(minute));
    assert!(first.is_complete(), "{first:?}");
    assert_eq!((first.handled, second), (1, first));
    assert_eq!(within("closing what is closed", bus.close(minute)).await, first);
}

#[tokio::test(start_paused = true)]
async fn a_close_whose_caller_went_away_is_carried_on_for_the_next() {
    let (bus, subscription) = busy(Some(Duration::from_secs(10))).await;
    let impatient = tokio::time::timeout(Duration::from_secs(1), bus.close(Duration::from_secs(60))).await;
    assert!(impatient.is_err());
    assert_eq!(subscription.status().state, SubscriptionState::Closing);
    let report = within("close", bus.close(Duration::from_secs(60))).await;
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(report.handled, 1);
}

#[tokio::test(start_paused = true)]
async fn of_several_closes_the_nearest_deadline_holds() {
    let (bus, subscription) = busy(None).await;
    let started = tokio::time::Instant::now();
    let patient = tokio::spawn({
        let bus = bus.clone();
        async move { bus.close(Duration::from_secs(3_600)).await }
    });
    within("closing", subscription.wait_for(|status| status.state == SubscriptionState::Closing)).await.unwrap();
    let report = within("close", bus.close(Duration::from_secs(5))).await;
    assert_eq!(report.left, 1);
    assert_eq!(within("the patient one", patient).await.unwrap(), report);
    assert!(started.elapsed() <= Duration::from_secs(5), "took {:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_nearer_deadline_holds_for_the_commit_and_for_leaving_the_group_as_well() {
    for api in [ApiKey::OffsetCommit, ApiKey::LeaveGroup] {
        let bus = bus().await;
        let subscription = bus.subscribe(policy(), |_: Stepped| async {}).group("workers").await.unwrap();
        within("ready", subscription.ready()).await.unwrap();
        let broker = bus.broker().unwrap();
        broker.faults().add(Rule::new(Fault::Delay(Duration::from_secs(3_600))).api(api).always());
        bus.publish(&stepped("a", 0)).await.unwrap();
        within("handled", subscription.wait_for(|status| status.counts.handled == 1)).await.unwrap();
        let patient = tokio::spawn({
            let subscription = subscription.clone();
            async move { subscription.close(Duration::from_secs(3_600)).await }
        });
        // Time moves on only when nothing is under way: by then it waits for the broker.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(subscription.status().state, SubscriptionState::Closing);
        let started = tokio::time::Instant::now();
        let report = within("close", subscription.close(Duration::from_secs(5))).await;
        assert!(started.elapsed() <= Duration::from_secs(5), "took {:?}", started.elapsed());
        let uncommitted = usize::from(api == ApiKey::OffsetCommit);
        assert_eq!((report.handled, report.uncommitted, report.unclosed), (1, uncommitted, 0), "{api:?}");
        assert_eq!(within("the patient one", patient).await.unwrap(), report);
        let _ = bus.close(Duration::from_secs(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_longest_deadline_there_is_does_not_overflow() {
    let (bus, subscription) = busy(Some(Duration::from_secs(1))).await;
    assert!(within("close", subscription.close(Duration::MAX)).await.is_complete());
    let plain = client(bus.broker().unwrap()).await;
    let consumer = milena_client::consumer::Consumer::builder(&plain).group("others").build().unwrap();
    within("close", consumer.close(Duration::MAX)).await.unwrap();
    assert!(within("close", bus.close(Duration::MAX)).await.is_complete());
}

#[tokio::test(start_paused = true)]
async fn events_that_were_never_sent_are_in_the_report() {
    let broker = Broker::builder().topic("steps", 1).build();
    let bus = bus_on(&broker).await;
    bus.publish(&stepped("a", 0)).await.unwrap();
    broker.stop_node(0).await.unwrap();
    let unsent = tokio::spawn({
        let bus = bus.clone();
        async move { bus.publish(&stepped("a", 1)).await }
    });
    // Past whatever was under way when the broker went: the record waits to be sent, and is not.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let report = within("close", bus.close(Duration::from_secs(5))).await;
    assert!(!report.is_complete());
    assert_eq!(report.failed + report.unconfirmed, 1, "{report:?}");
    within("its publisher knows", unsent).await.unwrap().unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn what_stopped_a_subscription_is_left() {
    let bus = bus().await;
    let stop = milena::FailurePolicy::attempts(1).then(milena::Then::Stop);
    let subscription = bus.subscribe(stop, |_: Stepped| async { Err("broken") }).group("workers").await.unwrap();
    bus.publish(&stepped("a", 0)).await.unwrap();
    within("stopped", subscription.wait_for(|status| status.state.is_over())).await.unwrap();
    assert_eq!(within("close", subscription.close(Duration::from_secs(5))).await.left, 1);
    assert_eq!(subscription.status().report.map(|report| report.left), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_close_begins_nothing_that_is_assigned_or_sought_meanwhile() {
    let broker = Broker::builder().config("group.initial.rebalance.delay.ms", "0").topic("steps", 2).build();
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let shut = std::sync::Arc::clone(&gate);
    let (first_bus, second_bus) = (bus_on(&broker).await, bus_on(&broker).await);
    let first = first_bus
        .subscribe(policy(), move |_: Stepped| {
            let shut = std::sync::Arc::clone(&shut);
            async move { shut.acquire().await.unwrap().forget() }
        })
        .group("workers")
        .await
        .unwrap();
    within("ready", first.ready()).await.unwrap();
    let second = second_bus.subscribe(policy(), |_: Stepped| async {}).group("workers").await.unwrap();
    within("shared", second.wait_for(|status| status.partitions.len() == 1)).await.unwrap();
    within("shared", first.wait_for(|status| status.partitions.len() == 1)).await.unwrap();
    for thing in 0..20 {
        first_bus.publish(&stepped(format!("t-{thing}"), 0)).await.unwrap();
    }
    let own = first.status().partitions[0].1;
    let (_, begun) = broker.log_offsets("steps", own).unwrap();
    within("all begun", first.wait_for(|status| status.running as i64 == begun)).await.unwrap();
    let closing = tokio::spawn({
        let first = first.clone();
        async move { first.close(Duration::from_secs(100)).await }
    });
    within("closing", first.wait_for(|status| status.state == SubscriptionState::Closing)).await.unwrap();
    assert!(within("closed", second_bus.close(Duration::from_secs(20))).await.is_complete());
    within("the other's share", first.wait_for(|status| status.partitions.len() == 2)).await.unwrap();
    let sought = within("an answer", first.seek("steps", own, milena::SeekTo::Beginning)).await;
    assert!(matches!(sought, Err(milena::SubscriptionError::Closed)), "{sought:?}");
    for thing in 0..20 {
        first_bus.publish(&stepped(format!("u-{thing}"), 0)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    gate.add_permits(1_000);
    let report = within("close", closing).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(report.handled as i64, begun, "only what was begun before");
    let _ = first_bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_bus_tells_of_subscriptions_that_were_over_before_until_another_takes_up_what_they_left() {
    // With a later subscription that has nothing to do with it, and with one that takes it up.
    for (group, left, handled) in [(None, 1, 1), (Some("others"), 1, 3), (Some("workers"), 0, 2)] {
        let bus = bus().await;
        let stop = milena::FailurePolicy::attempts(1).then(milena::Then::Stop);
        let first = bus
            .subscribe(stop, |event: Stepped| async move { if event.number == 1 { Err("broken") } else { Ok(()) } })
            .group("workers")
            .await
            .unwrap();
        bus.publish(&stepped("a", 0)).await.unwrap();
        within("one", first.wait_for(|status| status.counts.handled == 1)).await.unwrap();
        bus.publish(&stepped("a", 1)).await.unwrap();
        within("stopped", first.wait_for(|status| status.state.is_over())).await.unwrap();
        if let Some(group) = group {
            let later = bus.subscribe(policy(), |_: Stepped| async {}).group(group).await.unwrap();
            within("all", later.wait_for(|status| status.counts.handled == handled - 1)).await.unwrap();
            assert!(within("closed", later.close(Duration::from_secs(10))).await.is_complete());
            // Whether another subscription was begun since decides nothing.
            let last = bus.subscribe(policy(), |_: Stepped| async {}).group("third").await.unwrap();
            within("two more", last.wait_for(|status| status.counts.handled == 2)).await.unwrap();
        }
        let report = within("close", bus.close(Duration::from_secs(10))).await;
        let more = if group.is_some() { 2 } else { 0 };
        assert_eq!((report.left, report.handled), (left, handled + more), "{group:?}: {report:?}");
        assert_eq!(report.is_complete(), left == 0, "{group:?}");
    }
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(type = "test.rang", topic = "bells", aggregate = bell, partitions = 1)]
struct Rang {
    bell: String,
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_was_deleted_keeps_no_other_from_being_committed_nor_the_group_from_being_left() {
    let broker = Broker::builder().auto_create(false).topic("steps", 1).topic("bells", 1).build();
    let bus = bus_on(&broker).await;
    let subscription = bus
        .subscribe(policy(), |_: Stepped| async {})
        .on(|_: Rang| async {})
        .group("workers")
        .commit_every(Duration::from_secs(3_600), 3)
        .await
        .unwrap();
    within("ready", subscription.ready()).await.unwrap();
    bus.publish(&Rang { bell: "b".into() }).await.unwrap();
    within("it rang", subscription.wait_for(|status| status.counts.handled == 1)).await.unwrap();
    assert!(broker.delete_topic("bells"));
    let started = tokio::time::Instant::now();
    for number in 0..11 {
        bus.publish(&stepped("a", number)).await.unwrap();
        let handled = number + 2;
        within("a step", subscription.wait_for(|status| status.counts.handled == handled)).await.unwrap();
        if handled % 3 == 0 {
            until("it is committed", || broker.committed("workers", "steps", 0) == Some(number as i64 + 1)).await;
        }
    }
    let took = started.elapsed();
    assert!(took < Duration::from_millis(200), "four commits, none waits for the bells: {took:?}");
    bus.publish(&stepped("a", 11)).await.unwrap();
    within("one more", subscription.wait_for(|status| status.counts.handled == 13)).await.unwrap();
    assert_eq!(broker.committed("workers", "steps", 0), Some(11), "the last is still to be committed");
    let report = within("close", subscription.close(Duration::from_secs(5))).await;
    assert_eq!((report.handled, report.uncommitted), (13, 1), "the bell: {report:?}");
    assert_eq!(broker.committed("workers", "steps", 0), Some(12));
    assert!(broker.requests().iter().any(|count| count.api == ApiKey::LeaveGroup));
    assert!(broker.members("workers").is_empty());
    let _ = bus.close(Duration::from_secs(5)).await;
}
