//! The traits by which messages become bytes and bytes messages.

use std::fmt;

use bytes::{Bytes, BytesMut};

use crate::{
    ApiKey, DecodeError, EncodeError,
    primitives::{Reader, Writer},
};

/// The versions of a message, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VersionRange {
    /// The oldest.
    pub min: i16,
    /// The newest.
    pub max: i16,
}

impl VersionRange {
    /// The versions from `min` to `max`.
    #[must_use]
    pub const fn new(min: i16, max: i16) -> Self {
        Self { min, max }
    }

    /// True if `version` is one of them.
    #[must_use]
    pub const fn contains(self, version: i16) -> bool {
        self.min <= version && version <= self.max
    }

    /// The versions that both have, if any.
    #[must_use]
    pub fn intersect(self, other: Self) -> Option<Self> {
        let both = Self { min: self.min.max(other.min), max: self.max.min(other.max) };
        (both.min <= both.max).then_some(both)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max { write!(f, "{}", self.min) } else { write!(f, "{}-{}", self.min, self.max) }
    }
}

/// A value that Kafka has an encoding for.
pub trait Encode {
    /// Appends the value, as `version` has it, to `buf`.
    ///
    /// # Errors
    /// See [`EncodeError`]; `buf` is left as it was.
    fn encode(&self, version: i16, buf: &mut BytesMut) -> Result<(), EncodeError>;
}

/// A value that can be read from Kafka's encoding. Strings and byte fields are slices of the input, not copies.
pub trait Decode: Sized {
    /// Reads a value, as `version` has it, from the front of `buf`, and leaves in `buf` what follows it.
    ///
    /// # Errors
    /// See [`DecodeError`]; what is left in `buf` then is unspecified. Whatever the bytes, decoding neither panics nor
    /// allocates more than 64 times their number and 64 KiB.
    fn decode(version: i16, buf: &mut Bytes) -> Result<Self, DecodeError>;

    /// Reads a value that must be all there is in `buf`.
    ///
    /// # Errors
    /// As [`Decode::decode`], and [`DecodeError::TrailingBytes`].
    fn decode_exact(version: i16, mut buf: Bytes) -> Result<Self, DecodeError> {
        let value = Self::decode(version, &mut buf)?;
        if buf.is_empty() { Ok(value) } else { Err(DecodeError::TrailingBytes { left: buf.len() }) }
    }
}

/// A message of the protocol. Its `Default` has the defaults of the schema.
pub trait Message: Encode + Decode + Default + Clone + fmt::Debug + PartialEq + Send + Sync + 'static {
    /// The message's name in the schema.
    const NAME: &'static str;

    /// The versions that this crate reads and writes.
    const VERSIONS: VersionRange;
}

/// A message that asks for another.
pub trait Request: Message {
    /// What is asked.
    const API_KEY: ApiKey;

    /// The answer, in the version of the request.
    type Response: Message;
}

/// A message, or a struct inside one, as a list of fields. The reader and the writer know the version.
pub(crate) trait Struct: Sized {
    /// The fewest bytes that it takes on the wire, in any version.
    const SMALLEST: usize;

    fn read(r: &mut Reader) -> Self;

    fn write(&self, w: &mut Writer<'_>);
}

/// Makes a message of a [`Struct`]: its versions, and the first of them in the flexible encoding.
macro_rules! message {
    ($message:ident, $min:literal..=$max:literal, flexible $flexible:expr) => {
        impl $crate::Message for $message {
            const NAME: &'static str = stringify!($message);
            const VERSIONS: $crate::VersionRange = $crate::VersionRange::new($min, $max);
        }

        impl $crate::Encode for $message {
            fn encode(&self, version: i16, buf: &mut bytes::BytesMut) -> Result<(), $crate::EncodeError> {
                let versions = <Self as $crate::Message>::VERSIONS;
                let mut w = Writer::open(stringify!($message), versions, $flexible, version, buf)?;
                self.write(&mut w);
                w.finish()
            }
        }

        impl $crate::Decode for $message {
            fn decode(version: i16, buf: &mut bytes::Bytes) -> Result<Self, $crate::DecodeError> {
                let versions = <Self as $crate::Message>::VERSIONS;
                let mut r = Reader::open(stringify!($message), versions, $flexible, version, buf)?;
                let value = Self::read(&mut r);
                r.finish(value, buf)
            }
        }
    };
}

macro_rules! request {
    ($request:ident, $api:ident, $response:ty) => {
        impl $crate::Request for $request {
            const API_KEY: $crate::ApiKey = $crate::ApiKey::$api;
            type Response = $response;
        }
    };
}

pub(crate) use message;
pub(crate) use request;
