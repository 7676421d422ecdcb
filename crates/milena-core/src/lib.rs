//! State machines of a Kafka client: no sockets, no tasks, no clock, no global randomness.
#![forbid(unsafe_code)]
