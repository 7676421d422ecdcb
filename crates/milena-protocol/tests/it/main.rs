//! Tests of milena-protocol from outside, in one binary.

mod compress_codecs;
mod fetch_decoding;
mod generated;
mod laws;
mod oracle;
mod produce_framing;
mod random;
mod record_broker;
mod record_golden;
mod record_hostile;
mod record_source;
mod record_written;
