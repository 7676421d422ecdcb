//! The consumer machines: where each partition is read from, what a broker remembers of our fetches, and how much may
//! be fetched ahead. They hold no records.

pub mod aborted;
pub mod fetch_session;
pub mod positions;
pub mod prefetch;

use std::{fmt, sync::Arc};

/// One partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's index.
    pub partition: i32,
}

impl TopicPartition {
    /// `partition` of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// Tells one spell of holding a partition from another: it changes whenever a partition is assigned anew, so that what
/// was handed out before a rebalance can't be committed after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssignmentEpoch(pub u64);
