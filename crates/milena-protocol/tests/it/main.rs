//! Tests of milena-protocol from outside, in one binary.

mod generated;
mod laws;
mod oracle;
mod random;
