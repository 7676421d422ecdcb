//! What a handler is given: the event, its envelope, where it came from, and which attempt this is.
//!
//! No Kafka type: a handler sees names and numbers only.

use std::sync::Arc;

use tokio::sync::watch;

use crate::envelope::Envelope;
use crate::record::RawRecord;

/// An event on its way through a handler, with everything known about it.
///
/// A handler that needs the event alone takes the event itself instead.
#[derive(Debug)]
pub struct Delivery<E> {
    event: E,
    context: Context,
}

/// What is known about a delivery beside its event.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) record: Arc<RawRecord>,
    pub(crate) envelope: Arc<Envelope>,
    pub(crate) attempt: u32,
    pub(crate) epoch: u64,
    pub(crate) cancellation: Cancellation,
}

impl<E> Delivery<E> {
    pub(crate) fn new(event: E, context: Context) -> Self {
        Self { event, context }
    }

    /// The same delivery of something else.
    pub(crate) fn with_event<T>(self, event: T) -> Delivery<T> {
        Delivery { event, context: self.context }
    }

    /// The event.
    pub fn event(&self) -> &E {
        &self.event
    }

    /// The event, owned.
    pub fn into_event(self) -> E {
        self.event
    }

    /// Id, aggregate, time, correlation and whatever else came with the event.
    pub fn envelope(&self) -> &Envelope {
        &self.context.envelope
    }

    /// The aggregate that the event happened to.
    pub fn aggregate_id(&self) -> &str {
        self.context.envelope.aggregate_id()
    }

    /// The record, as it was read.
    pub fn record(&self) -> &RawRecord {
        &self.context.record
    }

    /// Topic it came from.
    pub fn topic(&self) -> &str {
        &self.context.record.topic
    }

    /// Partition it came from.
    pub fn partition(&self) -> i32 {
        self.context.record.partition
    }

    /// Its offset in the partition.
    pub fn offset(&self) -> i64 {
        self.context.record.offset
    }

    /// When the record was written, in milliseconds since 1970.
    pub fn timestamp(&self) -> i64 {
        self.context.record.timestamp
    }

    /// 1 the first time this event is handled within this assignment, then one more with each retry.
    pub fn attempt(&self) -> u32 {
        self.context.attempt
    }

    /// Counts how often this subscription has been given the partition: two deliveries of one epoch never overlap for
    /// one aggregate. A fencing token within this process.
    pub fn assignment_epoch(&self) -> u64 {
        self.context.epoch
    }

    /// Says when it is no use to go on: the partition was lost, or closing ran out of time.
    pub fn cancellation(&self) -> &Cancellation {
        &self.context.cancellation
    }
}

/// Tells a handler that its partition belongs to somebody else now, or that the deadline of a close has passed.
///
/// What the handler does from then on no longer counts: its event will be handled again, by whoever has the partition.
#[derive(Debug, Clone)]
pub struct Cancellation(watch::Receiver<bool>);

impl Cancellation {
    pub(crate) fn new(receiver: watch::Receiver<bool>) -> Self {
        Self(receiver)
    }

    /// Whether it has happened.
    pub fn is_cancelled(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Waits until it happens.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn cancelled(&self) {
        let mut receiver = self.0.clone();
        // An error means that the sender is gone, and with it the assignment.
        let _ = receiver.wait_for(|is_cancelled| *is_cancelled).await;
    }
}
