//! One record batch as it came over the wire: its header parsed and checked, its records not yet touched.
//!
//! What a header claims is checked against itself and against the bytes there are; the CRC only when asked for, since
//! a client may be told to skip it. Records are inflated on request, up to a limit of the caller's.

use bytes::Bytes;

use crate::compress::Compression;
use crate::record::crc;
use crate::record::error::{CorruptBatch, RecordError};
use crate::record::layout::MIN_RECORD_LEN;
use crate::record::layout::{BATCH_HEADER_LEN, CRC_START, LOG_OVERHEAD, MAGIC, MIN_BATCH_LENGTH, at, attributes};
use crate::record::records::Records;

/// The batches of a records field, in order.
///
/// A broker cuts its answer where the size asked for ends, so a last batch that is cut off is simply the end. After an
/// error there is nothing more: where the next batch would begin is not known.
#[derive(Clone, Debug)]
pub struct RecordBatches {
    rest: Bytes,
}

impl RecordBatches {
    /// The batches in `records`.
    pub fn new(records: Bytes) -> Self {
        Self { rest: records }
    }

    /// What was not read yet: after the end, the batch that was cut off.
    pub fn rest(&self) -> &Bytes {
        &self.rest
    }

    fn parse_next(&mut self) -> Result<Option<RecordBatch>, RecordError> {
        let Some(length) = complete_batch(&self.rest)? else { return Ok(None) };
        RecordBatch::parse(self.rest.split_to(length)).map(Some)
    }
}

impl Iterator for RecordBatches {
    type Item = Result<RecordBatch, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.parse_next();
        if next.is_err() {
            self.rest = Bytes::new();
        }
        next.transpose()
    }
}

/// The length of the batch at the front; `None` if it is not all there.
fn complete_batch(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    // Up to the magic, all formats agree; it decides what the length may be.
    if bytes.len() <= at::MAGIC {
        return Ok(None);
    }
    let magic = bytes[at::MAGIC] as i8;
    if magic != MAGIC {
        return Err(RecordError::UnsupportedMagic { magic });
    }
    let base_offset = i64::from_be_bytes(field(bytes, at::BASE_OFFSET));
    let batch_length = i32::from_be_bytes(field(bytes, at::BATCH_LENGTH));
    if batch_length < MIN_BATCH_LENGTH {
        return Err(RecordError::CorruptBatch { base_offset, reason: CorruptBatch::Length(batch_length) });
    }
    let length = LOG_OVERHEAD + batch_length as usize;
    Ok((length <= bytes.len()).then_some(length))
}

/// Who says when a record was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// Its producer.
    CreateTime,
    /// The broker that appended it: all records of a batch have the batch's maximum.
    LogAppendTime,
}

/// A record batch, borrowed from the bytes it came in. Cloning shares them.
#[derive(Clone, Debug)]
pub struct RecordBatch {
    bytes: Bytes,
    base_offset: i64,
    last_offset_delta: i32,
    record_count: i32,
    attributes: i16,
    base_timestamp: i64,
    max_timestamp: i64,
    compression: Compression,
}

impl RecordBatch {
    /// Parses and checks the header of the one batch that `bytes` is.
    ///
    /// # Errors
    /// [`RecordError::UnsupportedMagic`], or [`RecordError::CorruptBatch`] saying which field contradicts what.
    pub fn parse(bytes: Bytes) -> Result<Self, RecordError> {
        let Some(length) = complete_batch(&bytes)? else {
            let length = bytes.get(at::BATCH_LENGTH..).and_then(|bytes| bytes.first_chunk());
            let base_offset = bytes.first_chunk().map_or(0, |bytes| i64::from_be_bytes(*bytes));
            let reason = CorruptBatch::Length(length.map_or(0, |bytes| i32::from_be_bytes(*bytes)));
            return Err(RecordError::CorruptBatch { base_offset, reason });
        };
        let base_offset = i64::from_be_bytes(field(&bytes, at::BASE_OFFSET));
        let corrupt = |reason| RecordError::CorruptBatch { base_offset, reason };
        if length < bytes.len() {
            return Err(corrupt(CorruptBatch::NotAlone(bytes.len() - length)));
        }

        let attributes = i16::from_be_bytes(field(&bytes, at::ATTRIBUTES));
        if attributes & !attributes::KNOWN != 0 {
            return Err(corrupt(CorruptBatch::Attributes(attributes)));
        }
        let codec = (attributes & attributes::COMPRESSION) as u8;
        let compression = Compression::from_id(codec).ok_or(corrupt(CorruptBatch::Codec(codec)))?;

        let last_offset_delta = i32::from_be_bytes(field(&bytes, at::LAST_OFFSET_DELTA));
        let record_count = i32::from_be_bytes(field(&bytes, at::RECORD_COUNT));
        if last_offset_delta < 0 {
            return Err(corrupt(CorruptBatch::LastOffsetDelta(last_offset_delta)));
        }
        // The offset behind the last must exist too: it is what a consumer asks for next.
        if base_offset < 0 || base_offset.checked_add(i64::from(last_offset_delta) + 1).is_none() {
            return Err(corrupt(CorruptBatch::BaseOffset(last_offset_delta)));
        }
        // Compaction leaves gaps, so there may be fewer records than offsets, and none at all, but never more.
        if record_count < 0 || i64::from(record_count) > i64::from(last_offset_delta) + 1 {
            return Err(corrupt(CorruptBatch::RecordCount(record_count)));
        }
        let batch = Self {
            base_offset,
            last_offset_delta,
            record_count,
            attributes,
            base_timestamp: i64::from_be_bytes(field(&bytes, at::BASE_TIMESTAMP)),
            max_timestamp: i64::from_be_bytes(field(&bytes, at::MAX_TIMESTAMP)),
            compression,
            bytes,
        };
        if compression == Compression::None {
            batch.check_record_count(batch.bytes.len() - BATCH_HEADER_LEN)?;
        }
        Ok(batch)
    }

    /// The offset of the first record, as written; compaction may have removed that record.
    pub fn base_offset(&self) -> i64 {
        self.base_offset
    }

    /// The offset of the last record, as written.
    pub fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// The distance from the base offset to the last.
    pub fn last_offset_delta(&self) -> i32 {
        self.last_offset_delta
    }

    /// The offset to fetch after this batch.
    pub fn next_offset(&self) -> i64 {
        self.last_offset() + 1
    }

    /// The epoch of the leader that appended it; -1 from a producer.
    pub fn partition_leader_epoch(&self) -> i32 {
        i32::from_be_bytes(field(&self.bytes, at::PARTITION_LEADER_EPOCH))
    }

    /// The producer's id; -1 without idempotence.
    pub fn producer_id(&self) -> i64 {
        i64::from_be_bytes(field(&self.bytes, at::PRODUCER_ID))
    }

    /// The producer's epoch; -1 without idempotence.
    pub fn producer_epoch(&self) -> i16 {
        i16::from_be_bytes(field(&self.bytes, at::PRODUCER_EPOCH))
    }

    /// The first record's place in the producer's sequence; -1 without idempotence.
    pub fn base_sequence(&self) -> i32 {
        i32::from_be_bytes(field(&self.bytes, at::BASE_SEQUENCE))
    }

    /// Whether it belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & attributes::TRANSACTIONAL != 0
    }

    /// Whether it holds a marker of the broker's, not records of an application's.
    pub fn is_control(&self) -> bool {
        self.attributes & attributes::CONTROL != 0
    }

    /// Who set the timestamps.
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & attributes::LOG_APPEND_TIME != 0 {
            TimestampType::LogAppendTime
        } else {
            TimestampType::CreateTime
        }
    }

    /// What the records' timestamps are stored relative to.
    pub fn base_timestamp(&self) -> i64 {
        self.base_timestamp
    }

    /// The highest timestamp of its records; -1 for none.
    pub fn max_timestamp(&self) -> i64 {
        self.max_timestamp
    }

    /// From when on its tombstones may be removed (KIP-534), if the log cleaner has set that.
    pub fn delete_horizon(&self) -> Option<i64> {
        (self.attributes & attributes::DELETE_HORIZON != 0).then_some(self.base_timestamp)
    }

    /// How many records it holds; zero where compaction has removed them all.
    pub fn record_count(&self) -> i32 {
        self.record_count
    }

    /// What its records are compressed with.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The whole batch, header and record section, as it came.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The CRC that the header states.
    pub fn crc(&self) -> u32 {
        u32::from_be_bytes(field(&self.bytes, at::CRC))
    }

    /// Checks the bytes against the CRC in the header.
    ///
    /// # Errors
    /// [`RecordError::BadCrc`].
    pub fn verify_crc(&self) -> Result<(), RecordError> {
        let stored = self.crc();
        let computed = crc::crc32c(&self.bytes[CRC_START..]);
        if stored != computed {
            return Err(RecordError::BadCrc { base_offset: self.base_offset, stored, computed });
        }
        Ok(())
    }

    /// The records, inflated if they are compressed, to at most `limit` bytes. What is not compressed is borrowed,
    /// whatever its size.
    ///
    /// # Errors
    /// [`RecordError::Compression`], or [`RecordError::CorruptBatch`] if there are more records than bytes for them.
    pub fn records(&self, limit: usize) -> Result<Records, RecordError> {
        let section = self.bytes.slice(BATCH_HEADER_LEN..);
        let data = if self.compression == Compression::None {
            section
        } else {
            let mut inflated = Vec::new();
            self.compression
                .decompress(&section, limit, &mut inflated)
                .map_err(|source| RecordError::Compression { base_offset: self.base_offset, source })?;
            self.check_record_count(inflated.len())?;
            // Room is made for the most there can be; what is kept is what there is.
            inflated.shrink_to_fit();
            Bytes::from(inflated)
        };
        Ok(Records::new(self, data))
    }

    fn check_record_count(&self, payload: usize) -> Result<(), RecordError> {
        if self.record_count as usize > payload / MIN_RECORD_LEN {
            let reason = CorruptBatch::RecordCount(self.record_count);
            return Err(RecordError::CorruptBatch { base_offset: self.base_offset, reason });
        }
        Ok(())
    }

    /// The timestamp that all records have, where the broker has set it.
    pub(crate) fn log_append_time(&self) -> Option<i64> {
        (self.timestamp_type() == TimestampType::LogAppendTime).then_some(self.max_timestamp)
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("the header was checked to be all there")
}
