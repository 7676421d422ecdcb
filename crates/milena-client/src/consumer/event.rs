//! What `next` yields.

use std::fmt;
use std::sync::Weak;
use std::time::Instant;

use milena_core::consumer::positions::LogTruncation;
use milena_core::consumer::{AssignmentEpoch, TopicPartition};

use super::outages::Awaited;
use super::record_set::RecordSet;
use super::shared::Shared;

/// What happened to a consumer.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConsumerEvent {
    /// Records to process.
    Records(RecordSet),
    /// A rebalance is over; these partitions were added to what was kept.
    Assigned(Assignment),
    /// Partitions are to be given up: finish and commit what is in hand, then drop the guard.
    Revoked(RevocationGuard),
    /// Partitions are gone already: others may hold them, commits for them are refused.
    Lost(Vec<TopicPartition>),
    /// Records that were handed over are no longer in the partition's log: an unclean election lost them (KIP-320). It goes
    /// on where the logs part, or, where nobody can say, as `auto.offset.reset` says. Without such a policy it stops, and
    /// [`ConsumeError::Truncated`](super::ConsumeError::Truncated) tells.
    Truncated(LogTruncation),
    /// What [`ConsumeError::Unreachable`](super::ConsumeError::Unreachable) told of is there again, or is not needed any
    /// more.
    Reached(Awaited),
}

/// Partitions that were added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub(super) partitions: Vec<TopicPartition>,
    pub(super) epoch: AssignmentEpoch,
}

impl Assignment {
    /// Which; none when a rebalance added nothing.
    pub fn partitions(&self) -> &[TopicPartition] {
        &self.partitions
    }

    /// The epoch under which they are held.
    pub fn epoch(&self) -> AssignmentEpoch {
        self.epoch
    }
}

/// Holds a rebalance up while the application finishes with its partitions. They are given up when it is dropped, or at
/// the deadline; then [`ConsumerEvent::Lost`] follows, and commits for them are refused.
pub struct RevocationGuard {
    pub(super) partitions: Vec<TopicPartition>,
    pub(super) deadline: Instant,
    pub(super) shared: Weak<Shared>,
    pub(super) revocation: u64,
}

impl RevocationGuard {
    /// The partitions to give up. No more of their records are handed over.
    pub fn partitions(&self) -> &[TopicPartition] {
        &self.partitions
    }

    /// When they are given up anyway.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Drop for RevocationGuard {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.revocation_over(self.revocation);
        }
    }
}

impl fmt::Debug for RevocationGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocationGuard")
            .field("partitions", &self.partitions)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
