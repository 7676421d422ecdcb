//! The records of one batch, read lazily: every key, value and header is a slice of one buffer, nothing is allocated.
//!
//! A record is checked in full when it is reached, its headers included, so that what was handed out can't fail later.
//! Nothing is refused that Kafka's own reader takes: whatever a broker has stored must be read, or its readers would
//! stop before it for ever.

use std::borrow::Cow;
use std::iter::FusedIterator;

use bytes::Bytes;

use crate::record::batch::RecordBatch;
use crate::record::encoder::RecordHeader;
use crate::record::error::{CorruptBatch, CorruptRecord, RecordError};
use crate::record::varint::{Cursor, VarintError};

/// A batch's records, decompressed.
#[derive(Clone, Debug)]
pub struct Records {
    data: Bytes,
    base_offset: i64,
    last_offset_delta: i32,
    record_count: i32,
    base_timestamp: i64,
    log_append_time: Option<i64>,
    is_control: bool,
}

/// What a control batch says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ControlType {
    /// The producer's transaction was aborted.
    Abort,
    /// The producer's transaction was committed.
    Commit,
    /// Something that concerns brokers only, by its number.
    Other(i16),
}

/// One record, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// Its offset in the partition.
    pub offset: i64,
    /// Milliseconds since 1970, or -1 for none; set by the broker where the batch says so.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is a tombstone where the topic is compacted.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: Headers<'a>,
}

impl Records {
    pub(crate) fn new(batch: &RecordBatch, data: Bytes) -> Self {
        Self {
            data,
            base_offset: batch.base_offset(),
            last_offset_delta: batch.last_offset_delta(),
            record_count: batch.record_count(),
            base_timestamp: batch.base_timestamp(),
            log_append_time: batch.log_append_time(),
            is_control: batch.is_control(),
        }
    }

    /// The records in order of their offsets. Ends after the first error.
    pub fn iter(&self) -> RecordIter<'_> {
        RecordIter { records: self, data: &self.data, at: 0, index: 0, last_delta: -1, done: false }
    }

    /// The buffer that records are slices of: `data().slice_ref(value)` keeps one without a copy.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// How many records there should be.
    pub fn len(&self) -> usize {
        self.record_count as usize
    }

    /// Whether the batch holds no records.
    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// What the batch says, if it is a control batch.
    ///
    /// # Errors
    /// [`CorruptBatch::ControlRecord`] if it is one and says nothing that can be understood.
    pub fn control_type(&self) -> Result<Option<ControlType>, RecordError> {
        if !self.is_control {
            return Ok(None);
        }
        let malformed =
            || RecordError::CorruptBatch { base_offset: self.base_offset, reason: CorruptBatch::ControlRecord };
        let record = self.iter().next().ok_or_else(malformed)??;
        // ControlRecordType: version, then type. Later versions may only append.
        let [v0, v1, t0, t1, ..] = *record.key.unwrap_or_default() else { return Err(malformed()) };
        if i16::from_be_bytes([v0, v1]) < 0 {
            return Err(malformed());
        }
        Ok(Some(match i16::from_be_bytes([t0, t1]) {
            0 => ControlType::Abort,
            1 => ControlType::Commit,
            other => ControlType::Other(other),
        }))
    }
}

impl<'a> IntoIterator for &'a Records {
    type Item = Result<RecordRef<'a>, RecordError>;
    type IntoIter = RecordIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Iterator over the records of a batch; see [`Records::iter`].
#[derive(Clone, Debug)]
pub struct RecordIter<'a> {
    records: &'a Records,
    data: &'a [u8],
    /// Where the next record begins.
    at: usize,
    index: i32,
    last_delta: i32,
    done: bool,
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<RecordRef<'a>, RecordError>;

    // A record is ten words: handed back through memory it costs as much as its decoding.
    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        if self.index == self.records.record_count {
            self.done = true;
            let trailing = self.data.len() - self.at;
            return (trailing != 0).then(|| {
                let reason = CorruptBatch::TrailingBytes(trailing);
                Err(RecordError::CorruptBatch { base_offset: self.records.base_offset, reason })
            });
        }
        let parsed = self.parse();
        self.index += 1;
        Some(parsed.map_err(|reason| {
            self.done = true;
            RecordError::CorruptRecord { base_offset: self.records.base_offset, index: self.index - 1, reason }
        }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        if self.done {
            return (0, Some(0));
        }
        // Damage can end it early; trailing bytes add an error.
        (0, Some((self.records.record_count - self.index) as usize + 1))
    }
}

impl FusedIterator for RecordIter<'_> {}

impl<'a> RecordIter<'a> {
    #[inline(always)]
    fn parse(&mut self) -> Result<RecordRef<'a>, CorruptRecord> {
        let mut cursor = Cursor::new(self.data, self.at);
        let length = cursor.varint()?;
        let start = cursor.at();
        let body = usize::try_from(length).ok().and_then(|length| self.data.get(..start.checked_add(length)?));
        let body = body.ok_or(CorruptRecord::Length(length))?;
        self.at = body.len();

        // The attributes: no bit of them has a meaning, and Kafka ignores them.
        let mut cursor = Cursor::new(body, start);
        cursor.take(1).ok_or(CorruptRecord::Truncated)?;
        let timestamp_delta = cursor.varlong()?;
        let offset_delta = cursor.varint()?;
        if offset_delta <= self.last_delta || offset_delta > self.records.last_offset_delta {
            return Err(CorruptRecord::OffsetDelta(offset_delta));
        }
        self.last_delta = offset_delta;
        let timestamp = match self.records.log_append_time {
            Some(timestamp) => timestamp,
            None => self
                .records
                .base_timestamp
                .checked_add(timestamp_delta)
                .ok_or(CorruptRecord::TimestampDelta(timestamp_delta))?,
        };
        let key = take_nullable(&mut cursor)?.map_err(CorruptRecord::KeyLength)?;
        let value = take_nullable(&mut cursor)?.map_err(CorruptRecord::ValueLength)?;
        let headers = take_headers(&mut cursor)?;
        if cursor.left() > 0 {
            return Err(CorruptRecord::TrailingBytes(cursor.left()));
        }
        // Can't overflow: the batch's last offset doesn't, and this one is not above it.
        let offset = self.records.base_offset + i64::from(offset_delta);
        Ok(RecordRef { offset, timestamp, key, value, headers })
    }
}

/// A header of a record that was read. Its name is bytes: brokers don't look inside, and not all clients write UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeaderRef<'a> {
    /// The name's bytes; a record may have several headers of one name.
    pub key: &'a [u8],
    /// The value.
    pub value: Option<&'a [u8]>,
}

impl<'a> HeaderRef<'a> {
    /// The name as text, where U+FFFD stands for what is not UTF-8, as in Kafka's own client.
    pub fn name(&self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.key)
    }
}

/// To write a header again as it was read; fails where its name is not UTF-8.
impl<'a> TryFrom<HeaderRef<'a>> for RecordHeader<'a> {
    type Error = std::str::Utf8Error;

    fn try_from(header: HeaderRef<'a>) -> Result<Self, Self::Error> {
        Ok(Self { key: std::str::from_utf8(header.key)?, value: header.value })
    }
}

/// A record's headers in their order, duplicates included.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> Headers<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The headers in their order.
    pub fn iter(&self) -> HeaderIter<'a> {
        HeaderIter { rest: Cursor::new(self.bytes, 0), left: self.count }
    }

    /// The last header of this name, which is the one that Kafka takes as its value.
    pub fn last(&self, key: &str) -> Option<HeaderRef<'a>> {
        self.iter().filter(|header| header.key == key.as_bytes()).last()
    }
}

impl<'a> IntoIterator for Headers<'a> {
    type Item = HeaderRef<'a>;
    type IntoIter = HeaderIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Iterator over a record's headers; see [`Headers::iter`].
#[derive(Clone, Debug)]
pub struct HeaderIter<'a> {
    rest: Cursor<'a>,
    left: usize,
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = HeaderRef<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some(take_header(&mut self.rest).expect("headers are checked when their record is read"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for HeaderIter<'_> {}
impl FusedIterator for HeaderIter<'_> {}

/// Reads a nullable byte string; the inner error is the length that can't be. As in Kafka any negative length is null.
#[inline]
fn take_nullable<'a>(cursor: &mut Cursor<'a>) -> Result<Result<Option<&'a [u8]>, i32>, CorruptRecord> {
    let length = cursor.varint()?;
    let Ok(wanted) = usize::try_from(length) else { return Ok(Ok(None)) };
    Ok(cursor.take(wanted).map(Some).ok_or(length))
}

/// Reads the header count and checks every header behind it.
#[inline]
fn take_headers<'a>(cursor: &mut Cursor<'a>) -> Result<Headers<'a>, CorruptRecord> {
    match cursor.varint()? {
        0 => Ok(Headers::default()),
        declared => take_some_headers(cursor, declared),
    }
}

fn take_some_headers<'a>(cursor: &mut Cursor<'a>, declared: i32) -> Result<Headers<'a>, CorruptRecord> {
    // The smallest header is two bytes: an empty key and a null value. Kafka knows no other limit.
    let count = usize::try_from(declared)
        .ok()
        .filter(|count| *count <= cursor.left() / 2)
        .ok_or(CorruptRecord::HeaderCount(declared))?;
    let start = cursor.at();
    for _ in 0..count {
        take_header(cursor)?;
    }
    Ok(Headers { bytes: cursor.since(start), count })
}

fn take_header<'a>(cursor: &mut Cursor<'a>) -> Result<HeaderRef<'a>, CorruptRecord> {
    let malformed = |_| CorruptRecord::Header;
    let key = take_nullable(cursor)?.map_err(malformed)?.ok_or(CorruptRecord::Header)?;
    let value = take_nullable(cursor)?.map_err(malformed)?;
    Ok(HeaderRef { key, value })
}

impl From<VarintError> for CorruptRecord {
    fn from(error: VarintError) -> Self {
        match error {
            VarintError::Truncated => Self::Truncated,
            VarintError::Overflow => Self::VarintOverflow,
        }
    }
}
