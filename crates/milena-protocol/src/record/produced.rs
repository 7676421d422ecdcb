//! What Kafka demands of the records in a produce request (its `ProduceRequest.validateRecords` and `LogValidator`).

use bytes::Bytes;

use crate::record::batch::RecordBatch;
use crate::record::error::{CorruptBatch, RecordError};
use crate::record::layout::NO_TIMESTAMP;

/// A batch that a broker may append.
#[derive(Clone, Debug)]
pub struct ProducedBatch {
    /// The batch, as it was sent.
    pub batch: RecordBatch,
    /// The highest timestamp of its records, which the header may have wrong; -1 for none.
    pub max_timestamp: i64,
    /// The offset delta of the first record with it.
    pub max_timestamp_delta: i32,
}

impl ProducedBatch {
    /// Checks the records field of a produce request: exactly one batch of the current format, not empty, its CRC
    /// right, its offsets dense from zero, without what only a broker may set, and every record well-formed.
    /// Compressed batches are inflated to at most `limit` bytes for that.
    ///
    /// # Errors
    /// [`RecordError`], by which Kafka's error codes can be told: a bad CRC is a corrupt message, all else an invalid
    /// record.
    pub fn validate(records: Bytes, limit: usize) -> Result<Self, RecordError> {
        let batch = RecordBatch::parse(records)?;
        batch.verify_crc()?;
        let corrupt = |reason| RecordError::CorruptBatch { base_offset: batch.base_offset(), reason };
        let from_producer = !batch.is_control() && batch.record_count() > 0;
        // An idempotent producer numbers its batches; a transaction needs such a producer. That a broker has stamped the
        // records, or set a delete horizon, is no producer's to say, but Kafka takes it.
        let identified = batch.producer_id() >= 0 && batch.base_sequence() >= 0;
        let anonymous = batch.producer_id() < 0 && !batch.is_transactional();
        if !from_producer || !(identified || anonymous) {
            return Err(corrupt(CorruptBatch::NotFromProducer));
        }
        let (count, last_offset_delta) = (batch.record_count(), batch.last_offset_delta());
        // Strictly rising offsets up to one less than the count can only be 0, 1, 2, …: the iterator checks the rise.
        if i64::from(last_offset_delta) + 1 != i64::from(count) {
            return Err(corrupt(CorruptBatch::SparseOffsets { records: count, last_offset_delta }));
        }
        let mut max = (NO_TIMESTAMP, 0);
        for (index, record) in batch.records(limit)?.iter().enumerate() {
            let record = record?;
            if record.timestamp > max.0 {
                max = (record.timestamp, index as i32);
            }
        }
        Ok(Self { max_timestamp: max.0, max_timestamp_delta: max.1, batch })
    }
}
