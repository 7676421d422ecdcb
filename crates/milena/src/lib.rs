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
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bus = Bus::embedded().await?; // or Bus::kafka("host:9092"), or Bus::from_env()
//! let policy = FailurePolicy::attempts(5).then(Then::DeadLetter);
//! let billing = bus.subscribe(policy, async |order: OrderPlaced| println!("{} cents", order.cents)).group("billing").await?;
//! let receipt = bus.publish(&OrderPlaced { order_id: "o-17".into(), cents: 1_250 }).await?;
//! println!("{} is in partition {} of {}", receipt.event_id, receipt.partition, receipt.topic);
//! # billing.wait_for(|status| status.counts.handled == 1).await?;
//! let report = bus.close(std::time::Duration::from_secs(5)).await;
//! # assert!(report.is_complete());
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! - **Order.** An event's first successful handling never precedes that of an earlier event of its aggregate, and no two
//!   handlers of one aggregate overlap within an assignment epoch. Each aggregate has a lane of its own: one that waits
//!   for a retry keeps no other waiting.
//! - **Delivery.** At least once. A partition's committed offset is the contiguous prefix of what was handled or written
//!   off, never more. After a crash, what was finished since the last commit (each 100 ms or 1,000 events) is handled
//!   again; after [`Bus::close`], or a rebalance whose handlers end in time, nothing is.
//! - **Failure.** A [`FailurePolicy`] is required. An error, a panic and undecodable bytes end in a retry, a dead letter
//!   or a stop, as it says; nothing is dropped. A dead letter that can't be written holds its offset and raises an alarm.
//! - **Bounds.** Records in memory, handlers at once, waits and closes are all bounded; a full budget pauses fetching,
//!   never heartbeats.
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
