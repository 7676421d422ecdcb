//! What a fault run did and saw, and the judgement of it. Knows no client and no clock: calls come in, violations out.
//!
//! Every value is unique: a key and a number that rises within the key. Offsets are dense (one idempotent producer per
//! key, no transactions, no compaction), which makes the checks single passes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

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
    /// A later record of a key lies before an earlier one.
    Reordered(Value, Value),
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
        }
    }
}

/// Everything that happened.
#[derive(Debug, Default)]
pub struct History {
    sent: HashMap<Value, Sent>,
    /// The first offset of each partition that nobody has handled: what lies below was handled without a gap.
    handled_below: BTreeMap<i32, i64>,
    /// Handlings, repetitions after a rebalance included.
    pub handlings: u64,
    /// Handlings of what had been handled before: at-least-once delivery allows them.
    pub repetitions: u64,
    /// Commits that were asked for.
    pub commits: u64,
    violations: Vec<Violation>,
}

impl History {
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

    /// The first offset of a partition that nobody has handled.
    #[must_use]
    pub fn handled_below(&self, partition: i32) -> i64 {
        self.handled_below.get(&partition).copied().unwrap_or(0)
    }

    /// Judges the whole run by the log as it is in the end, in order of partition and offset.
    #[must_use]
    pub fn judge(mut self, log: &BTreeMap<Place, Value>) -> Vec<Violation> {
        let mut places: HashMap<Value, Place> = HashMap::with_capacity(log.len());
        let mut last: HashMap<u32, Value> = HashMap::new();
        for (&place, &value) in log {
            if let Some(&first) = places.get(&value) {
                self.violations.push(Violation::Duplicated(value, first, place));
                continue;
            }
            places.insert(value, place);
            if let Some(&before) = last.get(&value.key)
                && before.number > value.number
            {
                self.violations.push(Violation::Reordered(before, value));
            }
            last.insert(value.key, value);
            if place.offset >= self.handled_below(place.partition) {
                self.violations.push(Violation::Unhandled(place));
            }
        }
        for (&value, &sent) in &self.sent {
            match (sent, places.get(&value)) {
                (Sent::Acknowledged(partition, offset), found) => {
                    let right = |place: &Place| {
                        place.partition == partition && offset.is_none_or(|offset| place.offset == offset)
                    };
                    if !found.is_some_and(right) {
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
    }
}
