//! What can go wrong with records: while appending them, and while reading them back.

use crate::compress::CompressError;

/// Why a record could not be appended to a batch; the batch is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The record alone, or with those before it, passes what a batch's 31-bit length can say.
    #[error("the record does not fit into a batch of 2 GiB: seal this batch, or make the record smaller")]
    TooLarge,
    /// The batch holds as many records as its 31-bit count can say.
    #[error("the batch is full: seal it and append to a new one")]
    Full,
    /// The timestamp is negative, but not Kafka's -1 for "none", or too far from the batch's first.
    #[error("timestamp {timestamp} is no time: use milliseconds since 1970, or -1 for none")]
    Timestamp {
        /// The record's timestamp.
        timestamp: i64,
    },
    /// More headers than are written, though readers would take them.
    #[error("{count} headers are more than the {max} a record may have")]
    TooManyHeaders {
        /// How many the record has.
        count: usize,
        /// How many it may have.
        max: usize,
    },
}

/// Why records could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A batch of a format before Kafka 0.11.
    #[error("record format {magic} is not supported: only format 2, that of Kafka 0.11 and later, is")]
    UnsupportedMagic {
        /// The format's number.
        magic: i8,
    },
    /// The batch's bytes are not those that were written.
    #[error("the batch at offset {base_offset} has CRC {computed:#010x}, not {stored:#010x} as its header says")]
    BadCrc {
        /// The batch's base offset.
        base_offset: i64,
        /// The CRC in its header.
        stored: u32,
        /// The CRC of its bytes.
        computed: u32,
    },
    /// The batch's header contradicts itself or its bytes.
    #[error("the batch at offset {base_offset} is damaged: {reason}")]
    CorruptBatch {
        /// The batch's base offset.
        base_offset: i64,
        /// What is wrong.
        reason: CorruptBatch,
    },
    /// A record contradicts its batch or its own lengths.
    #[error("record {index} of the batch at offset {base_offset} is damaged: {reason}")]
    CorruptRecord {
        /// The batch's base offset.
        base_offset: i64,
        /// The record's place in the batch, from 0.
        index: i32,
        /// What is wrong.
        reason: CorruptRecord,
    },
    /// The batch could not be decompressed, or is larger than allowed.
    #[error("the batch at offset {base_offset} can't be decompressed")]
    Compression {
        /// The batch's base offset.
        base_offset: i64,
        /// Why.
        #[source]
        source: CompressError,
    },
    /// The records could not be encoded again while splitting a batch.
    #[error("a record can't be encoded again")]
    Append(#[from] AppendError),
    /// The new batches could not be compressed while splitting a batch.
    #[error("a split batch can't be compressed")]
    Compress(#[source] CompressError),
}

/// What is wrong with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CorruptBatch {
    /// The length in the header is below that of an empty batch, or not that of the bytes.
    #[error("its length is {0}")]
    Length(i32),
    /// The compression bits name no codec.
    #[error("its compression type is {0}")]
    Codec(u8),
    /// Attribute bits without a meaning are set.
    #[error("its attributes are {0:#06x}")]
    Attributes(i16),
    /// A negative offset, or one so large that the batch's last would overflow.
    #[error("its base offset overflows with last offset delta {0}")]
    BaseOffset(i32),
    /// The last offset delta is negative or contradicts the records.
    #[error("its last offset delta is {0}")]
    LastOffsetDelta(i32),
    /// The record count is negative or more than the bytes can hold.
    #[error("its record count is {0}")]
    RecordCount(i32),
    /// Bytes are left behind the last record.
    #[error("{0} bytes follow its last record")]
    TrailingBytes(usize),
    /// A control batch without exactly one well-formed control record.
    #[error("its control record is malformed")]
    ControlRecord,
    /// Where exactly one batch was expected, there are more bytes.
    #[error("{0} bytes follow the batch")]
    NotAlone(usize),
    /// A batch from a producer whose offsets are not 0, 1, 2, …
    #[error("its {records} records do not have dense offsets up to {last_offset_delta}")]
    SparseOffsets {
        /// The record count.
        records: i32,
        /// The last offset delta.
        last_offset_delta: i32,
    },
    /// A batch from a producer with attributes that only a broker sets, or without records.
    #[error("no producer may send it")]
    NotFromProducer,
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CorruptRecord {
    /// The bytes end inside it.
    #[error("it is cut off")]
    Truncated,
    /// A varint with too many bytes or bits.
    #[error("a varint overflows")]
    VarintOverflow,
    /// Its length is negative, or longer than what is left.
    #[error("its length is {0}")]
    Length(i32),
    /// It is shorter than its length says.
    #[error("{0} bytes follow its last field")]
    TrailingBytes(usize),
    /// Its key's length is more than what is left.
    #[error("its key has length {0}")]
    KeyLength(i32),
    /// Its value's length is more than what is left.
    #[error("its value has length {0}")]
    ValueLength(i32),
    /// Its header count is negative, or more than the bytes can hold.
    #[error("its header count is {0}")]
    HeaderCount(i32),
    /// A header's key is null or too long, or its value is too long.
    #[error("a header is malformed")]
    Header,
    /// Its offset delta is negative, not above the one before, or above the batch's last.
    #[error("its offset delta is {0}")]
    OffsetDelta(i32),
    /// Its timestamp overflows.
    #[error("its timestamp delta is {0}")]
    TimestampDelta(i64),
}
