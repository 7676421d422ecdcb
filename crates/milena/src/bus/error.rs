//! Errors of the bus, by operation, each saying what to do next.

use milena_client::producer::{ProduceError, SendError};
use milena_client::{ClientError, ConfigError, ErrorClass, RequestError};

use crate::envelope::EnvelopeError;
use crate::topic::InvalidTopic;

/// Why a bus could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Nobody said where the cluster is.
    #[error("no cluster is named: set KAFKA_BOOTSTRAP_SERVERS to host:port, or use Bus::kafka or Bus::embedded")]
    NoBootstrapServers,
    /// The group is blank.
    #[error("the group is blank: name it, or leave it to each subscription")]
    BlankGroup,
    /// The source is blank.
    #[error("the source is blank: say who publishes, such as /shop/checkout")]
    BlankSource,
    /// A setting of the producer is the bus's own to make: it would break what the bus promises.
    #[error("{key} can't be set on a bus: events are acknowledged by all in-sync replicas, once, keyed by aggregate")]
    Reserved {
        /// The setting.
        key: &'static str,
    },
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The client could not be built.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Why an event was not published, or is not known to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The envelope can't be written. Nothing was sent.
    #[error("the event can't be written")]
    Envelope(#[from] EnvelopeError),
    /// The topic is illegal. Nothing was sent.
    #[error(transparent)]
    Topic(#[from] InvalidTopic),
    /// The topic is missing, or differs from its declaration. Nothing was sent.
    #[error(transparent)]
    TopicUnavailable(#[from] TopicError),
    /// An earlier event of the same aggregate in the same batch was not sent, so this one was not either: publishing
    /// that one again must not put it behind this one. Nothing was sent.
    #[error("an earlier event of aggregate {aggregate_id:?} in the batch was not sent; publish both again, in order")]
    Withheld {
        /// The aggregate.
        aggregate_id: String,
    },
    /// The producer did not take the record. Nothing was sent.
    #[error("the event was not taken for sending")]
    Send(#[source] SendError),
    /// The record was not acknowledged. [`PublishError::is_possibly_written`] says whether it may be in the topic.
    #[error("the event was not acknowledged")]
    Produce(#[source] ProduceError),
}

impl PublishError {
    /// Whether the event may be in its topic all the same, so that publishing it again may write it twice.
    pub fn is_possibly_written(&self) -> bool {
        match self {
            Self::Produce(error) => error.outcome() == milena_client::producer::Outcome::PossiblyWritten,
            _ => false,
        }
    }

    /// What it asks of the caller.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Envelope(_) | Self::Topic(_) => ErrorClass::InvalidConfiguration,
            Self::TopicUnavailable(error) => error.class(),
            Self::Withheld { .. } => ErrorClass::Retriable,
            Self::Send(error) => error.class(),
            Self::Produce(error) => error.class(),
        }
    }
}

/// Why a topic can't be used.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// It is missing, and the strategy is not to create it.
    #[error("topic {topic} does not exist, and the bus was told not to create topics; create it first")]
    Missing {
        /// The topic.
        topic: String,
    },
    /// It has another number of partitions than declared, and the strategy is to validate.
    #[error("topic {topic} has {found} partitions and is declared with {declared}; change one of the two")]
    Partitions {
        /// The topic.
        topic: String,
        /// How many there are.
        found: usize,
        /// How many are declared.
        declared: i32,
    },
    /// It could not be created.
    #[error("topic {topic} could not be created")]
    Create {
        /// The topic.
        topic: String,
        /// Why.
        #[source]
        source: RequestError,
    },
    /// Whether it exists could not be found out.
    #[error("topic {topic} could not be looked up")]
    LookUp {
        /// The topic.
        topic: String,
        /// Why.
        #[source]
        source: RequestError,
    },
}

impl TopicError {
    /// What it asks of the caller.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Missing { .. } | Self::Partitions { .. } => ErrorClass::InvalidConfiguration,
            Self::Create { source, .. } | Self::LookUp { source, .. } => source.class(),
        }
    }
}

/// Why the position that a group shall start at could not be committed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the position to start at could not be committed for group {group}")]
pub struct StartError {
    /// The group.
    pub group: String,
    /// Why.
    #[source]
    pub source: RequestError,
}

/// Why a subscription could not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// No group is named. Subscriptions of one group share the events; without a name, nobody knows with whom.
    #[error("no group is named: say .group(\"...\") or set MILENA_GROUP")]
    NoGroup,
    /// No topic is named: a handler of envelopes takes any type, so it can't know its topic.
    #[error("no topic is named: say .topic(\"...\")")]
    NoTopic,
    /// Two handlers want the same event type.
    #[error("two handlers want {event_type}; a subscription has one for each event type")]
    DuplicateHandler {
        /// The event type.
        event_type: &'static str,
    },
    /// The topic is subscribed in this group already, through this bus. The two would split its partitions, and each
    /// would miss the other's half.
    #[error("topic {topic} is subscribed in group {group} already; add the handler to that subscription with .on(...)")]
    AlreadySubscribed {
        /// The topic.
        topic: String,
        /// The group.
        group: String,
    },
    /// A topic's name is illegal.
    #[error(transparent)]
    Topic(#[from] InvalidTopic),
    /// A topic is missing, or differs from its declaration.
    #[error(transparent)]
    TopicUnavailable(#[from] TopicError),
    /// A dead-letter topic would be one of the topics that are read.
    #[error("dead letters of {topic} would go to {topic} itself; name another dead-letter topic")]
    DeadLetterLoop {
        /// The topic.
        topic: String,
    },
    /// The position to start at could not be committed.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A setting is the bus's own to make.
    #[error("{key} can't be set on a subscription: {instead}")]
    Reserved {
        /// The setting.
        key: &'static str,
        /// What to say instead.
        instead: &'static str,
    },
    /// The consumer could not be built.
    #[error("the consumer could not be built")]
    Consumer(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The bus is closed.
    #[error("the bus is closed")]
    Closed,
}
