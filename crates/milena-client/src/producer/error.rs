//! Why a record was not appended, and why one that was appended is not acknowledged: two errors, since only the second
//! leaves open whether the record was written.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use milena_core::producer::completion::Completion;
use milena_core::producer::failure::{Hindrance, ProduceFailure};
use milena_protocol::ErrorCode;
use milena_protocol::record::AppendError;

use crate::error::{Cause, ErrorClass, RequestError};

/// Why a record was not appended. Nothing of it was sent, and nothing will be.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// No topic can have this name.
    #[error("`{topic}` cannot be the name of a topic: {reason}")]
    InvalidTopicName {
        /// As given.
        topic: String,
        /// Kafka's rule that it breaks.
        reason: &'static str,
    },
    /// The topic's metadata could not be had within `max.block.ms`, or the topic does not exist.
    #[error("topic `{topic}` cannot be written to")]
    Topic {
        /// The topic.
        topic: String,
        /// Why.
        #[source]
        source: Box<RequestError>,
    },
    /// [`try_send`](super::Producer::try_send) does not wait for metadata.
    #[error("nothing is known of topic `{topic}` yet: await `send` for its first record")]
    TopicNotReady {
        /// The topic.
        topic: String,
    },
    /// The topic has no such partition.
    #[error("topic `{topic}` has no partition {partition}: it has {partitions}")]
    UnknownPartition {
        /// The topic.
        topic: String,
        /// As given, or as a custom partitioner chose.
        partition: i32,
        /// How many there are.
        partitions: i32,
    },
    /// The partitioner is `manual`, and the record names no partition.
    #[error("the record names no partition, and the partitioner is `manual`: name one")]
    NoPartition,
    /// The record alone is larger than a request may be.
    #[error("the record takes {bytes} bytes, above the limit of {limit}: raise `max.request.size`, or send less")]
    RecordTooLarge {
        /// Bytes in a batch of its own.
        bytes: usize,
        /// `max.request.size`.
        limit: usize,
    },
    /// The format cannot hold the record.
    #[error("the record cannot be written")]
    Unencodable(#[source] Cause),
    /// `buffer.memory` is used up, and [`try_send`](super::Producer::try_send) does not wait.
    #[error("`buffer.memory` of {limit} bytes is used up: await `send`, or send less")]
    BufferFull {
        /// The budget.
        limit: usize,
    },
    /// `buffer.memory` stayed used up for `max.block.ms`.
    #[error("no room within `max.block.ms` of {waited:?}: the cluster takes records more slowly than they are sent")]
    Blocked {
        /// The limit.
        waited: Duration,
    },
    /// The producer is closed.
    #[error("the producer is closed: build a new one")]
    Closed,
}

impl SendError {
    /// What the error asks of the caller.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Topic { source, .. } => source.class(),
            Self::TopicNotReady { .. } | Self::BufferFull { .. } | Self::Blocked { .. } => ErrorClass::Retriable,
            Self::InvalidTopicName { .. } | Self::UnknownPartition { .. } | Self::NoPartition => {
                ErrorClass::InvalidConfiguration
            }
            Self::RecordTooLarge { .. } => ErrorClass::InvalidConfiguration,
            Self::Unencodable(_) | Self::Closed => ErrorClass::Fatal,
        }
    }

    pub(crate) fn unencodable(error: AppendError) -> Self {
        Self::Unencodable(Arc::new(error))
    }
}

/// What is certain about a record that was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was not written, and never will be.
    Failed,
    /// It may be in the log, or not. Sending it again may write it twice.
    PossiblyWritten,
}

/// Why a record is not acknowledged.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
// A tag as wide as the words behind it: behind one byte, the metadata of a record is copied across its words.
#[repr(usize)]
pub enum ProduceError {
    /// It was never appended to a batch.
    #[error("the record was not appended")]
    NotSent(#[source] SendError),
    /// The broker refused it.
    #[error("{topic}-{partition}: the broker answered {name} ({code}){}", detail.as_deref().map(|text| format!(": {text}")).unwrap_or_default())]
    Refused {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Kafka's error code.
        code: i16,
        /// Kafka's name of it.
        name: &'static str,
        /// What the broker adds.
        detail: Option<String>,
        /// What is certain.
        outcome: Outcome,
    },
    /// `delivery.timeout.ms` ran out.
    #[error("{topic}-{partition}: not acknowledged within `delivery.timeout.ms` of {limit:?}{}{}", last.map(|name| format!(", last error {name}")).unwrap_or_default(), hindrance.map(|lack| format!(", {lack}")).unwrap_or_default())]
    DeliveryTimeout {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The limit.
        limit: Duration,
        /// Kafka's name of the last error, if the broker answered at all.
        last: Option<&'static str>,
        /// What is certain.
        outcome: Outcome,
        /// What kept the record from being sent, or sent again, when it ran out.
        hindrance: Option<Hindrance>,
        /// Why that was missing.
        source: Option<Arc<RequestError>>,
    },
    /// A batch sent before the record's was given up while it may have been written. Whether the record was can't be
    /// found out any more: asking could write it twice.
    #[error("{topic}-{partition}: possibly written, as is a batch sent before it that ran out of time or was refused{}", last.map(|name| format!(", last error {name}")).unwrap_or_default())]
    Unsettled {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Kafka's name of the last error, if the broker answered at all.
        last: Option<&'static str>,
    },
    /// There is no producer id, and there won't be one until something is changed in the cluster.
    #[error("{topic}-{partition}: idempotence needs a producer id, and there is none: {reason}")]
    NoProducerId {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Kafka's error code, if the broker answered with one.
        code: Option<i16>,
        /// Which broker, and why not.
        reason: String,
        /// What is certain.
        outcome: Outcome,
    },
    /// The partition's leader serves Produce in no version that this client speaks.
    #[error("{topic}-{partition}: {broker} serves {}, and this client speaks {}: upgrade the older of them", versions(theirs.as_ref()), versions(Some(ours)))]
    UnsupportedVersion {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Which broker, by node id and address.
        broker: String,
        /// The versions that it serves; `None` where it serves no Produce at all.
        theirs: Option<RangeInclusive<i16>>,
        /// The versions in which this client can send the record.
        ours: RangeInclusive<i16>,
        /// What is certain.
        outcome: Outcome,
    },
    /// The producer was closed before the record was acknowledged.
    #[error("{topic}-{partition}: the producer was closed before the record was acknowledged")]
    Closed {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// What is certain.
        outcome: Outcome,
    },
    /// The batch could not be written.
    #[error("{topic}-{partition}: the batch cannot be sent: {reason}")]
    Unsendable {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Why.
        reason: String,
    },
}

impl ProduceError {
    pub(crate) fn new(completion: &Completion, failure: ProduceFailure, outcome: Outcome) -> Self {
        let (topic, partition) = (completion.topic().to_owned(), completion.partition());
        match failure {
            ProduceFailure::Broker { code, message } => Self::Refused {
                topic,
                partition,
                code: code.0,
                name: code.name().unwrap_or("an unknown error"),
                detail: message.map(|message| message.as_ref().to_owned()),
                outcome,
            },
            ProduceFailure::DeliveryTimeout { limit, last, hindrance } => {
                let last = last.map(|code| code.name().unwrap_or("unknown"));
                let (hindrance, cause) = hindrance.map_or((None, None), |(hindrance, cause)| (Some(hindrance), cause));
                let source = cause.and_then(|cause| cause.0.downcast_ref::<RequestError>().cloned()).map(Arc::new);
                Self::DeliveryTimeout { topic, partition, limit, last, outcome, hindrance, source }
            }
            ProduceFailure::Unsettled { last } => {
                Self::Unsettled { topic, partition, last: last.map(|code| code.name().unwrap_or("unknown")) }
            }
            ProduceFailure::NoProducerId { code, reason } => {
                let (code, reason) = (code.map(|code| code.0), reason.as_ref().to_owned());
                Self::NoProducerId { topic, partition, code, reason, outcome }
            }
            ProduceFailure::NoCommonVersion { broker, theirs, ours } => Self::UnsupportedVersion {
                topic,
                partition,
                broker: broker.as_ref().to_owned(),
                theirs: theirs.map(|theirs| theirs.min..=theirs.max),
                ours: ours.min..=ours.max,
                outcome,
            },
            ProduceFailure::Unsendable(reason) => {
                Self::Unsendable { topic, partition, reason: reason.as_ref().to_owned() }
            }
            // Non-exhaustive: what is added ends a record for a reason of the producer's own.
            _ => Self::Closed { topic, partition, outcome },
        }
    }

    /// What is certain about the record.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::NotSent(_) | Self::Unsendable { .. } => Outcome::Failed,
            Self::Unsettled { .. } => Outcome::PossiblyWritten,
            Self::Refused { outcome, .. }
            | Self::DeliveryTimeout { outcome, .. }
            | Self::NoProducerId { outcome, .. }
            | Self::UnsupportedVersion { outcome, .. }
            | Self::Closed { outcome, .. } => *outcome,
        }
    }

    /// What the error asks of the caller.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotSent(error) => error.class(),
            Self::Refused { code, .. } => ErrorClass::of(ErrorCode(*code)),
            Self::DeliveryTimeout { .. } | Self::Unsettled { .. } => ErrorClass::Retriable,
            Self::NoProducerId { code: Some(code), .. } => ErrorClass::of(ErrorCode(*code)),
            Self::NoProducerId { code: None, .. } | Self::UnsupportedVersion { .. } => ErrorClass::InvalidConfiguration,
            Self::Closed { .. } | Self::Unsendable { .. } => ErrorClass::Fatal,
        }
    }

    /// Kafka's error code, if a broker refused the record, or a producer id.
    pub fn error_code(&self) -> Option<i16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::NoProducerId { code, .. } => *code,
            _ => None,
        }
    }
}

fn versions(range: Option<&RangeInclusive<i16>>) -> String {
    range.map_or_else(
        || "no Produce".to_owned(),
        |range| format!("Produce in versions {} to {}", range.start(), range.end()),
    )
}

impl From<SendError> for ProduceError {
    fn from(error: SendError) -> Self {
        Self::NotSent(error)
    }
}
