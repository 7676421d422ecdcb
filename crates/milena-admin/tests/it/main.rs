//! Administration of the embedded broker, and of a real Kafka where one runs: the same checks on both.

mod checks;
mod cluster;
mod faults;
mod suite;
