//! The answer to a batch, shared by everyone who waits for one of its records.
//!
//! One [`Completion`] exists per batch, apart from the batch's buffer: a delivery handle is a reference to it and an
//! index, so that a record costs no channel and no allocation. When a batch is split, its parts answer for ranges of
//! the same indices. Waiting is by [`Waker`], a task that waits for many records of the batch is woken once.
//!
//! Knows no runtime and no clock, and never wakes anyone while its lock is held.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::producer::failure::ProduceFailure;

/// What became of a batch, or of a part of one.
#[derive(Clone, Debug, PartialEq)]
pub enum BatchOutcome {
    /// In the log, and as durable as `acks` asked for.
    Acknowledged {
        /// The offset of the first record; `None` when the broker only said that it has the batch already, or was told
        /// not to answer.
        base_offset: Option<i64>,
        /// The broker's time of appending, where the topic is configured for it, in ms since the epoch.
        log_append_time: Option<i64>,
    },
    /// Not in the log, and never will be.
    Failed(ProduceFailure),
    /// It may or may not be in the log; sending it again may write it twice.
    PossiblyWritten(ProduceFailure),
}

/// What became of one record.
#[derive(Clone, Debug, PartialEq)]
pub enum RecordOutcome {
    /// In the log.
    Acknowledged {
        /// The record's offset, if the broker told.
        offset: Option<i64>,
        /// The broker's time of appending, where the topic is configured for it.
        log_append_time: Option<i64>,
    },
    /// Not in the log, and never will be.
    Failed(ProduceFailure),
    /// It may or may not be in the log.
    PossiblyWritten(ProduceFailure),
}

/// The answer to one batch.
#[derive(Debug)]
pub struct Completion {
    topic: Arc<str>,
    partition: i32,
    /// The answer to all records at once: read without the lock.
    whole: OnceLock<BatchOutcome>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Known once the batch is closed.
    records: Option<u32>,
    /// Answers to parts: made only when a batch had to be split.
    parts: Vec<Part>,
    waiters: Vec<Waiter>,
    /// Counts how often the waiters were woken, and so their list emptied.
    round: u32,
}

#[derive(Debug)]
struct Part {
    range: Range<u32>,
    outcome: BatchOutcome,
}

/// A waiting task, with the number of delivery handles that it polls from.
#[derive(Debug)]
struct Waiter {
    waker: Option<Waker>,
    handles: u32,
}

/// Where a delivery handle is registered among the waiters of its [`Completion`]; kept by the handle.
#[derive(Debug)]
pub struct WaitSlot {
    round: u32,
    /// [`NOWHERE`] while it is not registered: a record's handle stays at 32 bytes.
    index: u32,
}

const NOWHERE: u32 = u32::MAX;

impl Default for WaitSlot {
    fn default() -> Self {
        Self { round: 0, index: NOWHERE }
    }
}

impl Completion {
    /// The completion of a batch that is being opened.
    pub fn new(topic: Arc<str>, partition: i32) -> Arc<Self> {
        Arc::new(Self { topic, partition, whole: OnceLock::new(), state: Mutex::default() })
    }

    /// The topic of the batch.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition of the batch.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// Says how many records the batch has, and hands out the right to answer for them.
    pub fn close(self: Arc<Self>, records: u32) -> BatchShare {
        self.lock().records = Some(records);
        BatchShare { completion: self, range: 0..records }
    }

    /// Offset and time of appending of the record at `index`, if its whole batch was acknowledged: what nearly every
    /// handle finds, without a lock.
    #[inline]
    pub fn acknowledged(&self, index: u32) -> Option<(Option<i64>, Option<i64>)> {
        match self.whole.get() {
            Some(BatchOutcome::Acknowledged { base_offset, log_append_time }) => {
                Some((base_offset.map(|base| base + i64::from(index)), *log_append_time))
            }
            _ => None,
        }
    }

    /// The answer for the record at `index`, or a promise to wake the task.
    pub fn poll(&self, index: u32, slot: &mut WaitSlot, context: &mut Context<'_>) -> Poll<RecordOutcome> {
        if let Some(outcome) = self.outcome(index) {
            self.leave(slot);
            return Poll::Ready(outcome);
        }
        let mut state = self.lock();
        // Answered between the look above and the lock.
        if let Some(outcome) = self.outcome_in(&state, index) {
            state.leave(slot);
            return Poll::Ready(outcome);
        }
        state.register(slot, context.waker());
        Poll::Pending
    }

    /// Waits for the answers to all records.
    pub fn poll_all(&self, slot: &mut WaitSlot, context: &mut Context<'_>) -> Poll<()> {
        if self.whole.get().is_some() {
            self.leave(slot);
            return Poll::Ready(());
        }
        let mut state = self.lock();
        if self.whole.get().is_some() || state.is_complete() {
            state.leave(slot);
            return Poll::Ready(());
        }
        state.register(slot, context.waker());
        Poll::Pending
    }

    /// The answer for the record at `index`, if there is one yet.
    pub fn outcome(&self, index: u32) -> Option<RecordOutcome> {
        match self.whole.get() {
            Some(outcome) => Some(outcome.of_record(index)),
            None => self.outcome_in(&self.lock(), index),
        }
    }

    /// Gives up waiting: the handle is being dropped.
    pub fn leave(&self, slot: &mut WaitSlot) {
        if slot.index != NOWHERE {
            self.lock().leave(slot);
        }
    }

    fn outcome_in(&self, state: &State, index: u32) -> Option<RecordOutcome> {
        if let Some(outcome) = self.whole.get() {
            return Some(outcome.of_record(index));
        }
        let part = state.parts.iter().find(|part| part.range.contains(&index))?;
        Some(part.outcome.of_record(index - part.range.start))
    }

    /// Records the answer for `range`; returns the tasks to wake, each once.
    fn resolve(&self, range: Range<u32>, outcome: BatchOutcome) -> Vec<Waiter> {
        let mut state = self.lock();
        if state.records == Some(range.end - range.start) {
            let _ = self.whole.set(outcome);
        } else {
            state.parts.push(Part { range, outcome });
        }
        state.round = state.round.wrapping_add(1);
        std::mem::take(&mut state.waiters)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way; a poisoned lock would only mean that a waker's clone did.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_complete(&self) -> bool {
        let answered: u32 = self.parts.iter().map(|part| part.range.end - part.range.start).sum();
        self.records == Some(answered)
    }

    /// Puts `waker` on the list, sharing the place of an equal one: a task that polls many handles waits once.
    fn register(&mut self, slot: &mut WaitSlot, waker: &Waker) {
        if let Some(waiter) = self.waiter(slot) {
            match &waiter.waker {
                Some(known) if known.will_wake(waker) => return,
                _ if waiter.handles == 1 => {
                    waiter.waker = Some(waker.clone());
                    return;
                }
                _ => waiter.handles -= 1,
            }
        }
        // The last registered is the likely one: a task polls its handles one after the other.
        match self.waiters.last_mut() {
            Some(Waiter { waker: Some(known), handles }) if known.will_wake(waker) => *handles += 1,
            _ => self.waiters.push(Waiter { waker: Some(waker.clone()), handles: 1 }),
        }
        // Waiters without number could only be handles without number, which no memory holds.
        *slot = WaitSlot { round: self.round, index: u32::try_from(self.waiters.len() - 1).unwrap_or(NOWHERE) };
    }

    fn leave(&mut self, slot: &mut WaitSlot) {
        if let Some(waiter) = self.waiter(slot) {
            waiter.handles -= 1;
            if waiter.handles == 0 {
                waiter.waker = None;
            }
        }
        *slot = WaitSlot::default();
    }

    /// The waiter that `slot` stands for, unless the list was emptied since.
    fn waiter(&mut self, slot: &WaitSlot) -> Option<&mut Waiter> {
        let registered = slot.index != NOWHERE && slot.round == self.round;
        self.waiters.get_mut(slot.index as usize).filter(|_| registered)
    }
}

impl BatchOutcome {
    /// What the batch's answer means for its `index`-th record.
    fn of_record(&self, index: u32) -> RecordOutcome {
        match self {
            Self::Acknowledged { base_offset, log_append_time } => RecordOutcome::Acknowledged {
                offset: base_offset.map(|base| base + i64::from(index)),
                log_append_time: *log_append_time,
            },
            Self::Failed(failure) => RecordOutcome::Failed(failure.clone()),
            Self::PossiblyWritten(failure) => RecordOutcome::PossiblyWritten(failure.clone()),
        }
    }
}

/// The right, and the duty, to answer for a range of a batch's records.
#[derive(Debug)]
pub struct BatchShare {
    completion: Arc<Completion>,
    range: Range<u32>,
}

impl BatchShare {
    /// How many records it answers for.
    pub fn records(&self) -> u32 {
        self.range.end - self.range.start
    }

    /// The completion that it answers.
    pub fn completion(&self) -> &Arc<Completion> {
        &self.completion
    }

    /// Cuts off the first `records`, which get a share of their own.
    pub fn split_off_front(&mut self, records: u32) -> Self {
        let cut = self.range.start + records.min(self.records());
        let front = self.range.start..cut;
        self.range.start = cut;
        Self { completion: Arc::clone(&self.completion), range: front }
    }

    /// Answers, and wakes each waiting task once. Call it with no lock held.
    pub fn resolve(self, outcome: BatchOutcome) {
        for waiter in self.completion.resolve(self.range, outcome) {
            if let Some(waker) = waiter.waker {
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests;
