//! State machines of a Kafka client: no sockets, no tasks, no clock, no global randomness.
#![forbid(unsafe_code)]

pub mod consumer;
pub mod group;
pub mod handshake;
pub mod metadata;
pub mod producer;
pub mod retry;
pub mod timers;
