//! A Kafka client in pure Rust: producer, consumer, and what both stand on.
//!
//! [`Client`] finds the cluster and keeps its connections; a [`producer::Producer`] and a [`consumer::Consumer`] are
//! built on one. Errors say their [class](ErrorClass), and with it what to do next.
#![forbid(unsafe_code)]

mod client;
mod clock;
mod config;
pub mod consumer;
mod error;
pub mod producer;
#[doc(hidden)]
pub mod raw;
mod runtime;
mod stall;
#[cfg(test)]
mod test_link;
mod topic_name;

pub use client::{Client, ClientBuilder, CloseReport, Cluster, Node, Partition, Topic};
pub use clock::TimeSource;
pub use config::{ClientConfig, ConfigError};
pub use error::{Cause, ClientError, ErrorClass, RequestError};
pub use milena_core::consumer::TopicPartition;
#[doc(no_inline)]
pub use milena_net::{BoxFuture, BrokerAddress, Connector, TcpConnector, Transport};
pub use runtime::RuntimeChoice;
