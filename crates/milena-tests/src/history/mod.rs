//! What a fault run or a simulation did and saw, and the judgement of it. Knows no client and no clock: calls come in,
//! violations out.
//!
//! Every value is unique: a key and a number that rises within the key. Offsets are dense (no transactions, no compaction),
//! which makes the checks single passes.

mod commits;
mod truncation;
mod violation;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use self::commits::Commits;
pub use self::commits::Committer;
use self::truncation::Truncation;
pub use self::violation::Violation;

/// What is in a record: its key and its number within the key, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    /// The key.
    pub key: u32,
    /// The number within the key.
    pub number: u64,
}

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// How a send ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Acknowledged; the place is unknown when the broker only said that it has the record already.
    Acknowledged(i32, Option<i64>),
    /// Definitely not written.
    Failed,
    /// Nobody knows.
    PossiblyWritten,
}

/// What the settings promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promises {
    /// An acknowledged record is in the log: anything but `acks=0`.
    pub kept: bool,
    /// No record is there twice, and the order survives: idempotence.
    pub once: bool,
    /// There is a group that handles everything.
    pub handled: bool,
    /// There is somebody who reads everything, as the reader 0.
    pub read: bool,
}

impl Default for Promises {
    fn default() -> Self {
        Self { kept: true, once: true, handled: true, read: false }
    }
}

/// Everything that happened.
#[derive(Debug, Default)]
pub struct History {
    promises: Promises,
    sent: BTreeMap<Value, Sent>,
    /// Which producer appended a value, and as its how manieth.
    appended: HashMap<Value, (u32, u64)>,
    appended_by: HashMap<u32, u64>,
    /// The partitions that values were sent to by name.
    meant_for: HashMap<Value, i32>,
    /// Each distinct thing that a reader was handed.
    read: BTreeMap<Place, Value>,
    /// By reader and partition, whose turn is next.
    turns: HashMap<(u64, i32), i64>,
    /// What the reader 0 was handed last at each place, and where partitions ended when it was to have come to their end.
    read_by_first: BTreeMap<Place, Value>,
    read_ends: BTreeMap<i32, i64>,
    commits_of: Commits,
    truncations: Vec<Truncation>,
    /// How many truncations there had been when each value was begun.
    begun: HashMap<Value, usize>,
    /// Where partitions ended when the group was last expected to handle something.
    handled_ends: BTreeMap<i32, i64>,
    /// The first offset of each partition that nobody has handled: what lies below was handled without a gap.
    handled_below: BTreeMap<i32, i64>,
    /// The most that this ever was: what vanishes was handled all the same.
    handled_most: BTreeMap<i32, i64>,
    /// What was handled, as the value that it was then.
    handled_as: BTreeSet<(Place, Value)>,
    /// Records that readers were handed.
    pub readings: u64,
    /// Handlings, repetitions after a rebalance included.
    pub handlings: u64,
    /// Handlings of what had been handled before: at-least-once delivery allows them.
    pub repetitions: u64,
    /// Commits that were asked for.
    pub commits: u64,
    violations: Vec<Violation>,
}

impl History {
    /// A history that is judged by these promises; the default is all of them.
    #[must_use]
    pub fn of(promises: Promises) -> Self {
        Self { promises, ..Self::default() }
    }

    /// A producer has appended a record. Call it in the order of appending.
    pub fn appended(&mut self, producer: u32, value: Value) {
        let place = self.appended_by.entry(producer).or_insert(0);
        self.appended.insert(value, (producer, *place));
        *place += 1;
    }

    /// A producer has appended a record, and nobody knows when: only the order of its key is held against it.
    pub fn appended_sometime(&mut self, producer: u32) {
        *self.appended_by.entry(producer).or_insert(0) += 1;
    }

    /// How many records a producer has appended.
    #[must_use]
    pub fn n_appended(&self, producer: u32) -> u64 {
        self.appended_by.get(&producer).copied().unwrap_or(0)
    }

    /// A record is sent to this very partition.
    pub fn meant_for(&mut self, value: Value, partition: i32) {
        self.meant_for.insert(value, partition);
    }

    /// What comes into a partition from this offset on need not be handled: the group may have left.
    pub fn handles_until(&mut self, partition: i32, end: i64) {
        self.handled_ends.insert(partition, end);
    }

    /// The reader 0 has to read a partition up to here.
    pub fn reads_until(&mut self, partition: i32, end: i64) {
        self.read_ends.insert(partition, end);
    }

    /// Something is wrong that needs no judgement.
    pub fn violated(&mut self, violation: Violation) {
        self.violations.push(violation);
    }

    /// A reader begins: the first record that it gets of a partition may be any from here on, or exactly `start`.
    pub fn begins(&mut self, reader: u64, partition: i32, start: Option<i64>) {
        match start {
            Some(start) => self.turns.insert((reader, partition), start),
            None => self.turns.remove(&(reader, partition)),
        };
    }

    /// A reader was handed a record.
    pub fn read(&mut self, reader: u64, at: Place, value: Value) {
        self.readings += 1;
        if let Some(before) = self.read.insert(at, value)
            && before != value
            && !self.is_gone(before, at)
            && !self.is_gone(value, at)
        {
            self.violations.push(Violation::Mistaken(value, at));
        }
        if reader == 0 {
            self.read_by_first.insert(at, value);
        }
        // A member begins where the coordinator told it to, unless the log is shorter than that by now.
        let beginning = self.commits_of.beginning(reader, at.partition).filter(|_| !self.is_unclean(at.partition));
        let turn = self.turns.entry((reader, at.partition)).or_insert(beginning.unwrap_or(at.offset));
        if *turn != at.offset {
            self.violations.push(Violation::OutOfTurn { at, expected: *turn });
        }
        *turn = at.offset + 1;
    }

    /// A send has ended.
    pub fn sent(&mut self, value: Value, how: Sent) {
        self.sent.insert(value, how);
    }

    /// How many sends ended so: acknowledged, failed, possibly written.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |wanted: fn(&Sent) -> bool| self.sent.values().filter(|sent| wanted(sent)).count();
        (
            count(|sent| matches!(sent, Sent::Acknowledged(..))),
            count(|sent| matches!(sent, Sent::Failed)),
            count(|sent| matches!(sent, Sent::PossiblyWritten)),
        )
    }

    /// A member has handled a record, which had this value.
    pub fn handled_as(&mut self, at: Place, value: Value) {
        self.handled_as.insert((at, value));
        self.handled(at);
    }

    /// A member has handled a record.
    pub fn handled(&mut self, at: Place) {
        self.handlings += 1;
        // What vanished may still be handled by whoever fetched it before: then there is no telling what is missing.
        let is_unclean = self.is_unclean(at.partition);
        let below = self.handled_below.entry(at.partition).or_insert(0);
        if at.offset > *below && !is_unclean {
            self.violations.push(Violation::Skipped { at, missing: *below });
        }
        if at.offset < *below {
            self.repetitions += 1;
        } else if at.offset == *below || !is_unclean {
            *below = at.offset + 1;
        }
        let most = self.handled_most.entry(at.partition).or_insert(0);
        *most = (at.offset + 1).max(*most);
    }

    /// A member is about to commit.
    pub fn commits(&mut self, partition: i32, offset: i64) {
        self.commits += 1;
        self.check_committed(partition, offset);
    }

    /// What the coordinator holds must not exceed what was handled; call at any time.
    pub fn check_committed(&mut self, partition: i32, committed: i64) {
        let missing = self.handled_most.get(&partition).copied().unwrap_or(0);
        if committed > missing {
            self.violations.push(Violation::CommittedUnhandled { partition, committed, missing });
        }
    }

    /// The first offset of a partition that nobody has handled.
    #[must_use]
    pub fn handled_below(&self, partition: i32) -> i64 {
        self.handled_below.get(&partition).copied().unwrap_or(0)
    }

    /// Judges the whole run by the log as it is in the end, in order of partition and offset.
    #[must_use]
    pub fn judge(mut self, log: &BTreeMap<Place, Value>) -> Vec<Violation> {
        let mut places: HashMap<Value, Place> = HashMap::with_capacity(log.len());
        let mut last_of_key: HashMap<(u32, i32), Value> = HashMap::new();
        let mut last_appended: HashMap<(u32, i32), (u64, Value)> = HashMap::new();
        for (&place, &value) in log {
            let is_late = self.handled_ends.get(&place.partition).is_some_and(|end| place.offset >= *end);
            let is_handled = match self.is_unclean(place.partition) {
                true => self.handled_as.contains(&(place, value)),
                false => place.offset < self.handled_below(place.partition),
            };
            if !is_handled && self.promises.handled && !is_late {
                self.violations.push(Violation::Unhandled(place));
            }
            let is_due = self.read_ends.get(&place.partition).is_some_and(|end| place.offset < *end);
            if is_due && self.promises.read && self.read_by_first.get(&place) != Some(&value) {
                self.violations.push(Violation::Unread(place));
            }
            if self.meant_for.get(&value).is_some_and(|meant| *meant != place.partition) {
                self.violations.push(Violation::Misrouted(value, place));
            }
            if let Some(&first) = places.get(&value) {
                if self.promises.once {
                    self.violations.push(Violation::Duplicated(value, first, place));
                }
                continue;
            }
            places.insert(value, place);
            if !self.promises.once {
                continue;
            }
            let before = last_of_key.insert((value.key, place.partition), value);
            let mut later = before.filter(|before| before.number > value.number);
            if let Some(&(producer, turn)) = self.appended.get(&value) {
                let before = last_appended.insert((producer, place.partition), (turn, value));
                later = later.or(before.filter(|(before, _)| *before > turn).map(|(_, value)| value));
            }
            if let Some(later) = later {
                self.violations.push(Violation::Reordered(later, value));
            }
        }
        for (&place, &value) in &self.read {
            if log.get(&place) != Some(&value) && !self.is_gone(value, place) {
                self.violations.push(Violation::Mistaken(value, place));
            }
        }
        for (&value, &sent) in &self.sent {
            match (sent, places.get(&value)) {
                (Sent::Acknowledged(partition, offset), found) => {
                    let right = |place: &Place| {
                        place.partition == partition && offset.is_none_or(|offset| place.offset == offset)
                    };
                    // Where a repeat may be written, an acknowledgement may speak of either.
                    let is_right = if self.promises.once { found.is_some_and(right) } else { found.is_some() };
                    if !is_right && self.promises.kept && !self.may_have_vanished(value, partition, offset) {
                        let place = Place { partition, offset: offset.unwrap_or(-1) };
                        self.violations.push(Violation::Lost(value, place));
                    }
                }
                (Sent::Failed, Some(&place)) => self.violations.push(Violation::FailedButWritten(value, place)),
                (Sent::Failed, None) | (Sent::PossiblyWritten, _) => {}
            }
        }
        self.violations
    }
}

#[cfg(test)]
mod tests;
