//! What the benchmarks stand on: a broker that answers at once, so that what is measured is the client.
#![forbid(unsafe_code)]

pub mod answer_at_once;
