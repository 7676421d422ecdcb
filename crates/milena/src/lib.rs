//! An event bus on Kafka: typed events, order per aggregate, a failure policy. Runs embedded or on a cluster.
#![forbid(unsafe_code)]

// The derive writes `::milena::…`, which must also resolve in this crate's own tests.
extern crate self as milena;

mod envelope;
mod event;
#[allow(dead_code)]
mod lanes;
mod topic;

pub use envelope::{EncodedEnvelope, Envelope, EnvelopeError, EventTime, Header, InvalidEnvelope, WireShape};
pub use event::{AggregateId, Event};
pub use milena_macros::Event;
pub use topic::{InvalidTopic, TopicDeclaration, TopicStrategy};
