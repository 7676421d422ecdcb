//! What can go wrong between a request and its answer. Names the address and what to try; whether to try again is the
//! caller's to decide.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use milena_core::handshake::HandshakeError;
use milena_protocol::ApiKey;
use milena_protocol::{DecodeError, EncodeError};

use crate::address::BrokerAddress;

/// Why a request has no answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The time limit passed. If any byte had been written, the broker may still act on the request.
    #[error("{} request to {address} had no answer within {timeout:?}: the broker may be overloaded or cut off", api.name())]
    TimedOut {
        /// The request.
        api: ApiKey,
        /// The broker.
        address: BrokerAddress,
        /// The limit that passed.
        timeout: Duration,
        /// Whether any byte of the request may have reached the broker.
        written: bool,
    },
    /// The connection ended first.
    #[error("connection to {address} ended before the {} request was answered", api.name())]
    Disconnected {
        /// The request.
        api: ApiKey,
        /// The broker.
        address: BrokerAddress,
        /// Whether any byte of the request may have reached the broker.
        written: bool,
        /// Why it ended.
        #[source]
        reason: Arc<CloseReason>,
    },
    /// Client and broker share no version of the API.
    #[error("{address} serves no version of {} that this client speaks: upgrade the broker, or do without", api.name())]
    UnsupportedVersion {
        /// The request.
        api: ApiKey,
        /// The broker.
        address: BrokerAddress,
    },
    /// The request holds something that its version cannot carry.
    #[error("{} request cannot be written in version {version}", api.name())]
    Encode {
        /// The request.
        api: ApiKey,
        /// The version chosen.
        version: i16,
        /// What does not fit.
        #[source]
        source: Arc<EncodeError>,
    },
    /// The answer is not what its version says; the connection was closed.
    #[error("answer of {address} to the {} request, version {version}, cannot be read", api.name())]
    Decode {
        /// The request.
        api: ApiKey,
        /// The version used.
        version: i16,
        /// The broker.
        address: BrokerAddress,
        /// What is wrong with it.
        #[source]
        source: Arc<DecodeError>,
    },
}

impl RequestError {
    /// Whether any byte of the request may have reached the broker. `false` means that it is safe to send the request
    /// again whatever it does; `true` means that the broker may have acted on it.
    pub fn written(&self) -> bool {
        match self {
            Self::TimedOut { written, .. } | Self::Disconnected { written, .. } => *written,
            Self::UnsupportedVersion { .. } | Self::Encode { .. } => false,
            Self::Decode { .. } => true,
        }
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// This client closed it.
    #[error("closed by this client")]
    Closed,
    /// Nothing was asked for longer than `connections.max.idle.ms`.
    #[error("closed after being idle for {0:?}")]
    Idle(Duration),
    /// A request had no answer in time; what may still come could no longer be told apart.
    #[error("closed because the {} request had no answer in time", .0.name())]
    RequestTimedOut(ApiKey),
    /// The broker closed it.
    #[error("closed by the broker{}", if *mid_frame { " in the middle of a frame" } else { "" })]
    EndOfStream {
        /// Whether part of an answer had arrived.
        mid_frame: bool,
    },
    /// Reading or writing failed.
    #[error("connection failed")]
    Io(#[source] io::Error),
    /// An answer carries another number than the request it must belong to.
    #[error("answer number {found} came where number {expected} was due")]
    CorrelationMismatch {
        /// Of the oldest unanswered request.
        expected: i32,
        /// On the wire.
        found: i32,
    },
    /// An answer came although nothing was asked.
    #[error("an answer came that nothing asked for")]
    Unsolicited,
    /// A frame announces a length that no answer may have.
    #[error("a frame announces {announced} bytes, outside 1 to {limit}")]
    FrameLength {
        /// The length on the wire.
        announced: i32,
        /// The limit.
        limit: usize,
    },
    /// What answers is not a Kafka broker, or not a plaintext listener.
    #[error("{0}")]
    NotKafka(NotKafka),
    /// An answer cannot be read.
    #[error("an answer cannot be read")]
    Undecodable(#[source] DecodeError),
    /// The task that serves the connection ended with its runtime.
    #[error("the runtime that served the connection has ended")]
    RuntimeEnded,
}

impl CloseReason {
    /// Whether it ended without any trouble with the broker.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Closed | Self::Idle(_) | Self::RuntimeEnded)
    }
}

/// What seems to listen where a Kafka broker should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotKafka {
    /// The answer starts like HTTP.
    #[error("an HTTP server answers there: use the port of the Kafka listener")]
    Http,
    /// The answer starts like a TLS record.
    #[error("a TLS listener answers there: use the port of the plaintext listener")]
    Tls,
    /// The answer is no Kafka frame.
    #[error("what answers there does not speak the Kafka protocol: check the port")]
    Unknown,
}

/// Why there is no connection.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No stream could be opened.
    #[error("cannot connect to {address}: check that the broker runs and that the address is right")]
    Unreachable {
        /// The broker.
        address: BrokerAddress,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The stream did not open, or the handshake did not end, in time.
    #[error("no connection to {address} within {timeout:?}: check the address, the port and the network between")]
    TimedOut {
        /// The broker.
        address: BrokerAddress,
        /// The limit that passed.
        timeout: Duration,
    },
    /// Something else listens there.
    #[error("{address} is not a Kafka broker: {what}")]
    NotKafka {
        /// The address.
        address: BrokerAddress,
        /// What it seems to be.
        what: NotKafka,
    },
    /// The stream ended during the handshake.
    #[error("{address} ended the connection during the handshake: is it a plaintext Kafka listener?")]
    HandshakeInterrupted {
        /// The broker.
        address: BrokerAddress,
        /// How it ended.
        #[source]
        source: Arc<RequestError>,
    },
    /// The broker refused the handshake, or speaks no version that we do.
    #[error("handshake with {address} failed")]
    Handshake {
        /// The broker.
        address: BrokerAddress,
        /// Why.
        #[source]
        source: Arc<HandshakeError>,
    },
    /// The pool was told of no such broker.
    #[error("broker {node} is not in the metadata of the cluster: refresh it")]
    UnknownBroker {
        /// The node id asked for.
        node: i32,
    },
    /// The pool is closed.
    #[error("the client is closed: build a new one")]
    Closed,
}
