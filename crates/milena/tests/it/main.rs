//! The bus on the embedded broker, under a paused clock: what a user sees, and what must never happen.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test itself")]

mod close;
mod dynamic;
mod failure;
mod faults;
mod group;
mod interop;
mod knobs;
mod order;
mod publish;
mod readme;
mod regressions;
mod start;
mod support;
