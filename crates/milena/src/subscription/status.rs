//! What a subscription tells about itself: events as they happen, counters, and the state it is in.

use super::handle::CloseReport;
use crate::policy::FailureKind;

/// Something worth knowing about a subscription. Alarms come in pairs: raised, then cleared, unless the subscription
/// ends first.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscriptionEvent {
    /// Partitions were given to this member; none, if a rebalance added nothing.
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
    /// Alarm cleared: the dead letter is not written, but its partition is given up, lost or read from elsewhere, and
    /// its offset is not committed: whoever reads it next tries again.
    DeadLetterReleased {
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
    /// Alarm cleared: a commit was acknowledged.
    CommitRecovered,
    /// Alarm: a partition can't be read, or the consumer as a whole can't do something, such as reaching a broker or
    /// the group's coordinator for a minute (`default.api.timeout.ms`). It is tried again.
    ConsumerFailed {
        /// Topic and partition, if it is about one.
        partition: Option<(String, i32)>,
        /// Why.
        error: String,
    },
    /// Alarm cleared: records of the partition came, where it goes on was found, or it is somebody else's; or the
    /// consumer goes on: everything that it could not reach is there again.
    ConsumerRecovered {
        /// Topic and partition, if it was about one.
        partition: Option<(String, i32)>,
    },
    /// The broker no longer has the position. Where retention overtook the group, the subscription goes on with the oldest
    /// event there is; where the log was cut off below it, from there on. If that is behind, what lies between is gone; if
    /// it is before, what was handled is no longer in the log, or, where the broker can't say, is handled again.
    PositionLost {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The position that is gone.
        from: i64,
        /// Where it goes on.
        to: i64,
    },
    /// A topic has more partitions than before. Aggregates move to other partitions with that: what was published
    /// before and after is not in order.
    PartitionsAdded {
        /// The topic.
        topic: String,
        /// Partitions before.
        before: usize,
        /// Partitions now.
        now: usize,
    },
    /// Alarm: the group has members that are subscribed to other topics, so it is shared with something else. Each
    /// rebalance of theirs stops this subscription too.
    ForeignMembers {
        /// Their member ids.
        members: Vec<String>,
    },
    /// Alarm cleared: the group has no such members any more.
    ForeignMembersGone,
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
    /// The subscription's own task panicked: a fault of this library. Nothing more is committed.
    #[error("the subscription panicked: {message}")]
    Panicked {
        /// What it said.
        message: String,
    },
}

/// Where a subscription stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SubscriptionState {
    /// It has not been given its partitions yet.
    #[default]
    Joining,
    /// Its partitions are assigned and positioned (none, if the group has more members than partitions).
    Running,
    /// It was paused: nothing new is begun or fetched. It stays a member of its group.
    Paused,
    /// It is closing: what was begun is being finished.
    Closing,
    /// It was closed, and has left its group.
    Closed,
    /// It has stopped by itself.
    Stopped(StopReason),
}

impl SubscriptionState {
    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Closed | Self::Stopped(_))
    }
}

/// Counts since the subscription began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counts {
    /// Events handled with success.
    pub handled: u64,
    /// Events passed over because no handler wants their type.
    pub skipped: u64,
    /// Attempts that failed and were put off.
    pub retried: u64,
    /// Records written to a dead-letter topic.
    pub dead_lettered: u64,
    /// Completions that no longer counted, since their partition was lost or sought meanwhile.
    pub stale: u64,
}

/// What a subscription is doing right now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SubscriptionStatus {
    /// Where it stands.
    pub state: SubscriptionState,
    /// Its partitions: topic and partition, each.
    pub partitions: Vec<(String, i32)>,
    /// Counts since it began.
    pub counts: Counts,
    /// Records in memory: waiting, being handled, or waiting for a retry.
    pub records: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Handlers that run.
    pub running: usize,
    /// Aggregates that wait for a retry.
    pub parked: usize,
    /// Dead letters that could not be written yet; each holds its offset.
    pub held_dead_letters: usize,
    /// Whether a full budget keeps a partition from being fetched.
    pub is_full: bool,
    /// What can't be reached, read or committed at present, if anything: why it may not become ready. It is tried again.
    pub trouble: Option<String>,
    /// What its close left behind, once it is over; `None` if it ended otherwise.
    pub report: Option<CloseReport>,
}
