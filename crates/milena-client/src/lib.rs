//! A Kafka client: producer, consumer and raw requests, in pure Rust.
#![forbid(unsafe_code)]

pub mod consumer;
pub mod producer;
