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
use crate::record::varint::{Cursor, VarintError, WordVarints};

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
        RecordIter {
            records: self,
            data: &self.data,
            at: 0,
            left: self.record_count,
            last_delta: -1,
            done: false,
            damage: None,
        }
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
    left: i32,
    last_delta: i32,
    done: bool,
    /// What it ended with, until that is told.
    damage: Option<Damage>,
}

/// Why records end before their time, or do not end where they should.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Record { index: i32, reason: CorruptRecord },
    TrailingBytes(usize),
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<RecordRef<'a>, RecordError>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        match self.next_valid() {
            Some(record) => Some(Ok(record)),
            None => self.damage.take().map(|damage| Err(self.error(damage))),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // Damage can end it early. An error comes last: trailing bytes, or what `next_valid` has met.
        let may_err = !self.done || self.damage.is_some();
        (0, Some(self.left as usize + usize::from(may_err)))
    }
}

impl FusedIterator for RecordIter<'_> {}

impl<'a> RecordIter<'a> {
    /// The next record, of records that were read once without an error; of others, `None` also stands for the error, which
    /// [`next`](Iterator::next) then yields.
    // A record is ten words: handed back through memory, or beside an error, it costs more than its decoding.
    #[inline(always)]
    pub fn next_valid(&mut self) -> Option<RecordRef<'a>> {
        if self.left == 0 {
            self.end();
            return None;
        }
        self.left -= 1;
        match self.parse_small() {
            Some(record) => Some(record),
            None => {
                let RecordRef { offset, timestamp, key, value, headers } = self.parse()?;
                Some(RecordRef { offset, timestamp, key, value, headers })
            }
        }
    }

    /// Looks for what is wrong behind the last record, once.
    #[cold]
    fn end(&mut self) {
        let trailing = self.data.len() - self.at;
        if !std::mem::replace(&mut self.done, true) && trailing > 0 {
            self.damage = Some(Damage::TrailingBytes(trailing));
        }
    }

    /// A record whose head is as short as nearly all are: decoded out of two words, where each field read from memory
    /// asks anew for the end of the bytes. `None`, with nothing taken, for any other, be it whole or damaged.
    #[inline(always)]
    fn parse_small(&mut self) -> Option<RecordRef<'a>> {
        let mut head = WordVarints::at(self.data, self.at)?;
        let length = usize::try_from(head.varint()?).ok()?;
        let start = self.at + head.taken;
        let body = self.data.get(..start.checked_add(length)?)?;

        // Read from all bytes, not the body alone: a short record is followed by others. What was read beyond the body is
        // no slice of it.
        let mut head = WordVarints::at(self.data, start)?;
        // The attributes: no bit of them has a meaning, and Kafka ignores them.
        head.skip_byte();
        let timestamp_delta = head.varint()?;
        let offset_delta = head.varint()?;
        let key_length = head.varint()?;
        if offset_delta <= self.last_delta || offset_delta > self.records.last_offset_delta {
            return None;
        }
        let timestamp = match self.records.log_append_time {
            Some(timestamp) => timestamp,
            None => self.records.base_timestamp.checked_add(i64::from(timestamp_delta))?,
        };
        let mut cursor = Cursor::new(body, start + head.taken);
        let key = match usize::try_from(key_length) {
            Ok(length) => Some(cursor.take(length)?),
            Err(_) => None,
        };
        let mut head = WordVarints::at(self.data, cursor.at())?;
        let value_length = head.varint()?;
        cursor.take(head.taken)?;
        let value = match usize::try_from(value_length) {
            Ok(length) => Some(cursor.take(length)?),
            Err(_) => None,
        };
        let count = cursor.take(1)?[0];
        let headers_at = cursor.at();
        if count != 0 {
            // An even number below 128 is one that is not negative, of one byte.
            let count = (count & 0x81 == 0).then_some(i32::from(count >> 1))?;
            cursor = skip_headers(cursor, count)?;
        }
        if cursor.left() > 0 {
            return None;
        }
        let headers = Headers { bytes: cursor.since(headers_at), count: usize::from(count >> 1) };
        self.at = body.len();
        self.last_delta = offset_delta;
        // Can't overflow: the batch's last offset doesn't, and this one is not above it.
        let offset = self.records.base_offset + i64::from(offset_delta);
        Some(RecordRef { offset, timestamp, key, value, headers })
    }

    #[cold]
    fn parse(&mut self) -> Option<RecordRef<'a>> {
        match self.parse_any() {
            Ok(record) => Some(record),
            Err(reason) => {
                let index = self.records.record_count - self.left - 1;
                (self.left, self.done) = (0, true);
                self.damage = Some(Damage::Record { index, reason });
                None
            }
        }
    }

    #[cold]
    fn error(&self, damage: Damage) -> RecordError {
        let base_offset = self.records.base_offset;
        match damage {
            Damage::Record { index, reason } => RecordError::CorruptRecord { base_offset, index, reason },
            Damage::TrailingBytes(trailing) => {
                RecordError::CorruptBatch { base_offset, reason: CorruptBatch::TrailingBytes(trailing) }
            }
        }
    }

    fn parse_any(&mut self) -> Result<RecordRef<'a>, CorruptRecord> {
        let mut cursor = Cursor::new(self.data, self.at);
        let length = cursor.varint()?;
        let start = cursor.at();
        let body = usize::try_from(length).ok().and_then(|length| self.data.get(..start.checked_add(length)?));
        let body = body.ok_or(CorruptRecord::Length(length))?;
        self.at = body.len();

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
    /// `count` headers, in the wire's format.
    ///
    /// # Errors
    /// [`CorruptRecord`]: the bytes are not just so many headers.
    pub fn parse(bytes: &'a [u8], count: usize) -> Result<Self, CorruptRecord> {
        let mut cursor = Cursor::new(bytes, 0);
        for _ in 0..count {
            take_header(&mut cursor)?;
        }
        match cursor.left() {
            0 => Ok(Self { bytes, count }),
            left => Err(CorruptRecord::TrailingBytes(left)),
        }
    }

    /// As they are on the wire, without their count.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

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

/// Kept out of the caller's loop, by value, so that a record without headers stays in registers.
#[inline(never)]
fn skip_headers(mut cursor: Cursor<'_>, declared: i32) -> Option<Cursor<'_>> {
    take_some_headers(&mut cursor, declared).is_ok().then_some(cursor)
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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::compress::Compression;
    use crate::record::encoder::BatchEncoder;

    type Outcome = (Vec<String>, Option<String>);

    /// All that `iter` yields; with `is_slow`, every record by the way that takes any.
    fn read(records: &Records, is_slow: bool) -> Outcome {
        let mut iter = records.iter();
        let mut read = Vec::new();
        while iter.left > 0 {
            let record = if is_slow {
                iter.left -= 1;
                iter.parse()
            } else {
                iter.next_valid()
            };
            let Some(record) = record else { break };
            let headers: Vec<_> = record.headers.iter().collect();
            read.push(format!("{record:?} {headers:?}"));
        }
        (read, iter.next().map(|end| end.map_or_else(|error| error.to_string(), |record| format!("{record:?}"))))
    }

    /// Lengths on both sides of where a varint takes one byte more.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![vec(any::<u8>(), 0..4), vec(any::<u8>(), 60..70), vec(any::<u8>(), 8_180..8_200)]
    }

    fn delta() -> impl Strategy<Value = i64> {
        prop_oneof![-70..70i64, 8_180..8_200i64, 1_048_570..1_048_580i64, any::<i32>().prop_map(i64::from)]
    }

    #[test]
    fn error_that_was_met_in_passing_is_still_expected() {
        let mut batch = BatchEncoder::new(Vec::new(), 0);
        batch.append(0, None, Some(b"value"), &[]).unwrap();
        let sealed = batch.seal(Compression::None, None).unwrap().to_bytes();
        let mut records = RecordBatch::parse(sealed).unwrap().records(usize::MAX).unwrap();
        records.data = [&records.data[..], b"more"].concat().into();
        let mut iter = records.iter();
        assert!(iter.next_valid().is_some() && iter.next_valid().is_none());
        assert_eq!(iter.size_hint(), (0, Some(1)));
        assert!(iter.next().is_some_and(|end| end.is_err()));
        assert_eq!((iter.size_hint(), iter.next().is_none()), ((0, Some(0)), true));
    }

    fn records_of(section: &[u8], count: i32) -> Records {
        let data = Bytes::copy_from_slice(section);
        let (base_offset, base_timestamp, last_offset_delta) = (7, 1_700_000_000_000, count - 1);
        let (log_append_time, is_control) = (None, false);
        Records {
            data,
            base_offset,
            last_offset_delta,
            record_count: count,
            base_timestamp,
            log_append_time,
            is_control,
        }
    }

    #[test]
    fn any_byte_may_be_any_other_and_both_ways_read_the_same() {
        let mut batch = BatchEncoder::new(Vec::new(), 0);
        let header = RecordHeader { key: "n", value: Some(b"v") };
        batch.append(0, Some(b"key"), Some(b"value"), &[]).unwrap();
        batch.append(100, None, Some(b""), &[header, header]).unwrap();
        batch.append(20_000, Some(b""), None, &[]).unwrap();
        batch.append(1, Some(b"key"), Some(b"and a long enough value"), &[]).unwrap();
        let section = batch.records().to_vec();
        assert!(read(&records_of(&section, 4), false).1.is_none());
        for at in 0..section.len() {
            for byte in 0..=u8::MAX {
                let mut damaged = section.clone();
                damaged[at] = byte;
                let records = records_of(&damaged, 4);
                assert_eq!(read(&records, false), read(&records, true), "byte {at} is {byte}");
            }
        }
    }

    /// Longer than they need to be, the fields of a head need not end in the word they begin in. This key would pass as one
    /// of a single byte with a value behind it, if the rest of its length were taken for zero.
    #[test]
    fn field_that_crosses_a_word_is_read_whole() {
        let (time, offset, key_length) = ([0x80, 0x80, 0], [0x80, 0x80, 0], [0x82, 1]);
        let key = [&[b'k', 0xfe, 0][..], &[b'k'; 62]].concat();
        let body = [&[0][..], &time, &offset, &key_length, &key, &[0, 0]].concat();
        let section = [&[(body.len() as u8 * 2) | 0x80, (body.len() >> 6) as u8][..], &body].concat();
        let records = records_of(&section, 1);
        assert_eq!(records.iter().next().unwrap().unwrap().key, Some(&key[..]));
        assert_eq!(read(&records, false), read(&records, true));
    }

    proptest! {
        // A record taken out of words is the record that is read byte by byte, and so is what is wrong with it.
        #[test]
        fn both_ways_read_the_same(
            written in vec((delta(), option::of(bytes()), option::of(bytes()), vec(bytes(), 0..3)), 1..8),
            damage in option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let mut batch = BatchEncoder::new(Vec::new(), 1_700_000_000_000);
            for (delta, key, value, headers) in &written {
                let headers: Vec<_> = headers.iter().map(|value| RecordHeader { key: "name", value: Some(value) }).collect();
                let timestamp = 1_700_000_000_000 + delta;
                batch.append(timestamp, key.as_deref(), value.as_deref(), &headers).unwrap();
            }
            let sealed = batch.seal(Compression::None, None).unwrap().to_bytes();
            let mut records = RecordBatch::parse(sealed).unwrap().records(usize::MAX).unwrap();
            if let Some((at, byte)) = damage {
                let mut data = records.data.to_vec();
                let at = at.index(data.len());
                data[at] = byte;
                records.data = Bytes::from(data);
            }
            prop_assert_eq!(read(&records, false), read(&records, true));
        }
    }
}
