//! Publishing: from an event to an acknowledged record.
//!
//! Nothing is queued here: the producer's byte budget is what bounds publishing, and waiting for it is waiting here.

use std::collections::HashSet;
use std::time::UNIX_EPOCH;

use milena_client::producer::{Delivery, Record, RecordHeader};

use super::Bus;
use super::error::PublishError;
use crate::envelope::{EncodedEnvelope, Envelope, EnvelopeError, EventTime, Header};
use crate::event::Event;
use crate::topic::TopicDeclaration;

/// Where a published event is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The event's id.
    pub event_id: String,
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset; `None` if the broker said only that it has the event already, from an attempt whose answer was
    /// lost.
    pub offset: Option<i64>,
    /// The record's timestamp, in milliseconds since 1970.
    pub timestamp: i64,
}

/// An event on its way, taken by the producer.
struct Sent {
    event_id: String,
    delivery: Delivery,
}

impl Bus {
    /// Publishes an event, and resolves when the broker has confirmed it.
    ///
    /// # Errors
    /// [`PublishError`] says whether the event may be in its topic all the same. The producer has tried again by
    /// itself until its delivery timeout.
    ///
    /// # Cancel safety
    /// Dropped before the record was taken, nothing is sent. Dropped after that, it is sent all the same and only the
    /// receipt is lost.
    ///
    /// # Ordering
    /// Adding partitions to a topic moves aggregates to other partitions: what is published before and after is not in
    /// order. The bus warns of it in its log, and subscriptions tell of it.
    ///
    /// Events of one aggregate are in the topic in the order in which their futures were first polled to completion of
    /// taking; await one before the next, or use [`publish_batch`](Self::publish_batch).
    pub async fn publish<E: Event>(&self, event: &E) -> Result<Receipt, PublishError> {
        let envelope = self.envelope(event)?;
        self.receipt(self.send(&E::topic(), &envelope).await?).await
    }

    /// Publishes events, one after the other without waiting in between, and gives one result for each, in order.
    ///
    /// Events of one aggregate are never reordered: if one of them can't be sent, later ones of its aggregate are
    /// withheld, so that publishing them again keeps their order.
    ///
    /// # Cancel safety
    /// Dropped, what was taken is sent all the same and the rest is not.
    pub async fn publish_batch<'a, E: Event>(
        &self,
        events: impl IntoIterator<Item = &'a E>,
    ) -> Vec<Result<Receipt, PublishError>> {
        let topic = E::topic();
        // Found out once: if the topic can't be had, no event of the batch waits for that again.
        let unavailable = self.inner().topics.ensure(&topic).await.err();
        let mut unsent = HashSet::new();
        let mut sent = Vec::new();
        for event in events {
            let aggregate_id = event.aggregate_id();
            if unsent.contains(aggregate_id.as_ref()) {
                sent.push(Err(PublishError::Withheld { aggregate_id: aggregate_id.into_owned() }));
                continue;
            }
            let result = match (&unavailable, self.envelope(event)) {
                (Some(error), _) => Err(error.clone().into()),
                (None, Ok(envelope)) => self.send(&topic, &envelope).await,
                (None, Err(error)) => Err(error.into()),
            };
            if result.is_err() {
                unsent.insert(aggregate_id.into_owned());
            }
            sent.push(result);
        }
        let mut receipts = Vec::with_capacity(sent.len());
        for result in sent {
            receipts.push(match result {
                Ok(sent) => self.receipt(sent).await,
                Err(error) => Err(error),
            });
        }
        receipts
    }

    /// The envelope that [`publish`](Self::publish) would put around `event`, to be added to: correlation, tenant,
    /// trace context, headers. Publish it with [`publish_envelope`](Self::publish_envelope).
    ///
    /// # Errors
    /// The event can't be written as JSON.
    pub fn envelope<E: Event>(&self, event: &E) -> Result<Envelope, EnvelopeError> {
        let payload = serde_json::to_vec(event).map_err(EnvelopeError::Payload)?;
        let wall = self.inner().client.time().wall();
        let millis = wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let id = self.inner().ids.next(u64::try_from(millis).unwrap_or(u64::MAX));
        let envelope = Envelope::new(id.to_string(), E::TYPE, event.aggregate_id(), payload)
            .with_version(E::VERSION)
            .with_time(EventTime::at(wall));
        Ok(envelope.with_source(self.inner().settings.source.clone()))
    }

    /// Publishes an envelope to `topic`: for events with more than a type says, and for gateways that have no type.
    ///
    /// # Errors
    /// As [`publish`](Self::publish); a missing topic is created with the broker's defaults.
    ///
    /// # Cancel safety
    /// As [`publish`](Self::publish).
    pub async fn publish_envelope(&self, topic: &str, envelope: &Envelope) -> Result<Receipt, PublishError> {
        self.receipt(self.send(&TopicDeclaration::new(topic), envelope).await?).await
    }

    async fn send(&self, topic: &TopicDeclaration, envelope: &Envelope) -> Result<Sent, PublishError> {
        let inner = self.inner();
        topic.check()?;
        let encoded = envelope.encode(inner.settings.shape)?;
        inner.topics.ensure(topic).await?;
        let EncodedEnvelope { key, value, headers } = &encoded;
        let headers = borrowed(headers);
        let record = Record::to(topic.name()).key(key).value(value).headers(&headers);
        let delivery = inner.producer.send(record).await.map_err(PublishError::Send)?;
        Ok(Sent { event_id: envelope.id().to_owned(), delivery })
    }

    async fn receipt(&self, sent: Sent) -> Result<Receipt, PublishError> {
        let written = sent.delivery.await.map_err(PublishError::Produce)?;
        self.inner().topics.note_published(written.topic(), written.partition());
        Ok(Receipt {
            event_id: sent.event_id,
            topic: written.topic().to_owned(),
            partition: written.partition(),
            offset: written.offset(),
            timestamp: written.timestamp(),
        })
    }
}

pub(super) fn borrowed(headers: &[Header]) -> Vec<RecordHeader<'_>> {
    headers.iter().map(|header| RecordHeader { key: &header.name, value: header.value.as_deref() }).collect()
}
