//! An event bus on Kafka: typed events, order per aggregate, a failure policy. Runs embedded or on a cluster.
//!
//! Three concepts: open a [`Bus`], [`subscribe`](Bus::subscribe) an async function, [`publish`](Bus::publish) a value.
//!
//! ```
//! use milena::{Bus, Event, FailurePolicy, Then};
//!
//! #[derive(serde::Serialize, serde::Deserialize, Event)]
//! #[event(type = "orders.placed", topic = "orders", aggregate = order_id)]
//! struct OrderPlaced { order_id: String, cents: u64 }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let bus = Bus::embedded().await?; // or Bus::kafka("host:9092"), or Bus::from_env()
//!     let policy = FailurePolicy::attempts(3).then(Then::DeadLetter);
//!     let billing = bus.subscribe(policy, |order: OrderPlaced| async move { println!("{}", order.cents) }).group("billing").await?;
//!     bus.publish(&OrderPlaced { order_id: "o-17".into(), cents: 1250 }).await?;
//!     billing.wait_for(|status| status.counts.handled == 1).await?; // a service would wait for its signal to end
//!     assert!(bus.close(std::time::Duration::from_secs(5)).await.is_complete());
//!     Ok(())
//! }
//! ```
//!
//! Closing finishes what was begun; what was published and not fetched yet stays in its topic for the next start. So the
//! program waits for its event before it closes.
//!
//! # What is promised
//!
//! - **Order.** An event's first successful handling never precedes that of an earlier event of its aggregate, and no two
//!   handlers of one aggregate overlap within an assignment epoch. Each aggregate has a lane of its own: one that waits
//!   for a retry keeps no other waiting. Adding partitions to a topic moves aggregates, and what was published before
//!   and after is not in order: it is warned of ([`SubscriptionEvent::PartitionsAdded`]).
//! - **Delivery.** At least once. A partition's committed offset is the contiguous prefix of what was handled or written
//!   off, never more. After a crash, what was finished since the last acknowledged commit (begun each 100 ms or 1,000
//!   events) is handled again, and so is what was finished beyond the oldest event that was not; after [`Bus::close`], or
//!   a rebalance whose handlers end in time, nothing is. A position that the broker no longer has is never left in
//!   silence ([`SubscriptionEvent::PositionLost`]).
//! - **Failure.** A [`FailurePolicy`] is required. An error, a panic and undecodable bytes end in a retry, a dead letter
//!   or a stop, as it says; nothing is dropped. A dead letter that can't be written holds its offset and raises an alarm.
//! - **Bounds.** Records in memory, handlers at once, waits and closes are all bounded; a full budget pauses fetching,
//!   never heartbeats. The budget is one for all partitions of a subscription; a batch that was fetched may overshoot it.
//!   A partition whose oldest event does not end is paused at four times as many records beyond it
//!   ([`Subscribe::budget`]).
//!
//! # On the wire
//!
//! Events are CloudEvents in Kafka's binary mode, keyed by aggregate id, or JSON envelopes
//! ([`WireShape`]); either is read, whatever is written. See [`Envelope`].
//!
//! # Features
//!
//! `embedded` (default): [`Bus::embedded`], a Kafka-protocol broker inside the process. `gzip`, `snappy`, `lz4`, `zstd`
//! (default): the codecs that can be read and written.
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
