//! The broker as clients see it: every test speaks the protocol over an in-memory link or TCP.

mod admin;
mod client;
mod connections;
mod faults;
mod fetch;
mod group_versions;
mod groups;
mod metadata;
mod nodes;
mod offsets;
mod produce;
mod real_clients;
mod sessions;
mod versions;
