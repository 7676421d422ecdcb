//! Tests of milena-cli from outside, in one binary: the real `milena`, against a `milena broker` of its own.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test itself")]

mod broker;
mod consume;
mod demo_and_bench;
mod groups;
mod produce;
mod regressions;
mod support;
mod topics;
mod usage;
