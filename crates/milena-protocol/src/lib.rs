//! The Kafka wire protocol: messages, record batches, compression. No I/O, no clock.
#![forbid(unsafe_code)]
