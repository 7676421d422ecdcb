//! The broker as clients see it: every test speaks the protocol over an in-memory link or TCP.

mod admin;
mod client;
mod connections;
mod faults;
mod fetch;
mod groups;
mod metadata;
mod nodes;
mod offsets;
mod produce;
mod sessions;
mod versions;
