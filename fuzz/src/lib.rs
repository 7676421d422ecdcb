//! What the fuzz targets demand, as plain functions of bytes: a fuzz target calls one, and so does the test that replays
//! `regressions/`. They panic when a demand is not met.

pub mod codecs;
pub mod messages;
pub mod protocol;
