//! One failure to handle a record: of what kind, and why, as text that outlives the error.

use std::any::Any;
use std::error::Error;
use std::fmt::Write as _;

use crate::envelope::EnvelopeError;
use crate::handler::HandlerError;

/// Longest cause that is kept: a dead letter's headers must not outgrow its record.
const LONGEST_TEXT: usize = 1_024;

/// Why a record could not be handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureKind {
    /// The handler returned an error.
    Handler,
    /// The handler panicked.
    Panic,
    /// The record is no envelope.
    Envelope,
    /// The envelope is sound, but its payload is not what the handler's type reads.
    Payload,
    /// No handler is there for the event's type, and the subscription says that there must be.
    UnknownType,
}

impl FailureKind {
    /// Whether another attempt could end otherwise. Bytes never change.
    pub(crate) fn may_pass(self) -> bool {
        matches!(self, Self::Handler | Self::Panic)
    }

    /// The word for it in headers and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Handler => "handler",
            Self::Panic => "panic",
            Self::Envelope => "envelope",
            Self::Payload => "payload",
            Self::UnknownType => "unknown-type",
        }
    }
}

/// A failure, kept as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    kind: FailureKind,
    message: String,
    /// The errors behind it, outermost first.
    cause: String,
}

impl Failure {
    pub(crate) fn handler(error: HandlerError) -> Self {
        Self::of(FailureKind::Handler, error.as_ref())
    }

    pub(crate) fn envelope(error: EnvelopeError) -> Self {
        Self::of(FailureKind::Envelope, &error)
    }

    pub(crate) fn payload(error: serde_json::Error) -> Self {
        Self::of(FailureKind::Payload, &error)
    }

    pub(crate) fn unknown_type(event_type: &str) -> Self {
        let message = cut(format!("no handler for events of type {event_type:?}"));
        Self { kind: FailureKind::UnknownType, message, cause: String::new() }
    }

    pub(crate) fn panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic_message(panic);
        Self { kind: FailureKind::Panic, message: cut(format!("the handler panicked: {text}")), cause: String::new() }
    }

    fn of(kind: FailureKind, error: &(dyn Error + 'static)) -> Self {
        let mut cause = String::new();
        let mut source = error.source();
        while let Some(error) = source {
            if !cause.is_empty() {
                cause.push_str(": ");
            }
            // Writing to a string can't fail.
            let _ = write!(cause, "{error}");
            if cause.len() > LONGEST_TEXT {
                break;
            }
            source = error.source();
        }
        Self { kind, message: cut(error.to_string()), cause: cut(cause) }
    }

    pub(crate) fn kind(&self) -> FailureKind {
        self.kind
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn cause(&self) -> &str {
        &self.cause
    }
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a value that is not text".to_owned())
}

fn cut(mut text: String) -> String {
    if text.len() > LONGEST_TEXT {
        text.truncate(text.floor_char_boundary(LONGEST_TEXT));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not reserve")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_failure_keeps_the_message_and_the_chain_behind_it_within_bounds() {
        let failure = Failure::handler(Box::new(Outer(std::io::Error::other("disk full"))));
        assert_eq!((failure.message(), failure.cause()), ("could not reserve", "disk full"));
        let long = Failure::handler("ä".repeat(5_000).into());
        assert!(long.message().len() <= LONGEST_TEXT);
    }

    #[test]
    fn a_panic_says_what_it_said() {
        assert_eq!(Failure::panic(&"boom").message(), "the handler panicked: boom");
        assert_eq!(Failure::panic(&"boom".to_owned()).message(), "the handler panicked: boom");
        assert_eq!(Failure::panic(&7).message(), "the handler panicked: a value that is not text");
    }
}
