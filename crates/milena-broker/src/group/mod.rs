//! The group coordinator: classic groups, shared by all nodes of a broker.
//!
//! [`classic`] is the state machine, [`coordinator`] its task-side: parked answers and timers. An API is a file
//! `api/kNN_name.rs`; whether a node may answer for a group says
//! [`Cluster::check_coordinator`](crate::cluster::Cluster::check_coordinator).

pub(crate) mod classic;
mod coordinator;
pub(crate) mod member;
pub(crate) mod offsets;
#[cfg(test)]
mod tests;

pub(crate) use self::coordinator::{Caller, GroupDescription, Groups};
