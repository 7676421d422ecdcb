//! What can be wrong with an envelope, on its way out or in.

use thiserror::Error;

/// A record that is no envelope, or an envelope that no record can carry.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// An attribute breaks its rule.
    #[error("invalid envelope: {0}")]
    Invalid(#[from] InvalidEnvelope),
    /// The record has no value.
    #[error("the record has no value, so no event")]
    NoValue,
    /// The CloudEvents version is not 1.0.
    #[error("CloudEvents version {found:?} is not 1.0")]
    SpecVersion {
        /// What `ce_specversion` says.
        found: String,
    },
    /// An attribute that must be there is missing.
    #[error("{attribute} is missing")]
    Missing {
        /// The attribute, as the wire calls it.
        attribute: &'static str,
    },
    /// An attribute's header appears more than once, so what it says is not known.
    #[error("header {attribute} appears more than once")]
    Repeated {
        /// The header.
        attribute: &'static str,
    },
    /// An attribute's header is not UTF-8, or null.
    #[error("header {attribute} is not text")]
    NotText {
        /// The header.
        attribute: &'static str,
    },
    /// An attribute does not have its form.
    #[error("{attribute} is not {expected}: {found:?}")]
    Malformed {
        /// The attribute, as the wire calls it.
        attribute: &'static str,
        /// The form it should have.
        expected: &'static str,
        /// The start of what is there.
        found: String,
    },
    /// The value is not a JSON envelope.
    #[error("the value is not a JSON envelope, and no ce_specversion header says that it is a CloudEvent")]
    NotJson(#[source] serde_json::Error),
    /// A structured-mode CloudEvent.
    #[error("structured CloudEvents are not read; publish in binary mode")]
    Structured,
    /// The payload could not be written.
    #[error("the event could not be written as JSON")]
    Payload(#[source] serde_json::Error),
}

/// An attribute of an envelope that breaks its rule.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidEnvelope {
    /// The event id is blank.
    #[error("the event id is blank")]
    EventId,
    /// The source is blank, which CloudEvents forbids.
    #[error("the source is blank; set one on the bus or on the envelope")]
    Source,
    /// The event type is blank.
    #[error("the event type is blank")]
    EventType,
    /// The version is not positive.
    #[error("event version {0} is not positive")]
    Version(i64),
    /// The aggregate id is blank.
    #[error("the aggregate id is blank")]
    AggregateIdBlank,
    /// The aggregate id is longer than 256 bytes.
    #[error("the aggregate id has {0} bytes; at most 256 are allowed")]
    AggregateIdTooLong(usize),
    /// The aggregate id has a character that the shape does not allow.
    #[error("the aggregate id contains {0:?}")]
    AggregateIdCharacter(char),
    /// The tenant is no integer other than 0, which the JSON envelope needs.
    #[error("tenant {0:?} is not an integer other than 0, which is all the JSON envelope can carry")]
    Tenant(String),
    /// The payload is empty.
    #[error("the payload is empty")]
    PayloadEmpty,
    /// The payload is not JSON, which the JSON envelope needs.
    #[error("the payload is {0}, but the JSON envelope carries JSON only")]
    PayloadNotJson(String),
    /// A header of the event's own has a name that the envelope uses.
    #[error("header {0:?} is the envelope's own; use another name")]
    ReservedHeader(String),
}
