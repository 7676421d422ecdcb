//! The engine of a subscription: takes records in, runs handlers along lanes, carries out the failure policy, and says
//! what may be committed.
//!
//! It knows no client: records come in by `take_in`, dead letters leave through a function, and the driver asks for
//! watermarks. It never waits inside a method, and every handler is a task of its one `JoinSet`, so dropping the engine
//! ends them all. It never commits, fetches or decides who owns a partition.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use milena_client::{TimeSource, TopicPartition};
use tokio::sync::{broadcast, watch};

use super::status::{Counts, StopReason, SubscriptionEvent};
use super::workers::{DeadLetterWriter, Finished, Workers};
use crate::delivery::Cancellation;
use crate::envelope::{Envelope, EventTime};
use crate::handler::{Attempt, Handled, Routes};
use crate::lanes::{Budget, Completion, Lanes, Ticket};
use crate::policy::{DeadLetter, Failure, FailureLog, FailurePolicy, Verdict};
use crate::record::RawRecord;

/// Shortest wait before a dead letter is written again, whatever the policy's backoff.
const DEAD_LETTER_PAUSE: Duration = Duration::from_millis(100);

/// What stays in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Events of one aggregate. Records without a key are taken by the aggregate id inside them.
    #[default]
    Aggregate,
    /// All events of a partition, one at a time.
    Partition,
    /// Nothing.
    None,
}

/// How an engine works.
#[derive(Clone)]
pub(crate) struct EngineSettings {
    pub(crate) group: Arc<str>,
    pub(crate) policy: FailurePolicy,
    pub(crate) order: Order,
    /// Handlers at once, over all partitions.
    pub(crate) concurrency: usize,
    /// Of one partition.
    pub(crate) budget: Budget,
    /// Records in memory over all partitions.
    pub(crate) total_records: usize,
    /// Their bytes.
    pub(crate) total_bytes: usize,
}

pub(crate) struct Engine {
    settings: EngineSettings,
    partitions: BTreeMap<TopicPartition, Partition>,
    /// Partitions that may have a lane ready.
    ready: VecDeque<TopicPartition>,
    workers: Workers,
    rng: fastrand::Rng,
    clock: TimeSource,
    events: broadcast::Sender<SubscriptionEvent>,
    counts: Counts,
    next_epoch: u64,
    is_paused: bool,
    /// Whether all of them together are over the total budget.
    is_full: bool,
    /// Records finished since the last commit was begun.
    uncommitted: u64,
    /// Dead letters that could not be written yet.
    held: BTreeSet<(TopicPartition, i64)>,
    stop: Option<StopReason>,
}

struct Partition {
    lanes: Lanes<Job>,
    epoch: u64,
    cancel: watch::Sender<bool>,
    /// The offset that the group coordinator has, as far as known.
    committed: i64,
    /// Whether it is in `ready`.
    is_queued: bool,
    /// What the consumer was last told.
    is_fetch_paused: bool,
    is_giving_up: bool,
}

/// A record in a lane, with what has happened to it.
#[derive(Debug)]
struct Job {
    record: Arc<RawRecord>,
    log: Option<Box<FailureLog>>,
    /// Its attempts are used up; what remains is to write it off.
    is_dead: bool,
}

/// Partitions that the consumer should stop and go on fetching.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) pause: Vec<TopicPartition>,
    pub(crate) resume: Vec<TopicPartition>,
}

impl Engine {
    pub(crate) fn new(
        settings: EngineSettings,
        routes: Routes,
        writer: DeadLetterWriter,
        clock: TimeSource,
        rng: fastrand::Rng,
        events: broadcast::Sender<SubscriptionEvent>,
    ) -> Self {
        Self {
            settings,
            partitions: BTreeMap::new(),
            ready: VecDeque::new(),
            workers: Workers::new(routes, writer),
            rng,
            clock,
            events,
            counts: Counts::default(),
            next_epoch: 1,
            is_paused: false,
            is_full: false,
            uncommitted: 0,
            held: BTreeSet::new(),
            stop: None,
        }
    }

    /// Begins a partition at `position`, the next offset that will be read, in a new epoch. What is still out from an
    /// earlier one no longer counts.
    pub(crate) fn assign(&mut self, id: TopicPartition, position: i64, committed: i64) {
        // A seek begins the partition anew within the consumer's assignment: what that was told still holds.
        let is_fetch_paused = self.partitions.get(&id).is_some_and(|partition| partition.is_fetch_paused);
        self.remove(&id);
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        let lanes = Lanes::new(epoch, position, self.settings.budget);
        let cancel = watch::Sender::new(false);
        let partition =
            Partition { lanes, epoch, cancel, committed, is_queued: false, is_fetch_paused, is_giving_up: false };
        self.partitions.insert(id, partition);
    }

    /// Takes records in; all of `id` before `next_offset` have then been given.
    pub(crate) fn take_in(&mut self, id: &TopicPartition, records: impl Iterator<Item = RawRecord>, next_offset: i64) {
        let Some(partition) = self.partitions.get_mut(id) else { return };
        if partition.is_giving_up {
            return;
        }
        for record in records {
            let key = lane_key(self.settings.order, &record);
            let weight = record.weight();
            partition.lanes.push(
                record.offset,
                key,
                weight,
                Job { record: Arc::new(record), log: None, is_dead: false },
            );
        }
        partition.lanes.advance(next_offset);
        enqueue(&mut self.ready, id, partition);
    }

    /// Starts as many handlers as may run.
    pub(crate) fn dispatch(&mut self, now: Instant) {
        for (id, partition) in &mut self.partitions {
            if partition.lanes.next_timeout().is_some_and(|at| at <= now) {
                partition.lanes.wake(now);
                enqueue(&mut self.ready, id, partition);
            }
        }
        while self.workers.handlers() < self.settings.concurrency {
            let Some(id) = self.ready.pop_front() else { return };
            let Some(partition) = self.partitions.get_mut(&id) else { continue };
            partition.is_queued = false;
            if self.is_paused && !partition.is_giving_up {
                continue;
            }
            let Some((ticket, job)) = partition.lanes.next_ready() else { continue };
            if job.is_dead {
                let log = job.log.as_deref().expect("a job dies by a failure, which is logged");
                let letter = dead_letter(&self.settings, job, log);
                self.workers.write_off(id.clone(), ticket, letter);
            } else {
                let attempt = Attempt {
                    record: Arc::clone(&job.record),
                    attempt: job.log.as_ref().map_or(0, |log| log.attempts) + 1,
                    epoch: partition.epoch,
                    cancellation: Cancellation::new(partition.cancel.subscribe()),
                };
                self.workers.handle(id.clone(), ticket, attempt);
            }
            // Behind the others: a partition with many lanes must not keep the rest waiting.
            enqueue(&mut self.ready, &id, partition);
        }
    }

    /// Waits until a task ends; for ever while there are none.
    ///
    /// # Cancel safety
    /// No task is lost when this is dropped.
    pub(crate) async fn finished(&mut self) -> Finished {
        self.workers.finished().await
    }

    /// Another task that has ended already.
    pub(crate) fn try_finished(&mut self) -> Option<Finished> {
        self.workers.try_finished()
    }

    /// Takes note of a task that ended.
    pub(crate) fn handle_finished(&mut self, now: Instant, finished: Finished) {
        match finished {
            Finished::Attempt { partition, ticket, result } => match result {
                Ok(handled) => self.handle_success(&partition, ticket, &handled),
                Err(failure) => self.handle_failure(now, &partition, ticket, failure),
            },
            Finished::DeadLetter { partition, ticket, result } => {
                self.handle_dead_letter(now, &partition, ticket, result);
            }
        }
    }

    fn handle_success(&mut self, id: &TopicPartition, ticket: Ticket, handled: &Handled) {
        if !self.finish(id, ticket) {
            return;
        }
        match handled {
            Handled::Done => self.counts.handled += 1,
            Handled::Skipped => self.counts.skipped += 1,
        }
    }

    fn handle_failure(&mut self, now: Instant, id: &TopicPartition, ticket: Ticket, failure: Failure) {
        let time = EventTime::at(self.clock.wall());
        let Some(partition) = self.partitions.get_mut(id) else {
            self.counts.stale += 1;
            return;
        };
        let Some(job) = partition.lanes.item_mut(ticket) else {
            self.counts.stale += 1;
            return;
        };
        let (attempts, first) = job.log.as_ref().map_or((0, time), |log| (log.attempts, log.first));
        let attempts = attempts + 1;
        tracing::debug!(
            topic = &*id.topic,
            partition = id.partition,
            offset = job.record.offset,
            attempts,
            kind = failure.kind().as_str(),
            message = failure.message(),
            "an event was not handled"
        );
        let verdict = self.settings.policy.decide(&failure, attempts, &mut self.rng);
        let log = FailureLog { attempts, first, last: time, failure };
        match verdict {
            Verdict::Retry(wait) => {
                job.log = Some(Box::new(log));
                partition.lanes.park(ticket, now + wait);
                self.counts.retried += 1;
            }
            Verdict::DeadLetter => {
                let letter = dead_letter(&self.settings, job, &log);
                job.log = Some(Box::new(log));
                job.is_dead = true;
                self.workers.write_off(id.clone(), ticket, letter);
            }
            Verdict::Stop => {
                let reason = StopReason::Policy {
                    topic: id.topic.as_ref().to_owned(),
                    partition: id.partition,
                    offset: job.record.offset,
                    message: log.failure.message().to_owned(),
                };
                partition.lanes.park(ticket, now);
                partition.lanes.halt();
                partition.is_giving_up = true;
                self.stop.get_or_insert(reason);
            }
        }
    }

    fn handle_dead_letter(&mut self, now: Instant, id: &TopicPartition, ticket: Ticket, result: Result<(), String>) {
        let Some(partition) = self.partitions.get_mut(id) else {
            self.counts.stale += 1;
            return;
        };
        let Some(job) = partition.lanes.item_mut(ticket) else {
            self.counts.stale += 1;
            return;
        };
        let (topic, partition_index, offset) = (id.topic.as_ref().to_owned(), id.partition, job.record.offset);
        let Some(log) = job.log.as_deref() else { return };
        let kind = log.failure.kind();
        match result {
            Ok(()) => {
                if !self.finish(id, ticket) {
                    return;
                }
                self.counts.dead_lettered += 1;
                let partition = partition_index;
                if self.held.remove(&(id.clone(), offset)) {
                    self.tell(SubscriptionEvent::DeadLetterRecovered { topic: topic.clone(), partition, offset });
                }
                self.tell(SubscriptionEvent::DeadLettered { topic, partition, offset, kind });
            }
            Err(error) => {
                // The ticket's attempts go on counting through these, so the wait grows.
                let wait = self.settings.policy.delay(ticket.attempt, &mut self.rng).max(DEAD_LETTER_PAUSE);
                partition.lanes.park(ticket, now + wait);
                tracing::error!(
                    topic,
                    partition = partition_index,
                    offset,
                    error,
                    "a dead letter could not be written; its offset is held"
                );
                if self.held.insert((id.clone(), offset)) {
                    self.tell(SubscriptionEvent::DeadLetterFailed { topic, partition: partition_index, offset, error });
                }
            }
        }
    }

    fn finish(&mut self, id: &TopicPartition, ticket: Ticket) -> bool {
        let Some(partition) = self.partitions.get_mut(id) else {
            self.counts.stale += 1;
            return false;
        };
        match partition.lanes.finish(ticket) {
            Completion::Stale => {
                self.counts.stale += 1;
                false
            }
            Completion::Taken => {
                self.uncommitted += 1;
                enqueue(&mut self.ready, id, partition);
                true
            }
        }
    }

    /// When `dispatch` should be called next, if nothing else happens.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.partitions.values().filter_map(|partition| partition.lanes.next_timeout()).min()
    }

    /// What may be committed and is not yet, as far as known.
    pub(crate) fn uncommitted_offsets(&self) -> Vec<(TopicPartition, i64)> {
        self.partitions
            .iter()
            .filter(|(_, partition)| partition.lanes.watermark() != partition.committed)
            .map(|(id, partition)| (id.clone(), partition.lanes.watermark()))
            .collect()
    }

    /// Where a partition continues behind what was taken in.
    pub(crate) fn end(&self, id: &TopicPartition) -> Option<i64> {
        self.partitions.get(id).map(|partition| partition.lanes.end())
    }

    /// Where a partition continues behind what is finished.
    pub(crate) fn watermark(&self, id: &TopicPartition) -> Option<i64> {
        self.partitions.get(id).map(|partition| partition.lanes.watermark())
    }

    /// Whether nothing more of it is begun. One that drains carries on what was begun.
    pub(crate) fn is_halted(&self, id: &TopicPartition) -> bool {
        self.partitions.get(id).is_some_and(|partition| partition.lanes.is_halted())
    }

    /// Whether a full budget keeps any partition from being fetched.
    pub(crate) fn is_full(&self) -> bool {
        let keeps = |partition: &Partition| partition.is_fetch_paused && !partition.is_giving_up;
        !self.is_paused && self.partitions.values().any(keeps)
    }

    /// Whether there is anything to commit.
    pub(crate) fn is_dirty(&self) -> bool {
        self.partitions.values().any(|partition| partition.lanes.watermark() != partition.committed)
    }

    /// Records finished since the last call of `begin_commit`.
    pub(crate) fn uncommitted(&self) -> u64 {
        self.uncommitted
    }

    pub(crate) fn begin_commit(&mut self) {
        self.uncommitted = 0;
    }

    /// Takes note of an acknowledged commit.
    pub(crate) fn committed(&mut self, id: &TopicPartition, offset: i64) {
        if let Some(partition) = self.partitions.get_mut(id) {
            partition.committed = offset;
        }
    }

    /// Which partitions the consumer should stop or go on fetching, since the last call.
    pub(crate) fn flow(&mut self) -> Flow {
        let records: usize = self.partitions.values().map(|partition| partition.lanes.records()).sum();
        let bytes: usize = self.partitions.values().map(|partition| partition.lanes.bytes()).sum();
        let (most_records, most_bytes) = (self.settings.total_records, self.settings.total_bytes);
        self.is_full = if self.is_full {
            records > most_records / 2 || bytes > most_bytes / 2
        } else {
            records >= most_records || bytes >= most_bytes
        };
        let mut flow = Flow::default();
        for (id, partition) in &mut self.partitions {
            let is_full =
                if partition.is_fetch_paused { !partition.lanes.has_room() } else { partition.lanes.is_full() };
            let should_pause = self.is_paused || self.is_full || partition.is_giving_up || is_full;
            if should_pause != partition.is_fetch_paused {
                partition.is_fetch_paused = should_pause;
                let list = if should_pause { &mut flow.pause } else { &mut flow.resume };
                list.push(id.clone());
            }
        }
        flow
    }

    /// Stops taking up anything new, until `resume`. What runs goes on.
    pub(crate) fn pause(&mut self) {
        self.is_paused = true;
    }

    pub(crate) fn resume(&mut self) {
        self.is_paused = false;
        for (id, partition) in &mut self.partitions {
            enqueue(&mut self.ready, id, partition);
        }
    }

    pub(crate) fn set_concurrency(&mut self, concurrency: usize) {
        self.settings.concurrency = concurrency;
    }

    /// Begins to give a partition up in good order: what was begun is carried to its end.
    pub(crate) fn drain(&mut self, id: &TopicPartition) {
        if let Some(partition) = self.partitions.get_mut(id) {
            partition.is_giving_up = true;
            partition.lanes.drain();
            enqueue(&mut self.ready, id, partition);
        }
    }

    pub(crate) fn drain_all(&mut self) {
        let ids: Vec<TopicPartition> = self.partitions.keys().cloned().collect();
        for id in &ids {
            self.drain(id);
        }
    }

    /// Begins to give a partition up without carrying on what waits: only what runs is waited for.
    pub(crate) fn halt(&mut self, id: &TopicPartition) {
        if let Some(partition) = self.partitions.get_mut(id) {
            partition.is_giving_up = true;
            partition.lanes.halt();
        }
    }

    /// Whether nothing that `drain` or `halt` waits for is left. A partition that is not here has nothing left.
    pub(crate) fn is_drained(&self, id: &TopicPartition) -> bool {
        self.partitions.get(id).is_none_or(|partition| partition.lanes.is_drained())
    }

    pub(crate) fn are_all_drained(&self) -> bool {
        self.partitions.values().all(|partition| partition.lanes.is_drained())
    }

    /// Forgets a partition. Its handlers are told; what they still do no longer counts. Returns how many records were
    /// begun and not finished.
    pub(crate) fn remove(&mut self, id: &TopicPartition) -> usize {
        let Some(partition) = self.partitions.remove(id) else { return 0 };
        partition.cancel.send_replace(true);
        for (_, offset) in self.held.extract_if(.., |(held, _)| held == id) {
            let (topic, partition) = (id.topic.as_ref().to_owned(), id.partition);
            // An error means only that nobody listens.
            let _ = self.events.send(SubscriptionEvent::DeadLetterReleased { topic, partition, offset });
        }
        partition.lanes.begun()
    }

    /// Ends every task at once and says how many records were begun and not finished.
    pub(crate) fn abort(&mut self) -> usize {
        let ids: Vec<TopicPartition> = self.partitions.keys().cloned().collect();
        let unfinished = ids.iter().map(|id| self.remove(id)).sum();
        self.workers.abort();
        unfinished
    }

    /// Why the subscription must stop, if it must.
    pub(crate) fn stop_reason(&self) -> Option<&StopReason> {
        self.stop.as_ref()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    pub(crate) fn in_flight(&self) -> (usize, usize) {
        let lanes = self.partitions.values().map(|partition| &partition.lanes);
        lanes.fold((0, 0), |(records, bytes), lanes| (records + lanes.records(), bytes + lanes.bytes()))
    }

    pub(crate) fn running(&self) -> usize {
        self.workers.handlers()
    }

    pub(crate) fn parked(&self) -> usize {
        self.partitions.values().map(|partition| partition.lanes.parked()).sum()
    }

    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    pub(crate) fn tell(&self, event: SubscriptionEvent) {
        // An error means only that nobody listens.
        let _ = self.events.send(event);
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("group", &self.settings.group)
            .field("partitions", &self.partitions.len())
            .field("running", &self.workers.handlers())
            .finish_non_exhaustive()
    }
}

fn enqueue(ready: &mut VecDeque<TopicPartition>, id: &TopicPartition, partition: &mut Partition) {
    if !partition.is_queued {
        partition.is_queued = true;
        ready.push_back(id.clone());
    }
}

fn dead_letter(settings: &EngineSettings, job: &Job, log: &FailureLog) -> DeadLetter {
    let topic = settings
        .policy
        .dead_letter_topic_of(&job.record.topic)
        .expect("a policy that says dead letter has a topic for it");
    DeadLetter::new(topic.into(), &job.record, &settings.group, log)
}

/// What a record stays in order with.
fn lane_key(order: Order, record: &RawRecord) -> Option<Bytes> {
    match order {
        Order::Partition => Some(Bytes::new()),
        Order::None => None,
        Order::Aggregate => record.key.clone().or_else(|| {
            // Ours always have a key. Another writer's may not, and then only the envelope knows.
            let envelope = Envelope::decode(None, record.value.as_ref(), &record.headers).ok()?;
            Some(Bytes::copy_from_slice(envelope.aggregate_id().as_bytes()))
        }),
    }
}
