//! Derive macros of the milena event bus.
#![forbid(unsafe_code)]
