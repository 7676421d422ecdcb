//! The fixed layout of a record batch (magic 2), its limits, and Kafka's words for "none".

/// Length in bytes of a batch's header, from its base offset to its record count.
pub const BATCH_HEADER_LEN: usize = 61;
/// Bytes in front of the part that `batch_length` counts: base offset and the length itself.
pub(crate) const LOG_OVERHEAD: usize = 12;
/// The smallest legal `batch_length`: a batch without records.
pub(crate) const MIN_BATCH_LENGTH: i32 = (BATCH_HEADER_LEN - LOG_OVERHEAD) as i32;
/// Where the part covered by the CRC starts: at the attributes.
pub(crate) const CRC_START: usize = 21;
/// The only record format that is written and read: Kafka 0.11 and later.
pub(crate) const MAGIC: i8 = 2;
/// The smallest record: length, attributes, timestamp delta, offset delta, key length, value length, header count.
pub const MIN_RECORD_LEN: usize = 7;
/// The most headers a record may be written with; one that is read may have more.
pub const MAX_HEADERS: usize = 10_000;
/// Kafka's "no timestamp", "no producer id", "no epoch", "no sequence".
pub const NO_TIMESTAMP: i64 = -1;

/// Offsets of the header's fields.
pub(crate) mod at {
    pub(crate) const BASE_OFFSET: usize = 0;
    pub(crate) const BATCH_LENGTH: usize = 8;
    pub(crate) const PARTITION_LEADER_EPOCH: usize = 12;
    pub(crate) const MAGIC: usize = 16;
    pub(crate) const CRC: usize = 17;
    pub(crate) const ATTRIBUTES: usize = 21;
    pub(crate) const LAST_OFFSET_DELTA: usize = 23;
    pub(crate) const BASE_TIMESTAMP: usize = 27;
    pub(crate) const MAX_TIMESTAMP: usize = 35;
    pub(crate) const PRODUCER_ID: usize = 43;
    pub(crate) const PRODUCER_EPOCH: usize = 51;
    pub(crate) const BASE_SEQUENCE: usize = 53;
    pub(crate) const RECORD_COUNT: usize = 57;
}

/// Bits of a batch's attributes.
pub(crate) mod attributes {
    pub(crate) const COMPRESSION: i16 = 0b0000_0111;
    pub(crate) const LOG_APPEND_TIME: i16 = 0b0000_1000;
    pub(crate) const TRANSACTIONAL: i16 = 0b0001_0000;
    pub(crate) const CONTROL: i16 = 0b0010_0000;
    /// The base timestamp is the horizon for deleting tombstones (KIP-534), not the first record's timestamp.
    pub(crate) const DELETE_HORIZON: i16 = 0b0100_0000;
    pub(crate) const KNOWN: i16 = 0b0111_1111;
}
