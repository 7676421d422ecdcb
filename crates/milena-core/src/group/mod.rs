//! The group machines.

pub mod assignor;
mod java_order;
