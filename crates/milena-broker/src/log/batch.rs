//! One batch: checked as it comes in, stored as it stays.
//!
//! A batch is kept as its producer wrote it: the 61 header bytes, in which base offset and leader epoch are patched,
//! and the record section as a slice of the request's frame. Nothing here compresses or re-encodes.

use bytes::{Bytes, BytesMut};
use milena_protocol::{
    ErrorCode,
    record::{CorruptBatch, Patch, ProducedBatch, RecordBatch, RecordError, Timestamps},
};

use super::producer_state::ProducerBatch;

/// Bytes of a batch's header.
pub(super) const HEADER_LEN: usize = milena_protocol::record::BATCH_HEADER_LEN;

/// The most that one batch may inflate to while it is checked; a bomb is refused, not swallowed.
const INFLATE_LIMIT: usize = 256 * 1024 * 1024;

/// The smallest legal batch length: a header without records.
const MIN_LENGTH: i32 = 49;

/// What a topic and the request's version ask of a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchRules {
    pub(crate) max_bytes: usize,
    pub(crate) needs_keys: bool,
    pub(crate) zstd_allowed: bool,
    /// Records that claim to be older, or newer than the next, are refused.
    pub(crate) earliest_timestamp: i64,
    pub(crate) latest_timestamp: i64,
}

/// A batch that passed [`check_produced`].
#[derive(Debug)]
pub(crate) struct CheckedBatch {
    batch: RecordBatch,
    max_timestamp: i64,
    pub(super) producer: Option<ProducerBatch>,
    pub(super) transactional: bool,
}

/// Why a batch is refused, as a produce response says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RejectedBatch {
    pub(crate) code: ErrorCode,
    /// For the log; Kafka sends a message only beside per-record errors.
    pub(crate) message: String,
    /// Position in the batch and message of each record that is at fault (KIP-467).
    pub(crate) records: Vec<(i32, String)>,
}

impl RejectedBatch {
    fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), records: Vec::new() }
    }
}

/// Checks the records field of a produce request as Kafka's `LogValidator` does.
pub(crate) fn check_produced(records: Option<Bytes>, rules: &BatchRules) -> Result<CheckedBatch, RejectedBatch> {
    let Some(records) = records.filter(|records| !records.is_empty()) else {
        let message = "Produce requests must have at least one record batch per partition";
        return Err(RejectedBatch::new(ErrorCode::INVALID_RECORD, message));
    };
    if records.len() > rules.max_bytes {
        let message = format!(
            "The record batch size in the append is {} bytes which exceeds the maximum configured value of {}.",
            records.len(),
            rules.max_bytes
        );
        return Err(RejectedBatch::new(ErrorCode::MESSAGE_TOO_LARGE, message));
    }
    let ProducedBatch { batch, max_timestamp, .. } =
        ProducedBatch::validate(records, INFLATE_LIMIT).map_err(|error| reject(&error))?;
    if batch.compression() == milena_protocol::compress::Compression::Zstd && !rules.zstd_allowed {
        let message = "Produce requests with version below 7 are not allowed to use ZStandard compression";
        return Err(RejectedBatch::new(ErrorCode::UNSUPPORTED_COMPRESSION_TYPE, message));
    }
    if batch.base_offset() != 0 {
        return Err(RejectedBatch::new(ErrorCode::INVALID_RECORD, "Record offsets of a producer must begin at 0."));
    }
    if rules.needs_keys {
        check_keys(&batch)?;
    }
    let earliest = if batch.base_timestamp() < 0 { i64::MAX } else { batch.base_timestamp() };
    if earliest < rules.earliest_timestamp || max_timestamp > rules.latest_timestamp {
        let mut rejected = RejectedBatch::new(
            ErrorCode::INVALID_TIMESTAMP,
            "One or more records have been rejected due to invalid timestamp",
        );
        rejected.records.push((0, "Timestamp of message is out of range.".to_owned()));
        return Err(rejected);
    }
    let producer = (batch.producer_id() >= 0).then(|| ProducerBatch {
        producer_id: batch.producer_id(),
        epoch: batch.producer_epoch(),
        base_sequence: batch.base_sequence(),
        last_offset_delta: batch.last_offset_delta(),
    });
    Ok(CheckedBatch { max_timestamp, producer, transactional: batch.is_transactional(), batch })
}

fn check_keys(batch: &RecordBatch) -> Result<(), RejectedBatch> {
    let records = batch.records(INFLATE_LIMIT).map_err(|error| reject(&error))?;
    let keyless = records.iter().enumerate().filter(|(_, record)| record.as_ref().is_ok_and(|r| r.key.is_none()));
    let keyless: Vec<_> = keyless
        .map(|(index, _)| {
            let index = i32::try_from(index).unwrap_or(i32::MAX);
            (index, "Compacted topic cannot accept message without key.".to_owned())
        })
        .collect();
    if keyless.is_empty() {
        return Ok(());
    }
    let message = "One or more records have been rejected";
    Err(RejectedBatch { code: ErrorCode::INVALID_RECORD, message: message.to_owned(), records: keyless })
}

fn reject(error: &RecordError) -> RejectedBatch {
    let code = match error {
        RecordError::BadCrc { .. } => ErrorCode::CORRUPT_MESSAGE,
        RecordError::UnsupportedMagic { magic } if *magic > 2 => ErrorCode::CORRUPT_MESSAGE,
        // What no batch can be as long as is damage; a batch that is cut off is no batch.
        RecordError::CorruptBatch { reason: CorruptBatch::Length(length), .. } if *length < MIN_LENGTH => {
            ErrorCode::CORRUPT_MESSAGE
        }
        RecordError::Compression { .. } | RecordError::CorruptBatch { reason: CorruptBatch::Codec(_), .. } => {
            ErrorCode::UNKNOWN_SERVER_ERROR
        }
        _ => ErrorCode::INVALID_RECORD,
    };
    RejectedBatch::new(code, error.to_string())
}

impl CheckedBatch {
    /// The batch as it lies in the log.
    pub(super) fn store(self, base_offset: i64, leader_epoch: i32, append_time_ms: Option<i64>) -> StoredBatch {
        let timestamps = match append_time_ms {
            Some(now) => Timestamps::LogAppend(now),
            None if self.batch.max_timestamp() != self.max_timestamp => Timestamps::Max(self.max_timestamp),
            None => Timestamps::Keep,
        };
        let max_timestamp = append_time_ms.unwrap_or(self.max_timestamp);
        let patch = Patch { base_offset, partition_leader_epoch: leader_epoch, timestamps };
        let bytes = match timestamps {
            // Only what lies outside the CRC changes, and that needs no copy of the payload.
            Timestamps::Keep => self.batch.bytes().clone(),
            // An offset that overflows is the only way to fail, after 2^63 records.
            _ => patch.apply(&self.batch).map_or_else(|_| self.batch.bytes().clone(), |batch| batch.bytes().clone()),
        };
        let last_offset = base_offset + i64::from(self.batch.last_offset_delta());
        StoredBatch {
            base_offset,
            last_offset,
            max_timestamp,
            producer: self.producer,
            transactional: self.transactional,
            marker: None,
            head: patched_header(&bytes, base_offset, leader_epoch),
            payload: bytes.slice(HEADER_LEN..),
        }
    }
}

/// A batch in the log.
#[derive(Debug, Clone)]
pub(crate) struct StoredBatch {
    pub(super) base_offset: i64,
    pub(super) last_offset: i64,
    pub(super) max_timestamp: i64,
    pub(super) producer: Option<ProducerBatch>,
    pub(super) transactional: bool,
    /// For a transaction marker: whether it commits.
    pub(super) marker: Option<bool>,
    pub(super) head: [u8; HEADER_LEN],
    pub(super) payload: Bytes,
}

impl StoredBatch {
    /// A transaction marker of the broker's own making.
    pub(super) fn from_marker(
        bytes: &Bytes,
        producer: ProducerBatch,
        committed: bool,
        base_offset: i64,
        leader_epoch: i32,
        now_ms: i64,
    ) -> Self {
        Self {
            base_offset,
            last_offset: base_offset,
            max_timestamp: now_ms,
            producer: Some(producer),
            transactional: true,
            marker: Some(committed),
            head: patched_header(bytes, base_offset, leader_epoch),
            payload: bytes.slice(HEADER_LEN..),
        }
    }

    pub(super) fn len(&self) -> usize {
        HEADER_LEN + self.payload.len()
    }

    /// The first record at or after `from_offset` with `timestamp` or later. Inflates the batch.
    pub(crate) fn find_timestamp(&self, timestamp: i64, from_offset: i64) -> Option<(i64, i64)> {
        let mut bytes = BytesMut::with_capacity(self.len());
        bytes.extend_from_slice(&self.head);
        bytes.extend_from_slice(&self.payload);
        let records = RecordBatch::parse(bytes.freeze()).ok()?.records(INFLATE_LIMIT).ok()?;
        let mut records = records.iter().filter_map(Result::ok);
        let found = records.find(|record| record.offset >= from_offset && record.timestamp >= timestamp)?;
        Some((found.timestamp, found.offset))
    }

    /// The offset behind its last record.
    pub(crate) fn next_offset(&self) -> i64 {
        self.last_offset + 1
    }

    /// The largest timestamp of its records.
    pub(crate) fn max_timestamp(&self) -> i64 {
        self.max_timestamp
    }
}

/// The header with base offset and leader epoch set, neither of which the CRC covers.
fn patched_header(batch: &[u8], base_offset: i64, leader_epoch: i32) -> [u8; HEADER_LEN] {
    let mut head = *batch.first_chunk::<HEADER_LEN>().expect("a parsed batch has a whole header");
    head[..8].copy_from_slice(&base_offset.to_be_bytes());
    head[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
    head
}
