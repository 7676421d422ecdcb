//! The rules that an envelope must keep, each in one place, used on the way out and on the way in.

use super::error::{EnvelopeError, InvalidEnvelope};
use super::{Envelope, WireShape, mapping};

/// Longest aggregate id, in bytes.
const LONGEST_AGGREGATE_ID: usize = 256;

/// How much of a malformed attribute an error quotes.
const QUOTED: usize = 64;

/// Checks the attributes that both shapes have, and those of `shape`.
pub(super) fn check(envelope: &Envelope, shape: WireShape) -> Result<(), InvalidEnvelope> {
    if envelope.id.trim().is_empty() {
        return Err(InvalidEnvelope::EventId);
    }
    if envelope.event_type.trim().is_empty() {
        return Err(InvalidEnvelope::EventType);
    }
    if envelope.version <= 0 {
        return Err(InvalidEnvelope::Version(envelope.version));
    }
    check_aggregate_id(&envelope.aggregate_id, shape)?;
    if envelope.payload.is_empty() && shape == WireShape::JsonEnvelope {
        return Err(InvalidEnvelope::PayloadEmpty);
    }
    Ok(())
}

/// The Go event bus allows only `A-Za-z0-9:_-./` in an aggregate id. CloudEvents allows any text; control characters
/// are refused all the same, since they are always a mistake and ruin logs.
fn check_aggregate_id(id: &str, shape: WireShape) -> Result<(), InvalidEnvelope> {
    if id.trim().is_empty() {
        return Err(InvalidEnvelope::AggregateIdBlank);
    }
    if id.len() > LONGEST_AGGREGATE_ID {
        return Err(InvalidEnvelope::AggregateIdTooLong(id.len()));
    }
    let is_allowed = |c: char| match shape {
        WireShape::CloudEvents => !c.is_control(),
        WireShape::JsonEnvelope => c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '-' | '.' | '/'),
    };
    match id.chars().find(|&c| !is_allowed(c)) {
        Some(character) => Err(InvalidEnvelope::AggregateIdCharacter(character)),
        None => Ok(()),
    }
}

/// Refuses a header of the event's own that a reader would take for part of the envelope.
pub(super) fn check_headers(envelope: &Envelope, shape: WireShape) -> Result<(), InvalidEnvelope> {
    match envelope.headers.iter().find(|header| mapping::is_reserved(&header.name, shape)) {
        Some(header) => Err(InvalidEnvelope::ReservedHeader(header.name.to_string())),
        None => Ok(()),
    }
}

/// The trace id inside a W3C `traceparent` (`00-<32 hex digits>-…`).
pub(super) fn trace_id_of(traceparent: &str) -> Option<&str> {
    let trace_id = traceparent.split('-').nth(1)?;
    let is_trace_id = trace_id.len() == 32 && trace_id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_trace_id.then_some(trace_id)
}

pub(super) fn malformed(attribute: &'static str, expected: &'static str, found: &str) -> EnvelopeError {
    EnvelopeError::Malformed { attribute, expected, found: found.chars().take(QUOTED).collect() }
}
