//! CloudEvents 1.0 in Kafka's binary mode: attributes in headers, the payload alone in the value.

use bytes::Bytes;

use super::error::{EnvelopeError, InvalidEnvelope};
use super::mapping::{Attribute, CONTENT_TYPE_HEADER, SPEC_VERSION, SPEC_VERSION_HEADER, TABLE};
use super::{EncodedEnvelope, Envelope, Header, JSON, WireShape, rules};

pub(super) fn write(envelope: &Envelope) -> Result<EncodedEnvelope, EnvelopeError> {
    rules::check(envelope, WireShape::CloudEvents)?;
    rules::check_headers(envelope, WireShape::CloudEvents)?;
    if envelope.source.trim().is_empty() {
        return Err(InvalidEnvelope::Source.into());
    }
    let mut headers = Vec::with_capacity(TABLE.len() + 2 + envelope.headers.len());
    headers.push(Header::new(SPEC_VERSION_HEADER, SPEC_VERSION));
    for row in &TABLE {
        if let Some(text) = row.attribute.text(envelope) {
            headers.push(Header::new(row.cloud_events, text));
        }
    }
    headers.push(Header::new(CONTENT_TYPE_HEADER, envelope.content_type.clone()));
    headers.extend(envelope.headers.iter().cloned());
    Ok(EncodedEnvelope {
        key: Bytes::copy_from_slice(envelope.aggregate_id.as_bytes()),
        value: envelope.payload.clone(),
        headers,
    })
}

pub(super) fn read(key: Option<&[u8]>, value: Option<&Bytes>, headers: &[Header]) -> Result<Envelope, EnvelopeError> {
    let payload = value.ok_or(EnvelopeError::NoValue)?.clone();
    let mut envelope = Envelope::new("", "", "", payload);
    let mut seen = Seen::default();
    let mut content_type = None;
    for header in headers {
        if header.name == SPEC_VERSION_HEADER {
            seen.once(SPEC_VERSION_HEADER)?;
            let version = text(SPEC_VERSION_HEADER, header)?;
            if version != SPEC_VERSION {
                return Err(EnvelopeError::SpecVersion { found: version.chars().take(16).collect() });
            }
        } else if header.name.eq_ignore_ascii_case(CONTENT_TYPE_HEADER) {
            content_type = Some(text(CONTENT_TYPE_HEADER, header)?);
        } else if let Some(row) = TABLE.iter().find(|row| row.cloud_events == header.name) {
            seen.once(row.cloud_events)?;
            row.attribute.set(&mut envelope, row.cloud_events, text(row.cloud_events, header)?)?;
        } else {
            // Extensions of somebody else's (`ce_subject`, …) stay readable as headers.
            envelope.headers.push(header.clone());
        }
    }
    for required in [Attribute::Id, Attribute::Source, Attribute::EventType] {
        seen.require(required.row().cloud_events)?;
    }
    // CloudEvents of others carry no aggregate id; their key says the same, since it decides what stays in order.
    if !seen.has(Attribute::AggregateId.row().cloud_events) {
        let missing = EnvelopeError::Missing { attribute: Attribute::AggregateId.row().cloud_events };
        let key = key.and_then(|key| std::str::from_utf8(key).ok()).ok_or(missing)?;
        key.clone_into(&mut envelope.aggregate_id);
    }
    content_type.unwrap_or(JSON).clone_into(&mut envelope.content_type);
    rules::check(&envelope, WireShape::CloudEvents)?;
    if envelope.source.trim().is_empty() {
        return Err(InvalidEnvelope::Source.into());
    }
    Ok(envelope)
}

/// Which attribute headers have been met: two of one name would make the event ambiguous.
#[derive(Default)]
struct Seen(Vec<&'static str>);

impl Seen {
    fn once(&mut self, name: &'static str) -> Result<(), EnvelopeError> {
        if self.has(name) {
            return Err(EnvelopeError::Repeated { attribute: name });
        }
        self.0.push(name);
        Ok(())
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains(&name)
    }

    fn require(&self, name: &'static str) -> Result<(), EnvelopeError> {
        if self.has(name) { Ok(()) } else { Err(EnvelopeError::Missing { attribute: name }) }
    }
}

fn text<'a>(name: &'static str, header: &'a Header) -> Result<&'a str, EnvelopeError> {
    let value = header.value.as_deref().ok_or(EnvelopeError::NotText { attribute: name })?;
    std::str::from_utf8(value).map_err(|_| EnvelopeError::NotText { attribute: name })
}
