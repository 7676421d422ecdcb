//! Sees that a shared runtime has stood still, as when handlers block all of its workers, and logs for how long. It can
//! prevent nothing: heartbeats and deadlines were late by then. It looks only while something would be late: an idle
//! client has no timer for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// How often it looks: too seldom to cost anything, and the most by which a stall is told shorter than it was.
const EVERY: Duration = Duration::from_millis(500);

/// What is this late has been kept from running; a busy machine alone seldom does that.
const BOUND: Duration = Duration::from_secs(1);

/// What a stall would harm now: consumers that hold a membership or partitions, and produce requests in flight.
/// Clones share the count.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stakes {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    begun: Notify,
}

#[derive(Debug, Default)]
struct State {
    held: usize,
    /// The watch sleeps until it is woken.
    parked: bool,
    /// When the stake was taken that woke it. A stall may begin right then, before the watch has run.
    woken: Option<Instant>,
}

/// Something is at stake until this is dropped.
#[derive(Debug)]
pub(crate) struct Stake {
    stakes: Stakes,
}

impl Stakes {
    /// Once per request or membership, never per record. Wakes the watch if it is parked.
    pub(crate) fn take(&self) -> Stake {
        let mut state = self.state();
        state.held += 1;
        if std::mem::take(&mut state.parked) {
            state.woken = Some(Instant::now());
            drop(state);
            self.inner.begun.notify_one();
        }
        Stake { stakes: self.clone() }
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.state().held
    }

    /// Whether nothing is at stake; then the next stake wakes the watch.
    fn park(&self) -> bool {
        let mut state = self.state();
        state.parked = state.held == 0;
        state.parked
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stake {
    fn drop(&mut self) {
        self.stakes.state().held -= 1;
    }
}

/// Runs for as long as the client's tasks share a runtime with the application.
pub(crate) async fn watch(stakes: Stakes) {
    loop {
        let mut from = Instant::now();
        if stakes.park() {
            stakes.inner.begun.notified().await;
            from = stakes.state().woken.take().unwrap_or_else(Instant::now);
        }
        let due = from + EVERY;
        sleep_until(due).await;
        let late = due.elapsed();
        if late >= BOUND {
            tracing::warn!(
                stalled_ms = u64::try_from(late.as_millis()).unwrap_or(u64::MAX),
                "the runtime ran none of the client's tasks for {late:.1?}, heartbeats included: block in \
                 tokio::task::spawn_blocking, or build the client with RuntimeChoice::Dedicated"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use milena_broker::{Broker, Fault, Rule};
    use milena_protocol::ApiKey;
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    use super::*;
    use crate::consumer::{Consumer, Start};
    use crate::producer::{self, Producer};
    use crate::test_link::client_of;

    /// Notes the lengths of stalls.
    #[derive(Clone, Default)]
    struct Lengths(Arc<Mutex<Vec<u64>>>);

    impl Visit for Lengths {
        fn record_u64(&mut self, field: &Field, value: u64) {
            if field.name() == "stalled_ms" {
                self.0.lock().expect("no panic holds it").push(value);
            }
        }

        fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
    }

    impl Subscriber for Lengths {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn event(&self, event: &Event<'_>) {
            event.record(&mut self.clone());
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    impl Lengths {
        fn told(&self) -> Vec<u64> {
            self.0.lock().expect("no panic holds it").clone()
        }
    }

    /// The clock goes on while nothing runs, as it does when a handler blocks.
    async fn block(length: Duration) {
        tokio::time::advance(length).await;
        tokio::task::yield_now().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_is_logged_with_its_length_and_a_short_delay_is_not() {
        let lengths = Lengths::default();
        let _here = tracing::subscriber::set_default(lengths.clone());
        let stakes = Stakes::default();
        let _stake = stakes.take();
        let watching = tokio::spawn(watch(stakes));
        tokio::task::yield_now().await;
        for pause in [EVERY + BOUND / 2, EVERY + Duration::from_secs(60), Duration::from_secs(1)] {
            block(pause).await;
        }
        watching.abort();
        assert_eq!(lengths.told(), [60_000]);
    }

    /// Whoever takes a stake may block before the watch has run, and what was at stake may be over when it runs.
    #[tokio::test(start_paused = true)]
    async fn a_stall_that_begins_with_what_is_at_stake_is_logged_too() {
        let lengths = Lengths::default();
        let _here = tracing::subscriber::set_default(lengths.clone());
        let stakes = Stakes::default();
        let watching = tokio::spawn(watch(stakes.clone()));
        tokio::time::sleep(Duration::from_secs(7)).await;
        let stake = stakes.take();
        // Moves the clock before it lets anything run.
        let moved = tokio::time::advance(EVERY + Duration::from_secs(20));
        drop(stake);
        moved.await;
        tokio::task::yield_now().await;
        watching.abort();
        assert_eq!(lengths.told(), [20_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_watch_has_no_timer_while_nothing_is_at_stake() {
        const LONG: Duration = Duration::from_secs(3600);
        let wakes = Arc::new(AtomicUsize::new(0));
        let stakes = Stakes::default();
        let watching = tokio::spawn({
            let (wakes, stakes) = (Arc::clone(&wakes), stakes.clone());
            async move {
                let mut watch = pin!(watch(stakes));
                poll_fn(|context| {
                    wakes.fetch_add(1, Relaxed);
                    watch.as_mut().poll(context)
                })
                .await;
            }
        });
        tokio::time::sleep(LONG).await;
        assert_eq!(wakes.swap(0, Relaxed), 1, "it was started");
        let stake = stakes.take();
        tokio::time::sleep(20 * EVERY).await;
        let looked = wakes.swap(0, Relaxed);
        assert!((20..=21).contains(&looked), "woken, then at each look: {looked}");
        drop(stake);
        tokio::time::sleep(LONG).await;
        let looked = wakes.swap(0, Relaxed);
        assert!(looked <= 2, "it parks when it looks next: {looked}");
        watching.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_at_stake_but_what_consumers_hold_and_records_in_flight() {
        let broker = Broker::builder().topic("t", 1).build();
        let client = client_of(broker.clone()).build().await.expect("the broker answers");
        let stakes = client.inner().stakes.clone();
        let until = async |held: usize| {
            let wait = async {
                while stakes.held() != held {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), wait).await.expect("in time");
        };
        let producer = Producer::builder(&client).build().expect("good settings");
        producer.send(producer::Record::to("t").value("first")).await.expect("room").await.expect("an answer");
        let consumer = Consumer::builder(&client).group("g").build().expect("good settings");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(stakes.held(), 0, "a client that is idle, a producer and a consumer");

        broker.faults().add(Rule::new(Fault::Delay(Duration::from_secs(5))).api(ApiKey::Produce));
        let sent = producer.send(producer::Record::to("t").value("second")).await.expect("room");
        until(1).await;
        sent.await.expect("an answer");
        assert_eq!(stakes.held(), 0, "answered");

        consumer.subscribe(["t"]).expect("it is open");
        until(1).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(stakes.held(), 1, "the membership, between its heartbeats");
        consumer.close(Duration::from_secs(5)).await.expect("in time");
        until(0).await;

        let assigned = Consumer::builder(&client).build().expect("good settings");
        assigned.assign([("t", 0, Start::Beginning)]).expect("it is open");
        until(1).await;
        assigned.assign(Vec::<(&str, i32, Start)>::new()).expect("it is open");
        until(0).await;
    }
}
