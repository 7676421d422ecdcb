//! What the tests share: an event, a record of what was handled, and ways to look into the broker.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use milena::{Bus, Delivery, Event, FailurePolicy, SubscriptionEvent, SubscriptionEvents, Then};
use milena_admin::Admin;
use milena_broker::Broker;
use milena_client::consumer::{Consumer, ConsumerEvent, OwnedRecord, Start};
use milena_client::producer::{Producer, Record};
use milena_client::{BoxFuture, BrokerAddress, Client, Connector, Transport};
use serde::{Deserialize, Serialize};

/// The test's event: one step of one thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(type = "test.stepped", topic = "steps", aggregate = thing, partitions = 4)]
pub(crate) struct Stepped {
    pub(crate) thing: String,
    pub(crate) number: u64,
}

pub(crate) fn stepped(thing: impl Into<String>, number: u64) -> Stepped {
    Stepped { thing: thing.into(), number }
}

pub(crate) async fn bus_on(broker: &Broker) -> Bus {
    Bus::builder().embedded(broker.clone()).seed(7).open().await.expect("the embedded broker answers")
}

pub(crate) async fn bus() -> Bus {
    bus_on(&Broker::builder().build()).await
}

/// Three attempts in quick succession, then a dead letter.
pub(crate) fn policy() -> FailurePolicy {
    FailurePolicy::attempts(3).backoff(Duration::from_millis(50), Duration::from_millis(200)).then(Then::DeadLetter)
}

/// Every wait of a test ends, well or badly, within two minutes of its (usually virtual) time.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(Duration::from_secs(120), future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} did not happen"),
    }
}

/// What was handled, in the order of handler entry, and whether two handlers of one thing ever overlapped.
#[derive(Debug, Clone, Default)]
pub(crate) struct Journal(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    handled: Vec<(String, u64)>,
    inside: BTreeMap<String, u64>,
    overlaps: usize,
}

impl Journal {
    /// Notes that a handler was entered; dropping the guard notes that it was left.
    pub(crate) fn enter(&self, delivery: &Delivery<Stepped>) -> Entered {
        let thing = format!("{}@{}", delivery.event().thing, delivery.assignment_epoch());
        let mut entries = self.0.lock().unwrap();
        let inside = entries.inside.entry(thing.clone()).or_default();
        *inside += 1;
        if *inside > 1 {
            entries.overlaps += 1;
        }
        Entered { journal: self.clone(), thing }
    }

    /// Notes a success.
    pub(crate) fn note(&self, event: &Stepped) {
        self.0.lock().unwrap().handled.push((event.thing.clone(), event.number));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().handled.len()
    }

    /// The numbers handled for one thing, in order, repeats included.
    pub(crate) fn of(&self, thing: &str) -> Vec<u64> {
        let entries = self.0.lock().unwrap();
        entries.handled.iter().filter(|(name, _)| name == thing).map(|(_, number)| *number).collect()
    }

    pub(crate) fn things(&self) -> Vec<(String, u64)> {
        self.0.lock().unwrap().handled.clone()
    }

    /// Distinct events handled.
    pub(crate) fn distinct(&self) -> usize {
        self.0.lock().unwrap().handled.iter().collect::<std::collections::BTreeSet<_>>().len()
    }

    /// Order as the bus promises it: the first success of an event never precedes that of an earlier one of its thing,
    /// and no two handlers of a thing overlap within an assignment epoch.
    pub(crate) fn assert_order(&self) {
        let entries = self.0.lock().unwrap();
        assert_eq!(entries.overlaps, 0, "two handlers of one aggregate overlapped");
        let mut highest: BTreeMap<&str, u64> = BTreeMap::new();
        for (thing, number) in &entries.handled {
            let next = highest.get(thing.as_str()).map_or(0, |last| last + 1);
            assert!(*number <= next, "{thing}: {number} was handled first after {}", next.saturating_sub(1));
            highest.insert(thing, (*number).max(next.saturating_sub(1)));
        }
    }
}

pub(crate) struct Entered {
    journal: Journal,
    thing: String,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(inside) = self.journal.0.lock().unwrap().inside.get_mut(&self.thing) {
            *inside -= 1;
        }
    }
}

/// A handler that notes each event.
pub(crate) fn noting(journal: &Journal) -> impl Fn(Stepped) -> std::future::Ready<()> + Send + Sync + 'static {
    let log = journal.clone();
    move |event| {
        log.note(&event);
        std::future::ready(())
    }
}

/// Waits for an event of a subscription.
pub(crate) async fn wait_for_event(
    events: &mut SubscriptionEvents,
    is_wanted: impl Fn(&SubscriptionEvent) -> bool,
) -> SubscriptionEvent {
    within("an event of the subscription", async {
        loop {
            let event = events.next().await.expect("the subscription runs");
            if is_wanted(&event) {
                return event;
            }
        }
    })
    .await
}

/// Waits, without guessing how long, until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// The same for a condition that has to be asked for.
pub(crate) async fn until_async(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A plain client of the broker, beside the bus.
pub(crate) async fn client(broker: &Broker) -> Client {
    #[derive(Debug)]
    struct Link(Broker);
    impl Connector for Link {
        fn connect(&self, address: BrokerAddress) -> BoxFuture<'static, std::io::Result<Transport>> {
            let link = self.0.connect(address.host(), address.port());
            Box::pin(async move { Ok(Transport::memory(link?, address.to_string())) })
        }

        fn is_virtual(&self) -> bool {
            true
        }
    }
    let builder = Client::builder().bootstrap(broker.bootstrap()).unwrap();
    builder.connector(Arc::new(Link(broker.clone()))).build().await.unwrap()
}

/// Sends a record that no bus has seen.
pub(crate) async fn send_raw(broker: &Broker, record: Record<'_>) {
    let client = client(broker).await;
    let producer = Producer::builder(&client).build().unwrap();
    producer.send(record).await.unwrap().await.unwrap();
    let _ = client.close(Duration::from_secs(5)).await;
}

/// Everything in a topic, partition by partition.
pub(crate) async fn read_all(broker: &Broker, topic: &str) -> Vec<OwnedRecord> {
    let client = client(broker).await;
    let partitions = client.partitions(topic).await.unwrap();
    let ends: Vec<(i32, i64)> = partitions
        .iter()
        .map(|partition| (partition.index, broker.log_offsets(topic, partition.index).unwrap().1))
        .collect();
    let wanted: i64 = ends.iter().map(|(_, end)| end).sum();
    let consumer = Consumer::builder(&client).build().unwrap();
    consumer.assign(ends.iter().map(|(partition, _)| (topic, *partition, Start::Beginning))).unwrap();
    let mut records = Vec::new();
    within("reading the topic", async {
        while (records.len() as i64) < wanted {
            if let ConsumerEvent::Records(set) = consumer.next().await.unwrap() {
                records.extend(set.iter().map(|record| record.to_owned()));
            }
        }
    })
    .await;
    let _ = consumer.close(Duration::from_secs(5)).await;
    let _ = client.close(Duration::from_secs(5)).await;
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}

/// What a group has committed for a partition.
pub(crate) async fn committed(broker: &Broker, group: &str, topic: &str, partition: i32) -> Option<i64> {
    let client = client(broker).await;
    let offsets = Admin::new(&client).list_group_offsets(group).await.unwrap();
    let _ = client.close(Duration::from_secs(5)).await;
    let of = |it: &milena_client::TopicPartition| &*it.topic == topic && it.partition == partition;
    offsets.into_iter().find(|(it, _)| of(it)).map(|(_, offset)| offset.offset)
}
