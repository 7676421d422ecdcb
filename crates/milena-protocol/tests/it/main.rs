//! Tests of milena-protocol from outside, in one binary.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test itself")]

mod compress_codecs;
mod fetch_decoding;
mod generated;
mod golden;
mod java_tools;
mod laws;
mod oracle;
mod produce_framing;
mod random;
mod record_broker;
mod record_golden;
mod record_hostile;
mod record_oracle;
mod record_source;
mod record_written;
mod regressions;
