//! Administration of the embedded broker, and of real Kafka: the same checks on both.

mod checks;
mod cluster;
mod faults;
mod suite;
