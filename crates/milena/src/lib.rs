//! An event bus on Kafka: typed events, order per aggregate, a failure policy. Runs embedded or on a cluster.
#![forbid(unsafe_code)]

// The derive writes `::milena::…`, which must also resolve in this crate's own tests.
#[cfg(test)]
extern crate self as milena;

mod bus;
mod delivery;
mod envelope;
mod event;
mod handler;
mod lanes;
mod policy;
mod record;
mod subscription;
mod topic;

pub use bus::{Bus, BusBuilder, OpenError, PublishError, Receipt, StartError, SubscribeError, TopicError};
pub use delivery::{Cancellation, Delivery};
pub use envelope::{
    EncodedEnvelope, Envelope, EnvelopeError, EventTime, Header, InvalidEnvelope, TimeOutOfRange, WireShape,
};
pub use event::{AggregateId, Event};
pub use handler::{FromDelivery, HandlerError, IntoOutcome, UnknownTypes};
pub use milena_macros::Event;
pub use policy::{Attempts, FailureKind, FailurePolicy, Then, dead_letter_headers};
pub use record::RawRecord;
pub use subscription::{
    CloseReport, Counts, Order, SeekTo, StartAt, StopReason, Subscribe, Subscription, SubscriptionError,
    SubscriptionEvent, SubscriptionEvents, SubscriptionState, SubscriptionStatus,
};
pub use topic::{InvalidTopic, TopicDeclaration, TopicStrategy};
