//! The producers of a run: tasks that send, drop what they sent or were about to, flush, and note each outcome.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use milena_client::producer::{
    Acks, Compression, Delivery, Ordering, Outcome, ProduceError, Producer, Record, RecordMetadata, SendError,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::plan::ProducerPlan;
use super::{SLACK, TOPIC, World, lock};
use crate::history::{Sent, Value, Violation};

/// Keys of one producer: a task's is the producer's first one and its number.
pub(super) const KEYS: u32 = 100;
/// The key of the records that are sent once all is whole again.
const PROBE: u32 = KEYS - 1;

/// A value's bytes: all of them follow from the value.
pub(super) fn write(value: Value, filling: usize) -> String {
    let mut text = format!("milena {} {} ", value.key, value.number);
    let mut state = u64::from(value.key) << 32 | value.number;
    for index in 0..filling {
        // Half of it repeats itself, so that codecs find something and not everything.
        if index % 2 == 0 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        }
        let letter = b'a' + u8::try_from(state >> 59).unwrap_or(0) % 26;
        let _ = text.write_char(char::from(letter));
    }
    text
}

/// The value that bytes stand for, if they are just its bytes.
pub(super) fn read(bytes: Option<&[u8]>) -> Option<Value> {
    let text = std::str::from_utf8(bytes?).ok()?;
    let mut parts = text.splitn(4, ' ');
    let (mark, key, number, filling) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let value = Value { key: key.parse().ok()?, number: number.parse().ok()? };
    (mark == "milena" && write(value, filling.len()) == text).then_some(value)
}

/// One producer at work.
pub(super) struct Load {
    world: Arc<World>,
    plan: ProducerPlan,
    index: u32,
    pub(super) producer: Producer,
}

impl Load {
    pub(super) fn new(world: &Arc<World>, index: u32, producer: Producer) -> Arc<Self> {
        let plan = world.plan.producers[index as usize].clone();
        Arc::new(Self { world: Arc::clone(world), plan, index, producer })
    }

    /// Sends everything and waits for every outcome; closes in the middle of it, if that is planned.
    pub(super) async fn run(self: Arc<Self>) {
        let mut tasks = JoinSet::new();
        for task in 0..self.plan.tasks {
            let rng = fastrand::Rng::with_seed(self.world.plan.seed ^ u64::from(self.index * KEYS + task) << 8);
            let sender = Sender {
                load: Arc::clone(&self),
                producer: self.producer.clone(),
                key: self.index * KEYS + task,
                rng,
                waiting: VecDeque::new(),
            };
            tasks.spawn(sender.run());
        }
        if let Some((at, limit)) = self.plan.closes {
            sleep(at).await;
            self.close(limit).await;
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                self.violated(Violation::Stuck(format!("a sender: {error}")));
            }
        }
    }

    /// A record to each partition, again until it is acknowledged: how long did each take?
    pub(super) async fn probe(&self) -> Vec<Duration> {
        let mut took = Vec::new();
        if self.plan.closes.is_some() {
            return took;
        }
        let healed = Instant::now();
        let mut number = 0;
        let mut open: Vec<i32> = (0..self.world.plan.partitions).collect();
        while !open.is_empty() {
            let mut sent = Vec::new();
            for &partition in &open {
                let value = Value { key: self.index * KEYS + PROBE, number };
                lock(&self.world.history).begun(value);
                number += 1;
                if let Some(delivery) = self.send(&self.producer, value, Some(partition)).await {
                    sent.push((partition, value, delivery));
                }
            }
            for (partition, value, delivery) in sent {
                if self.settle(value, Instant::now(), delivery).await {
                    took.push(healed.elapsed());
                    open.retain(|other| *other != partition);
                }
            }
            if healed.elapsed() > super::RECOVERY {
                self.violated(Violation::SlowRecovery(healed.elapsed()));
                return took;
            }
            sleep(Duration::from_millis(50)).await;
        }
        took
    }

    /// Ends the producer, and looks whether it has answered for everything and gives everything back.
    pub(super) async fn end(&self) {
        let expects_clean = self.plan.closes.is_none();
        let is_clean = self.close(Duration::from_secs(20)).await;
        if expects_clean && !is_clean {
            self.violated(Violation::Stuck("a close with everything answered".to_owned()));
        }
        let appended = lock(&self.world.history).n_appended(self.index);
        // What was given up is held for as long as its request may still be under way.
        let deadline = Instant::now() + self.plan.request_timeout + Duration::from_secs(40);
        loop {
            let metrics = self.producer.metrics();
            let answered = metrics.records_acknowledged + metrics.records_failed + metrics.records_possibly_written;
            if answered == appended && metrics.buffer_used == 0 && metrics.waiting_for_buffer == 0 {
                return;
            }
            if Instant::now() > deadline {
                if answered != appended {
                    self.violated(Violation::Miscounted { appended, answered });
                }
                if metrics.buffer_used > 0 {
                    self.violated(Violation::OverBudget { held: metrics.buffer_used, limit: 0 });
                }
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Looks at what is held right now.
    pub(super) fn check_memory(&self) {
        let metrics = self.producer.metrics();
        let answered = metrics.records_acknowledged + metrics.records_failed + metrics.records_possibly_written;
        // As it is counted; and what was sent and not answered for, which nobody counts and nothing makes smaller.
        let sent = lock(&self.world.history).n_appended(self.index).saturating_sub(answered);
        let known = if self.plan.compression == Compression::None { sent * self.plan.filling as u64 } else { 0 };
        let (held, limit) = (metrics.buffer_used.max(known), self.plan.buffer_memory as u64);
        // What compression needs for a moment is given back before anybody can look. The parts of a compressed batch that
        // is split, the oldest of its partition, may compress worse than the whole did, or not at all.
        let partitions = usize::try_from(self.world.plan.partitions).unwrap_or(0);
        let parts = partitions * self.plan.batch_size.next_power_of_two();
        let may_pass = self.world.plan.message_max.is_some() && self.plan.compression != Compression::None;
        let limit = limit + if may_pass { limit.min(parts as u64) } else { 0 };
        if held > limit {
            self.violated(Violation::OverBudget { held, limit });
        }
    }

    async fn close(&self, limit: Duration) -> bool {
        match timeout(limit + SLACK, self.producer.close(limit)).await {
            Ok(report) => {
                self.world.trace.note(format_args!("producer {} closed: {report:?}", self.index));
                report.clean
            }
            Err(_) => {
                self.violated(Violation::Stuck(format!("a close within {limit:?}")));
                false
            }
        }
    }

    /// `None` if nothing was queued.
    async fn send(&self, producer: &Producer, value: Value, partition: Option<i32>) -> Option<Delivery> {
        let (key, bytes) = (value.key.to_string(), write(value, self.plan.filling));
        let record = record(&key, &bytes, partition);
        match timeout(self.plan.max_block + SLACK, producer.send(record)).await {
            Ok(sent) => self.queued(value, partition, sent),
            Err(_) => {
                self.violated(Violation::Stuck(format!("a send of at most {:?}", self.plan.max_block)));
                None
            }
        }
    }

    fn queued(&self, value: Value, partition: Option<i32>, sent: Result<Delivery, SendError>) -> Option<Delivery> {
        let mut history = lock(&self.world.history);
        if let Some(partition) = partition {
            history.meant_for(value, partition);
        }
        match sent {
            Ok(delivery) => {
                match self.plan.ordering {
                    Ordering::Partition => history.appended(self.index, value),
                    _ => history.appended_sometime(self.index),
                }
                Some(delivery)
            }
            Err(error) => {
                history.sent(value, Sent::Failed);
                self.world.trace.note(format_args!("{value:?} was not queued: {error}"));
                None
            }
        }
    }

    /// Waits for an outcome; true if it is that of a record that was written.
    async fn settle(&self, value: Value, at: Instant, delivery: Delivery) -> bool {
        match timeout_at(at + self.plan.delivery_timeout + SLACK, delivery).await {
            Ok(outcome) => self.note(value, outcome),
            Err(_) => {
                self.violated(Violation::Stuck(format!("the delivery of {value:?}")));
                false
            }
        }
    }

    fn note(&self, value: Value, outcome: Result<RecordMetadata, ProduceError>) -> bool {
        let sent = match &outcome {
            Ok(written) => Sent::Acknowledged(written.partition(), written.offset()),
            Err(error) if error.outcome() == Outcome::Failed => Sent::Failed,
            Err(_) => Sent::PossiblyWritten,
        };
        self.world.trace.note(format_args!("{value:?}: {sent:?}"));
        if let Err(error) = &outcome {
            self.world.trace.note(format_args!("{value:?}: {error}"));
        }
        // Without acknowledgements nothing is certain but that nothing was sent.
        if self.plan.acks != Acks::None || sent == Sent::Failed {
            lock(&self.world.history).sent(value, sent);
        }
        outcome.is_ok()
    }

    fn violated(&self, violation: Violation) {
        lock(&self.world.history).violated(violation);
    }
}

fn record<'a>(key: &'a str, bytes: &'a str, partition: Option<i32>) -> Record<'a> {
    Record { partition, ..Record::to(TOPIC).key(key).value(bytes) }
}

/// One task that sends.
struct Sender {
    load: Arc<Load>,
    producer: Producer,
    key: u32,
    rng: fastrand::Rng,
    waiting: VecDeque<(Value, Instant, Delivery)>,
}

impl Sender {
    async fn run(mut self) {
        let load = Arc::clone(&self.load);
        let pause = u64::try_from(load.plan.pause.as_micros()).unwrap_or(u64::MAX);
        let mut number = 0;
        while number < u64::from(load.plan.records) {
            // Bursts, so that several batches of a partition are in flight.
            if self.rng.u8(0..4) == 0 {
                sleep(Duration::from_micros(self.rng.u64(0..=pause * 4))).await;
            }
            let partition = (self.rng.u8(0..10) < 7).then(|| self.rng.i32(0..load.world.plan.partitions));
            let value = Value { key: self.key, number };
            lock(&load.world.history).begun(value);
            number += 1;
            match self.rng.u8(0..40) {
                0 | 1 => self.drop_send(value, partition).await,
                2..6 => {
                    let (key, bytes) = (value.key.to_string(), write(value, load.plan.filling));
                    let sent = self.producer.try_send(record(&key, &bytes, partition));
                    self.keep(value, load.queued(value, partition, sent));
                }
                6 => {
                    number += 4;
                    self.send_together(value, partition).await;
                }
                7 => {
                    // Nobody hears what becomes of it, yet it is sent.
                    drop(load.send(&self.producer, value, partition).await);
                }
                8 if self.rng.bool() => {
                    let limit = load.plan.delivery_timeout + SLACK;
                    if timeout(limit, self.producer.flush()).await.is_err() {
                        load.violated(Violation::Stuck("a flush".to_owned()));
                    }
                }
                _ => {
                    let sent = load.send(&self.producer, value, partition).await;
                    self.keep(value, sent);
                }
            }
            load.check_memory();
            if self.waiting.len() > 40
                && let Some((value, at, delivery)) = self.waiting.pop_front()
            {
                load.settle(value, at, delivery).await;
            }
        }
        for (value, at, delivery) in self.waiting.drain(..) {
            load.settle(value, at, delivery).await;
        }
    }

    fn keep(&mut self, value: Value, sent: Option<Delivery>) {
        self.waiting.extend(sent.map(|delivery| (value, Instant::now(), delivery)));
    }

    /// Gives a send up before it is done: then nothing was queued.
    async fn drop_send(&mut self, value: Value, partition: Option<i32>) {
        let (key, bytes) = (value.key.to_string(), write(value, self.load.plan.filling));
        let patience = Instant::now() + Duration::from_micros(self.rng.u64(0..20_000));
        let sent = tokio::select! {
            biased;
            sent = self.producer.send(record(&key, &bytes, partition)) => Some(sent),
            () = sleep_until(patience) => None,
        };
        match sent {
            Some(sent) => {
                let sent = self.load.queued(value, partition, sent);
                self.keep(value, sent);
            }
            None => lock(&self.load.world.history).sent(value, Sent::Failed),
        }
    }

    async fn send_together(&mut self, first: Value, partition: Option<i32>) {
        let load = Arc::clone(&self.load);
        let values: Vec<Value> = (0..5).map(|n| Value { number: first.number + n, ..first }).collect();
        values.iter().for_each(|value| lock(&load.world.history).begun(*value));
        let texts: Vec<String> = values.iter().map(|value| write(*value, load.plan.filling)).collect();
        let key = first.key.to_string();
        let records: Vec<Record<'_>> = texts.iter().map(|text| record(&key, text, partition)).collect();
        let limit = load.plan.max_block * 5 + load.plan.delivery_timeout + SLACK;
        let Ok(outcomes) = timeout(limit, self.producer.send_batch(&records)).await else {
            load.violated(Violation::Stuck("a batch of sends".to_owned()));
            return;
        };
        for (value, outcome) in values.into_iter().zip(outcomes) {
            if let Some(partition) = partition {
                lock(&load.world.history).meant_for(value, partition);
            }
            if !matches!(outcome, Err(ProduceError::NotSent(_))) {
                lock(&load.world.history).appended_sometime(load.index);
            }
            load.note(value, outcome);
        }
    }
}
