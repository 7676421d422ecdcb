//! From fetched bytes to a record set: batches in order, checked, inflated and filtered on the application's own task, or,
//! where they are large, elsewhere ([`away`]). The position moves here and nowhere else.

mod away;

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use milena_core::consumer::aborted::{AbortedFilter, BatchFacts};
use milena_core::consumer::positions::{EpochOffset, Position};
use milena_core::consumer::prefetch::Charge;
use milena_core::consumer::{AssignmentEpoch, TopicPartition};
use milena_protocol::compress::Compression;
use milena_protocol::record::{ControlType, RecordBatch, RecordBatches, RecordError, Records};

use super::config::ConsumerConfig;
use super::error::ConsumeError;
use super::metrics::add;
use super::record_set::RecordSet;
use super::shared::{Shared, State};

/// A damaged batch is fetched again this often before the application hears of it: the damage may be of the way.
const QUIET_REFETCHES: u32 = 2;

/// One partition's part of one response.
pub(super) struct Fetched {
    pub(super) version: u64,
    pub(super) batches: RecordBatches,
    pub(super) filter: AbortedFilter,
    pub(super) charge: Arc<Charge>,
    pub(super) high_watermark: i64,
    /// Of its whole batches.
    pub(super) bytes: usize,
    /// Of the batch that was cut off behind them.
    pub(super) cut_off: usize,
    /// What was read of it already, elsewhere, and the bytes of it that nobody has been shown.
    pub(super) prepared: Option<(Step, usize)>,
}

/// What was fetched ahead of one partition, oldest first.
#[derive(Default)]
pub(super) struct Buffer {
    parts: VecDeque<Fetched>,
    /// The part that is being read outside the lock; what follows must wait for it. A reader that comes back to a buffer
    /// which was begun anew meanwhile has nothing to release there: another may be at work.
    reading: Option<Reading>,
}

/// A part that is here all the same.
struct Reading {
    version: u64,
    bytes: usize,
    charge: Arc<Charge>,
}

impl Buffer {
    pub(super) fn push(&mut self, part: Fetched) {
        self.parts.push_back(part);
    }

    pub(super) fn is_available(&self) -> bool {
        self.reading.is_none() && !self.parts.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reading.is_none() && self.parts.is_empty()
    }

    fn take(&mut self) -> Option<Fetched> {
        let part = self.parts.pop_front()?;
        self.reading = Some(Reading { version: part.version, bytes: part.bytes, charge: Arc::clone(&part.charge) });
        Some(part)
    }

    /// The reader of a part is done, and gives back what has more to show.
    fn put_back(&mut self, version: u64, rest: Option<Fetched>) {
        if self.reading.as_ref().is_some_and(|reading| reading.version == version) {
            self.reading = None;
            if let Some(rest) = rest {
                self.parts.push_front(rest);
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let reading = self.reading.as_ref().map_or(0, |reading| reading.bytes);
        reading + self.parts.iter().map(|part| part.bytes).sum::<usize>()
    }

    /// Of batches that nobody has begun to read.
    pub(super) fn unread_bytes(&self) -> usize {
        self.parts.iter().map(Fetched::unread_bytes).sum()
    }

    /// What batches that are about to be shown inflated to.
    pub(super) fn inflated_bytes(&self) -> usize {
        let inflated = |part: &Fetched| match &part.prepared {
            Some((Step::Set(checked), _)) => checked.inflated.as_ref().map_or(0, Charge::bytes),
            _ => 0,
        };
        self.parts.iter().map(inflated).sum()
    }

    pub(super) fn charges(&self) -> impl Iterator<Item = &Arc<Charge>> {
        let reading = self.reading.iter().map(|reading| &reading.charge);
        reading.chain(self.parts.iter().map(|part| &part.charge))
    }
}

/// A batch that passed all checks.
pub(super) struct Checked {
    records: Records,
    visible: usize,
    next_offset: i64,
    leader_epoch: i32,
    /// What it inflated to.
    inflated: Option<Charge>,
}

/// A part that is read outside the lock.
struct Taken {
    partition: TopicPartition,
    part: Fetched,
    /// Its bytes before the reading began.
    unread: usize,
    position: i64,
    epoch: AssignmentEpoch,
}

pub(super) enum Step {
    Set(Checked),
    /// The next batch is to be read elsewhere.
    Large(EpochOffset),
    /// Nothing to show; the position may move to there all the same.
    End(EpochOffset),
    Corrupt(EpochOffset, RecordError),
}

impl Shared {
    /// The next record set, if there is one. Each partition in turn, one batch at a time.
    pub(super) fn hand_over(self: &Arc<Self>) -> Option<Result<RecordSet, ConsumeError>> {
        loop {
            let mut taken = self.take_part()?;
            let step = match taken.part.prepared.take() {
                Some((step, _)) => step,
                None => taken.part.step(taken.position, &self.config, self.reads_away()),
            };
            // The last set of a part ends it: an application that then asks for nothing more for a while holds nothing.
            let is_last = taken.part.unread_bytes() == 0;
            let done = self.put_back(taken, step);
            // A part is done, which makes room for a fetch, or is to be fetched again. Another set of it that was handed over
            // leaves it where it was, and changes nothing of what may be fetched.
            if is_last || !matches!(done, Some(Ok(_))) {
                self.fetchers.notify_waiters();
            }
            if let Some(done) = done {
                return Some(done);
            }
        }
    }

    fn take_part(&self) -> Option<Taken> {
        let mut state = self.state();
        if state.closed {
            return None;
        }
        while let Some(partition) = state.ready.pop_front() {
            let Some(buffer) = state.buffers.get_mut(&partition) else { continue };
            let Some(part) = buffer.take() else { continue };
            let current = state.positions.current(&partition, part.version);
            if let Some((position, epoch)) = current.and_then(|current| Some((current.position()?, current.epoch))) {
                let unread = part.unread_bytes();
                return Some(Taken { partition, part, unread, position, epoch });
            }
            // Sought or reassigned since: void.
            state.void(part.unread_bytes());
            state.put_back(&partition, part.version, None);
        }
        None
    }

    fn put_back(self: &Arc<Self>, taken: Taken, step: Step) -> Option<Result<RecordSet, ConsumeError>> {
        let Taken { partition, mut part, unread, position, epoch } = taken;
        let mut state = self.state();
        let version = part.version;
        let current = state.positions.current(&partition, version);
        if current.is_none_or(Position::is_held_back) {
            // Sought, revoked or lost while we read: its buffer went with it, or starts anew.
            state.void(unread);
            state.put_back(&partition, version, None);
            return None;
        }
        if current.is_some_and(|held| held.paused) && matches!(step, Step::Set(_) | Step::Corrupt(..)) {
            // Paused while we read: it is for whoever asks once it is resumed.
            part.prepared = Some((step, unread));
            state.put_back(&partition, version, Some(part));
            return None;
        }
        match step {
            Step::End(next) => {
                state.positions.handed_over(&partition, version, next);
                state.put_back(&partition, version, None);
                self.send_away(state, &partition);
                None
            }
            Step::Large(next) => {
                state.positions.handed_over(&partition, version, next);
                state.put_back(&partition, version, Some(part));
                self.send_away(state, &partition);
                None
            }
            Step::Corrupt(reached, source) => {
                state.void(unread);
                state.discard(&partition);
                state.positions.handed_over(&partition, version, reached);
                state.positions.refetch(&partition, version);
                let offset = reached.offset;
                let attempts = state.count_damage(&partition, offset);
                if attempts <= QUIET_REFETCHES {
                    state.paused.forget(&partition);
                    tracing::warn!(%partition, offset, error = %source, "a damaged batch: fetching it again");
                    return None;
                }
                // It is fetched again all the same, but not in a tight loop.
                let again = self.client.clock.now() + Duration::from_secs(1);
                state.delay(&partition, again);
                Some(Err(ConsumeError::Corrupt { partition, offset, source: Arc::new(source) }))
            }
            Step::Set(checked) => {
                let Checked { records, visible, next_offset, leader_epoch, inflated } = checked;
                let (high_watermark, charge) = (part.high_watermark, Arc::clone(&part.charge));
                let next = EpochOffset { offset: next_offset, epoch: leader_epoch };
                state.positions.handed_over(&partition, version, next);
                let rest = Some(part).filter(|part| part.unread_bytes() > 0);
                state.put_back(&partition, version, rest);
                let on_drop = self.config.commit_on_drop.then(|| {
                    let set = state.processed.handed_over(&partition, epoch, next_offset, leader_epoch);
                    (Arc::downgrade(self), set)
                });
                self.send_away(state, &partition);
                add(&self.counters.records, visible);
                add(&self.counters.record_sets, 1);
                Some(Ok(RecordSet {
                    partition,
                    epoch,
                    records,
                    start: position,
                    visible,
                    next_offset,
                    leader_epoch,
                    high_watermark,
                    _charges: (charge, inflated),
                    on_drop: on_drop as Option<(Weak<Self>, u64)>,
                }))
            }
        }
    }
}

impl State {
    /// The reader of a part is done; the partition's next batch may be read, by whoever asks.
    fn put_back(&mut self, partition: &TopicPartition, version: u64, rest: Option<Fetched>) {
        if let Some(buffer) = self.buffers.get_mut(partition) {
            buffer.put_back(version, rest);
            if buffer.is_empty() {
                self.buffers.remove(partition);
                self.paused.drained(partition);
            }
        }
        self.make_ready(partition);
    }
}

impl Fetched {
    fn unread_bytes(&self) -> usize {
        let rest = self.batches.rest().len().saturating_sub(self.cut_off);
        self.prepared.as_ref().map_or(rest, |(_, unread)| *unread)
    }

    /// Reads up to the next batch that has something to show from `position` on, or, with `stops`, to one that is large.
    fn step(&mut self, position: i64, config: &ConsumerConfig, stops: bool) -> Step {
        let mut reached = EpochOffset::unknown(position);
        loop {
            if stops && self.is_large() {
                return Step::Large(reached);
            }
            let batch = match self.batches.next() {
                None => return Step::End(reached),
                Some(Ok(batch)) => batch,
                Some(Err(error)) => return Step::Corrupt(reached, error),
            };
            match self.read(&batch, position, config) {
                Ok(Some(checked)) => return Step::Set(checked),
                Ok(None) if batch.next_offset() > reached.offset => {
                    reached = EpochOffset { offset: batch.next_offset(), epoch: batch.partition_leader_epoch() };
                }
                Ok(None) => {}
                Err(error) => return Step::Corrupt(reached, error),
            }
        }
    }

    fn read(
        &mut self,
        batch: &RecordBatch,
        position: i64,
        config: &ConsumerConfig,
    ) -> Result<Option<Checked>, RecordError> {
        // Brokers send whole batches, so the first may begin, or even end, before what was asked for. Nothing of such a
        // batch is shown, but where transactions begin and end in it decides about what follows.
        let is_below = batch.next_offset() <= position;
        if config.check_crcs && (batch.is_control() || !is_below) {
            batch.verify_crc()?;
        }
        let abort_marker = if batch.is_control() {
            let control = batch.records(config.max_batch_bytes)?.control_type()?;
            Some(matches!(control, Some(ControlType::Abort)))
        } else {
            None
        };
        let facts = BatchFacts {
            last_offset: batch.last_offset(),
            producer_id: batch.producer_id(),
            is_transactional: batch.is_transactional(),
            abort_marker,
        };
        if !self.filter.is_visible(facts) || is_below {
            return Ok(None);
        }
        let records = batch.records(config.max_batch_bytes)?;
        let (mut visible, mut unread) = (0, records.iter());
        while let Some(record) = unread.next_valid() {
            visible += usize::from(record.offset >= position);
        }
        unread.next().transpose()?;
        let is_inflated = batch.compression() != Compression::None;
        Ok((visible > 0).then(|| Checked {
            visible,
            next_offset: batch.next_offset(),
            leader_epoch: batch.partition_leader_epoch(),
            inflated: is_inflated.then(|| self.charge.and(records.data().len())),
            records,
        }))
    }
}

#[cfg(test)]
mod tests;
