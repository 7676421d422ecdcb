//! The one table of names: how each attribute of an envelope is called in each shape on the wire.
//!
//! Both writers and both readers go through it, so a name can't differ between them. CloudEvents extension names may
//! hold only a-z and 0-9, hence `aggregateid` (CloudEvents 1.0, Kafka binding §3.2: attribute headers are `ce_` + name).

use super::error::EnvelopeError;
use super::rules::malformed;
use super::time::EventTime;
use super::{Envelope, WireShape};

/// The header whose presence says "CloudEvents binary mode".
pub(super) const SPEC_VERSION_HEADER: &str = "ce_specversion";
/// The one version that is written and read.
pub(super) const SPEC_VERSION: &str = "1.0";
/// Media type of the payload, in both shapes' headers.
pub(super) const CONTENT_TYPE_HEADER: &str = "content-type";

/// An attribute of an envelope that travels as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attribute {
    Id,
    Source,
    AggregateId,
    EventType,
    Version,
    Time,
    TraceId,
    Traceparent,
    Tracestate,
    CorrelationId,
    CausationId,
    TenantId,
}

/// One attribute's names.
pub(super) struct Row {
    pub(super) attribute: Attribute,
    /// Header in CloudEvents binary mode.
    pub(super) cloud_events: &'static str,
    /// Field in the JSON envelope's object, if it has one.
    pub(super) json: Option<&'static str>,
    /// Header beside the JSON envelope, if it has one.
    pub(super) json_header: Option<&'static str>,
}

const fn row(
    attribute: Attribute,
    cloud_events: &'static str,
    json: Option<&'static str>,
    json_header: Option<&'static str>,
) -> Row {
    Row { attribute, cloud_events, json, json_header }
}

/// In the order in which CloudEvents headers are written.
///
/// `traceparent` and `tracestate` keep their W3C names in both shapes, since that is where tracing tools look.
pub(super) const TABLE: [Row; 12] = [
    row(Attribute::Id, "ce_id", Some("event_id"), Some("X-Event-ID")),
    row(Attribute::Source, "ce_source", None, None),
    row(Attribute::EventType, "ce_type", Some("event_type"), Some("X-Event-Type")),
    row(Attribute::Time, "ce_time", Some("timestamp"), None),
    row(Attribute::AggregateId, "ce_aggregateid", Some("aggregate_id"), Some("X-Aggregate-ID")),
    row(Attribute::Version, "ce_eventversion", Some("event_version"), Some("X-Event-Version")),
    row(Attribute::CorrelationId, "ce_correlationid", Some("correlation_id"), Some("X-Correlation-ID")),
    row(Attribute::CausationId, "ce_causationid", None, Some("X-Causation-ID")),
    row(Attribute::TenantId, "ce_tenantid", Some("tenant_id"), Some("X-Tenant-ID")),
    row(Attribute::TraceId, "ce_traceid", Some("trace_id"), Some("X-Trace-ID")),
    row(Attribute::Traceparent, "traceparent", None, Some("traceparent")),
    row(Attribute::Tracestate, "tracestate", None, Some("tracestate")),
];

/// Order in which the Go event bus writes its headers; ours that it does not know follow.
pub(super) const JSON_HEADER_ORDER: [Attribute; 10] = [
    Attribute::Id,
    Attribute::AggregateId,
    Attribute::Version,
    Attribute::EventType,
    Attribute::TraceId,
    Attribute::CorrelationId,
    Attribute::TenantId,
    Attribute::CausationId,
    Attribute::Traceparent,
    Attribute::Tracestate,
];

impl Attribute {
    pub(super) fn row(self) -> &'static Row {
        TABLE
            .iter()
            .find(|row| row.attribute == self)
            .expect("a test checks that the table has a row for each attribute")
    }

    /// Name of the attribute in the JSON object; only for attributes that have one.
    pub(super) fn json(self) -> &'static str {
        self.row().json.expect("asked only for attributes with a field in the JSON envelope")
    }

    /// The attribute as header text; `None` when the envelope does not have it.
    pub(super) fn text(self, envelope: &Envelope) -> Option<String> {
        match self {
            Self::Id => Some(envelope.id.clone()),
            Self::Source => Some(envelope.source.clone()),
            Self::AggregateId => Some(envelope.aggregate_id.clone()),
            Self::EventType => Some(envelope.event_type.clone()),
            Self::Version => Some(envelope.version.to_string()),
            Self::Time => envelope.time.map(|time| time.to_string()),
            // Only what was set: a trace id that `traceparent` implies is not written a second time.
            Self::TraceId => envelope.trace_id.clone(),
            Self::Traceparent => envelope.traceparent.clone(),
            Self::Tracestate => envelope.tracestate.clone(),
            Self::CorrelationId => envelope.correlation_id.clone(),
            Self::CausationId => envelope.causation_id.clone(),
            Self::TenantId => envelope.tenant_id.clone(),
        }
    }

    /// Sets the attribute from header text, which `name` calls in an error.
    pub(super) fn set(self, envelope: &mut Envelope, name: &'static str, text: &str) -> Result<(), EnvelopeError> {
        let optional = || if text.is_empty() { None } else { Some(text.to_owned()) };
        match self {
            Self::Id => text.clone_into(&mut envelope.id),
            Self::Source => text.clone_into(&mut envelope.source),
            Self::AggregateId => text.clone_into(&mut envelope.aggregate_id),
            Self::EventType => text.clone_into(&mut envelope.event_type),
            Self::Version => {
                envelope.version = text.parse().map_err(|_| malformed(name, "a whole number", text))?;
            }
            Self::Time => {
                envelope.time = Some(EventTime::parse(text).ok_or_else(|| malformed(name, "an RFC 3339 time", text))?);
            }
            Self::TraceId => envelope.trace_id = optional(),
            Self::Traceparent => envelope.traceparent = optional(),
            Self::Tracestate => envelope.tracestate = optional(),
            Self::CorrelationId => envelope.correlation_id = optional(),
            Self::CausationId => envelope.causation_id = optional(),
            Self::TenantId => envelope.tenant_id = optional(),
        }
        Ok(())
    }
}

/// Whether a header of this name is part of an envelope written in `shape`, so that an event's own may not have it.
pub(super) fn is_reserved(name: &str, shape: WireShape) -> bool {
    name == SPEC_VERSION_HEADER
        || name.eq_ignore_ascii_case(CONTENT_TYPE_HEADER)
        || TABLE.iter().any(|row| match shape {
            WireShape::CloudEvents => row.cloud_events == name,
            WireShape::JsonEnvelope => row.json_header == Some(name),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attribute_has_one_row_and_no_name_is_used_twice() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.attribute.row().cloud_events, row.cloud_events);
            for other in &TABLE[index + 1..] {
                assert_ne!(row.attribute, other.attribute);
                assert_ne!(row.cloud_events, other.cloud_events);
                assert!(row.json.is_none() || row.json != other.json);
                assert!(row.json_header.is_none() || row.json_header != other.json_header);
            }
        }
    }

    #[test]
    fn cloud_events_names_hold_only_what_the_specification_allows() {
        for row in TABLE {
            let Some(name) = row.cloud_events.strip_prefix("ce_") else { continue };
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()), "{name}");
        }
    }

    #[test]
    fn each_header_of_the_json_shape_has_its_place_in_the_order() {
        for row in TABLE.iter().filter(|row| row.json_header.is_some()) {
            assert!(JSON_HEADER_ORDER.contains(&row.attribute), "{:?}", row.attribute);
        }
    }
}
