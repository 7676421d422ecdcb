//! The consumer machines.
