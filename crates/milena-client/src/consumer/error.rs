//! What a consumer reports, with its class.

use std::sync::Arc;

use milena_core::consumer::TopicPartition;
use milena_core::consumer::positions::{LogTruncation, NoOffset};
use milena_core::group::classic::GroupError;
use milena_core::group::commit_lane::OffsetRefused;
use milena_protocol::record::RecordError;

use super::outages::Outage;
use crate::error::{ErrorClass, RequestError};

/// Why `next` has no event. Unless its class says otherwise the consumer goes on: call `next` again.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumeError {
    /// There is no offset to start from, and `auto.offset.reset` is `none`.
    #[error(transparent)]
    NoOffset(#[from] NoOffset),
    /// Records that were handed over are no longer in the log, and `auto.offset.reset` is `none` (KIP-320).
    #[error(transparent)]
    Truncated(#[from] LogTruncation),
    /// A batch is damaged. The position is still before it, and it is fetched again.
    #[error("{partition} holds a damaged batch at offset {offset}: if it stays damaged, seek past it")]
    Corrupt {
        /// The partition.
        partition: TopicPartition,
        /// Where the position is.
        offset: i64,
        /// What is wrong.
        #[source]
        source: Arc<RecordError>,
    },
    /// The membership ended for good.
    #[error("the membership in group `{group}` has ended")]
    Group {
        /// The group.
        group: String,
        /// Why.
        #[source]
        source: GroupError,
    },
    /// A request about one partition was refused; it is tried again.
    #[error("{partition} can't be read now")]
    Partition {
        /// The partition.
        partition: TopicPartition,
        /// Why.
        #[source]
        source: RequestError,
    },
    /// Something has not been reached for `default.api.timeout.ms`. Told once; the consumer goes on trying, and
    /// [`ConsumerEvent::Reached`](super::ConsumerEvent::Reached) says when it is over.
    #[error("{outage}")]
    Unreachable {
        /// What, for how long, and where it was looked for.
        outage: Outage,
        /// Why the last attempt failed.
        #[source]
        source: Box<RequestError>,
    },
    /// A request failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The partition is not assigned to this consumer.
    #[error("{0} is not assigned to this consumer: assign it, or wait until the group does")]
    NotAssigned(TopicPartition),
    /// Subscribing and committing need a group.
    #[error("this needs a group: set `group.id`")]
    NoGroup,
    /// The consumer was assigned by hand and is told to subscribe, or the other way round.
    #[error("a consumer is either assigned or subscribed for as long as it lives: build another one")]
    Mixed,
    /// The consumer is closed.
    #[error("the consumer is closed: build a new one")]
    Closed,
    /// The consumer did not close within its deadline.
    #[error("the consumer did not leave its group in time: the group will miss it at its session timeout")]
    CloseTimedOut,
}

impl ConsumeError {
    /// What the error asks of the caller.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NoOffset(_)
            | Self::Truncated(_)
            | Self::Corrupt { .. }
            | Self::NotAssigned(_)
            | Self::CloseTimedOut => ErrorClass::ApplicationRecoverable,
            Self::Group { source: GroupError::Refused(code), .. } => ErrorClass::of(*code),
            Self::Group { .. } => ErrorClass::Fatal,
            Self::Unreachable { .. } => ErrorClass::Retriable,
            Self::Partition { source, .. } | Self::Request(source) => source.class(),
            Self::NoGroup | Self::Mixed => ErrorClass::InvalidConfiguration,
            Self::Closed => ErrorClass::Fatal,
        }
    }
}

/// Offsets that were not committed; those not named here were.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} of the offsets were not committed, the first because {}", refused.len(), first(refused))]
pub struct CommitError {
    /// Which, and why.
    pub refused: Vec<(TopicPartition, OffsetRefused)>,
}

fn first(refused: &[(TopicPartition, OffsetRefused)]) -> String {
    refused.first().map(|(partition, why)| format!("{why} ({partition})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixing_is_answered_with_what_can_be_done() {
        let text = ConsumeError::Mixed.to_string();
        assert!(text.contains("build another") && !text.contains("unsubscribe"), "{text}");
    }
}
