//! What a subscription tells about itself: events as they happen, counters, and the state it is in.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::policy::FailureKind;

/// Something worth knowing about a subscription. Alarms come in pairs: raised, then cleared.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscriptionEvent {
    /// Partitions were given to this member, and positioned.
    Assigned {
        /// Topic and partition, each.
        partitions: Vec<(String, i32)>,
    },
    /// Partitions were given up in good order: what was begun is finished and committed, as far as time allowed.
    Revoked {
        /// Topic and partition, each.
        partitions: Vec<(String, i32)>,
        /// Records that were begun, but not finished within the time that a rebalance leaves. The next owner begins
        /// them again.
        unfinished: usize,
    },
    /// Partitions belong to somebody else already. What still runs for them no longer counts.
    Lost {
        /// Topic and partition, each.
        partitions: Vec<(String, i32)>,
    },
    /// A record was written to the dead-letter topic.
    DeadLettered {
        /// Topic it was read from.
        topic: String,
        /// Its partition.
        partition: i32,
        /// Its offset.
        offset: i64,
        /// What kind of failure was the last.
        kind: FailureKind,
    },
    /// Alarm: a dead letter could not be written. Its offset is held and its aggregate waits; writing is tried again.
    DeadLetterFailed {
        /// Topic the record was read from.
        topic: String,
        /// Its partition.
        partition: i32,
        /// Its offset.
        offset: i64,
        /// Why it could not be written.
        error: String,
    },
    /// Alarm cleared: the dead letter that could not be written is written.
    DeadLetterRecovered {
        /// Topic the record was read from.
        topic: String,
        /// Its partition.
        partition: i32,
        /// Its offset.
        offset: i64,
    },
    /// Alarm: a commit failed. It is tried again; a crash before that replays more than usual.
    CommitFailed {
        /// Why.
        error: String,
    },
    /// Alarm: the group has members that are subscribed to other topics, so it is shared with something else. Each
    /// rebalance of theirs stops this subscription too.
    ForeignMembers {
        /// Their member ids.
        members: Vec<String>,
    },
    /// The subscription has stopped by itself.
    Stopped {
        /// Why.
        reason: StopReason,
    },
}

/// Why a subscription stopped by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StopReason {
    /// The policy says so: an event could not be handled. Its offset is not committed.
    #[error("{topic}-{partition} at offset {offset} could not be handled, and the policy says to stop: {message}")]
    Policy {
        /// Topic the record was read from.
        topic: String,
        /// Its partition.
        partition: i32,
        /// Its offset.
        offset: i64,
        /// The last failure's message.
        message: String,
    },
    /// The consumer failed in a way that it can't recover from by itself.
    #[error("the consumer failed: {message}")]
    Consumer {
        /// What it said.
        message: String,
    },
}

/// Counts since the subscription began.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) handled: AtomicU64,
    pub(crate) skipped: AtomicU64,
    pub(crate) retried: AtomicU64,
    pub(crate) dead_lettered: AtomicU64,
    pub(crate) stale: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64) {
        // Counters only: nothing is published through them.
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
