//! What a fault run or a simulation did and saw, and the judgement of it. Knows no client and no clock: calls come in,
//! violations out.
//!
//! Every value is unique: a key and a number that rises within the key. Offsets are dense (no transactions, no compaction),
//! which makes the checks single passes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

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

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// An acknowledged record is not in the log, or something else lies in its place.
    Lost(Value, Place),
    /// A record is in the log more than once.
    Duplicated(Value, Place, Place),
    /// A later record of a key, or one that its producer appended later, lies before an earlier one.
    Reordered(Value, Value),
    /// A record lies in another partition than it was sent to.
    Misrouted(Value, Place),
    /// A record was handed over that lies nowhere, or elsewhere.
    Mistaken(Value, Place),
    /// A record's bytes are not those that were sent.
    Damaged(Place),
    /// A committed offset fell.
    CommitFell {
        /// The partition.
        partition: i32,
        /// What was committed.
        from: i64,
        /// What is committed now.
        to: i64,
    },
    /// A reader got a record, and not the one that follows its last.
    OutOfTurn {
        /// The record.
        at: Place,
        /// The offset that was its turn.
        expected: i64,
    },
    /// A record that was reported as definitely not written is in the log.
    FailedButWritten(Value, Place),
    /// A record was handed over although an earlier one of its partition had been handed to nobody.
    Skipped {
        /// Where the handling was.
        at: Place,
        /// The first offset that nobody had handled.
        missing: i64,
    },
    /// A commit covers a record that nobody had handled.
    CommittedUnhandled {
        /// The partition.
        partition: i32,
        /// The committed offset.
        committed: i64,
        /// The first offset that nobody had handled.
        missing: i64,
    },
    /// A record was never handled.
    Unhandled(Place),
    /// Something did not end within its limit.
    Stuck(String),
    /// A producer holds more than its budget, or still something when all is over.
    OverBudget {
        /// Bytes held.
        held: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A producer's counters don't add up to what was appended.
    Miscounted {
        /// Records that were appended.
        appended: u64,
        /// Records that are counted as answered for.
        answered: u64,
    },
    /// A broker was asked too often.
    Storm {
        /// The broker.
        node: i32,
        /// What for.
        what: String,
        /// The most requests within a second.
        requests: usize,
    },
    /// It took too long to go on once everything was whole again.
    SlowRecovery(Duration),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(value, place) => write!(f, "acknowledged and lost: {value:?} at {place:?}"),
            Self::Duplicated(value, one, other) => write!(f, "written twice: {value:?} at {one:?} and {other:?}"),
            Self::Reordered(later, earlier) => write!(f, "out of order: {later:?} lies before {earlier:?}"),
            Self::FailedButWritten(value, place) => {
                write!(f, "reported as failed, but written: {value:?} at {place:?}")
            }
            Self::Skipped { at, missing } => write!(f, "handled {at:?} while offset {missing} was handled by nobody"),
            Self::CommittedUnhandled { partition, committed, missing } => {
                write!(f, "committed {committed} of partition {partition} while nobody had handled {missing}")
            }
            Self::Unhandled(place) => write!(f, "never handled: {place:?}"),
            Self::Misrouted(value, place) => write!(f, "sent elsewhere: {value:?} lies at {place:?}"),
            Self::Damaged(place) => write!(f, "not what was sent: the record at {place:?}"),
            Self::CommitFell { partition, from, to } => {
                write!(f, "the committed offset of partition {partition} fell from {from} to {to}")
            }
            Self::Mistaken(value, place) => write!(f, "handed over, and not in the log: {value:?} at {place:?}"),
            Self::OutOfTurn { at, expected } => write!(f, "handed over {at:?} when it was the turn of {expected}"),
            Self::Stuck(what) => write!(f, "did not end in time: {what}"),
            Self::OverBudget { held, limit } => write!(f, "{held} bytes are held, and {limit} allowed"),
            Self::Miscounted { appended, answered } => {
                write!(f, "{appended} records were appended, and {answered} are counted as answered for")
            }
            Self::Storm { node, what, requests } => {
                write!(f, "node {node} was asked {requests} times within a second: {what}")
            }
            Self::SlowRecovery(took) => write!(f, "went on only {took:?} after everything was whole again"),
        }
    }
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
    /// Committed offsets never fall. A commit that was sent again may be applied a second time when its first connection is
    /// read late, and Kafka fences nothing within a generation: this holds where no request can be late.
    pub commits_rise: bool,
}

impl Default for Promises {
    fn default() -> Self {
        Self { kept: true, once: true, handled: true, commits_rise: true }
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
    committed: BTreeMap<i32, i64>,
    /// Where partitions ended when the group was last expected to handle something.
    handled_ends: BTreeMap<i32, i64>,
    /// The first offset of each partition that nobody has handled: what lies below was handled without a gap.
    handled_below: BTreeMap<i32, i64>,
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
        if self.read.insert(at, value).is_some_and(|before| before != value) {
            self.violations.push(Violation::Mistaken(value, at));
        }
        let turn = self.turns.entry((reader, at.partition)).or_insert(at.offset);
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

    /// A member has handled a record.
    pub fn handled(&mut self, at: Place) {
        self.handlings += 1;
        let below = self.handled_below.entry(at.partition).or_insert(0);
        if at.offset > *below {
            self.violations.push(Violation::Skipped { at, missing: *below });
        }
        if at.offset < *below {
            self.repetitions += 1;
        } else {
            *below = at.offset + 1;
        }
    }

    /// A member is about to commit.
    pub fn commits(&mut self, partition: i32, offset: i64) {
        self.commits += 1;
        self.check_committed(partition, offset);
    }

    /// What the coordinator holds must not exceed what was handled; call at any time.
    pub fn check_committed(&mut self, partition: i32, committed: i64) {
        let missing = self.handled_below(partition);
        if committed > missing {
            self.violations.push(Violation::CommittedUnhandled { partition, committed, missing });
        }
    }

    /// The coordinator holds this offset now.
    pub fn is_committed(&mut self, partition: i32, committed: i64) {
        self.check_committed(partition, committed);
        let before = self.committed.insert(partition, committed).unwrap_or(0);
        if committed < before && self.promises.commits_rise {
            self.violations.push(Violation::CommitFell { partition, from: before, to: committed });
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
            if place.offset >= self.handled_below(place.partition) && self.promises.handled && !is_late {
                self.violations.push(Violation::Unhandled(place));
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
            if log.get(&place) != Some(&value) {
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
                    if !is_right && self.promises.kept {
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
mod tests {
    use super::*;

    fn value(key: u32, number: u64) -> Value {
        Value { key, number }
    }

    fn at(offset: i64) -> Place {
        Place { partition: 0, offset }
    }

    /// A good run of three records of one key, each handled; `spoil` makes it a bad one.
    fn run(spoil: impl FnOnce(&mut History, &mut BTreeMap<Place, Value>)) -> Vec<Violation> {
        let mut history = History::default();
        let mut log = BTreeMap::new();
        for number in 0..3 {
            let offset = i64::try_from(number).unwrap();
            history.sent(value(1, number), Sent::Acknowledged(0, Some(offset)));
            log.insert(at(offset), value(1, number));
            history.handled(at(offset));
        }
        history.commits(0, 3);
        spoil(&mut history, &mut log);
        history.judge(&log)
    }

    #[test]
    fn a_good_run_has_no_violations_and_an_unknown_outcome_may_go_either_way() {
        assert_eq!(run(|_, _| {}), []);
        assert_eq!(run(|history, _| history.sent(value(1, 3), Sent::PossiblyWritten)), []);
        let written = run(|history, log| {
            history.sent(value(1, 3), Sent::PossiblyWritten);
            log.insert(at(3), value(1, 3));
            history.handled(at(3));
        });
        assert_eq!(written, []);
        assert_eq!(run(|history, _| history.handled(at(1))), [], "a rebalance repeats");
        let read = run(|history, _| {
            (0..3).for_each(|number| history.read(0, at(number as i64), value(1, number)));
            history.begins(0, 0, None);
            history.read(0, at(1), value(1, 1));
        });
        assert_eq!(read, [], "and is begun anew");
        let appended = run(|history, _| (0..3).for_each(|number| history.appended(7, value(1, number))));
        assert_eq!(appended, []);
    }

    #[test]
    fn what_is_not_promised_is_not_held_against_anyone() {
        let judge = |promises| {
            let mut history = History::of(promises);
            history.sent(value(1, 0), Sent::Acknowledged(0, Some(1)));
            history.sent(value(1, 1), Sent::Acknowledged(0, Some(9)));
            let log = BTreeMap::from([(at(0), value(1, 0)), (at(1), value(1, 0))]);
            history.judge(&log)
        };
        assert_eq!(judge(Promises { kept: false, once: false, handled: false, commits_rise: false }), []);
        assert_eq!(
            judge(Promises { once: false, handled: false, ..Promises::default() }),
            [Violation::Lost(value(1, 1), at(9))]
        );
        assert_eq!(judge(Promises::default()).len(), 5);
    }

    #[test]
    fn each_broken_promise_is_seen() {
        let lost = run(|history, _| history.sent(value(2, 0), Sent::Acknowledged(0, Some(9))));
        assert_eq!(lost, [Violation::Lost(value(2, 0), at(9))]);

        let elsewhere = run(|history, _| history.sent(value(1, 2), Sent::Acknowledged(0, Some(1))));
        assert_eq!(elsewhere, [Violation::Lost(value(1, 2), at(1))]);

        let twice = run(|history, log| {
            log.insert(at(3), value(1, 2));
            history.handled(at(3));
        });
        assert_eq!(twice, [Violation::Duplicated(value(1, 2), at(2), at(3))]);

        let swapped = run(|history, log| {
            log.insert(at(3), value(2, 1));
            log.insert(at(4), value(2, 0));
            history.handled(at(3));
            history.handled(at(4));
        });
        assert_eq!(swapped, [Violation::Reordered(value(2, 1), value(2, 0))]);

        let denied = run(|history, log| {
            history.sent(value(2, 0), Sent::Failed);
            log.insert(at(3), value(2, 0));
            history.handled(at(3));
        });
        assert_eq!(denied, [Violation::FailedButWritten(value(2, 0), at(3))]);

        let skipped = run(|history, log| {
            log.insert(at(3), value(2, 0));
            log.insert(at(4), value(2, 1));
            history.handled(at(4));
        });
        assert_eq!(skipped, [Violation::Skipped { at: at(4), missing: 3 }]);

        let early = run(|history, _| history.commits(0, 4));
        assert_eq!(early, [Violation::CommittedUnhandled { partition: 0, committed: 4, missing: 3 }]);

        let unhandled = run(|_, log| {
            log.insert(at(3), value(2, 0));
        });
        assert_eq!(unhandled, [Violation::Unhandled(at(3))]);

        let in_time = run(|history, log| {
            log.insert(at(3), value(2, 0));
            history.handles_until(0, 3);
        });
        assert_eq!(in_time, [], "nobody was left who could");

        let overtaken = run(|history, log| {
            history.appended(7, value(2, 0));
            history.appended(7, value(3, 0));
            log.insert(at(3), value(3, 0));
            log.insert(at(4), value(2, 0));
            history.handled(at(3));
            history.handled(at(4));
        });
        assert_eq!(overtaken, [Violation::Reordered(value(3, 0), value(2, 0))], "whichever keys they have");

        let misrouted = run(|history, _| history.meant_for(value(1, 2), 1));
        assert_eq!(misrouted, [Violation::Misrouted(value(1, 2), at(2))]);

        let mistaken = run(|history, _| history.read(0, at(1), value(1, 2)));
        assert_eq!(mistaken, [Violation::Mistaken(value(1, 2), at(1))]);

        let left_out = run(|history, _| {
            history.read(0, at(0), value(1, 0));
            history.read(0, at(2), value(1, 2));
        });
        assert_eq!(left_out, [Violation::OutOfTurn { at: at(2), expected: 1 }]);

        let fell = run(|history, _| {
            history.is_committed(0, 3);
            history.is_committed(0, 2);
        });
        assert_eq!(fell, [Violation::CommitFell { partition: 0, from: 3, to: 2 }]);

        let late = run(|history, _| {
            history.begins(0, 0, Some(0));
            history.read(0, at(1), value(1, 1));
        });
        assert_eq!(late, [Violation::OutOfTurn { at: at(1), expected: 0 }]);
    }
}
