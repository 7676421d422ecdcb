//! Envelopes of the bus.

use bytes::Bytes;

use super::envelope::{Envelope, Header, WireShape};

/// The first byte chooses the form: the value alone, or headers and then the value. A header is `name`, 1, `value`, 0;
/// the value begins behind an empty one.
pub fn envelope(data: &[u8]) {
    let [form, rest @ ..] = data else { return };
    let (headers, value) = if form % 2 == 0 { (Vec::new(), rest) } else { headers(rest) };
    let value = Bytes::copy_from_slice(value);
    let Ok(envelope) = Envelope::decode(None, Some(&value), &headers) else { return };
    for shape in [WireShape::CloudEvents, WireShape::JsonEnvelope] {
        // Not every shape can carry every envelope; but what one carries it must carry again.
        let Ok(encoded) = envelope.encode(shape) else { continue };
        let again = Envelope::decode(Some(&encoded.key), Some(&encoded.value), &encoded.headers)
            .expect("what was written can be read");
        assert_eq!(again.encode(shape).expect("what was carried can be carried again"), encoded, "{shape:?}");
    }
}

fn headers(data: &[u8]) -> (Vec<Header>, &[u8]) {
    let mut headers = vec![Header::new("ce_specversion", "1.0")];
    let mut rest = data;
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let header = &rest[..end];
        rest = &rest[end + 1..];
        if header.is_empty() {
            break;
        }
        let mut parts = header.splitn(2, |byte| *byte == 1);
        let name = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        headers.push(match parts.next() {
            Some(value) => Header::new(name, Bytes::copy_from_slice(value)),
            None => Header::null(name),
        });
    }
    (headers, rest)
}
