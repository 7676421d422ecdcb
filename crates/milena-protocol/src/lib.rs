//! The Kafka wire protocol: messages, record batches, compression. No I/O, no clock.
#![forbid(unsafe_code)]

pub mod compress;
pub mod fetch;
pub mod frame;
pub mod messages;
pub mod produce;
pub mod record;
