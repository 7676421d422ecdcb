//! Errors of the client, each with its class: what to do next follows from that.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use milena_core::metadata::MetadataError;
use milena_net::{ConnectError, RequestError as NetError, TaskSetClosed};
use milena_protocol::ErrorCode;

use crate::config::ConfigError;

/// What an error asks of the caller (KIP-1050).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// The same request may succeed later.
    Retriable,
    /// The same request may succeed once metadata or coordinator have been looked up anew.
    RefreshRetriable,
    /// The transaction must be aborted; then go on.
    Abortable,
    /// This producer or consumer must be made anew, or join again; the application can go on.
    ApplicationRecoverable,
    /// Something is configured wrongly: address, credentials, rights, names.
    InvalidConfiguration,
    /// Neither a retry nor a new start helps.
    Fatal,
}

impl ErrorClass {
    /// Whether trying again may help.
    pub fn is_retriable(self) -> bool {
        matches!(self, Self::Retriable | Self::RefreshRetriable)
    }

    /// The class of an error that a broker answered with.
    pub(crate) fn of(code: ErrorCode) -> Self {
        match code {
            code if code.is_refresh_retriable() => Self::RefreshRetriable,
            code if code.is_retriable() => Self::Retriable,
            ErrorCode::TRANSACTION_ABORTABLE => Self::Abortable,
            ErrorCode::ILLEGAL_GENERATION
            | ErrorCode::UNKNOWN_MEMBER_ID
            | ErrorCode::REBALANCE_IN_PROGRESS
            | ErrorCode::FENCED_INSTANCE_ID
            | ErrorCode::FENCED_MEMBER_EPOCH
            | ErrorCode::STALE_MEMBER_EPOCH
            | ErrorCode::PRODUCER_FENCED
            | ErrorCode::INVALID_PRODUCER_EPOCH
            | ErrorCode::INVALID_PRODUCER_ID_MAPPING => Self::ApplicationRecoverable,
            ErrorCode::TOPIC_AUTHORIZATION_FAILED
            | ErrorCode::GROUP_AUTHORIZATION_FAILED
            | ErrorCode::CLUSTER_AUTHORIZATION_FAILED
            | ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED
            | ErrorCode::SASL_AUTHENTICATION_FAILED
            | ErrorCode::UNSUPPORTED_VERSION
            | ErrorCode::INVALID_TOPIC_EXCEPTION
            | ErrorCode::INVALID_CONFIG
            | ErrorCode::INVALID_PARTITIONS
            | ErrorCode::INVALID_REPLICATION_FACTOR
            | ErrorCode::INVALID_GROUP_ID
            | ErrorCode::INVALID_SESSION_TIMEOUT
            | ErrorCode::INCONSISTENT_GROUP_PROTOCOL
            | ErrorCode::POLICY_VIOLATION => Self::InvalidConfiguration,
            _ => Self::Fatal,
        }
    }
}

/// The cause of an error, for [`std::error::Error::source`].
pub type Cause = Arc<dyn StdError + Send + Sync>;

/// Why a client could not be built.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The clock of the runtime is paused, and the connector is a real network.
    #[error("the clock is paused but the connector is a real network: use an in-memory connector, or resume the clock")]
    PausedClock,
    /// There is no runtime to run on.
    #[error("no runtime to run on: build the client inside a tokio runtime, or choose a dedicated one")]
    Runtime(#[source] Cause),
    /// No bootstrap server answered.
    #[error("none of the bootstrap servers {servers} answered within {timeout:?}")]
    Bootstrap {
        /// All that were tried.
        servers: String,
        /// The limit.
        timeout: Duration,
        /// Why the last one did not.
        #[source]
        source: RequestError,
    },
}

impl ClientError {
    /// What the error asks of the caller.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Bootstrap { source, .. } => source.class(),
            Self::Config(_) | Self::PausedClock | Self::Runtime(_) => ErrorClass::InvalidConfiguration,
        }
    }
}

/// Why an operation on the cluster failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No connection could be opened.
    #[error("cannot connect to {address}: check that the broker runs and that the address is right")]
    Unreachable {
        /// Where the broker should listen.
        address: String,
        /// What the system said.
        #[source]
        source: Cause,
    },
    /// What listens there is no Kafka broker, or not a listener of this kind.
    #[error("{address} is not a Kafka broker: {what}")]
    NotKafka {
        /// Where the broker should listen.
        address: String,
        /// What it seems to be, and what to try.
        what: String,
    },
    /// Broker and client could not agree on how to speak.
    #[error("handshake with {address} failed")]
    Handshake {
        /// The broker.
        address: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The connection ended before the answer.
    #[error("connection to {address} ended before the {api} request was answered")]
    Disconnected {
        /// The broker.
        address: String,
        /// Kafka's name of the request.
        api: &'static str,
        /// Whether the broker may have acted on it.
        written: bool,
        /// Why it ended.
        #[source]
        source: Cause,
    },
    /// A broker did not answer in time.
    #[error("{api} request to {address} had no answer within {timeout:?}: the broker may be overloaded or cut off")]
    TimedOut {
        /// The broker.
        address: String,
        /// Kafka's name of the request.
        api: &'static str,
        /// The limit.
        timeout: Duration,
        /// Whether the broker may have acted on it.
        written: bool,
    },
    /// All retries together took too long.
    #[error("{api} did not succeed within {timeout:?}, {attempts} attempts")]
    Exhausted {
        /// Kafka's name of the request.
        api: &'static str,
        /// The limit.
        timeout: Duration,
        /// How often it was tried.
        attempts: u32,
        /// Why the last attempt failed.
        #[source]
        source: Box<Self>,
    },
    /// The broker is too old for the request.
    #[error("{address} does not serve {api} in any version that this client speaks: upgrade the broker")]
    UnsupportedVersion {
        /// The broker.
        address: String,
        /// Kafka's name of the request.
        api: &'static str,
    },
    /// The request cannot be expressed in the version that the broker speaks.
    #[error("the {api} request cannot be sent")]
    Unsendable {
        /// Kafka's name of the request.
        api: &'static str,
        /// What does not fit.
        #[source]
        source: Cause,
    },
    /// The broker's answer cannot be read.
    #[error("answer of {address} to the {api} request cannot be read")]
    Malformed {
        /// The broker.
        address: String,
        /// Kafka's name of the request.
        api: &'static str,
        /// What is wrong with it.
        #[source]
        source: Cause,
    },
    /// The broker answered with an error.
    #[error("{subject}: the broker answered {name} ({code}){}", detail.as_deref().map(|text| format!(": {text}")).unwrap_or_default())]
    Broker {
        /// What was asked of it, with the topic, group or node concerned.
        subject: String,
        /// Kafka's error code.
        code: i16,
        /// Kafka's name of it.
        name: &'static str,
        /// What the broker adds.
        detail: Option<String>,
    },
    /// The topic does not exist.
    #[error("topic `{topic}` does not exist: create it first, or check the name")]
    UnknownTopic {
        /// Its name.
        topic: String,
    },
    /// The topic has no such partition.
    #[error("topic `{topic}` has no partition {partition}: it has {partitions}")]
    UnknownPartition {
        /// The topic.
        topic: String,
        /// The index asked for.
        partition: i32,
        /// How many there are.
        partitions: usize,
    },
    /// No topic can have this name.
    #[error("`{topic}` cannot be the name of a topic: {reason}")]
    InvalidTopicName {
        /// As given.
        topic: String,
        /// Kafka's rule that it breaks.
        reason: &'static str,
    },
    /// Nobody leads the partition now.
    #[error("partition {partition} of topic `{topic}` has no leader: wait for its brokers to come back")]
    NoLeader {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// The metadata names no broker that could take the request.
    #[error("no broker is known that could take the request: the cluster may be starting")]
    NoBroker,
    /// A broker of another cluster answers at a known address.
    #[error("a broker of cluster {found} answers where one of {expected} should: check the bootstrap servers")]
    OtherCluster {
        /// The cluster known so far.
        expected: String,
        /// The cluster of the answer.
        found: String,
    },
    /// The client is closed.
    #[error("the client is closed: build a new one")]
    Closed,
}

impl RequestError {
    /// An error code of a broker, about `subject`.
    pub(crate) fn broker(subject: impl Into<String>, code: ErrorCode, detail: Option<&str>) -> Self {
        let name = code.name().unwrap_or("an unknown error");
        Self::Broker { subject: subject.into(), code: code.0, name, detail: detail.map(str::to_owned) }
    }

    /// An error code of a broker, about `subject`, for crates that send raw requests.
    #[doc(hidden)]
    pub fn from_code(subject: impl Into<String>, code: i16, detail: Option<&str>) -> Self {
        Self::broker(subject, ErrorCode(code), detail)
    }

    /// What the error asks of the caller.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Disconnected { .. } | Self::TimedOut { .. } | Self::Unreachable { .. } => ErrorClass::Retriable,
            Self::NoLeader { .. } | Self::NoBroker => ErrorClass::RefreshRetriable,
            Self::UnknownTopic { .. } => ErrorClass::RefreshRetriable,
            Self::Exhausted { source, .. } => source.class(),
            Self::Broker { code, .. } => ErrorClass::of(ErrorCode(*code)),
            Self::NotKafka { .. }
            | Self::Handshake { .. }
            | Self::UnsupportedVersion { .. }
            | Self::UnknownPartition { .. }
            | Self::InvalidTopicName { .. } => ErrorClass::InvalidConfiguration,
            Self::Unsendable { .. } | Self::Malformed { .. } | Self::OtherCluster { .. } | Self::Closed => {
                ErrorClass::Fatal
            }
        }
    }

    /// Kafka's error code, if a broker answered with one.
    pub fn error_code(&self) -> Option<i16> {
        match self {
            Self::Broker { code, .. } => Some(*code),
            Self::UnknownTopic { .. } => Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0),
            Self::Exhausted { source, .. } => source.error_code(),
            _ => None,
        }
    }

    /// Whether the broker may have acted on the request although it failed.
    pub fn is_possibly_applied(&self) -> bool {
        match self {
            Self::Disconnected { written, .. } | Self::TimedOut { written, .. } => *written,
            Self::Malformed { .. } => true,
            Self::Exhausted { source, .. } => source.is_possibly_applied(),
            _ => false,
        }
    }
}

impl From<ConnectError> for RequestError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Unreachable { address, source } => Self::Unreachable { address: address.to_string(), source },
            ConnectError::TimedOut { address, timeout } => {
                let limit = format!("no connection within {timeout:?}");
                let source = Arc::new(io::Error::new(io::ErrorKind::TimedOut, limit));
                Self::Unreachable { address: address.to_string(), source }
            }
            ConnectError::NotKafka { address, what } => {
                Self::NotKafka { address: address.to_string(), what: what.to_string() }
            }
            ConnectError::Handshake { address, source } => Self::Handshake { address: address.to_string(), source },
            ConnectError::HandshakeInterrupted { address, source } => Self::Disconnected {
                address: address.to_string(),
                api: "ApiVersions",
                written: false,
                source: Arc::new(ConnectError::HandshakeInterrupted { address, source }),
            },
            ConnectError::Closed => Self::Closed,
            // `UnknownBroker`: metadata moved on between the choice and the dial.
            _ => Self::NoBroker,
        }
    }
}

impl From<NetError> for RequestError {
    fn from(error: NetError) -> Self {
        match error {
            NetError::TimedOut { api, address, timeout, written } => {
                Self::TimedOut { address: address.to_string(), api: api.name(), timeout, written }
            }
            NetError::Disconnected { api, address, written, reason } => {
                Self::Disconnected { address: address.to_string(), api: api.name(), written, source: reason }
            }
            NetError::UnsupportedVersion { api, address } => {
                Self::UnsupportedVersion { address: address.to_string(), api: api.name() }
            }
            NetError::Encode { api, ref source, .. } => {
                Self::Unsendable { api: api.name(), source: Arc::<milena_protocol::EncodeError>::clone(source) }
            }
            NetError::Decode { api, address, source, .. } => {
                Self::Malformed { address: address.to_string(), api: api.name(), source }
            }
            // Non-exhaustive: whatever is added is about a request that did not get through.
            other => Self::Malformed { address: String::new(), api: "request", source: Arc::new(other) },
        }
    }
}

impl From<MetadataError> for RequestError {
    fn from(error: MetadataError) -> Self {
        match error {
            MetadataError::Refused(code) => Self::broker("metadata", code, None),
            MetadataError::RebootstrapRequired => Self::broker("metadata", ErrorCode::REBOOTSTRAP_REQUIRED, None),
            MetadataError::OtherCluster { expected, found } => {
                Self::OtherCluster { expected: expected.to_string(), found: found.to_string() }
            }
            _ => Self::NoBroker,
        }
    }
}

impl From<TaskSetClosed> for RequestError {
    fn from(_: TaskSetClosed) -> Self {
        Self::Closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_the_codes() {
        for (code, class) in [
            (ErrorCode::NOT_LEADER_OR_FOLLOWER, ErrorClass::RefreshRetriable),
            (ErrorCode::REQUEST_TIMED_OUT, ErrorClass::Retriable),
            (ErrorCode::UNKNOWN_MEMBER_ID, ErrorClass::ApplicationRecoverable),
            (ErrorCode::TRANSACTION_ABORTABLE, ErrorClass::Abortable),
            (ErrorCode::TOPIC_AUTHORIZATION_FAILED, ErrorClass::InvalidConfiguration),
            (ErrorCode(9_999), ErrorClass::Fatal),
        ] {
            assert_eq!(RequestError::broker("x", code, None).class(), class, "{code}");
        }
    }

    #[test]
    fn unknown_codes_keep_their_number() {
        let error = RequestError::broker("creating topic `a`", ErrorCode(9_999), Some("odd"));
        assert_eq!(error.error_code(), Some(9_999));
        assert_eq!(error.to_string(), "creating topic `a`: the broker answered an unknown error (9999): odd");
    }
}
