//! The bus's promises, on every kind of cluster and on a runtime of several threads: order, groups that change, closing
//! and going on, a late start, dead letters.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use milena::Bus;
use milena::Delivery;
use milena::Envelope;
use milena::FailurePolicy;
use milena::StartAt;
use milena::Subscription;
use milena::Then;
use milena_admin::Admin;
use milena_admin::NewTopic;
use milena_client::Client;
use milena_tests::cluster::Cluster;
use tokio::time::sleep;
use tokio::time::timeout;

use crate::client::TIME_LIMIT;

const N_PARTITIONS: i32 = 4;

/// What handlers did: successes in order, and whether two of one aggregate overlapped within an assignment epoch.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    handled: Vec<(String, u64)>,
    inside: BTreeSet<(u8, String, u64)>,
    n_overlaps: usize,
}

impl Journal {
    fn enter(&self, member: u8, delivery: &Delivery<Envelope>) -> (u8, String, u64) {
        let entry = (member, delivery.aggregate_id().to_owned(), delivery.assignment_epoch());
        let mut entries = self.0.lock().unwrap();
        entries.n_overlaps += usize::from(!entries.inside.insert(entry.clone()));
        entry
    }

    fn leave(&self, entry: &(u8, String, u64), success: Option<u64>) {
        let mut entries = self.0.lock().unwrap();
        entries.inside.remove(entry);
        entries.handled.extend(success.map(|number| (entry.1.clone(), number)));
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().handled.len()
    }

    /// Each aggregate's events were handled once each, from 0 to `n`, in order, and never two at a time.
    fn assert_once_in_order(&self, n_aggregates: u64, n: u64) {
        let entries = self.0.lock().unwrap();
        assert_eq!(entries.n_overlaps, 0, "two handlers of one aggregate overlapped");
        let mut by_aggregate: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for (aggregate, number) in &entries.handled {
            by_aggregate.entry(aggregate).or_default().push(*number);
        }
        assert_eq!(by_aggregate.len() as u64, n_aggregates);
        for (aggregate, numbers) in by_aggregate {
            assert_eq!(numbers, (0..n).collect::<Vec<_>>(), "{aggregate}");
        }
    }
}

fn envelope(aggregate: u64, number: u64) -> Envelope {
    Envelope::new(format!("e-{aggregate}-{number}"), "test.stepped", format!("a-{aggregate}"), number.to_string())
        .with_source("test")
}

fn number_of(delivery: &Delivery<Envelope>) -> u64 {
    serde_json::from_slice(delivery.event().payload()).expect("the payload is a number")
}

async fn bus_on(cluster: &Cluster) -> Bus {
    Bus::builder().kafka(cluster.bootstrap()).open().await.unwrap()
}

/// A new topic, and a bus.
async fn bus_and_topic(cluster: &Cluster, name: &str) -> (Bus, String) {
    let topic = cluster.unique(name);
    let client = Client::builder().bootstrap(cluster.bootstrap()).unwrap().build().await.unwrap();
    let new = NewTopic::new(&topic).partitions(N_PARTITIONS);
    Admin::new(&client).create_topic(new).await.unwrap();
    client.partitions(&topic).await.unwrap();
    drop(client);
    (bus_on(cluster).await, topic)
}

fn policy() -> FailurePolicy {
    FailurePolicy::attempts(3).backoff(Duration::from_millis(10), Duration::from_millis(50)).then(Then::DeadLetter)
}

/// A member whose handlers take a moment, and fail twice for every seventh event.
async fn member(bus: &Bus, number: u8, topic: &str, group: &str, journal: &Journal) -> Subscription {
    let journal = journal.clone();
    bus.subscribe(policy(), move |delivery: Delivery<Envelope>| {
        let journal = journal.clone();
        async move {
            let event = number_of(&delivery);
            let entry = journal.enter(number, &delivery);
            // Real time passes here, as it does in a handler.
            sleep(Duration::from_millis(event % 5)).await;
            let fails = event % 7 == 3 && delivery.attempt() < 3;
            journal.leave(&entry, (!fails).then_some(event));
            if fails { Err("not yet") } else { Ok(()) }
        }
    })
    .topic(topic)
    .group(group)
    .await
    .unwrap()
}

async fn publish(bus: &Bus, topic: &str, n_aggregates: u64, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let envelopes: Vec<Envelope> = (0..n_aggregates).map(|aggregate| envelope(aggregate, number)).collect();
        let mut sent = tokio::task::JoinSet::new();
        for envelope in envelopes {
            let (bus, topic) = (bus.clone(), topic.to_owned());
            sent.spawn(async move { bus.publish_envelope(&topic, &envelope).await.unwrap() });
        }
        timeout(TIME_LIMIT, sent.join_all()).await.expect("the cluster takes events");
    }
}

async fn until_handled(subscription: &Subscription, n: u64) {
    let waited = timeout(TIME_LIMIT, subscription.wait_for(|status| status.counts.handled >= n)).await;
    waited.unwrap_or_else(|_| panic!("{n} handled: {:?}", subscription.status())).unwrap();
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = timeout(TIME_LIMIT, async {
        while !condition() {
            sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} did not happen"));
}

async fn close(bus: &Bus) {
    let report = bus.close(TIME_LIMIT).await;
    assert!(report.is_complete(), "{report:?}");
}

async fn order_holds_through_failures_retries_and_a_restart(cluster: Cluster) {
    let (bus, topic) = bus_and_topic(&cluster, "bus-order").await;
    let group = cluster.unique("group");
    let journal = Journal::default();
    let first = member(&bus, 1, &topic, &group, &journal).await;
    publish(&bus, &topic, 20, 0..15).await;
    until_handled(&first, 300).await;
    assert_eq!(first.status().counts.retried, 20 * 2 * 2, "3 and 10 fail twice each");
    close(&bus).await;
    let bus = bus_on(&cluster).await;
    let second = member(&bus, 2, &topic, &group, &journal).await;
    publish(&bus, &topic, 20, 15..20).await;
    until_handled(&second, 100).await;
    close(&bus).await;
    journal.assert_once_in_order(20, 20);
}

async fn a_close_under_load_leaves_the_rest_for_the_next_start(cluster: Cluster) {
    let (bus, topic) = bus_and_topic(&cluster, "bus-close").await;
    let group = cluster.unique("group");
    let journal = Journal::default();
    let first = member(&bus, 1, &topic, &group, &journal).await;
    publish(&bus, &topic, 20, 0..20).await;
    until_handled(&first, 50).await;
    close(&bus).await;
    let bus = bus_on(&cluster).await;
    let _second = member(&bus, 2, &topic, &group, &journal).await;
    until("the rest is handled", || journal.len() >= 400).await;
    close(&bus).await;
    journal.assert_once_in_order(20, 20);
}

async fn members_come_and_go_without_loss_repeats_or_overlap(cluster: Cluster) {
    let (bus, topic) = bus_and_topic(&cluster, "bus-group").await;
    let group = cluster.unique("group");
    let journal = Journal::default();
    let first = member(&bus, 1, &topic, &group, &journal).await;
    timeout(TIME_LIMIT, first.ready()).await.unwrap().unwrap();
    let load = tokio::spawn({
        let (bus, topic) = (bus.clone(), topic.clone());
        async move { publish(&bus, &topic, 20, 0..50).await }
    });
    until_handled(&first, 100).await;
    let second_bus = bus_on(&cluster).await;
    let second = member(&second_bus, 2, &topic, &group, &journal).await;
    let share = timeout(TIME_LIMIT, second.wait_for(|status| status.partitions.len() == 2)).await.unwrap().unwrap();
    assert_eq!(share.partitions.len(), 2);
    load.await.unwrap();
    publish(&bus, &topic, 20, 50..100).await;
    until("both have had some", || journal.len() >= 1_500 && second.status().counts.handled > 0).await;
    close(&second_bus).await;
    until("all are handled", || journal.len() >= 2_000).await;
    close(&bus).await;
    journal.assert_once_in_order(20, 100);
}

async fn a_late_start_sees_what_follows_and_nothing_before(cluster: Cluster) {
    let (bus, topic) = bus_and_topic(&cluster, "bus-late").await;
    let (other_bus, other) = bus_and_topic(&cluster, "bus-other").await;
    close(&other_bus).await;
    let group = cluster.unique("group");
    // The group has a member already, so that its offsets can't be set from outside.
    let there = member(&bus, 1, &other, &group, &Journal::default()).await;
    timeout(TIME_LIMIT, there.ready()).await.unwrap().unwrap();
    publish(&bus, &topic, 10, 0..5).await;
    let journal = Journal::default();
    let log = journal.clone();
    let late = bus
        .subscribe(policy(), move |delivery: Delivery<Envelope>| {
            let entry = log.enter(1, &delivery);
            log.leave(&entry, Some(number_of(&delivery) - 5));
            async {}
        })
        .topic(&topic)
        .group(&group)
        .start_at(StartAt::Latest)
        .await
        .unwrap();
    timeout(TIME_LIMIT, late.ready()).await.unwrap().unwrap();
    publish(&bus, &topic, 10, 5..8).await;
    until_handled(&late, 30).await;
    close(&bus).await;
    journal.assert_once_in_order(10, 3);
}

async fn dead_letters_hold_what_could_not_be_handled_however_large(cluster: Cluster) {
    let (bus, topic) = bus_and_topic(&cluster, "bus-letters").await;
    let group = cluster.unique("group");
    let failing = bus
        .subscribe(policy(), |delivery: Delivery<Envelope>| async move {
            if delivery.aggregate_id() == "a-0" { Err("n".repeat(1_000)) } else { Ok(()) }
        })
        .topic(&topic)
        .group(&group)
        .await
        .unwrap();
    publish(&bus, &topic, 5, 0..2).await;
    // It only just fits where it is published.
    let large = format!("\"{}\"", "x".repeat(1024 * 1024 - 400));
    let large = Envelope::new("large", "test.stepped", "a-0", large).with_source("test");
    bus.publish_envelope(&topic, &large).await.unwrap();
    let settled = failing.wait_for(|status| status.counts.handled == 8 && status.counts.dead_lettered == 3);
    timeout(TIME_LIMIT, settled).await.unwrap_or_else(|_| panic!("{:?}", failing.status())).unwrap();
    let letters: Arc<Mutex<Vec<(String, usize)>>> = Arc::default();
    let seen = Arc::clone(&letters);
    let reading = bus
        .subscribe(FailurePolicy::attempts(1).then(Then::Stop), move |delivery: Delivery<Envelope>| {
            let header = |name: &str| delivery.record().headers().iter().any(|header| &*header.name == name);
            assert!(header("__dlq.errors.message") && header("milena.dlq.kind"));
            seen.lock().unwrap().push((delivery.event().id().to_owned(), delivery.event().payload().len()));
            async {}
        })
        .topic(format!("{topic}.dead-letters"))
        .group(cluster.unique("letters"))
        .await
        .unwrap();
    until_handled(&reading, 3).await;
    let expected = [("e-0-0", 1), ("e-0-1", 1), ("large", 1024 * 1024 - 398)];
    let expected: Vec<_> = expected.iter().map(|(id, length)| ((*id).to_owned(), *length)).collect();
    assert_eq!(*letters.lock().unwrap(), expected, "in order, and whole");
    close(&bus).await;
}

milena_tests::on_every_cluster!(
    order_holds_through_failures_retries_and_a_restart,
    a_close_under_load_leaves_the_rest_for_the_next_start,
    members_come_and_go_without_loss_repeats_or_overlap,
    a_late_start_sees_what_follows_and_nothing_before,
    dead_letters_hold_what_could_not_be_handled_however_large,
);
