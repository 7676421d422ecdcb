//! Unpublished: conformance, faults and regressions across the whole stack.
//!
//! A conformance test is a function of a [`cluster::Cluster`], made into tests by [`on_every_cluster!`]; what needs a
//! real Kafka is ignored by a plain `cargo test` and run by `cargo xtask test`, which selects it by the name of its
//! module: `one_node`, `three_nodes`, and `disturbed` for tests that stop nodes (three nodes, one test at a time). A test
//! that runs Java tools has `java_tools` in its name.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod history;
pub mod kafka;
pub mod kafka_tools;
pub mod wire;
