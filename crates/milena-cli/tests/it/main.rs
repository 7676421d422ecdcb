//! Tests of milena-cli from outside, in one binary.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test itself")]

mod regressions;
