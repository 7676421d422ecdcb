//! The bus on the embedded broker, under a paused clock: what a user sees, and what must never happen.

mod close;
mod dynamic;
mod failure;
mod group;
mod interop;
mod order;
mod publish;
mod support;
