//! Order per aggregate, whatever the handlers do, and lanes that never wait for each other.

use std::sync::Arc;
use std::time::Duration;

use milena::{Delivery, Order};
use tokio::sync::Semaphore;

use crate::support::*;

/// Publishes `per_thing` steps of each of `things` things, interleaved.
async fn publish_steps(bus: &milena::Bus, things: u64, per_thing: u64) {
    let steps: Vec<_> =
        (0..per_thing).flat_map(|number| (0..things).map(move |thing| stepped(format!("t-{thing}"), number))).collect();
    for receipt in bus.publish_batch(&steps).await {
        receipt.expect("the broker takes it");
    }
}

#[tokio::test(start_paused = true)]
async fn events_of_an_aggregate_are_handled_in_order_by_slow_and_failing_handlers() {
    let bus = bus().await;
    let journal = Journal::default();
    let log = journal.clone();
    let subscription = bus
        .subscribe(policy(), move |delivery: Delivery<Stepped>| {
            let log = log.clone();
            async move {
                let _inside = log.enter(&delivery);
                let event = delivery.event();
                // Some are slow, and every fifth fails twice before it succeeds.
                tokio::time::sleep(Duration::from_millis((event.number * 7 + event.thing.len() as u64) % 13)).await;
                if event.number.is_multiple_of(5) && delivery.attempt() < 3 {
                    return Err("not yet");
                }
                log.note(event);
                Ok(())
            }
        })
        .group("workers")
        .await
        .unwrap();
    publish_steps(&bus, 40, 25).await;
    within("1,000 events handled", subscription.wait_for(|status| status.counts.handled == 1_000)).await.unwrap();
    journal.assert_order();
    for thing in 0..40 {
        assert_eq!(journal.of(&format!("t-{thing}")), (0..25).collect::<Vec<_>>(), "each once, in order");
    }
    assert_eq!(subscription.status().counts.retried, 40 * 5 * 2);
    assert!(within("close", bus.close(Duration::from_secs(10))).await.is_complete());
}

#[tokio::test(start_paused = true)]
async fn no_lane_blocks_another() {
    let bus = bus().await;
    let gate = Arc::new(Semaphore::new(0));
    let journal = Journal::default();
    let (log, shut) = (journal.clone(), Arc::clone(&gate));
    let subscription = bus
        .subscribe(policy(), move |event: Stepped| {
            let (log, shut) = (log.clone(), Arc::clone(&shut));
            async move {
                if event.thing == "stuck" {
                    shut.acquire().await.unwrap().forget();
                }
                log.note(&event);
            }
        })
        .group("workers")
        .await
        .unwrap();
    bus.publish(&stepped("stuck", 0)).await.unwrap();
    publish_steps(&bus, 300, 2).await;
    within("600 others", subscription.wait_for(|status| status.counts.handled == 600)).await.unwrap();
    assert_eq!(journal.of("stuck"), [] as [u64; 0]);
    gate.add_permits(1);
    within("the stuck one", subscription.wait_for(|status| status.counts.handled == 601)).await.unwrap();
    let _ = bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn order_by_partition_runs_one_handler_at_a_time_per_partition() {
    let bus = bus().await;
    let running = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let most = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (count, high) = (Arc::clone(&running), Arc::clone(&most));
    let subscription = bus
        .subscribe(policy(), move |_: Stepped| {
            let (count, high) = (Arc::clone(&count), Arc::clone(&high));
            async move {
                use std::sync::atomic::Ordering::SeqCst;
                high.fetch_max(count.fetch_add(1, SeqCst) + 1, SeqCst);
                tokio::time::sleep(Duration::from_millis(3)).await;
                count.fetch_sub(1, SeqCst);
            }
        })
        .group("workers")
        .order(Order::Partition)
        .await
        .unwrap();
    publish_steps(&bus, 30, 3).await;
    within("90 events", subscription.wait_for(|status| status.counts.handled == 90)).await.unwrap();
    assert!(most.load(std::sync::atomic::Ordering::SeqCst) <= 4, "four partitions, so at most four at once");
    let _ = bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_budget_pauses_fetching_and_bounds_what_is_in_memory() {
    let bus = bus().await;
    let gate = Arc::new(Semaphore::new(0));
    let shut = Arc::clone(&gate);
    let subscription = bus
        .subscribe(policy(), move |_: Stepped| {
            let shut = Arc::clone(&shut);
            async move { shut.acquire().await.unwrap().forget() }
        })
        .group("workers")
        .budget(50, 1 << 20)
        .concurrency(8)
        .await
        .unwrap();
    within("ready", subscription.ready()).await.unwrap();
    for number in 0..200 {
        // One by one, so that each is a batch of its own and the overshoot of one batch says nothing.
        bus.publish(&stepped(format!("t-{number}"), 0)).await.unwrap();
    }
    let full = within("the budget is full", subscription.wait_for(|status| status.is_full)).await.unwrap();
    assert!(full.records <= 60, "{} records in memory with a budget of 50", full.records);
    assert!(full.running <= 8);
    // Time passes, nothing more comes in, and the membership stays.
    tokio::time::sleep(Duration::from_secs(90)).await;
    let later = subscription.status();
    assert!(later.records <= 60 && !later.partitions.is_empty());
    gate.add_permits(200);
    within("all", subscription.wait_for(|status| status.counts.handled == 200)).await.unwrap();
    assert!(!subscription.status().is_full);
    let _ = bus.close(Duration::from_secs(10)).await;
}
