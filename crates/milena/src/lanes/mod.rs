//! Lanes: which record of one partition may be handled next, and what of it may be committed.
//!
//! A lane exists for each key in flight. Inside a lane it is first in, first out, one at a time, and a lane that waits
//! for a retry holds back its own key and nobody else; there is no fixed table of workers that unrelated keys share.
//! This is a state machine: no I/O, no clock (`now` is an argument), no randomness, no Kafka. The owner of the
//! partition drives it and drains `next_ready` after each input.

mod ring;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;

use ring::CompletionRing;

/// How much of a partition may be in memory at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Records taken in and not finished.
    pub(crate) records: usize,
    /// Their bytes.
    pub(crate) bytes: usize,
    /// Records between the first unfinished one and the last taken in, finished ones included. One stuck record can't
    /// make the window, nor what a crash would replay, grow for ever.
    pub(crate) span: usize,
}

/// Permission to handle one record once. It is given back by `finish` or `park`; a ticket of another epoch is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    epoch: u64,
    lane: usize,
    sequence: u64,
    /// 1 for the first attempt.
    pub(crate) attempt: u32,
}

/// What a completion did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Completion {
    /// It counted.
    Taken,
    /// The ticket was of an assignment that is over: nothing changed, nothing may be committed for it.
    Stale,
}

/// One partition's lanes, within one assignment.
#[derive(Debug)]
pub(crate) struct Lanes<T> {
    epoch: u64,
    budget: Budget,
    ring: CompletionRing,
    /// Slots of lanes; a free one is `None` and listed in `free`.
    slots: Vec<Option<Lane<T>>>,
    free: Vec<usize>,
    by_key: HashMap<Bytes, usize>,
    /// Lanes whose head may be handled, in the order they became so.
    ready: VecDeque<usize>,
    /// Lanes that wait, by the time they may go on.
    parked: BTreeSet<(Instant, usize)>,
    records: usize,
    bytes: usize,
    running: usize,
    /// One more than the highest sequence ever handed out.
    handed_out: u64,
    /// When draining, sequences from here on are not handed out any more.
    limit: Option<u64>,
}

#[derive(Debug)]
struct Lane<T> {
    /// `None` for a record without a key: a lane of its own.
    key: Option<Bytes>,
    /// Not empty.
    queue: VecDeque<Entry<T>>,
    state: LaneState,
}

#[derive(Debug)]
struct Entry<T> {
    sequence: u64,
    bytes: usize,
    attempts: u32,
    item: T,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaneState {
    Ready,
    Running,
    Parked(Instant),
}

impl<T> Lanes<T> {
    /// Lanes of a partition that is about to be read from `position`. No two assignments share an `epoch`.
    pub(crate) fn new(epoch: u64, position: i64, budget: Budget) -> Self {
        Self {
            epoch,
            budget,
            ring: CompletionRing::new(position),
            slots: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            ready: VecDeque::new(),
            parked: BTreeSet::new(),
            records: 0,
            bytes: 0,
            running: 0,
            handed_out: 0,
            limit: None,
        }
    }

    /// Takes a record in, behind the others of its key. Offsets must rise.
    pub(crate) fn push(&mut self, offset: i64, key: Option<Bytes>, bytes: usize, item: T) {
        let sequence = self.ring.push(offset);
        self.records += 1;
        self.bytes += bytes;
        let entry = Entry { sequence, bytes, attempts: 0, item };
        if let Some(&index) = key.as_ref().and_then(|key| self.by_key.get(key)) {
            self.lane_mut(index).queue.push_back(entry);
            return;
        }
        let lane = Lane { key: key.clone(), queue: VecDeque::from([entry]), state: LaneState::Ready };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index] = Some(lane);
                index
            }
            None => {
                self.slots.push(Some(lane));
                self.slots.len() - 1
            }
        };
        if let Some(key) = key {
            self.by_key.insert(key, index);
        }
        self.ready.push_back(index);
    }

    /// Says that everything before `position` has been taken in.
    pub(crate) fn advance(&mut self, position: i64) {
        self.ring.advance(position);
    }

    /// Hands out the head of the lane that has been ready for longest.
    pub(crate) fn next_ready(&mut self) -> Option<(Ticket, &mut T)> {
        let limit = self.limit.unwrap_or(u64::MAX);
        let index = loop {
            let index = self.ready.pop_front()?;
            // A draining partition forgets lanes beyond its limit: their records are the next owner's.
            if self.lane_mut(index).head().sequence < limit {
                break index;
            }
        };
        self.running += 1;
        let epoch = self.epoch;
        let lane = self.slots[index].as_mut().expect("a lane that is ready has its slot");
        debug_assert_eq!(lane.state, LaneState::Ready);
        lane.state = LaneState::Running;
        let entry = lane.queue.front_mut().expect("a lane is freed when it empties");
        entry.attempts += 1;
        self.handed_out = self.handed_out.max(entry.sequence + 1);
        let ticket = Ticket { epoch, lane: index, sequence: entry.sequence, attempt: entry.attempts };
        Some((ticket, &mut entry.item))
    }

    /// The record of a ticket that is still out.
    pub(crate) fn item_mut(&mut self, ticket: Ticket) -> Option<&mut T> {
        if !self.is_out(ticket) {
            return None;
        }
        self.slots[ticket.lane].as_mut()?.queue.front_mut().map(|entry| &mut entry.item)
    }

    /// The ticket's record is done with for good; its lane goes on with the next.
    pub(crate) fn finish(&mut self, ticket: Ticket) -> Completion {
        if !self.is_out(ticket) {
            return Completion::Stale;
        }
        self.running -= 1;
        let lane = self.lane_mut(ticket.lane);
        let entry = lane.queue.pop_front().expect("the ticket is out, so its record heads the lane");
        if lane.queue.is_empty() {
            let lane = self.slots[ticket.lane].take().expect("looked at above");
            if let Some(key) = lane.key {
                self.by_key.remove(&key);
            }
            self.free.push(ticket.lane);
        } else {
            lane.state = LaneState::Ready;
            self.ready.push_back(ticket.lane);
        }
        self.records -= 1;
        self.bytes -= entry.bytes;
        self.ring.finish(entry.sequence);
        Completion::Taken
    }

    /// The ticket's record is to be handled again at `until`, before any later one of its key.
    pub(crate) fn park(&mut self, ticket: Ticket, until: Instant) -> Completion {
        if !self.is_out(ticket) {
            return Completion::Stale;
        }
        self.running -= 1;
        self.lane_mut(ticket.lane).state = LaneState::Parked(until);
        self.parked.insert((until, ticket.lane));
        Completion::Taken
    }

    /// Makes ready the lanes whose time has come.
    pub(crate) fn wake(&mut self, now: Instant) {
        while let Some(&(until, index)) = self.parked.first() {
            if until > now {
                return;
            }
            self.parked.pop_first();
            self.lane_mut(index).state = LaneState::Ready;
            self.ready.push_back(index);
        }
    }

    /// When `wake` should be called next.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.parked.first().map(|(until, _)| *until)
    }

    /// The offset to commit: each record before it is finished.
    pub(crate) fn watermark(&self) -> i64 {
        self.ring.watermark()
    }

    /// Begins to give the partition up: what was handed out already is carried to its end, with what lies between, so
    /// that the watermark passes it and nothing is handled again; nothing beyond it is begun.
    pub(crate) fn drain(&mut self) {
        self.limit = Some(self.limit.unwrap_or(self.handed_out).min(self.handed_out));
    }

    /// Begins to give the partition up at once: only what runs now is waited for.
    pub(crate) fn halt(&mut self) {
        self.limit = Some(0);
        self.ready.clear();
        self.parked.clear();
    }

    /// Whether nothing more will be handed out.
    pub(crate) fn is_halted(&self) -> bool {
        self.limit == Some(0)
    }

    /// Whether nothing is left that `drain` or `halt` waits for.
    pub(crate) fn is_drained(&self) -> bool {
        match self.limit {
            None => self.records == 0,
            Some(limit) => self.running == 0 && (limit == 0 || self.ring.first_unfinished() >= limit),
        }
    }

    /// Records that were handed out at least once and are not finished. Only heads of lanes can be.
    pub(crate) fn begun(&self) -> usize {
        self.slots.iter().flatten().filter(|lane| lane.head().attempts > 0).count()
    }

    /// Where the partition continues behind the last record taken in.
    pub(crate) fn end(&self) -> i64 {
        self.ring.end()
    }

    /// Whether no more should be taken in.
    pub(crate) fn is_full(&self) -> bool {
        self.records >= self.budget.records || self.bytes >= self.budget.bytes || self.ring.span() >= self.budget.span
    }

    /// Whether there is room again, with slack enough that reading does not stop and go with each record.
    pub(crate) fn has_room(&self) -> bool {
        self.records <= self.budget.records / 2
            && self.bytes <= self.budget.bytes / 2
            && self.ring.span() <= self.budget.span / 2
    }

    /// Records taken in and not finished.
    pub(crate) fn records(&self) -> usize {
        self.records
    }

    /// Their bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Tickets that are out.
    #[cfg(test)]
    pub(crate) fn running(&self) -> usize {
        self.running
    }

    /// Lanes that wait for a retry.
    pub(crate) fn parked(&self) -> usize {
        self.parked.len()
    }

    fn is_out(&self, ticket: Ticket) -> bool {
        ticket.epoch == self.epoch
            && self.slots.get(ticket.lane).and_then(Option::as_ref).is_some_and(|lane| {
                let head = lane.head();
                lane.state == LaneState::Running && head.sequence == ticket.sequence && head.attempts == ticket.attempt
            })
    }

    fn lane_mut(&mut self, index: usize) -> &mut Lane<T> {
        self.slots[index].as_mut().expect("an index of a lane is dropped with the lane")
    }
}

impl<T> Lane<T> {
    fn head(&self) -> &Entry<T> {
        self.queue.front().expect("a lane is freed when it empties")
    }
}

#[cfg(test)]
mod tests;
