//! A dead letter: the record as it was, with where it came from and why it failed in headers behind its own.
//!
//! Names of KIP-1191 where it has one (`__dlq.errors.*`), `milena.dlq.*` for the rest. Values are text, as Kafka Connect
//! writes them.

use std::sync::Arc;

use bytes::Bytes;

use super::failure::Failure;
use crate::envelope::{EventTime, Header};
use crate::record::RawRecord;

/// Names of the headers that a dead letter has behind the record's own.
pub mod headers {
    /// Topic that the record was read from (KIP-1191).
    pub const TOPIC: &str = "__dlq.errors.topic";
    /// Its partition there (KIP-1191).
    pub const PARTITION: &str = "__dlq.errors.partition";
    /// Its offset there (KIP-1191).
    pub const OFFSET: &str = "__dlq.errors.offset";
    /// Group that could not handle it (KIP-1191).
    pub const GROUP: &str = "__dlq.errors.group";
    /// How often it was tried (KIP-1191).
    pub const DELIVERY_COUNT: &str = "__dlq.errors.delivery.count";
    /// The last failure's message (KIP-1191). Absent, as is [`CAUSE`], when the dead letter would be too large with it.
    pub const MESSAGE: &str = "__dlq.errors.message";
    /// Kind of the last failure: `handler`, `panic`, `envelope`, `payload` or `unknown-type`.
    pub const KIND: &str = "milena.dlq.kind";
    /// The errors behind the last failure, outermost first. Absent when there are none.
    pub const CAUSE: &str = "milena.dlq.cause";
    /// When it failed first, RFC 3339.
    pub const FIRST_FAILURE: &str = "milena.dlq.first-failure";
    /// When it failed last, RFC 3339.
    pub const LAST_FAILURE: &str = "milena.dlq.last-failure";
    /// The record's own timestamp, in milliseconds since 1970.
    pub const TIMESTAMP: &str = "milena.dlq.timestamp";
}

/// How often, since when and why a record failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FailureLog {
    pub(crate) attempts: u32,
    pub(crate) first: EventTime,
    pub(crate) last: EventTime,
    pub(crate) failure: Failure,
}

/// A record on its way to the dead-letter topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    pub(crate) topic: Arc<str>,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<Header>,
    /// How many of the headers are the record's own; the rest follows.
    own: usize,
}

impl DeadLetter {
    pub(crate) fn new(topic: Arc<str>, record: &RawRecord, group: &str, log: &FailureLog) -> Self {
        let mut own = Vec::with_capacity(record.headers.len() + 11);
        own.extend(record.headers.iter().cloned());
        let mut add = |name: &'static str, value: String| own.push(Header::new(name, value));
        add(headers::TOPIC, record.topic.as_ref().to_owned());
        add(headers::PARTITION, record.partition.to_string());
        add(headers::OFFSET, record.offset.to_string());
        add(headers::GROUP, group.to_owned());
        add(headers::DELIVERY_COUNT, log.attempts.to_string());
        add(headers::MESSAGE, log.failure.message().to_owned());
        add(headers::KIND, log.failure.kind().as_str().to_owned());
        if !log.failure.cause().is_empty() {
            add(headers::CAUSE, log.failure.cause().to_owned());
        }
        add(headers::FIRST_FAILURE, log.first.to_string());
        add(headers::LAST_FAILURE, log.last.to_string());
        add(headers::TIMESTAMP, record.timestamp.to_string());
        let (key, value) = (record.key.clone(), record.value.clone());
        Self { topic, key, value, headers: own, own: record.headers.len() }
    }

    /// Without the texts of its failure, which may be what makes it too large.
    pub(crate) fn without_texts(mut self) -> Self {
        let added = self.headers.split_off(self.own);
        let is_text = |header: &Header| [headers::MESSAGE, headers::CAUSE].contains(&&*header.name);
        self.headers.extend(added.into_iter().filter(|header| !is_text(header)));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_is_the_record_verbatim_with_its_story_behind() {
        let own = vec![Header::new("h", "1"), Header::new(headers::MESSAGE, "an earlier one"), Header::null("n")];
        let record = RawRecord {
            topic: "orders".into(),
            partition: 3,
            offset: 42,
            timestamp: 1_760_170_150_123,
            key: Some(Bytes::from_static(b"\xff\x00")),
            value: None,
            headers: own.clone(),
        };
        let log = FailureLog {
            attempts: 5,
            first: EventTime::from_millis(1_000).unwrap(),
            last: EventTime::from_millis(2_500).unwrap(),
            failure: Failure::handler("no stock".into()),
        };
        let letter = DeadLetter::new("orders.dead-letters".into(), &record, "billing", &log);
        assert_eq!((&letter.key, &letter.value), (&record.key, &record.value));
        assert_eq!(letter.headers[..3], own);
        let expected = [
            ("__dlq.errors.topic", "orders"),
            ("__dlq.errors.partition", "3"),
            ("__dlq.errors.offset", "42"),
            ("__dlq.errors.group", "billing"),
            ("__dlq.errors.delivery.count", "5"),
            ("__dlq.errors.message", "no stock"),
            ("milena.dlq.kind", "handler"),
            ("milena.dlq.first-failure", "1970-01-01T00:00:01Z"),
            ("milena.dlq.last-failure", "1970-01-01T00:00:02.5Z"),
            ("milena.dlq.timestamp", "1760170150123"),
        ];
        assert_eq!(letter.headers[3..], expected.map(|(name, value)| Header::new(name, value)));
        let shorter = letter.clone().without_texts();
        let mut expected = letter.headers;
        expected.remove(3 + 5);
        assert_eq!(shorter.headers, expected);
    }
}
