//! The JSON envelope of the Go event bus: one object in the value, mirrored in `X-*` headers.
//!
//! Field names, their order, what is left out and the rules for ids are that bus's, so that both can share a topic.
//! On the way in the object is what counts; a header is looked at only for what the object can't hold.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::{EnvelopeError, InvalidEnvelope};
use super::mapping::{Attribute, CONTENT_TYPE_HEADER, JSON_HEADER_ORDER, TABLE};
use super::{EncodedEnvelope, Envelope, Header, WireShape, rules};

/// The one field that is not text: the payload, as raw JSON.
const PAYLOAD: &str = "payload";

/// What Go writes for a time that was never set.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// Media type of a structured-mode CloudEvent, which is a JSON object too but not this one.
const STRUCTURED: &str = "application/cloudevents";

pub(super) fn write(envelope: &Envelope) -> Result<EncodedEnvelope, EnvelopeError> {
    rules::check(envelope, WireShape::JsonEnvelope)?;
    rules::check_headers(envelope, WireShape::JsonEnvelope)?;
    if !is_json(&envelope.content_type) {
        return Err(InvalidEnvelope::PayloadNotJson(envelope.content_type.clone()).into());
    }
    let payload: &RawValue = serde_json::from_slice(&envelope.payload).map_err(EnvelopeError::Payload)?;
    let tenant = envelope.tenant_id.as_deref().map(tenant_number).transpose()?;

    let mut object = String::with_capacity(payload.get().len() + 256);
    object.push('{');
    push_text(&mut object, Attribute::Id, &envelope.id);
    push_text(&mut object, Attribute::AggregateId, &envelope.aggregate_id);
    push_text(&mut object, Attribute::EventType, &envelope.event_type);
    push_raw(&mut object, Attribute::Version.json(), &envelope.version.to_string());
    let time = envelope.time.map_or_else(|| NO_TIME.to_owned(), |time| time.to_string());
    push_text(&mut object, Attribute::Time, &time);
    if let Some(trace_id) = envelope.trace_id() {
        push_text(&mut object, Attribute::TraceId, trace_id);
    }
    if let Some(correlation_id) = envelope.correlation_id() {
        push_text(&mut object, Attribute::CorrelationId, correlation_id);
    }
    if let Some(tenant) = tenant {
        push_raw(&mut object, Attribute::TenantId.json(), &tenant.to_string());
    }
    push_raw(&mut object, PAYLOAD, payload.get());
    object.push('}');

    let mut headers = Vec::with_capacity(JSON_HEADER_ORDER.len() + envelope.headers.len());
    for attribute in JSON_HEADER_ORDER {
        let text = match attribute {
            Attribute::TraceId => envelope.trace_id().map(str::to_owned),
            attribute => attribute.text(envelope),
        };
        if let (Some(name), Some(text)) = (attribute.row().json_header, text) {
            headers.push(Header::new(name, text));
        }
    }
    headers.extend(envelope.headers.iter().cloned());
    Ok(EncodedEnvelope {
        key: Bytes::copy_from_slice(envelope.aggregate_id.as_bytes()),
        value: Bytes::from(object),
        headers,
    })
}

pub(super) fn read(value: Option<&Bytes>, headers: &[Header]) -> Result<Envelope, EnvelopeError> {
    let value = value.ok_or(EnvelopeError::NoValue)?;
    if headers.iter().any(is_structured) {
        return Err(EnvelopeError::Structured);
    }
    let object: Object<'_> = serde_json::from_slice(value).map_err(EnvelopeError::NotJson)?;
    if let Some(attribute) = object.repeated {
        return Err(EnvelopeError::Repeated { attribute });
    }
    let payload = object.payload.ok_or(EnvelopeError::Missing { attribute: PAYLOAD })?;
    let mut envelope = Envelope::new("", "", "", value.slice_ref(payload.get().as_bytes()));

    for (attribute, raw) in &object.fields {
        let name = attribute.json();
        let Some(text) = field_text(*attribute, name, raw)? else { continue };
        if *attribute == Attribute::Time && text == NO_TIME {
            continue;
        }
        attribute.set(&mut envelope, name, &text)?;
    }
    for required in [Attribute::Id, Attribute::AggregateId, Attribute::EventType, Attribute::Version] {
        if !object.fields.iter().any(|(attribute, _)| *attribute == required) {
            return Err(EnvelopeError::Missing { attribute: required.json() });
        }
    }
    for header in headers {
        let row = TABLE.iter().find(|row| row.json_header == Some(&*header.name));
        match row {
            // A header that only mirrors the object says nothing new, not even when it disagrees.
            Some(row) if row.json.is_some() => {}
            Some(row) => {
                let not_text = EnvelopeError::NotText { attribute: row.cloud_events };
                let text = header.value.as_deref().and_then(|value| std::str::from_utf8(value).ok()).ok_or(not_text)?;
                row.attribute.set(&mut envelope, row.cloud_events, text)?;
            }
            None if header.name.eq_ignore_ascii_case(CONTENT_TYPE_HEADER) => {}
            None => envelope.headers.push(header.clone()),
        }
    }
    rules::check(&envelope, WireShape::JsonEnvelope)?;
    Ok(envelope)
}

/// The object's fields that the envelope knows, each still raw; others are passed over, as in Go.
struct Object<'a> {
    fields: Vec<(Attribute, &'a RawValue)>,
    payload: Option<&'a RawValue>,
    repeated: Option<&'static str>,
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;

        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON envelope object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut object = Object { fields: Vec::new(), payload: None, repeated: None };
                while let Some(Key(name)) = map.next_key()? {
                    let value: &'de RawValue = map.next_value()?;
                    if name == PAYLOAD {
                        if object.payload.replace(value).is_some() {
                            object.repeated = Some(PAYLOAD);
                        }
                    } else if let Some(row) = TABLE.iter().find(|row| row.json == Some(&*name)) {
                        if object.fields.iter().any(|(attribute, _)| *attribute == row.attribute) {
                            object.repeated = row.json;
                        } else {
                            object.fields.push((row.attribute, value));
                        }
                    }
                }
                Ok(object)
            }
        }

        deserializer.deserialize_map(ObjectVisitor)
    }
}

/// A key that borrows from the input unless it has escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(name.to_owned())))
            }
        }

        deserializer.deserialize_str(KeyVisitor)
    }
}

/// A field as text; `None` for null. The version is a number; the tenant a number, or text in older releases of the Go
/// bus, with 0 for none.
fn field_text(attribute: Attribute, name: &'static str, raw: &RawValue) -> Result<Option<String>, EnvelopeError> {
    let raw = raw.get();
    if raw == "null" {
        return Ok(None);
    }
    if raw.starts_with('"') && attribute != Attribute::Version {
        let text: String = serde_json::from_str(raw).map_err(|_| rules::malformed(name, "text", raw))?;
        return Ok(Some(text));
    }
    match attribute {
        Attribute::Version => {
            let number: i64 = raw.parse().map_err(|_| rules::malformed(name, "a whole number", raw))?;
            Ok(Some(number.to_string()))
        }
        Attribute::TenantId => {
            let number: i64 = raw.parse().map_err(|_| rules::malformed(name, "a whole number", raw))?;
            Ok((number != 0).then(|| number.to_string()))
        }
        _ => Err(rules::malformed(name, "text", raw)),
    }
}

fn tenant_number(tenant: &str) -> Result<i64, InvalidEnvelope> {
    match tenant.parse() {
        Ok(number) if number != 0 && tenant == i64::to_string(&number) => Ok(number),
        _ => Err(InvalidEnvelope::Tenant(tenant.to_owned())),
    }
}

fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case(super::JSON) || media_type.to_ascii_lowercase().ends_with("+json")
}

fn is_structured(header: &Header) -> bool {
    header.name.eq_ignore_ascii_case(CONTENT_TYPE_HEADER)
        && header.value.as_deref().is_some_and(|value| value.starts_with(STRUCTURED.as_bytes()))
}

fn push_text(object: &mut String, attribute: Attribute, text: &str) {
    let quoted = serde_json::to_string(text).expect("a string always has a JSON form");
    push_raw(object, attribute.json(), &quoted);
}

fn push_raw(object: &mut String, name: &str, raw: &str) {
    if object.len() > 1 {
        object.push(',');
    }
    object.push('"');
    object.push_str(name);
    object.push_str("\":");
    object.push_str(raw);
}
