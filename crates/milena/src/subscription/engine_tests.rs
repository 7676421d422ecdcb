//! The engine without a broker: handlers, retries, dead letters, budgets, giving up, under a paused clock.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use milena_client::{TimeSource, TopicPartition};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc};

use super::engine::*;
use super::status::*;
use super::workers::DeadLetterWriter;
use crate::delivery::Delivery;
use crate::envelope::{Envelope, Header, WireShape};
use crate::handler::{FromDelivery, IntoOutcome, Routes};
use crate::lanes::Budget;
use crate::policy::{DeadLetter, FailureKind, FailurePolicy, Then};
use crate::record::RawRecord;
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, milena::Event)]
#[event(type = "test.happened", topic = "things", aggregate = thing)]
struct Happened {
    thing: String,
    number: u64,
}

fn record(offset: i64, thing: &str, number: u64) -> RawRecord {
    let payload = serde_json::to_vec(&Happened { thing: thing.to_owned(), number }).unwrap();
    let encoded = Envelope::new(format!("e-{offset}"), "test.happened", thing, payload)
        .with_source("test")
        .encode(WireShape::CloudEvents)
        .unwrap();
    RawRecord {
        topic: "things".into(),
        partition: 0,
        offset,
        timestamp: 0,
        key: Some(encoded.key),
        value: Some(encoded.value),
        headers: encoded.headers,
    }
}

fn id() -> TopicPartition {
    TopicPartition::new("things", 0)
}

/// An engine with one partition, a recording dead-letter writer that can be made to fail, and its events.
struct Bench {
    engine: Engine,
    letters: Arc<Mutex<Vec<DeadLetter>>>,
    letters_fail: Arc<AtomicBool>,
    letters_panic: Arc<AtomicBool>,
    events: tokio::sync::broadcast::Receiver<SubscriptionEvent>,
}

impl Bench {
    fn new<A, F, Fut>(policy: FailurePolicy, handler: F) -> Self
    where
        A: FromDelivery,
        F: Fn(A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoOutcome> + Send + 'static,
    {
        let settings = EngineSettings {
            group: "testers".into(),
            policy,
            order: Order::Aggregate,
            concurrency: 16,
            budget: Budget { records: 8, bytes: 1 << 20, span: 64 },
            total_records: 1_000,
            total_bytes: 1 << 30,
        };
        let mut routes = Routes::default();
        routes.add(handler).unwrap();
        let letters = Arc::new(Mutex::new(Vec::new()));
        let letters_fail = Arc::new(AtomicBool::new(false));
        let letters_panic = Arc::new(AtomicBool::new(false));
        let writer: DeadLetterWriter = {
            let (letters, letters_fail) = (Arc::clone(&letters), Arc::clone(&letters_fail));
            let letters_panic = Arc::clone(&letters_panic);
            Arc::new(move |letter| {
                let (letters, letters_fail) = (Arc::clone(&letters), Arc::clone(&letters_fail));
                let letters_panic = Arc::clone(&letters_panic);
                Box::pin(async move {
                    assert!(!letters_panic.load(Ordering::SeqCst), "the writer broke");
                    if letters_fail.load(Ordering::SeqCst) {
                        return Err("not enough replicas".to_owned());
                    }
                    letters.lock().unwrap().push(letter);
                    Ok(())
                })
            })
        };
        let (sender, events) = tokio::sync::broadcast::channel(64);
        let rng = fastrand::Rng::with_seed(7);
        let clock = TimeSource::virtual_from(SystemTime::UNIX_EPOCH);
        let mut engine = Engine::new(settings, routes, writer, clock, rng, sender);
        engine.assign(id(), 0, 0);
        Self { engine, letters, letters_fail, letters_panic, events }
    }

    fn give(&mut self, records: Vec<RawRecord>) {
        let next = records.last().unwrap().offset + 1;
        self.engine.take_in(&id(), records.into_iter(), next);
    }

    fn now() -> std::time::Instant {
        tokio::time::Instant::now().into_std()
    }

    /// Runs until nothing is running or waiting, or `enough` says so.
    async fn run_until(&mut self, enough: impl Fn(&Engine) -> bool) {
        let work = async {
            loop {
                self.engine.dispatch(Self::now());
                if enough(&self.engine) {
                    return;
                }
                let wake = self.engine.next_timeout().map(tokio::time::Instant::from_std);
                let far = tokio::time::Instant::now() + Duration::from_secs(1_000);
                tokio::select! {
                    finished = self.engine.finished() => self.engine.handle_finished(Self::now(), finished),
                    () = tokio::time::sleep_until(wake.unwrap_or(far)) => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(600), work).await.expect("the engine is stuck");
    }

    async fn run_dry(&mut self) {
        self.run_until(|engine| engine.in_flight().0 == 0).await;
    }

    fn watermark(&self) -> i64 {
        self.engine.uncommitted_offsets().first().map_or(0, |(_, offset)| *offset)
    }

    fn told(&mut self) -> Vec<SubscriptionEvent> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }
}

fn dead_letters() -> FailurePolicy {
    FailurePolicy::attempts(3).backoff(Duration::from_millis(100), Duration::from_secs(1)).then(Then::DeadLetter)
}

#[tokio::test(start_paused = true)]
async fn a_failing_event_is_tried_again_before_any_later_one_of_its_aggregate() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let mut bench = Bench::new(dead_letters(), move |delivery: Delivery<Happened>| {
        let log = Arc::clone(&log);
        async move {
            let event = delivery.event();
            log.lock().unwrap().push((event.thing.clone(), event.number, delivery.attempt()));
            if event.number == 1 && delivery.attempt() < 3 { Err("not yet") } else { Ok(()) }
        }
    });
    bench.give(vec![record(0, "a", 1), record(1, "a", 2), record(2, "b", 3)]);
    bench.run_dry().await;
    let seen = seen.lock().unwrap();
    let of = |thing: &str| {
        seen.iter()
            .filter(|(name, ..)| name == thing)
            .map(|(_, number, attempt)| (*number, *attempt))
            .collect::<Vec<_>>()
    };
    assert_eq!(of("a"), [(1, 1), (1, 2), (1, 3), (2, 1)]);
    assert_eq!(seen.iter().position(|(thing, ..)| thing == "b"), Some(1), "b did not wait for a's retries");
    assert_eq!(bench.watermark(), 3);
    assert!(bench.letters.lock().unwrap().is_empty());
    assert_eq!(bench.engine.counts().retried, 2);
}

#[tokio::test(start_paused = true)]
async fn used_up_attempts_end_in_a_dead_letter_and_the_aggregate_goes_on() {
    let mut bench =
        Bench::new(
            dead_letters(),
            |event: Happened| async move { if event.number == 1 { Err("never") } else { Ok(()) } },
        );
    bench.give(vec![record(0, "a", 1), record(1, "a", 2)]);
    bench.run_dry().await;
    assert_eq!(bench.watermark(), 2);
    let letters = bench.letters.lock().unwrap().clone();
    assert_eq!(letters.len(), 1);
    assert_eq!(&*letters[0].topic, "things.dead-letters");
    let original = record(0, "a", 1);
    assert_eq!((&letters[0].key, &letters[0].value), (&original.key, &original.value));
    assert!(letters[0].headers.contains(&Header::new("__dlq.errors.delivery.count", "3")));
    assert_eq!(
        bench.told(),
        [SubscriptionEvent::DeadLettered {
            topic: "things".into(),
            partition: 0,
            offset: 0,
            kind: FailureKind::Handler
        }]
    );
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure_like_any_other() {
    let mut bench = Bench::new(dead_letters(), |event: Happened| {
        // Before the first await, and after it: both must be caught.
        assert!(event.number != 1, "number one");
        async move {
            tokio::task::yield_now().await;
            assert!(event.number != 2, "number two");
        }
    });
    bench.give(vec![record(0, "a", 1), record(1, "a", 2), record(2, "a", 3)]);
    bench.run_dry().await;
    assert_eq!(bench.watermark(), 3);
    let letters = bench.letters.lock().unwrap();
    assert_eq!(letters.len(), 2);
    assert!(letters[0].headers.contains(&Header::new("__dlq.errors.message", "the handler panicked: number one")));
    assert!(letters[1].headers.contains(&Header::new("milena.dlq.kind", "panic")));
}

#[tokio::test(start_paused = true)]
async fn poison_goes_to_the_dead_letters_whole_and_never_reaches_a_handler() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let mut bench = Bench::new(dead_letters(), move |_: Happened| {
        count.fetch_add(1, Ordering::SeqCst);
        async {}
    });
    let mut garbage = record(0, "a", 1);
    garbage.headers = vec![Header::new("x", "1"), Header::null("x")];
    garbage.value = Some(bytes::Bytes::from_static(b"\x00\xff"));
    let mut wrong_payload = record(1, "a", 2);
    wrong_payload.value = Some(bytes::Bytes::from_static(b"{\"thing\":7}"));
    bench.give(vec![garbage.clone(), wrong_payload, record(2, "a", 3)]);
    bench.run_dry().await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    let letters = bench.letters.lock().unwrap();
    assert_eq!((&letters[0].key, &letters[0].value), (&garbage.key, &garbage.value));
    assert_eq!(letters[0].headers[..2], garbage.headers[..]);
    assert!(letters[0].headers.contains(&Header::new("milena.dlq.kind", "envelope")));
    assert!(letters[1].headers.contains(&Header::new("milena.dlq.kind", "payload")));
    assert!(
        letters[1].headers.contains(&Header::new("__dlq.errors.delivery.count", "1")),
        "bytes never change: one try"
    );
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_cannot_be_written_holds_its_offset_and_raises_an_alarm_until_it_is() {
    let mut bench = Bench::new(FailurePolicy::attempts(1).then(Then::DeadLetter), |event: Happened| async move {
        if event.thing == "a" { Err("never") } else { Ok(()) }
    });
    bench.letters_fail.store(true, Ordering::SeqCst);
    bench.give(vec![record(0, "a", 1), record(1, "b", 1), record(2, "b", 2)]);
    bench.run_until(|engine| engine.held() == 1 && engine.in_flight().0 == 1).await;
    assert_eq!(bench.watermark(), 0, "the prefix must not pass what is neither handled nor written off");
    assert!(
        matches!(bench.told()[..], [SubscriptionEvent::DeadLetterFailed { offset: 0, .. }]),
        "one alarm, not one per try"
    );
    bench.letters_fail.store(false, Ordering::SeqCst);
    bench.run_dry().await;
    assert_eq!(bench.watermark(), 3);
    assert_eq!(bench.letters.lock().unwrap().len(), 1);
    assert!(matches!(
        bench.told()[..],
        [SubscriptionEvent::DeadLetterRecovered { offset: 0, .. }, SubscriptionEvent::DeadLettered { offset: 0, .. }]
    ));
    assert_eq!(bench.engine.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn stop_leaves_the_failed_event_uncommitted_and_takes_up_nothing_more_of_its_partition() {
    let mut bench = Bench::new(FailurePolicy::attempts(1).then(Then::Stop), |event: Happened| async move {
        if event.number == 2 { Err("broken") } else { Ok(()) }
    });
    bench.give(vec![record(0, "a", 1), record(1, "a", 2), record(2, "a", 3)]);
    bench.run_until(|engine| engine.stop_reason().is_some()).await;
    assert!(matches!(bench.engine.stop_reason(), Some(StopReason::Policy { offset: 1, .. })));
    bench.engine.drain_all();
    bench.run_until(Engine::are_all_drained).await;
    assert_eq!(bench.watermark(), 1);
    assert!(bench.letters.lock().unwrap().is_empty());
    assert_eq!(bench.engine.abort(), 1, "what stopped it was begun and is left");
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_partitions_handlers_still_do_no_longer_counts() {
    let gate = Arc::new(Semaphore::new(0));
    let (told, mut cancelled) = mpsc::channel(1);
    let inside = Arc::clone(&gate);
    let mut bench = Bench::new(dead_letters(), move |delivery: Delivery<Happened>| {
        let (gate, told) = (Arc::clone(&inside), told.clone());
        async move {
            if delivery.event().number == 1 && delivery.assignment_epoch() == 1 {
                delivery.cancellation().cancelled().await;
                told.send(()).await.unwrap();
                gate.acquire().await.unwrap().forget();
            }
        }
    });
    bench.give(vec![record(0, "a", 1)]);
    bench.engine.dispatch(Bench::now());
    bench.engine.remove(&id());
    cancelled.recv().await.expect("the handler is told");
    bench.engine.assign(id(), 0, 0);
    gate.add_permits(1);
    let late = bench.engine.finished().await;
    bench.engine.handle_finished(Bench::now(), late);
    assert_eq!(bench.watermark(), 0, "a late completion must not move the new assignment's watermark");
    assert_eq!(bench.engine.counts().stale, 1);
    assert_eq!(bench.engine.counts().handled, 0);
    bench.give(vec![record(0, "a", 1)]);
    bench.run_dry().await;
    assert_eq!(bench.watermark(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_budget_pauses_fetching_and_room_resumes_it() {
    let gate = Arc::new(Semaphore::new(0));
    let inside = Arc::clone(&gate);
    let mut bench = Bench::new(dead_letters(), move |_: Happened| {
        let gate = Arc::clone(&inside);
        async move { gate.acquire().await.unwrap().forget() }
    });
    bench.give((0..8).map(|offset| record(offset, &format!("t-{offset}"), 1)).collect());
    assert_eq!(bench.engine.flow(), Flow { pause: vec![id()], resume: vec![] });
    assert_eq!(bench.engine.flow(), Flow::default(), "said once");
    gate.add_permits(3);
    bench.run_until(|engine| engine.in_flight().0 == 5).await;
    assert_eq!(bench.engine.flow(), Flow::default(), "below the limit is not yet room");
    gate.add_permits(1);
    bench.run_until(|engine| engine.in_flight().0 == 4).await;
    assert_eq!(bench.engine.flow(), Flow { pause: vec![], resume: vec![id()] });
}

#[tokio::test(start_paused = true)]
async fn no_more_handlers_run_at_once_than_allowed_and_the_number_can_change() {
    let gate = Arc::new(Semaphore::new(0));
    let inside = Arc::clone(&gate);
    let mut bench = Bench::new(dead_letters(), move |_: Happened| {
        let gate = Arc::clone(&inside);
        async move { gate.acquire().await.unwrap().forget() }
    });
    bench.engine.set_concurrency(2);
    bench.give((0..6).map(|offset| record(offset, &format!("t-{offset}"), 1)).collect());
    bench.engine.dispatch(Bench::now());
    assert_eq!(bench.engine.running(), 2);
    bench.engine.set_concurrency(5);
    bench.engine.dispatch(Bench::now());
    assert_eq!(bench.engine.running(), 5);
    gate.add_permits(6);
    bench.run_dry().await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_engine_finishes_what_runs_and_begins_nothing() {
    let mut bench = Bench::new(dead_letters(), |_: Happened| async {});
    bench.engine.pause();
    bench.give(vec![record(0, "a", 1)]);
    bench.engine.dispatch(Bench::now());
    assert_eq!(bench.engine.running(), 0);
    bench.engine.resume();
    bench.run_dry().await;
    assert_eq!(bench.watermark(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_record_without_a_key_keeps_its_aggregates_order() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let mut bench = Bench::new(dead_letters(), move |delivery: Delivery<Happened>| {
        let log = Arc::clone(&log);
        async move {
            if delivery.attempt() == 1 && delivery.event().number == 1 {
                return Err("first time");
            }
            log.lock().unwrap().push(delivery.event().number);
            Ok(())
        }
    });
    let keyless = |offset, number| RawRecord { key: None, ..record(offset, "a", number) };
    bench.give(vec![keyless(0, 1), keyless(1, 2)]);
    bench.run_dry().await;
    assert_eq!(*seen.lock().unwrap(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_whose_payload_panics_when_it_is_dropped_is_a_failure_like_any_other() {
    struct Spiteful;
    impl Drop for Spiteful {
        fn drop(&mut self) {
            panic!("again");
        }
    }
    let mut bench = Bench::new(dead_letters(), |event: Happened| async move {
        if event.number == 0 {
            std::panic::panic_any(Spiteful);
        }
    });
    bench.give(vec![record(0, "a", 0), record(1, "a", 1)]);
    bench.run_dry().await;
    assert_eq!((bench.letters.lock().unwrap().len(), bench.engine.counts().handled), (1, 1));
    assert_eq!((bench.engine.running(), bench.watermark()), (0, 2));
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "the writer broke")]
async fn a_task_of_ours_that_panics_ends_the_engine_instead_of_holding_its_lane_for_ever() {
    let mut bench = Bench::new(dead_letters(), |_: Happened| async { Err("no stock") });
    bench.letters_panic.store(true, Ordering::SeqCst);
    bench.give(vec![record(0, "a", 0)]);
    bench.run_dry().await;
}
