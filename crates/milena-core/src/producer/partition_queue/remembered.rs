//! What has to be known of a queue with nothing in it, so that it can be made anew: of the thousands of partitions that a
//! producer once wrote to, most are idle.

use super::{Leader, PartitionQueue, QueuedBatch};
use crate::producer::identity::ProducerIdentity;

/// An empty queue's memory: 16 bytes. Attempts and backoff are not in it: they are of batches, and there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    id: i64,
    next_sequence: i32,
    epoch: i16,
    identity: Use,
    proven: bool,
}

/// What the identity is to the partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Use {
    /// There is none.
    #[default]
    None,
    /// The next sequence is of it.
    Current,
    /// A gap was left in its sequence: the next batch gets another.
    Spent,
}

impl<B: QueuedBatch> PartitionQueue<B> {
    /// What is to be remembered, if nothing else is held; `leader` is who leads the partition now.
    pub fn remember(&self, leader: Option<Leader>) -> Option<Remembered> {
        let is_empty = self.batches.is_empty() && self.done.is_empty();
        if !is_empty || self.gap || self.wants_bump.is_some() || self.wants_metadata {
            return None;
        }
        let (identity, known) = match (self.identity, self.spent) {
            (Some(current), _) => (Use::Current, current),
            (None, Some(spent)) => (Use::Spent, spent),
            (None, None) => return Some(Remembered::default()),
        };
        let proven = leader.is_some_and(|leader| self.is_proven_on(leader));
        let ProducerIdentity { id, epoch } = known;
        Some(Remembered { id, next_sequence: self.next_sequence, epoch, identity, proven })
    }

    /// The queue of which `remembered` is left, where `leader` is who led the partition then.
    pub fn recall(remembered: Remembered, leader: Option<Leader>) -> Self {
        let Remembered { id, next_sequence, epoch, identity, proven } = remembered;
        let known = Some(ProducerIdentity { id, epoch });
        Self {
            leader: leader.filter(|_| proven),
            proven,
            identity: known.filter(|_| identity == Use::Current),
            spent: known.filter(|_| identity == Use::Spent),
            next_sequence,
            ..Self::default()
        }
    }
}
