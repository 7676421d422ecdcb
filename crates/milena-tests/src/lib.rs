//! Unpublished: conformance, faults and regressions across the whole stack.
//!
//! A conformance test is a function of a [`cluster::Cluster`], made into tests by [`on_every_cluster!`]; what needs a
//! real Kafka is ignored by a plain `cargo test` and run by `cargo xtask test`, which selects it by the name of its
//! module: `one_node`, `three_nodes`, and `disturbed` for tests that stop nodes (three nodes, one test at a time). A test
//! that runs Java tools has `java_tools` in its name.
#![forbid(unsafe_code)]
// What the README shows gives no warning to whoever copies it.
#![doc(test(attr(deny(warnings))))]

pub mod cluster;
mod frames;
pub mod history;
pub mod kafka;
pub mod kafka_tools;
pub mod proxy;
pub mod simulation;
pub mod wire;

/// The README's programs, compiled and run as they stand there.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
