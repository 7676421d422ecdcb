//! Unpublished: conformance, faults and regressions across the whole stack.
#![forbid(unsafe_code)]

pub mod kafka;
pub mod kafka_tools;
