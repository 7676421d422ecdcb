//! One batch: checked as it comes in, stored as it stays.
//!
//! A batch is kept as its producer wrote it: the 61 header bytes, in which base offset, leader epoch and timestamps are
//! patched, and a copy of the record section. A copy, because a slice would hold on to the whole read buffer or frame
//! that the batch came in. Nothing here compresses or re-encodes.

use std::fmt;

use bytes::{Bytes, BytesMut};
use milena_protocol::{
    ErrorCode,
    record::{
        CorruptBatch, Patch, ProducedBatch, RecordBatch, RecordError, RecordRef, TimestampType, Timestamps, crc32c,
    },
};

use super::producer_state::ProducerBatch;

/// Bytes of a batch's header.
pub(super) const HEADER_LEN: usize = milena_protocol::record::BATCH_HEADER_LEN;

/// The most that one batch may inflate to while it is checked; a bomb is refused, not swallowed.
const INFLATE_LIMIT: usize = 256 * 1024 * 1024;

/// The timestamp of a record that has none.
const NO_TIMESTAMP: i64 = -1;

/// Bytes of a batch of any format before what its length counts.
const LOG_OVERHEAD: usize = 12;

/// The shortest record of the oldest format: what claims to be shorter is damage.
const MIN_RECORD: i32 = 14;

/// Where the format's number, the attributes' low byte and the checksum's scope lie.
const MAGIC_AT: usize = 16;
const ATTRIBUTES_AT: usize = 22;
const CRC_AT: usize = 17;
const CRC_START: usize = 21;

const CODEC_BITS: u8 = 0x07;
const ZSTD_BITS: u8 = 0x04;
const TRANSACTIONAL_BIT: u8 = 0x10;

/// What a topic and the request's version ask of a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchRules {
    pub(crate) max_bytes: usize,
    pub(crate) needs_keys: bool,
    /// The broker stamps the records, so that their producer must not claim to have done so.
    pub(crate) log_append_time: bool,
    /// Records that claim to be older, or newer than the next, are refused.
    pub(crate) earliest_timestamp: i64,
    pub(crate) latest_timestamp: i64,
}

/// A batch that passed [`check_produced`].
#[derive(Debug)]
pub(crate) struct CheckedBatch {
    batch: RecordBatch,
    /// The record section, copied while the partition is not locked.
    payload: Bytes,
    max_timestamp: i64,
    pub(super) producer: Option<ProducerBatch>,
    pub(super) transactional: bool,
}

/// Why a batch is refused, as a produce response says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RejectedBatch {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
    /// Whether the message goes to the producer; it is for our own log otherwise.
    pub(crate) told: bool,
    /// Whether the answer says where the log starts, as Kafka's does where the log itself was at work.
    pub(crate) by_log: bool,
    /// Position in the batch and message of each record that is at fault (KIP-467).
    pub(crate) records: Vec<(i32, String)>,
}

impl RejectedBatch {
    /// Found before any log was asked.
    pub(crate) fn at_once(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), told: false, by_log: false, records: Vec::new() }
    }

    fn by_log(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { by_log: true, ..Self::at_once(code, message) }
    }
}

/// The length of the batch that `bytes` begin with, by its framing alone; none if there are too few bytes for one
/// (`ByteBufferLogInputStream.nextBatchSize`).
fn next_batch(bytes: &[u8]) -> Result<Option<usize>, RejectedBatch> {
    let Some(length) = bytes[..LOG_OVERHEAD.min(bytes.len())].get(8..).and_then(|bytes| bytes.first_chunk()) else {
        return Ok(None);
    };
    let length = i32::from_be_bytes(*length);
    let corrupt = |message| RejectedBatch { told: true, ..RejectedBatch::at_once(ErrorCode::CORRUPT_MESSAGE, message) };
    if length < MIN_RECORD {
        let message = format!("Record size {length} is less than the minimum record overhead ({MIN_RECORD})");
        return Err(corrupt(message));
    }
    let Some(magic) = bytes.get(MAGIC_AT) else { return Ok(None) };
    if *magic > 2 {
        return Err(corrupt(format!("Invalid magic found in record: {}", magic.cast_signed())));
    }
    let whole = LOG_OVERHEAD + usize::try_from(length).expect("checked above not to be negative");
    Ok((whole <= bytes.len()).then_some(whole))
}

/// What Kafka refuses a whole request for, whichever partition it stands in: it looks for transactions before it looks
/// at anything else, and has to find the batches for that.
pub(crate) fn check_transactional(records: &[u8], is_named: bool) -> Result<(), RejectedBatch> {
    let is_transactional = match next_batch(records)? {
        Some(_) => records[MAGIC_AT] == 2 && records[ATTRIBUTES_AT] & TRANSACTIONAL_BIT != 0,
        None => false,
    };
    if is_transactional && !is_named {
        let message = "a transactional batch without a transactional id";
        return Err(RejectedBatch::at_once(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED, message));
    }
    Ok(())
}

/// The one batch of a records field, without stray bytes behind it (`ProduceRequest.validateRecords`).
pub(crate) fn only_batch(records: Option<Bytes>, zstd_allowed: bool) -> Result<Bytes, RejectedBatch> {
    let invalid = |message| Err(RejectedBatch::at_once(ErrorCode::INVALID_RECORD, message));
    // Null never gets an answer from Kafka: it takes records that are not there for granted.
    let records = records.unwrap_or_default();
    let untold = |rejected| RejectedBatch { told: false, ..rejected };
    let Some(length) = next_batch(&records).map_err(untold)? else {
        return invalid("Produce requests must have at least one record batch per partition");
    };
    if records[MAGIC_AT] != 2 {
        return invalid("Produce requests are only allowed to contain record batches with magic version 2");
    }
    if records[ATTRIBUTES_AT] & CODEC_BITS == ZSTD_BITS && !zstd_allowed {
        let message = "Produce requests with version below 7 are not allowed to use ZStandard compression";
        return Err(RejectedBatch::at_once(ErrorCode::UNSUPPORTED_COMPRESSION_TYPE, message));
    }
    if next_batch(&records[length..]).map_err(untold)?.is_some() {
        return invalid("Produce requests are only allowed to contain exactly one record batch per partition");
    }
    Ok(records.slice(..length))
}

/// Checks the batch of a produce request as Kafka's log does (`UnifiedLog.analyzeAndValidateRecords`, `LogValidator`).
/// `partition` is named in messages.
pub(crate) fn check_produced(
    bytes: Bytes,
    rules: &BatchRules,
    partition: impl fmt::Display,
) -> Result<CheckedBatch, RejectedBatch> {
    if bytes.first_chunk() != Some(&0_i64.to_be_bytes()) {
        let message = "The base offset of a record batch in the append must be 0.";
        return Err(RejectedBatch::by_log(ErrorCode::INVALID_RECORD, message));
    }
    if bytes.len() > rules.max_bytes {
        let message = format!(
            "The record batch size in the append is {} bytes which exceeds the maximum configured value of {}.",
            bytes.len(),
            rules.max_bytes
        );
        return Err(RejectedBatch::at_once(ErrorCode::MESSAGE_TOO_LARGE, message));
    }
    let ProducedBatch { batch, max_timestamp, .. } =
        ProducedBatch::validate(bytes.clone(), INFLATE_LIMIT).map_err(|error| reject(&error, &bytes))?;
    check_each(&batch, max_timestamp, rules, partition)?;
    let producer = (batch.producer_id() >= 0).then(|| ProducerBatch {
        producer_id: batch.producer_id(),
        epoch: batch.producer_epoch(),
        base_sequence: batch.base_sequence(),
        last_offset_delta: batch.last_offset_delta(),
    });
    let payload = Bytes::copy_from_slice(&batch.bytes()[HEADER_LEN..]);
    Ok(CheckedBatch { max_timestamp, producer, transactional: batch.is_transactional(), payload, batch })
}

/// A batch as the log's cleaner may leave it: with fewer records than offsets, or none. No producer writes such a one.
pub(crate) fn cleaned(bytes: Bytes) -> Result<CheckedBatch, RecordError> {
    let batch = RecordBatch::parse(bytes)?;
    let payload = Bytes::copy_from_slice(&batch.bytes()[HEADER_LEN..]);
    Ok(CheckedBatch { max_timestamp: batch.max_timestamp(), producer: None, transactional: false, payload, batch })
}

/// The most records that are named in an answer: a few bytes may inflate to millions, each at fault.
pub(super) const MOST_NAMED: usize = 100_000;

/// Keys and timestamps, record by record where the header doesn't say enough.
fn check_each(
    batch: &RecordBatch,
    max_timestamp: i64,
    rules: &BatchRules,
    partition: impl fmt::Display,
) -> Result<(), RejectedBatch> {
    let (earliest, latest) = (rules.earliest_timestamp, rules.latest_timestamp);
    let claims_to_be_stamped = rules.log_append_time && batch.timestamp_type() == TimestampType::LogAppendTime;
    if !(rules.needs_keys || claims_to_be_stamped || earliest > 0 || max_timestamp > latest) {
        return Ok(());
    }
    let records = batch.records(INFLATE_LIMIT).map_err(|error| reject(&error, batch.bytes()))?;
    let mut at_fault = Vec::new();
    let mut is_time = false;
    for (index, record) in (0..).zip(records.iter().filter_map(Result::ok)) {
        if at_fault.len() == MOST_NAMED {
            break;
        }
        let RecordRef { offset, timestamp, key, value, .. } = record;
        if rules.needs_keys && key.is_none() {
            let message = format!("Compacted topic cannot accept message without key in topic partition {partition}");
            at_fault.push((index, message));
        } else if claims_to_be_stamped {
            is_time = true;
            at_fault.push((
                index,
                format!(
                    "Invalid timestamp type in message DefaultRecord(offset={offset}, timestamp={timestamp}, key={} \
                     bytes, value={} bytes). Producer should not set timestamp type to LogAppendTime.",
                    key.map_or(0, <[u8]>::len),
                    value.map_or(0, <[u8]>::len)
                ),
            ));
        } else if timestamp != NO_TIMESTAMP && !(earliest..=latest).contains(&timestamp) {
            is_time = true;
            at_fault.push((
                index,
                format!(
                    "Timestamp {timestamp} of message with offset {offset} is out of range. The timestamp should be \
                     within [{earliest}, {latest}]"
                ),
            ));
        }
    }
    if at_fault.is_empty() {
        return Ok(());
    }
    let rejected = if is_time {
        let message = "One or more records have been rejected due to invalid timestamp";
        RejectedBatch::by_log(ErrorCode::INVALID_TIMESTAMP, message)
    } else {
        let shown = at_fault.iter().take(3);
        let shown = shown.map(|(index, message)| format!("RecordError(batchIndex={index}, message='{message}')"));
        let message = format!(
            "One or more records have been rejected due to {} record errors in total, and only showing the first three \
             errors at most: [{}]",
            at_fault.len(),
            shown.collect::<Vec<_>>().join(", ")
        );
        RejectedBatch::by_log(ErrorCode::INVALID_RECORD, message)
    };
    Err(RejectedBatch { told: true, records: at_fault, ..rejected })
}

fn reject(error: &RecordError, batch: &[u8]) -> RejectedBatch {
    let is_damaged = || {
        let crc = batch.get(CRC_AT..).and_then(|bytes| bytes.first_chunk()).map(|crc| u32::from_be_bytes(*crc));
        batch.len() < HEADER_LEN || crc != Some(crc32c(&batch[CRC_START..]))
    };
    match error {
        RecordError::BadCrc { .. } => RejectedBatch::at_once(ErrorCode::CORRUPT_MESSAGE, error.to_string()),
        // Whatever else a flipped bit has made of it, Kafka looks at the checksum first.
        _ if is_damaged() => RejectedBatch::at_once(ErrorCode::CORRUPT_MESSAGE, error.to_string()),
        RecordError::Compression { .. } | RecordError::CorruptBatch { reason: CorruptBatch::Codec(_), .. } => {
            RejectedBatch::by_log(ErrorCode::UNKNOWN_SERVER_ERROR, error.to_string())
        }
        _ => RejectedBatch::by_log(ErrorCode::INVALID_RECORD, error.to_string()),
    }
}

impl CheckedBatch {
    /// The batch as it lies in the log.
    pub(super) fn store(self, base_offset: i64, leader_epoch: i32, append_time_ms: Option<i64>) -> StoredBatch {
        let timestamps = match append_time_ms {
            Some(now) => Timestamps::LogAppend(now),
            // A producer's claim that a broker has stamped the records is not kept.
            None if self.batch.max_timestamp() != self.max_timestamp
                || self.batch.timestamp_type() == TimestampType::LogAppendTime =>
            {
                Timestamps::Max(self.max_timestamp)
            }
            None => Timestamps::Keep,
        };
        let max_timestamp = append_time_ms.unwrap_or(self.max_timestamp);
        let patch = Patch { base_offset, partition_leader_epoch: leader_epoch, timestamps };
        let last_offset = base_offset + i64::from(self.batch.last_offset_delta());
        StoredBatch {
            base_offset,
            last_offset,
            max_timestamp,
            producer: self.producer,
            transactional: self.transactional,
            marker: None,
            head: patch.header(&self.batch),
            payload: self.payload,
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
