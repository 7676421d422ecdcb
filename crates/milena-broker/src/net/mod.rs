//! How clients reach the nodes: in-memory links and TCP, one task per connection.
//!
//! Knows frames and order; what a request means is [`crate::api`]'s business.

mod connection;
mod endpoints;
mod listener;

pub(crate) use self::{
    connection::{Link, serve},
    endpoints::{Endpoint, Endpoints, MEMORY_PORT, Via, memory_host},
    listener::listen,
};
