//! The open batch: records are encoded at append, straight into one recycled buffer, in the wire's format.
//!
//! Knows no clock, no partition and no limit but the format's: the caller compares [`BatchEncoder::encoded_len`] with
//! its own before it appends. Allocates only when the buffer must grow.

use crate::compress::{CompressError, Compression};
use crate::record::error::AppendError;
use crate::record::layout::{BATCH_HEADER_LEN, MAX_HEADERS, NO_TIMESTAMP};
use crate::record::sealed::{SealedBatch, Section};
use crate::record::varint::{put_varint, put_varlong, varint_len, varlong_len};

/// How far ahead of the records a recycled buffer is made writable at a time: little enough to stay in the cache.
const AHEAD: usize = 4 * 1024;
/// What `batch_length` can say, less what it counts besides the records.
const MAX_RECORDS_LEN: usize = i32::MAX as usize - BATCH_HEADER_LEN;

/// A header of a record: a name, not null, and a value that may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordHeader<'a> {
    /// The name; a record may have several headers of one name.
    pub key: &'a str,
    /// The value.
    pub value: Option<&'a [u8]>,
}

/// A batch that still takes records.
#[derive(Debug)]
pub struct BatchEncoder {
    /// Records are in `..end`; behind it, what was made writable in advance.
    buffer: Vec<u8>,
    end: usize,
    base_timestamp: i64,
    max_timestamp: i64,
    record_count: i32,
}

impl BatchEncoder {
    /// An empty batch over `buffer`, whose capacity is kept and whose contents are overwritten. Timestamps are stored
    /// relative to `base_timestamp`, so choose it near those to come, as the first record's is.
    pub fn new(buffer: Vec<u8>, base_timestamp: i64) -> Self {
        Self { buffer, end: 0, base_timestamp, max_timestamp: NO_TIMESTAMP, record_count: 0 }
    }

    /// How many bytes this record would add: exact for every record that [`append`](Self::append) takes.
    #[inline]
    pub fn encoded_len(
        &self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[RecordHeader<'_>],
    ) -> usize {
        let body = self.body_len(timestamp.wrapping_sub(self.base_timestamp), key, value, headers);
        length_len(body) + body
    }

    /// Appends a record and returns its offset delta, its place in the batch.
    ///
    /// # Errors
    /// [`AppendError`]; the batch is unchanged then.
    #[inline]
    pub fn append(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[RecordHeader<'_>],
    ) -> Result<i32, AppendError> {
        self.append_within(usize::MAX, timestamp, key, value, headers)?.ok_or(AppendError::TooLarge)
    }

    /// As [`append`](Self::append), if the batch is at most `limit` bytes with the record, its header included; else
    /// `None`, and the batch is unchanged. Computes the record's length once.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    #[inline]
    pub fn append_within(
        &mut self,
        limit: usize,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[RecordHeader<'_>],
    ) -> Result<Option<i32>, AppendError> {
        let timestamp_delta = timestamp
            .checked_sub(self.base_timestamp)
            .filter(|_| timestamp >= NO_TIMESTAMP)
            .ok_or(AppendError::Timestamp { timestamp })?;
        if headers.len() > MAX_HEADERS {
            return Err(AppendError::TooManyHeaders { count: headers.len(), max: MAX_HEADERS });
        }
        let body = self.body_len(timestamp_delta, key, value, headers);
        let end = self.end.saturating_add(length_len(body)).saturating_add(body);
        if end > limit.saturating_sub(BATCH_HEADER_LEN).min(MAX_RECORDS_LEN) {
            return Ok(None);
        }
        let offset_delta = self.record_count;
        self.record_count = offset_delta.checked_add(1).ok_or(AppendError::Full)?;
        if end > self.buffer.len() {
            self.make_writable(end);
        }

        let slot = &mut self.buffer[self.end..end];
        // Below MAX_RECORDS_LEN, so every length in it fits into 31 bits.
        let at = put_varint(slot, 0, body as i32);
        slot[at] = 0; // Attributes: none is defined for a record.
        let at = put_varlong(slot, at + 1, timestamp_delta);
        let at = put_varint(slot, at, offset_delta);
        let at = put_nullable(slot, at, key);
        let at = put_nullable(slot, at, value);
        let at = put_varint(slot, at, headers.len() as i32);
        put_headers(slot, at, headers);

        self.end = end;
        self.max_timestamp = self.max_timestamp.max(timestamp);
        Ok(Some(offset_delta))
    }

    /// Bytes so far, the batch's header included.
    pub fn len(&self) -> usize {
        BATCH_HEADER_LEN + self.end
    }

    /// Whether no record was appended yet.
    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Records so far.
    pub fn record_count(&self) -> i32 {
        self.record_count
    }

    /// What timestamps are stored relative to.
    pub fn base_timestamp(&self) -> i64 {
        self.base_timestamp
    }

    /// The highest timestamp so far; -1 before the first record.
    pub fn max_timestamp(&self) -> i64 {
        self.max_timestamp
    }

    /// The buffer's capacity: what the batch costs in memory, whatever is in it.
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// The records so far, in the wire's format.
    pub fn records(&self) -> &[u8] {
        &self.buffer[..self.end]
    }

    /// Goes on in `buffer`, whose contents are overwritten, and gives the one that it leaves back.
    pub fn move_to(&mut self, mut buffer: Vec<u8>) -> Vec<u8> {
        if buffer.len() < self.end {
            buffer.clear();
            buffer.extend_from_slice(self.records());
        } else {
            buffer[..self.end].copy_from_slice(self.records());
        }
        std::mem::replace(&mut self.buffer, buffer)
    }

    /// The buffer, to be recycled where a batch is given up unsent.
    pub fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    /// Closes the batch: compresses its records, once, and computes their CRC. A result that is not smaller is
    /// dropped, and the records stay as they are.
    ///
    /// # Errors
    /// As [`Compression::compress`]: a codec or level that this build or the codec does not have.
    pub fn seal(self, compression: Compression, level: Option<i32>) -> Result<SealedBatch, CompressError> {
        self.seal_into(compression, level, Vec::new()).map(|(sealed, _)| sealed)
    }

    /// As [`seal`](Self::seal), compressing into `output`; returns also the buffer that is free now, to be recycled:
    /// the records' where they were compressed, else `output`.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    pub fn seal_into(
        self,
        compression: Compression,
        level: Option<i32>,
        output: Vec<u8>,
    ) -> Result<(SealedBatch, Vec<u8>), CompressError> {
        let at_most = self.end.saturating_sub(1);
        self.seal_within(compression, level, output, at_most)
    }

    /// As [`seal_into`](Self::seal_into), where compressing is worth it only if at most `at_most` bytes of records are
    /// left; with more, they stay as they are.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    pub fn seal_within(
        self,
        compression: Compression,
        level: Option<i32>,
        mut output: Vec<u8>,
        at_most: usize,
    ) -> Result<(SealedBatch, Vec<u8>), CompressError> {
        let Self { buffer, end, base_timestamp, max_timestamp, record_count } = self;
        let at_most = at_most.min(end.saturating_sub(1));
        let pays = compression != Compression::None && {
            output.clear();
            compression.compress_within(level, &buffer[..end], &mut output, at_most)?
        };
        let (records, compression, free) = if pays {
            let len = output.len();
            (Section::new(output, len), compression, buffer)
        } else {
            (Section::new(buffer, end), Compression::None, output)
        };
        let sealed = SealedBatch::new(records, end, compression, level, base_timestamp, max_timestamp, record_count);
        Ok((sealed, free))
    }

    /// The length of a record without its length prefix; saturates where no batch could hold it anyway.
    #[inline]
    fn body_len(
        &self,
        timestamp_delta: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[RecordHeader<'_>],
    ) -> usize {
        let fixed = 1 + varlong_len(timestamp_delta) + varint_len(self.record_count) + length_len(headers.len());
        let mut length = fixed.saturating_add(nullable_len(key)).saturating_add(nullable_len(value));
        for header in headers {
            length = length
                .saturating_add(nullable_len(Some(header.key.as_bytes())))
                .saturating_add(nullable_len(header.value));
        }
        length
    }

    /// Extends the initialised part of the buffer to `end`, and a little further within its capacity.
    #[cold]
    fn make_writable(&mut self, end: usize) {
        if end > self.buffer.capacity() {
            self.buffer.reserve(end - self.buffer.len());
        }
        let ahead = (end + AHEAD).min(self.buffer.capacity());
        self.buffer.resize(ahead, 0);
    }
}

/// Bytes that a length takes as a varint.
#[inline]
fn length_len(length: usize) -> usize {
    varlong_len(length as i64)
}

#[inline]
fn nullable_len(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| length_len(bytes.len()) + bytes.len())
}

#[inline]
fn put_nullable(slot: &mut [u8], at: usize, bytes: Option<&[u8]>) -> usize {
    let Some(bytes) = bytes else { return put_varint(slot, at, -1) };
    let at = put_varint(slot, at, bytes.len() as i32);
    let end = at + bytes.len();
    slot[at..end].copy_from_slice(bytes);
    end
}

fn put_headers(slot: &mut [u8], at: usize, headers: &[RecordHeader<'_>]) {
    let mut at = at;
    for header in headers {
        at = put_nullable(slot, at, Some(header.key.as_bytes()));
        at = put_nullable(slot, at, header.value);
    }
}
