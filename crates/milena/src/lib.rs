//! An event bus on Kafka: typed events, order per aggregate, a failure policy. Runs embedded or on a cluster.
#![forbid(unsafe_code)]

// The derive writes `::milena::…`, which must also resolve in this crate's own tests.
extern crate self as milena;

#[allow(dead_code)]
mod clock;
mod delivery;
mod envelope;
mod event;
mod handler;
#[allow(dead_code)]
mod lanes;
mod policy;
mod record;
#[allow(dead_code)]
mod subscription;
mod topic;

pub use delivery::{Cancellation, Delivery};
pub use envelope::{EncodedEnvelope, Envelope, EnvelopeError, EventTime, Header, InvalidEnvelope, WireShape};
pub use event::{AggregateId, Event};
pub use handler::{FromDelivery, HandlerError, IntoOutcome, UnknownTypes};
pub use milena_macros::Event;
pub use policy::{Attempts, FailureKind, FailurePolicy, Then, dead_letter_headers};
pub use record::RawRecord;
pub use subscription::{Order, StopReason, SubscriptionEvent};
pub use topic::{InvalidTopic, TopicDeclaration, TopicStrategy};
