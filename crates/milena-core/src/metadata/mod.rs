//! The metadata machines.
