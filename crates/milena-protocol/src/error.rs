//! What can be wrong with bytes that came in, and with values that shall go out.

use crate::VersionRange;

/// Why bytes could not be read as the message they were said to be. The connection they came from can't be trusted
/// with another frame: close it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end inside a field.
    #[error("{field} needs {needed} bytes but {left} are left: the frame was cut short or is not Kafka's")]
    UnexpectedEnd {
        /// The field that could not be read.
        field: &'static str,
        /// Bytes that the field needs.
        needed: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// A length or count is larger than the bytes left could hold. Nothing was allocated for it.
    #[error("{field} claims {length} elements or bytes, more than the {left} bytes left can hold")]
    LengthExceedsFrame {
        /// The field with the length.
        field: &'static str,
        /// The length or count claimed.
        length: u64,
        /// Bytes that are left.
        left: usize,
    },
    /// A length below −1.
    #[error("{field} has the negative length {length}")]
    InvalidLength {
        /// The field with the length.
        field: &'static str,
        /// The length.
        length: i64,
    },
    /// A field is null that may not be in this version.
    #[error("{field} is null, which this version of the schema does not allow")]
    NullNotAllowed {
        /// The field.
        field: &'static str,
    },
    /// A string is not UTF-8.
    #[error("{field} is not valid UTF-8")]
    InvalidString {
        /// The field.
        field: &'static str,
    },
    /// A varint is longer than its type allows, or carries bits beyond it.
    #[error("{field} is a varint that overflows its type")]
    VarintOverflow {
        /// The field.
        field: &'static str,
    },
    /// A nullable struct starts with a byte that is neither −1 (null) nor 1 (present).
    #[error("{field} starts with {value}, which says neither null nor present")]
    InvalidPresence {
        /// The field.
        field: &'static str,
        /// The byte found.
        value: i8,
    },
    /// The tagged fields of a struct are out of order, or one is not as long as it says.
    #[error("tagged field {tag} of {field} is malformed: {reason}")]
    BadTaggedField {
        /// The struct.
        field: &'static str,
        /// The tag.
        tag: u32,
        /// What is wrong.
        reason: &'static str,
    },
    /// Bytes follow the message where there should be none.
    #[error("{left} bytes follow the end of the message: the two sides disagree about its version")]
    TrailingBytes {
        /// How many.
        left: usize,
    },
    /// The version is not one that this crate knows for the message.
    #[error("{message} has no version {version}: use one of {supported}")]
    UnsupportedVersion {
        /// The message.
        message: &'static str,
        /// The version asked for.
        version: i16,
        /// The versions known.
        supported: VersionRange,
    },
}

/// Why a value has no encoding in the version asked for. The buffer is left as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The version is not one that this crate knows for the message.
    #[error("{message} has no version {version}: use one of {supported}")]
    UnsupportedVersion {
        /// The message.
        message: &'static str,
        /// The version asked for.
        version: i16,
        /// The versions known.
        supported: VersionRange,
    },
    /// A field is set that the version lacks, and whose loss would change what the message means.
    #[error("{field} is set but does not exist in version {version}: use a newer version or leave it at its default")]
    FieldNotInVersion {
        /// The field.
        field: &'static str,
        /// The version asked for.
        version: i16,
    },
    /// A field is null that may not be in this version.
    #[error("{field} is null, which version {version} does not allow: set it or use another version")]
    NullNotAllowed {
        /// The field.
        field: &'static str,
        /// The version asked for.
        version: i16,
    },
    /// A string, byte field, array or frame is longer than its length prefix can say.
    #[error("{field} is {length} long, more than its length prefix can say")]
    TooLong {
        /// The field.
        field: &'static str,
        /// Its length.
        length: usize,
    },
}
