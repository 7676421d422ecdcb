//! A subscription: one consumer, the lanes of its partitions, its handlers and its policy, under one handle.
//!
//! `engine` decides and runs handlers, and knows no client; `driver` is the one task that owns both the engine and the
//! consumer; `handle` is what the user holds.

mod background;
mod builder;
mod consumer;
mod driver;
mod engine;
mod handle;
mod status;
mod workers;

#[cfg(test)]
mod engine_tests;

pub use builder::{StartAt, Subscribe};
pub use engine::Order;
pub use handle::{CloseReport, SeekTo, Subscription, SubscriptionError, SubscriptionEvents};
pub use status::{Counts, StopReason, SubscriptionEvent, SubscriptionState, SubscriptionStatus};

pub(crate) use driver::describe;
pub(crate) use handle::LONGEST_CLOSE;
