//! Why a batch was not acknowledged, and what Kafka's error codes mean to a producer. Decides nothing by itself: the
//! partition's queue does.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use milena_protocol::{ErrorCode, VersionRange};

/// Why a record was given up.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ProduceFailure {
    /// The broker refused it.
    Broker {
        /// Kafka's code.
        code: ErrorCode,
        /// What the broker said beyond the code.
        message: Option<Arc<str>>,
    },
    /// `delivery.timeout` ran out; the last trouble is told if there was one.
    DeliveryTimeout {
        /// The limit.
        limit: Duration,
        /// The broker's last error, if it answered at all.
        last: Option<ErrorCode>,
        /// What kept it from being sent, or sent again, at the end, if that is known; and why.
        hindrance: Option<(Hindrance, Option<Cause>)>,
    },
    /// A batch sent before it was given up while it may have been written: whether this one was can't be found out
    /// either.
    Unsettled {
        /// The broker's last error, if it answered at all.
        last: Option<ErrorCode>,
    },
    /// There is no producer id, which idempotence needs, and there won't be one.
    NoProducerId {
        /// The broker's error, if it answered with one.
        code: Option<ErrorCode>,
        /// Which broker, and why not.
        reason: Arc<str>,
    },
    /// The leader serves Produce in no version that this client speaks.
    NoCommonVersion {
        /// Which broker.
        broker: Arc<str>,
        /// What it serves; `None` where it serves no Produce at all.
        theirs: Option<VersionRange>,
        /// What this client can send the batch in.
        ours: VersionRange,
    },
    /// The producer was closed before the record was acknowledged.
    Closed,
    /// The batch could not be written at all, such as a codec that this build lacks.
    Unsendable(Arc<str>),
}

impl fmt::Display for ProduceFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broker { code, message: Some(message) } => write!(f, "the broker answered {code}: {message}"),
            Self::Broker { code, message: None } => write!(f, "the broker answered {code}"),
            Self::DeliveryTimeout { limit, last, hindrance } => {
                write!(f, "not acknowledged within delivery.timeout of {limit:?}")?;
                if let Some(code) = last {
                    write!(f, ", last error {code}")?;
                }
                match hindrance {
                    None => Ok(()),
                    Some((hindrance, None)) => write!(f, ", {hindrance}"),
                    Some((hindrance, Some(cause))) => write!(f, ", {hindrance}: {}", cause.0),
                }
            }
            Self::Unsettled { last: Some(code) } => {
                write!(f, "a batch before it was given up while it may have been written, last error {code}")
            }
            Self::Unsettled { last: None } => {
                f.write_str("a batch before it was given up while it may have been written")
            }
            Self::NoProducerId { reason, .. } => write!(f, "there is no producer id: {reason}"),
            Self::NoCommonVersion { broker, theirs: Some(theirs), ours } => {
                write!(f, "{broker} serves Produce {theirs}, and this client speaks {ours}")
            }
            Self::NoCommonVersion { broker, theirs: None, .. } => write!(f, "{broker} serves no Produce"),
            Self::Closed => f.write_str("the producer was closed before the record was acknowledged"),
            Self::Unsendable(why) => write!(f, "the batch could not be written: {why}"),
        }
    }
}

/// What a batch lacks that can't be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Hindrance {
    /// A producer id, which idempotence needs.
    NoProducerId,
    /// A leader of its partition.
    NoLeader,
    /// A connection to the leader of its partition.
    NoConnection,
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoProducerId => "for want of a producer id",
            Self::NoLeader => "for want of a leader: check that the brokers with the partition's replicas run",
            Self::NoConnection => "for want of a connection to its leader: check that it runs, and the network to it",
        })
    }
}

/// An error of whoever drives these machines. It equals itself alone.
#[derive(Clone, Debug)]
pub struct Cause(pub Arc<dyn Error + Send + Sync>);

impl PartialEq for Cause {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What a Produce error code tells the partition that got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing was appended; the same batch may be accepted later.
    Retry,
    /// It may have been appended; the same batch, under the same sequence, settles it.
    RetryUnsure,
    /// The broker has the batch already: success.
    Duplicate,
    /// The batch as a whole is too large.
    TooLarge,
    /// The broker's idea of the producer's sequence is another one: nothing was appended, a new epoch is needed.
    Sequence,
    /// Nothing was appended, and never will be.
    Definite,
}

impl Verdict {
    /// Sorts `code`. Codes that can come from the delayed part of a produce, after the local append, are unsure
    /// (KAFKA-13574): a leader that is deposed while it waits for its followers answers `NOT_LEADER_OR_FOLLOWER`, and
    /// the record may survive. Of that one the offset in the answer tells which it is: see `Answer::is_unsure`.
    pub(crate) fn of(code: ErrorCode) -> Self {
        match code {
            ErrorCode::DUPLICATE_SEQUENCE_NUMBER => Self::Duplicate,
            ErrorCode::MESSAGE_TOO_LARGE | ErrorCode::RECORD_LIST_TOO_LARGE => Self::TooLarge,
            ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
            | ErrorCode::UNKNOWN_PRODUCER_ID
            | ErrorCode::INVALID_PRODUCER_EPOCH
            | ErrorCode::INVALID_PRODUCER_ID_MAPPING => Self::Sequence,
            ErrorCode::NOT_LEADER_OR_FOLLOWER
            | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
            | ErrorCode::KAFKA_STORAGE_ERROR
            | ErrorCode::REQUEST_TIMED_OUT
            | ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND
            | ErrorCode::UNKNOWN_SERVER_ERROR
            | ErrorCode::NETWORK_EXCEPTION => Self::RetryUnsure,
            code if code.is_retriable() => Self::Retry,
            _ => Self::Definite,
        }
    }

    /// Whether the leader should be looked up again before the next attempt.
    pub(crate) fn is_stale_metadata(code: ErrorCode) -> bool {
        code.is_refresh_retriable()
    }
}
