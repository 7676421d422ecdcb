//! One record as one line of JSON, in and out. Knows nothing of files, terminals or clients.
//!
//! `{"partition":0,"offset":7,"timestamp":1700000000000,"key":"…"|null,"value":"…"|null,"headers":[["name","value"|null],…]}`;
//! on the way in all but `value` may be absent.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// How bytes stand in a JSON string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Encoding {
    /// The bytes are UTF-8 text.
    Utf8,
    /// The bytes are written as base64 (RFC 4648, padded), for anything that is not text.
    Base64,
}

/// Why a line is not a record.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    #[error("not a JSON record: expected an object such as {{\"value\":\"paid\"}}")]
    NoObject,
    #[error("not a JSON record: {what} (column {column})")]
    Json { what: String, column: usize },
    #[error("`{field}` is not base64: {source}")]
    Base64 { field: &'static str, source: base64::DecodeError },
    #[error("`partition` must be 0 or more, not {0}")]
    Partition(i32),
    #[error("`timestamp` must be 0 or more milliseconds since 1970, not {0}")]
    Timestamp(i64),
}

/// Why bytes cannot be written in the chosen encoding.
#[derive(Debug, thiserror::Error)]
#[error("the {field} at offset {offset} of partition {partition} is not UTF-8: use --encoding base64")]
pub struct NotText {
    field: &'static str,
    partition: i32,
    offset: i64,
}

impl From<serde_json::Error> for LineError {
    fn from(error: serde_json::Error) -> Self {
        // serde_json counts lines of its own input, which is one line: only the column helps.
        let what = error.to_string();
        let position = format!(" at line {} column {}", error.line(), error.column());
        Self::Json { what: what.strip_suffix(&position).unwrap_or(&what).to_owned(), column: error.column() }
    }
}

/// A record to produce.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InputRecord {
    pub partition: Option<i32>,
    pub timestamp: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// A record that was consumed, borrowed from the fetch response.
#[derive(Debug, Clone, Copy)]
pub struct OutputRecord<'a> {
    pub partition: i32,
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireIn {
    #[serde(default)]
    partition: Option<i32>,
    /// Accepted, so that the output of `consume` can be fed back, and ignored: the broker assigns offsets.
    #[serde(default)]
    #[expect(dead_code, reason = "named so that deny_unknown_fields lets it pass")]
    offset: Option<i64>,
    #[serde(default)]
    timestamp: Option<i64>,
    #[serde(default)]
    key: Option<String>,
    #[serde(deserialize_with = "Option::deserialize")]
    value: Option<String>,
    #[serde(default)]
    headers: Vec<(String, Option<String>)>,
}

#[derive(Serialize)]
struct WireOut<'a> {
    partition: i32,
    offset: i64,
    timestamp: i64,
    key: Option<String>,
    value: Option<String>,
    headers: Vec<(&'a str, Option<String>)>,
}

/// The bytes, written as base64.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes that `text` writes as base64; an error names the field.
pub(crate) fn from_base64(field: &'static str, text: &[u8]) -> Result<Vec<u8>, LineError> {
    STANDARD.decode(text).map_err(|source| LineError::Base64 { field, source })
}

/// Reads one line.
pub fn parse(line: &str, encoding: Encoding) -> Result<InputRecord, LineError> {
    // serde takes a struct's fields from an array, too: bare values, in the order in which they stand in the code.
    if !line.trim_ascii_start().starts_with('{') {
        return Err(LineError::NoObject);
    }
    let wire: WireIn = serde_json::from_str(line)?;
    if let Some(partition) = wire.partition.filter(|p| *p < 0) {
        return Err(LineError::Partition(partition));
    }
    if let Some(timestamp) = wire.timestamp.filter(|t| *t < 0) {
        return Err(LineError::Timestamp(timestamp));
    }
    let bytes = |field: &'static str, text: Option<String>| match (text, encoding) {
        (None, _) => Ok(None),
        (Some(text), Encoding::Utf8) => Ok(Some(text.into_bytes())),
        (Some(text), Encoding::Base64) => from_base64(field, text.as_bytes()).map(Some),
    };
    let headers = wire
        .headers
        .into_iter()
        .map(|(name, value)| Ok((name, bytes("headers", value)?)))
        .collect::<Result<_, LineError>>()?;
    Ok(InputRecord {
        partition: wire.partition,
        timestamp: wire.timestamp,
        key: bytes("key", wire.key)?,
        value: bytes("value", wire.value)?,
        headers,
    })
}

/// Writes one line, without its line feed.
pub fn format(record: OutputRecord<'_>, encoding: Encoding) -> Result<String, NotText> {
    let text = |field: &'static str, bytes: Option<&[u8]>| match (bytes, encoding) {
        (None, _) => Ok(None),
        (Some(bytes), Encoding::Utf8) => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(NotText { field, partition: record.partition, offset: record.offset }),
        },
        (Some(bytes), Encoding::Base64) => Ok(Some(base64(bytes))),
    };
    let wire = WireOut {
        partition: record.partition,
        offset: record.offset,
        timestamp: record.timestamp,
        key: text("key", record.key)?,
        value: text("value", record.value)?,
        headers: record
            .headers
            .iter()
            .map(|(name, value)| Ok((*name, text("header", *value)?)))
            .collect::<Result<_, NotText>>()?,
    };
    Ok(serde_json::to_string(&wire).expect("strings and numbers always serialize"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumed_line_can_be_produced_again() {
        let headers = [("trace", Some(&b"abc"[..])), ("empty", None)];
        let record = OutputRecord {
            partition: 3,
            offset: 7,
            timestamp: 1_700_000_000_000,
            key: Some(b"ORD"),
            value: Some("gr\u{fc}n".as_bytes()),
            headers: &headers,
        };
        let line = format(record, Encoding::Utf8).unwrap();
        assert_eq!(
            line,
            "{\"partition\":3,\"offset\":7,\"timestamp\":1700000000000,\"key\":\"ORD\",\"value\":\"gr\u{fc}n\",\
             \"headers\":[[\"trace\",\"abc\"],[\"empty\",null]]}"
        );
        let parsed = parse(&line, Encoding::Utf8).unwrap();
        assert_eq!(parsed.partition, Some(3));
        assert_eq!(parsed.timestamp, Some(1_700_000_000_000));
        assert_eq!(parsed.key.as_deref(), Some(&b"ORD"[..]));
        assert_eq!(parsed.headers[1], ("empty".to_owned(), None));
    }

    #[test]
    fn bytes_that_are_not_text_need_base64() {
        let record =
            OutputRecord { partition: 0, offset: 9, timestamp: 0, key: None, value: Some(&[0xff]), headers: &[] };
        let error = format(record, Encoding::Utf8).unwrap_err();
        assert_eq!(error.to_string(), "the value at offset 9 of partition 0 is not UTF-8: use --encoding base64");
        let line = format(record, Encoding::Base64).unwrap();
        assert_eq!(parse(&line, Encoding::Base64).unwrap().value, Some(vec![0xff]));
    }

    #[test]
    fn only_value_is_required_and_null_differs_from_absent() {
        assert_eq!(parse(r#"{"value":"x"}"#, Encoding::Utf8).unwrap().value, Some(b"x".to_vec()));
        assert_eq!(parse(r#"{"value":null}"#, Encoding::Utf8).unwrap().value, None);
        assert!(parse(r#"{"key":"k"}"#, Encoding::Utf8).unwrap_err().to_string().contains("missing field `value`"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, says) in [
            (r#"{"value":"x","keey":"k"}"#, "unknown field `keey`"),
            (r#"{"value":"x","partition":-1}"#, "`partition` must be 0 or more, not -1"),
            (r#"{"value":"x","timestamp":-5}"#, "`timestamp` must be 0 or more"),
            ("{", "EOF"),
            ("not json", "not a JSON record: expected an object such as {\"value\":\"paid\"}"),
            (r#"[0,7,0,"k","v",[]]"#, "expected an object"),
            (r#""v""#, "expected an object"),
        ] {
            let error = parse(line, Encoding::Utf8).unwrap_err().to_string();
            assert!(error.contains(says), "{line}: {error}");
        }
        assert!(
            parse(r#"{"value":"*"}"#, Encoding::Base64).unwrap_err().to_string().starts_with("`value` is not base64")
        );
    }
}
