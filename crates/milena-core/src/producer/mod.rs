//! The producer machines.
