//! Closing: complete, bounded, and nothing left behind.

use std::time::Duration;

use milena::{CloseReport, Delivery, SubscriptionState};
use milena_broker::Broker;

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
    assert_eq!(again.handled, 1);
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
