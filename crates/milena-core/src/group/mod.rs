//! The group machines.
