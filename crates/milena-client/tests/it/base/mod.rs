//! The client's base: bootstrap, metadata, routing, coordinators, close.

mod bootstrap;
mod close;
pub(crate) mod links;
mod metadata;
mod real;
mod routing;
