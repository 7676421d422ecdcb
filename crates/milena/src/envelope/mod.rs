//! The envelope: everything about an event but its meaning.
//!
//! [`Envelope`] is the one value in memory; [`mapping`] is the one table that says how each of its attributes is called
//! on the wire; `cloud_events` and `json` write and read the two shapes. No socket, no clock: ids and times are given.

mod cloud_events;
mod error;
mod event_id;
mod json;
mod mapping;
mod rules;
mod time;

pub use error::{EnvelopeError, InvalidEnvelope};
pub use time::{EventTime, TimeOutOfRange};

pub(crate) use event_id::EventIds;

use std::borrow::Cow;

use bytes::Bytes;

/// How an envelope lies in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WireShape {
    /// CloudEvents 1.0, Kafka binding, binary mode: attributes in `ce_` headers, the payload alone in the value.
    #[default]
    CloudEvents,
    /// One JSON object in the value, mirrored in `X-*` headers, as the Go event bus that milena succeeds writes it.
    JsonEnvelope,
}

/// A header of an event: a name, and a value that may be absent. Names may repeat and keep their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The header's name.
    pub name: Cow<'static, str>,
    /// Its bytes; `None` is Kafka's null, which is not the same as empty.
    pub value: Option<Bytes>,
}

impl Header {
    /// A header with a value.
    pub fn new(name: impl Into<Cow<'static, str>>, value: impl Into<Bytes>) -> Self {
        Self { name: name.into(), value: Some(value.into()) }
    }

    /// A header whose value is null.
    pub fn null(name: impl Into<Cow<'static, str>>) -> Self {
        Self { name: name.into(), value: None }
    }
}

/// An envelope as bytes: what becomes a record's key, value and headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedEnvelope {
    /// The record's key: the aggregate id.
    pub key: Bytes,
    /// The record's value.
    pub value: Bytes,
    /// The record's headers, in the order they are written.
    pub headers: Vec<Header>,
}

/// An event with everything that travels beside its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    id: String,
    source: String,
    aggregate_id: String,
    event_type: String,
    version: i64,
    time: Option<EventTime>,
    trace_id: Option<String>,
    traceparent: Option<String>,
    tracestate: Option<String>,
    correlation_id: Option<String>,
    causation_id: Option<String>,
    tenant_id: Option<String>,
    content_type: String,
    headers: Vec<Header>,
    payload: Bytes,
}

/// The payload's media type unless said otherwise.
const JSON: &str = "application/json";

impl Envelope {
    /// An envelope around `payload`, which is JSON unless [`with_content_type`](Self::with_content_type) says otherwise.
    ///
    /// `id` names this one event for ever; [`Bus::envelope`](crate::Bus::envelope) makes one, and the time and source too.
    pub fn new(
        id: impl Into<String>,
        event_type: impl Into<String>,
        aggregate_id: impl Into<String>,
        payload: impl Into<Bytes>,
    ) -> Self {
        Self {
            id: id.into(),
            source: String::new(),
            aggregate_id: aggregate_id.into(),
            event_type: event_type.into(),
            version: 1,
            time: None,
            trace_id: None,
            traceparent: None,
            tracestate: None,
            correlation_id: None,
            causation_id: None,
            tenant_id: None,
            content_type: JSON.to_owned(),
            headers: Vec::new(),
            payload: payload.into(),
        }
    }

    /// Reads the envelope of a record, whichever shape it has.
    ///
    /// A `ce_specversion` header means CloudEvents binary mode; without one the value must be a JSON envelope.
    /// Headers that belong to neither shape are kept, in order, as the event's own.
    ///
    /// # Errors
    /// Any bytes that are not a whole, valid envelope. Nothing is guessed, and nothing larger than the record is
    /// allocated.
    pub fn decode(key: Option<&[u8]>, value: Option<&Bytes>, headers: &[Header]) -> Result<Self, EnvelopeError> {
        let is_cloud_event = headers.iter().any(|header| header.name == mapping::SPEC_VERSION_HEADER);
        if is_cloud_event { cloud_events::read(key, value, headers) } else { json::read(value, headers) }
    }

    /// Writes the envelope as a record in `shape`.
    ///
    /// # Errors
    /// An envelope that the shape can't carry, or that no reader would accept, is refused here: see
    /// [`InvalidEnvelope`].
    pub fn encode(&self, shape: WireShape) -> Result<EncodedEnvelope, EnvelopeError> {
        match shape {
            WireShape::CloudEvents => cloud_events::write(self),
            WireShape::JsonEnvelope => json::write(self),
        }
    }

    /// Names this one event, for ever.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Who published it. Empty when it came in the JSON shape, which has no such field.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The aggregate it happened to; the record's key.
    pub fn aggregate_id(&self) -> &str {
        &self.aggregate_id
    }

    /// Name of the event type.
    pub fn event_type(&self) -> &str {
        &self.event_type
    }

    /// Schema version of the payload.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// When it happened, if it says so.
    pub fn time(&self) -> Option<EventTime> {
        self.time
    }

    /// Trace id in the form that the JSON envelope carries; taken from `traceparent` when only that is there.
    pub fn trace_id(&self) -> Option<&str> {
        self.trace_id.as_deref().or_else(|| self.traceparent.as_deref().and_then(rules::trace_id_of))
    }

    /// W3C `traceparent`.
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }

    /// W3C `tracestate`.
    pub fn tracestate(&self) -> Option<&str> {
        self.tracestate.as_deref()
    }

    /// What this event belongs to: one id for a whole conversation.
    pub fn correlation_id(&self) -> Option<&str> {
        self.correlation_id.as_deref()
    }

    /// Id of the event that caused this one.
    pub fn causation_id(&self) -> Option<&str> {
        self.causation_id.as_deref()
    }

    /// The tenant it belongs to.
    pub fn tenant_id(&self) -> Option<&str> {
        self.tenant_id.as_deref()
    }

    /// Media type of the payload.
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// The event's own headers, duplicates and order kept, without those that carry the envelope.
    pub fn headers(&self) -> &[Header] {
        &self.headers
    }

    /// The payload, as published.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Sets who published it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<String>) -> Self {
        self.source = source.into();
        self
    }

    /// Sets the schema version of the payload, 1 or more.
    #[must_use]
    pub fn with_version(mut self, version: i64) -> Self {
        self.version = version;
        self
    }

    /// Sets when it happened.
    #[must_use]
    pub fn with_time(mut self, time: EventTime) -> Self {
        self.time = Some(time);
        self
    }

    /// Sets the trace id for readers of the JSON envelope; prefer [`with_traceparent`](Self::with_traceparent).
    #[must_use]
    pub fn with_trace_id(mut self, trace_id: impl Into<String>) -> Self {
        self.trace_id = non_empty(trace_id.into());
        self
    }

    /// Sets the W3C trace context.
    #[must_use]
    pub fn with_traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = non_empty(traceparent.into());
        self
    }

    /// Sets the vendor part of the W3C trace context.
    #[must_use]
    pub fn with_tracestate(mut self, tracestate: impl Into<String>) -> Self {
        self.tracestate = non_empty(tracestate.into());
        self
    }

    /// Sets the id of the conversation that this event belongs to.
    #[must_use]
    pub fn with_correlation_id(mut self, correlation_id: impl Into<String>) -> Self {
        self.correlation_id = non_empty(correlation_id.into());
        self
    }

    /// Sets the id of the event that caused this one.
    #[must_use]
    pub fn with_causation_id(mut self, causation_id: impl Into<String>) -> Self {
        self.causation_id = non_empty(causation_id.into());
        self
    }

    /// Sets the tenant. The JSON envelope carries integers only, and takes 0 for none.
    #[must_use]
    pub fn with_tenant_id(mut self, tenant_id: impl Into<String>) -> Self {
        self.tenant_id = non_empty(tenant_id.into());
        self
    }

    /// Sets the media type of the payload.
    #[must_use]
    pub fn with_content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = content_type.into();
        self
    }

    /// Appends a header of the event's own.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header::new(name, value));
        self
    }

    /// Makes this event a consequence of `cause`: same correlation (the cause itself, if it starts one), trace and
    /// tenant, with the cause's id as causation.
    #[must_use]
    pub fn caused_by(mut self, cause: &Self) -> Self {
        self.correlation_id = Some(cause.correlation_id.clone().unwrap_or_else(|| cause.id.clone()));
        self.causation_id = Some(cause.id.clone());
        self.trace_id.clone_from(&cause.trace_id);
        self.traceparent.clone_from(&cause.traceparent);
        self.tracestate.clone_from(&cause.tracestate);
        self.tenant_id.clone_from(&cause.tenant_id);
        self
    }
}

fn non_empty(text: String) -> Option<String> {
    if text.is_empty() { None } else { Some(text) }
}

#[cfg(test)]
mod tests;
