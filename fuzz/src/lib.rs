//! What the fuzz targets demand, as plain functions of bytes: a fuzz target calls one, and so does the test that replays
//! `regressions/`. They panic when a demand is not met.

pub mod bus;
pub mod cli;
pub mod codecs;
pub mod messages;
pub mod protocol;

/// The envelope as the crate `milena` has it.
#[allow(dead_code, unused_imports, reason = "most of it is for the rest of its crate")]
#[allow(missing_docs, rustdoc::broken_intra_doc_links, reason = "its crate documents it")]
#[path = "../../crates/milena/src/envelope/mod.rs"]
mod envelope;

/// Lines as the crate `milena-cli` has them.
#[allow(missing_docs, reason = "its crate documents it")]
#[path = "../../crates/milena-cli/src/jsonl.rs"]
mod jsonl;
