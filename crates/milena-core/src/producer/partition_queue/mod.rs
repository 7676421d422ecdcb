//! One partition's batches on their way: waiting, in flight, answered; numbered so that the broker can tell a repeated
//! batch from a new one (KIP-98, KIP-360).
//!
//! The rules, and what each is for:
//!
//! - Only the head batch changes the partition's state. A failure of the head waits until everything sent behind it is
//!   answered too; then all of it is rewound at once, so that the order never depends on which answer came first.
//! - One batch is in flight until the first success on this leader and epoch: a broker that knows nothing of a producer
//!   accepts any first sequence, and would take the second batch before the first.
//! - What may have been written keeps its sequence and its boundaries until that is settled. What certainly was not,
//!   gives its sequence back; and nothing behind it can have been written either.
//! - A batch given up while it may have been written leaves a gap that only a new epoch closes, and the partition takes
//!   a new epoch only with nothing unsettled under the old one.
//! - A broker may read a request long after we have closed its connection (Kafka serves what it had received by then).
//!   So no sequence under which something was lost is ever given to another batch: what was sent behind a gap is given
//!   up with it, and sequences that were lost and taken back are left behind with their epoch, which fences them.
//!
//! Holds no buffer pool, no connection and no clock; wakes nobody: the caller takes [`Done`] batches out and answers for
//! them with its lock released.

mod entry;
mod remembered;

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

pub use entry::{Answer, RecordRefusal};
use entry::{Entry, State};
pub use remembered::Remembered;

use crate::producer::completion::{BatchOutcome, BatchShare};
use crate::producer::failure::{ProduceFailure, Verdict};
use crate::producer::identity::ProducerIdentity;
use crate::producer::sequence;
use crate::retry::Backoff;

/// What the queue needs of a closed batch.
pub trait QueuedBatch: Sized {
    /// Writes the producer's identity and the batch's place in its sequence into the batch; `None` without idempotence.
    fn stamp(&mut self, numbered: Option<(ProducerIdentity, i32)>);

    /// Makes batches of the records in `ranges`, rising and apart, one per range; the other records are left out.
    ///
    /// # Errors
    /// A reason why it can't be done.
    fn cut(&self, ranges: &[Range<u32>]) -> Result<Vec<Self>, String>;
}

/// The settings of a queue; the same for all of a producer's partitions.
#[derive(Clone, Debug)]
pub struct QueueConfig {
    /// `max.in.flight.requests.per.connection`, at most 5 with idempotence.
    pub max_in_flight: usize,
    /// `delivery.timeout.ms`: from a batch's opening to its report.
    pub delivery_timeout: Duration,
    /// `enable.idempotence`.
    pub idempotent: bool,
    /// `retry.backoff.ms` and `retry.backoff.max.ms`.
    pub retry: Backoff,
}

/// The broker that leads a partition, by an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The broker.
    pub node: i32,
    /// The election; -1 where the cluster does not say.
    pub epoch: i32,
}

/// A batch that was sent; its answer comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// Why nothing can be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// Nothing waits.
    Empty,
    /// What is in flight must be answered first.
    Busy,
    /// A failed batch waits for its next attempt.
    Backoff(Instant),
    /// A producer id, or an epoch after the spent one, is needed.
    Identity,
}

/// A batch that the queue is done with.
#[derive(Debug)]
pub struct Done<B> {
    /// Its buffer, free to be recycled; absent while it is still held for an answer.
    pub batch: Option<B>,
    /// Whom to tell what; absent where that was done before.
    pub report: Option<(BatchShare, BatchOutcome)>,
}

/// One partition's batches, from their closing to their answer.
#[derive(Debug)]
pub struct PartitionQueue<B> {
    /// In the order of their records. In front those sent, then those that wait.
    batches: VecDeque<Entry<B>>,
    /// How many of `batches` were reported while their requests were still out.
    zombies: usize,
    leader: Option<Leader>,
    /// A batch was acknowledged by `leader` under `identity` since the last failure.
    proven: bool,
    attempts: u32,
    retry_at: Option<Instant>,
    identity: Option<ProducerIdentity>,
    next_sequence: i32,
    /// A sequence may be missing in the broker's log: nothing new can follow under this epoch.
    gap: bool,
    spent: Option<ProducerIdentity>,
    tickets: u64,
    done: Vec<Done<B>>,
    wants_bump: Option<ProducerIdentity>,
    wants_metadata: bool,
}

impl<B> Default for PartitionQueue<B> {
    fn default() -> Self {
        Self {
            batches: VecDeque::new(),
            zombies: 0,
            leader: None,
            proven: false,
            attempts: 0,
            retry_at: None,
            identity: None,
            next_sequence: 0,
            gap: false,
            spent: None,
            tickets: 0,
            done: Vec::new(),
            wants_bump: None,
            wants_metadata: false,
        }
    }
}

impl<B: QueuedBatch> PartitionQueue<B> {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a batch that was opened at `created`.
    pub fn push(&mut self, created: Instant, batch: B, share: BatchShare) {
        self.batches.push_back(Entry::new(created, batch, share));
    }

    /// Whether nothing waits and nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// How many batches wait or are in flight.
    pub fn len(&self) -> usize {
        self.batches.len()
    }

    /// How many batches are in flight.
    pub fn in_flight(&self) -> usize {
        self.sent().filter(|entry| entry.is_in_flight()).count()
    }

    /// The batches not answered for yet, oldest first.
    pub fn unreported(&self) -> impl Iterator<Item = &BatchShare> {
        self.batches.iter().filter_map(|entry| entry.share.as_ref())
    }

    /// When the next batch runs out of time; [`Self::expire`] is due then. Not always the first: of a partition with
    /// several open batches one that was opened later may be closed before. What is acknowledged behind an unanswered
    /// head is as good as done: a deadline that `expire` does nothing about would be due for ever.
    pub fn next_deadline(&self, config: &QueueConfig) -> Option<Instant> {
        let waits = |entry: &&Entry<B>| entry.share.is_some() && !entry.is_acknowledged();
        let oldest = self.batches.iter().filter(waits).map(|entry| entry.created).min()?;
        Some(oldest + config.delivery_timeout)
    }

    /// The batch that [`Self::take`] would send to `leader` under the producer's `current` identity.
    ///
    /// # Errors
    /// Why there is none.
    pub fn sendable(
        &self,
        now: Instant,
        config: &QueueConfig,
        leader: Leader,
        current: Option<ProducerIdentity>,
    ) -> Result<&B, Blocked> {
        let sent = self.sent().count();
        let Some(entry) = self.batches.get(sent) else {
            return Err(if sent == 0 { Blocked::Empty } else { Blocked::Busy });
        };
        // Closed for a new leader too: it gets nothing before the old one has answered for everything.
        let limit = if config.idempotent && !self.is_proven_on(leader) { 1 } else { config.max_in_flight };
        if self.zombies > 0 || sent >= limit || self.sent().any(Entry::is_failed) {
            return Err(Blocked::Busy);
        }
        if let Some(at) = self.retry_at.filter(|at| *at > now) {
            return Err(Blocked::Backoff(at));
        }
        if config.idempotent && entry.sequence.is_none() && self.must_adopt(current) {
            if sent > 0 || entry.maybe_written || self.batches.iter().any(|entry| entry.maybe_written) {
                return Err(Blocked::Busy);
            }
            if current.is_none() || current == self.spent {
                return Err(Blocked::Identity);
            }
        }
        Ok(&entry.batch)
    }

    /// Marks the next batch as in flight to `leader`, numbers it, and hands it out to be written.
    ///
    /// # Errors
    /// As [`Self::sendable`].
    pub fn take(
        &mut self,
        now: Instant,
        config: &QueueConfig,
        leader: Leader,
        current: Option<ProducerIdentity>,
    ) -> Result<(Ticket, &B), Blocked> {
        self.sendable(now, config, leader, current)?;
        if !self.is_proven_on(leader) {
            self.proven = false;
        }
        self.leader = Some(leader);
        self.retry_at = None;
        let adopt = config.idempotent && self.must_adopt(current);
        let sent = self.sent().count();
        let entry = self.batches.get_mut(sent).expect("sendable found it");
        if config.idempotent {
            if entry.sequence.is_none() {
                if adopt {
                    self.identity = current;
                    self.next_sequence = 0;
                    self.proven = false;
                    self.spent = None;
                }
                entry.sequence = Some(self.next_sequence);
                self.next_sequence = sequence::advance(self.next_sequence, entry.records());
            }
            entry.batch.stamp(self.identity.zip(entry.sequence));
        } else {
            entry.batch.stamp(None);
        }
        self.tickets += 1;
        entry.state = State::InFlight(Ticket(self.tickets));
        Ok((Ticket(self.tickets), &entry.batch))
    }

    /// Takes in the answer for the batch of `ticket`. An answer that nobody waits for is ignored.
    pub fn answer(
        &mut self,
        now: Instant,
        config: &QueueConfig,
        ticket: Ticket,
        answer: Answer,
        rng: &mut fastrand::Rng,
    ) {
        let Some(entry) = self.batches.iter_mut().find(|entry| entry.state.is(ticket)) else { return };
        if let Answer::Refused { code, .. } = &answer {
            entry.last_error = Some(*code);
            self.wants_metadata |= Verdict::is_stale_metadata(*code);
        }
        self.wants_metadata |= matches!(answer, Answer::Lost | Answer::NotSent);
        entry.state = State::Answered(answer);
        self.settle(now, config, rng);
    }

    /// Reports what ran out of time: what was certainly not written as failed, the rest as possibly written. What is
    /// still in flight keeps its buffer, and the partition stays mute, until the request is answered.
    pub fn expire(&mut self, now: Instant, config: &QueueConfig) {
        let limit = config.delivery_timeout;
        let is_overdue = |entry: &Entry<B>| entry.created + limit <= now;
        self.report(is_overdue, |last| ProduceFailure::DeliveryTimeout { limit, last, hindrance: None });
        self.bury(config);
    }

    /// Reports everything, because of `failure`: the producer closes without waiting any longer, or can't go on.
    pub fn abort(&mut self, config: &QueueConfig, failure: &ProduceFailure) {
        self.report(|_| true, |_| failure.clone());
        self.bury(config);
    }

    /// Takes out all that the queue is done with, oldest first. Answer for it with no lock held.
    pub fn take_done(&mut self) -> Vec<Done<B>> {
        std::mem::take(&mut self.done)
    }

    /// An identity whose sequence has a gap: the producer's epoch is to be raised above it.
    pub fn poll_bump(&mut self) -> Option<ProducerIdentity> {
        self.wants_bump.take()
    }

    /// Whether the leader should be looked up again, since the last time this was asked.
    pub fn poll_metadata(&mut self) -> bool {
        std::mem::take(&mut self.wants_metadata)
    }

    /// A definite, new leader was learned: no need to wait out the backoff of the old one.
    pub fn leader_learned(&mut self, leader: Leader) {
        if self.leader.is_some_and(|known| known != leader) {
            self.retry_at = None;
        }
    }

    /// The partition has another log: its topic was deleted and created anew. That one knows nothing of the producer,
    /// and so takes any first sequence: it gets one batch, once the old log's leader has answered for everything. The
    /// sequences run on; where a broker insists on 0 (before Kafka 2.5) it says so, and the epoch is raised.
    pub fn log_replaced(&mut self) {
        self.leader = None;
        self.proven = false;
        self.retry_at = None;
        self.attempts = 0;
    }

    /// Those in flight or answered; they are in front.
    fn sent(&self) -> impl Iterator<Item = &Entry<B>> {
        self.batches.iter().take_while(|entry| !matches!(entry.state, State::Waiting))
    }

    fn is_proven_on(&self, leader: Leader) -> bool {
        self.proven && self.leader == Some(leader)
    }

    /// Whether the next new batch must get another identity than the one before it.
    fn must_adopt(&self, current: Option<ProducerIdentity>) -> bool {
        self.gap || self.identity.is_none() || (current.is_some() && self.identity != current)
    }

    /// Draws the conclusions from what is answered, head first.
    fn settle(&mut self, now: Instant, config: &QueueConfig, rng: &mut fastrand::Rng) {
        while self.batches.front().is_some_and(Entry::is_acknowledged) {
            let entry = self.batches.pop_front().expect("looked at it above");
            self.proven = true;
            self.attempts = 0;
            self.finish(entry);
        }
        let failed = self.batches.front().is_some_and(Entry::is_failed);
        if failed && !self.batches.iter().any(Entry::is_in_flight) {
            self.rewind(now, config, rng);
        }
        self.bury(config);
    }

    /// The head has failed and nothing is in flight: decides about the head, and takes everything behind it back.
    fn rewind(&mut self, now: Instant, config: &QueueConfig, rng: &mut fastrand::Rng) {
        self.proven = false;
        let State::Answered(answer) = std::mem::replace(&mut self.batches[0].state, State::Waiting) else {
            unreachable!("only an answered head is rewound");
        };
        let verdict = answer.verdict();
        self.batches[0].maybe_written |= answer.is_unsure();
        self.take_back_followers();
        if config.idempotent {
            if verdict == Some(Verdict::Sequence) {
                // The broker misses something before this batch, so it has neither it nor what follows.
                self.batches.iter_mut().for_each(|entry| entry.maybe_written = false);
                self.gap = true;
            }
            self.give_back_sequences();
        }
        if self.batches[0].share.is_some() {
            match (verdict, answer) {
                (Some(Verdict::TooLarge), Answer::Refused { code, message, .. }) => {
                    self.split_head(ProduceFailure::Broker { code, message });
                }
                (Some(Verdict::Definite), Answer::Refused { code, message, records, .. }) => {
                    self.refuse_head(ProduceFailure::Broker { code, message }, records);
                }
                (Some(Verdict::Sequence), Answer::Refused { code, message, .. }) if !config.idempotent => {
                    self.refuse_head(ProduceFailure::Broker { code, message }, Vec::new());
                }
                (_, Answer::Unsendable(failure)) => self.refuse_head(failure, Vec::new()),
                _ => {
                    self.retry_at = Some(now + config.retry.delay(self.attempts, rng));
                    self.attempts = self.attempts.saturating_add(1);
                }
            }
        }
    }

    /// Everything behind the head waits again, but for what the broker did acknowledge.
    fn take_back_followers(&mut self) {
        let mut at = 1;
        while at < self.batches.len() {
            let entry = &mut self.batches[at];
            match std::mem::replace(&mut entry.state, State::Waiting) {
                State::Waiting => break,
                State::Answered(answer) if !answer.is_failure() => {
                    // The head was written too, then, or it could not have been; its own retry will find out where.
                    entry.state = State::Answered(answer);
                    let entry = self.batches.remove(at).expect("is in range");
                    self.finish(entry);
                }
                State::Answered(answer) => {
                    entry.maybe_written |= answer.is_unsure();
                    at += 1;
                }
                State::InFlight(_) => unreachable!("a head is rewound with nothing in flight"),
            }
        }
    }

    /// From the first batch that was certainly not written, none was: their sequences are free again. Where an answer
    /// was lost they are so under a new epoch only: the broker may still read that request, and refuses it for as long
    /// as the batch before it is missing, but no longer once another batch has that one's sequence.
    fn give_back_sequences(&mut self) {
        let settled = self.batches.iter().take_while(|entry| entry.maybe_written).count();
        let mut first = None;
        for entry in self.batches.iter_mut().skip(settled) {
            self.gap |= std::mem::replace(&mut entry.maybe_written, false);
            let sequence = entry.sequence.take();
            first = first.or(sequence);
        }
        if let Some(first) = first {
            self.next_sequence = first;
        }
    }

    /// Sends the halves of a batch that is too large, unless an earlier attempt may have been written: a leader looks at the
    /// size before it looks for duplicates, so that it may have the batch all the same, from before `max.message.bytes`
    /// was lowered or from a broker with another `message.max.bytes`. Halves have other sequences, and would be written
    /// beside it. `NOT_LEADER_OR_FOLLOWER` with an offset is such an attempt (KAFKA-13574). Java splits here, at that risk.
    fn split_head(&mut self, failure: ProduceFailure) {
        let records = self.batches[0].records();
        if self.batches[0].maybe_written || records < 2 {
            return self.refuse_head(failure, Vec::new());
        }
        self.cut_head(&[0..records / 2, records / 2..records], failure);
    }

    /// Gives the head up, or, where the broker named the records at fault, only those.
    fn refuse_head(&mut self, failure: ProduceFailure, records: Vec<RecordRefusal>) {
        let head = &mut self.batches[0];
        let total = head.records();
        let mut bad: Vec<_> = records.into_iter().filter(|record| record.index < total).collect();
        bad.sort_by_key(|record| record.index);
        bad.dedup_by_key(|record| record.index);
        if head.maybe_written || bad.is_empty() || bad.len() == total as usize {
            let head = self.batches.pop_front().expect("a head was refused");
            let maybe_written = head.maybe_written;
            let outcome =
                if maybe_written { BatchOutcome::PossiblyWritten(failure) } else { BatchOutcome::Failed(failure) };
            let report = head.share.map(|share| (share, outcome));
            self.done.push(Done { batch: Some(head.batch), report });
            if maybe_written {
                self.leave_gap(0);
            }
            return;
        }
        let mut good = Vec::with_capacity(bad.len() + 1);
        let mut from = 0;
        for record in &bad {
            good.push(from..record.index);
            from = record.index + 1;
        }
        good.push(from..total);
        good.retain(|range| !range.is_empty());
        let code = match &failure {
            ProduceFailure::Broker { code, .. } => *code,
            _ => unreachable!("only a broker refuses records"),
        };
        let share = head.share.as_mut().expect("a reported head is not cut");
        // Cut off in order: what lies before a bad record is set aside and put back for the good ranges.
        let mut shares = Vec::with_capacity(good.len());
        let mut at = 0;
        for record in bad {
            if record.index > at {
                shares.push(share.split_off_front(record.index - at));
            }
            let refused = share.split_off_front(1);
            at = record.index + 1;
            let message = record.message.or_else(|| match &failure {
                ProduceFailure::Broker { message, .. } => message.clone(),
                _ => None,
            });
            let outcome = BatchOutcome::Failed(ProduceFailure::Broker { code, message });
            self.done.push(Done { batch: None, report: Some((refused, outcome)) });
        }
        if at < total {
            shares.push(share.split_off_front(total - at));
        }
        self.replace_head(&good, shares, failure);
    }

    /// Replaces the head by batches of `ranges`, which cover it.
    fn cut_head(&mut self, ranges: &[Range<u32>], failure: ProduceFailure) {
        let share = self.batches[0].share.as_mut().expect("a reported head is not cut");
        let shares = ranges.iter().map(|range| share.split_off_front(range.end - range.start)).collect();
        self.replace_head(ranges, shares, failure);
    }

    fn replace_head(&mut self, ranges: &[Range<u32>], shares: Vec<BatchShare>, failure: ProduceFailure) {
        let head = self.batches.pop_front().expect("a head is replaced");
        match head.batch.cut(ranges) {
            Ok(parts) => {
                for (part, share) in parts.into_iter().zip(shares).rev() {
                    self.batches.push_front(Entry::new(head.created, part, share));
                }
                self.done.push(Done { batch: Some(head.batch), report: None });
            }
            Err(reason) => {
                let failure = match failure {
                    ProduceFailure::Broker { code, .. } => {
                        ProduceFailure::Unsendable(format!("the broker answered {code}, and {reason}").into())
                    }
                    other => other,
                };
                for share in shares {
                    let report = Some((share, BatchOutcome::Failed(failure.clone())));
                    self.done.push(Done { batch: None, report });
                }
                self.done.push(Done { batch: Some(head.batch), report: None });
            }
        }
    }

    /// Reports those batches, each by what is known of it.
    fn report(
        &mut self,
        which: impl Fn(&Entry<B>) -> bool,
        failure: impl Fn(Option<milena_protocol::ErrorCode>) -> ProduceFailure,
    ) {
        for entry in &mut self.batches {
            // What is acknowledged behind an unanswered head is as good as done.
            if !which(entry) || entry.is_acknowledged() {
                continue;
            }
            let Some(share) = entry.share.take() else { continue };
            self.zombies += 1;
            let failure = failure(entry.last_error);
            let outcome =
                if entry.is_unsure() { BatchOutcome::PossiblyWritten(failure) } else { BatchOutcome::Failed(failure) };
            self.done.push(Done { batch: None, report: Some((share, outcome)) });
        }
    }

    /// A batch was given up that may have been written, and nothing is in flight: gives up what was sent behind it too,
    /// which is from `place` on. What is before it can still be settled.
    ///
    /// That can't be settled any more. Asked for under its own sequence, a broker without the batch of the gap refuses
    /// it as out of order; but while that answer travels the broker may still read both of them from the connection
    /// that we lost, and then a copy sent under the new epoch is the second in the log. Only the batch of the gap, sent
    /// again, would settle what follows it, and its time is over. What was never sent goes on under the new epoch, and
    /// from its first batch there on the old epoch's requests are refused wherever they still linger (KIP-360).
    fn leave_gap(&mut self, place: usize) {
        self.gap = true;
        for (at, entry) in std::mem::take(&mut self.batches).into_iter().enumerate() {
            if at >= place && entry.maybe_written {
                self.zombies -= usize::from(entry.share.is_none());
                let outcome = BatchOutcome::PossiblyWritten(ProduceFailure::Unsettled { last: entry.last_error });
                let report = entry.share.map(|share| (share, outcome));
                self.done.push(Done { batch: Some(entry.batch), report });
            } else {
                self.batches.push_back(entry);
            }
        }
    }

    /// Removes what was reported, as soon as no request holds it any more.
    fn bury(&mut self, config: &QueueConfig) {
        if self.zombies > 0 {
            let settled = !self.batches.iter().any(Entry::is_in_flight);
            let mut gap = None;
            for entry in std::mem::take(&mut self.batches) {
                // Never sent, or known not to be written, and so without a sequence: nothing depends on it.
                let loose = matches!(entry.state, State::Waiting) && !entry.maybe_written;
                if entry.share.is_none() && !entry.is_acknowledged() && (settled || loose) {
                    self.zombies -= 1;
                    if entry.is_unsure() {
                        gap = gap.or(Some(self.batches.len()));
                    }
                    self.done.push(Done { batch: Some(entry.batch), report: None });
                } else {
                    self.batches.push_back(entry);
                }
            }
            if let Some(place) = gap.filter(|_| config.idempotent) {
                self.leave_gap(place);
            }
        }
        self.close_gap(config);
    }

    /// Once nothing is unsettled under the old epoch, a gap in its sequence is closed by a new one.
    fn close_gap(&mut self, config: &QueueConfig) {
        let unsettled = |entry: &Entry<B>| entry.maybe_written || !matches!(entry.state, State::Waiting);
        if !config.idempotent {
            self.gap = false;
        } else if self.gap && !self.batches.iter().any(unsettled) {
            self.gap = false;
            self.spent = self.identity.take();
            self.wants_bump = self.spent;
            self.proven = false;
        }
    }

    /// Done with an acknowledged batch.
    fn finish(&mut self, entry: Entry<B>) {
        let outcome = match entry.state {
            State::Answered(Answer::Acknowledged { base_offset, log_append_time }) => {
                BatchOutcome::Acknowledged { base_offset, log_append_time }
            }
            // The broker has it, and no longer knows where.
            _ => BatchOutcome::Acknowledged { base_offset: None, log_append_time: None },
        };
        if entry.share.is_none() {
            self.zombies -= 1;
        }
        let report = entry.share.map(|share| (share, outcome));
        self.done.push(Done { batch: Some(entry.batch), report });
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
