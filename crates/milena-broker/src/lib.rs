//! An embedded Kafka-protocol broker for tests, demos and development.
#![forbid(unsafe_code)]
