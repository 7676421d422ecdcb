//! What can be wrong with a run, and how it is told.

use std::fmt;
use std::time::Duration;

use super::{Committer, Place, Value};

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
    /// A member sent a lower offset than before in the same generation.
    CommitSentBack {
        /// Who.
        by: Committer,
        /// The partition.
        partition: i32,
        /// What was sent before.
        from: i64,
        /// What was sent then.
        to: i64,
    },
    /// Two members hold a partition in the same generation.
    TwoOwners {
        /// The partition.
        partition: i32,
        /// The generation.
        generation: i32,
    },
    /// A record was not handed to the reader of everything, as it is.
    Unread(Place),
    /// A reader was told of a truncation, and there was none.
    NotTruncated {
        /// The partition.
        partition: i32,
    },
    /// A client went on while a broker asked to be left alone.
    NotMuted {
        /// The broker.
        node: i32,
    },
    /// More bytes were fetched than there were to read.
    Wasted {
        /// Bytes of batches that came, but for those that a limit cut off.
        fetched: u64,
        /// Bytes that were dropped unread.
        voided: u64,
        /// Bytes of batches in the logs.
        written: u64,
    },
    /// More is held of what was fetched ahead than `prefetch` allows, or still something when all is over.
    OverPrefetch {
        /// Bytes held.
        held: u64,
        /// Bytes allowed.
        limit: u64,
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
            Self::CommitSentBack { by, partition, from, to } => {
                write!(f, "{by:?} sent {to} of partition {partition} after {from}")
            }
            Self::TwoOwners { partition, generation } => {
                write!(f, "two members hold partition {partition} in generation {generation}")
            }
            Self::Unread(place) => write!(f, "never read: {place:?}"),
            Self::NotTruncated { partition } => write!(f, "told that partition {partition} was truncated"),
            Self::NotMuted { node } => write!(f, "node {node} was sent something while it throttled"),
            Self::Wasted { fetched, voided, written } => {
                write!(f, "{fetched} bytes were fetched, and {voided} of them dropped, where {written} were written")
            }
            Self::OverPrefetch { held, limit } => {
                write!(f, "{held} bytes fetched ahead are held, and {limit} allowed")
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
