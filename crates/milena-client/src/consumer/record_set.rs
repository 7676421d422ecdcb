//! The records of one batch of one partition, as `next` hands them over: borrowed from the response, decoded as they
//! are iterated. The batch was checked as a whole before, so that iterating can't fail half-way.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use milena_core::consumer::prefetch::Charge;
use milena_core::consumer::{AssignmentEpoch, TopicPartition};
use milena_protocol::record::{Headers, RecordIter, Records};

use super::shared::Shared;

/// Records of one batch of one partition, in order. Holds on to the response they came in: copy what is kept for long.
pub struct RecordSet {
    pub(super) partition: TopicPartition,
    pub(super) epoch: AssignmentEpoch,
    pub(super) records: Records,
    pub(super) start: i64,
    pub(super) visible: usize,
    pub(super) next_offset: i64,
    pub(super) leader_epoch: i32,
    pub(super) high_watermark: i64,
    /// What the response, and the inflated batch, cost the budget.
    pub(super) _charges: (Arc<Charge>, Option<Charge>),
    /// With `commit_on_drop`: whom to tell, and as which set.
    pub(super) on_drop: Option<(Weak<Shared>, u64)>,
}

/// One record, borrowed from its set.
#[derive(Clone, Copy)]
pub struct ConsumerRecord<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// The partition's index.
    pub partition: i32,
    /// The offset in the partition.
    pub offset: i64,
    /// Milliseconds since 1970, -1 for none.
    pub timestamp: i64,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone where the topic is compacted.
    pub value: Option<&'a [u8]>,
    /// The headers, in order, duplicates included.
    pub headers: Headers<'a>,
    set: &'a RecordSet,
}

/// A record that outlives its set.
#[derive(Clone)]
pub struct OwnedRecord {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's index.
    pub partition: i32,
    /// The offset in the partition.
    pub offset: i64,
    /// Milliseconds since 1970, -1 for none.
    pub timestamp: i64,
    /// From the first byte of the key to the last of the headers as they are on the wire: one piece, so one copy.
    body: Bytes,
    key: Option<Part>,
    value: Option<Part>,
    headers: Part,
    header_count: u32,
}

/// A part of a record's body.
#[derive(Clone, Copy)]
struct Part {
    at: u32,
    length: u32,
}

impl RecordSet {
    /// The topic's name.
    pub fn topic(&self) -> &str {
        &self.partition.topic
    }

    /// The partition's index.
    pub fn partition(&self) -> i32 {
        self.partition.partition
    }

    /// Topic and partition.
    pub fn topic_partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// The assignment these records belong to; commits name it.
    pub fn epoch(&self) -> AssignmentEpoch {
        self.epoch
    }

    /// How many records.
    pub fn len(&self) -> usize {
        self.visible
    }

    /// Whether there are none; `next` yields no such set.
    pub fn is_empty(&self) -> bool {
        self.visible == 0
    }

    /// The offset to commit when all of them are processed.
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// Epoch of the leader that wrote them, -1 for unknown; goes with a commit.
    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }

    /// The offset behind the last committed record, as of the response.
    pub fn high_watermark(&self) -> i64 {
        self.high_watermark
    }

    /// The records, in order of their offsets.
    pub fn iter(&self) -> RecordSetIter<'_> {
        RecordSetIter { set: self, records: self.records.iter() }
    }

    /// `part` of a record of this set, without a copy; it holds on to the whole response.
    ///
    /// # Panics
    /// When `part` is not a part of a record of this set.
    pub fn slice(&self, part: &[u8]) -> Bytes {
        self.records.data().slice_ref(part)
    }
}

impl Drop for RecordSet {
    fn drop(&mut self) {
        if let Some((shared, set)) = self.on_drop.take()
            && let Some(shared) = shared.upgrade()
        {
            shared.set_dropped(&self.partition, self.epoch, set);
        }
    }
}

impl fmt::Debug for RecordSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordSet")
            .field("partition", &self.partition)
            .field("epoch", &self.epoch)
            .field("start", &self.start)
            .field("next_offset", &self.next_offset)
            .field("len", &self.visible)
            .finish_non_exhaustive()
    }
}

impl<'a> IntoIterator for &'a RecordSet {
    type Item = ConsumerRecord<'a>;
    type IntoIter = RecordSetIter<'a>;

    fn into_iter(self) -> RecordSetIter<'a> {
        self.iter()
    }
}

/// Iterator over a [`RecordSet`].
#[derive(Debug)]
pub struct RecordSetIter<'a> {
    set: &'a RecordSet,
    records: RecordIter<'a>,
}

impl<'a> Iterator for RecordSetIter<'a> {
    type Item = ConsumerRecord<'a>;

    // As in the records' own iterator.
    #[inline(always)]
    fn next(&mut self) -> Option<ConsumerRecord<'a>> {
        loop {
            // Errors were looked for when the set was made.
            let record = self.records.next_valid()?;
            if record.offset >= self.set.start {
                return Some(ConsumerRecord {
                    topic: &self.set.partition.topic,
                    partition: self.set.partition.partition,
                    offset: record.offset,
                    timestamp: record.timestamp,
                    key: record.key,
                    value: record.value,
                    headers: record.headers,
                    set: self.set,
                });
            }
        }
    }
}

impl ConsumerRecord<'_> {
    /// A copy with bytes of its own, which lets the response go: one allocation.
    pub fn to_owned(&self) -> OwnedRecord {
        self.keep(|data, body| Bytes::copy_from_slice(&data[body]))
    }

    /// Without copying: it is a slice of the response, the whole of which stays in memory for as long as the record does,
    /// or a slice of it, beyond the consumer's budget. For records that are soon done with.
    pub fn to_shared(&self) -> OwnedRecord {
        self.keep(|data, body| data.slice(body))
    }

    #[inline]
    fn keep(&self, keep: impl FnOnce(&Bytes, Range<usize>) -> Bytes) -> OwnedRecord {
        let data = self.set.records.data();
        let place = |part: &[u8]| {
            let start = part.as_ptr().addr() - data.as_ptr().addr();
            start..start + part.len()
        };
        let (key, value) = (self.key.map(place), self.value.map(place));
        let headers = (!self.headers.is_empty()).then(|| place(self.headers.bytes()));
        let first = key.as_ref().or(value.as_ref()).or(headers.as_ref());
        let last = headers.as_ref().or(value.as_ref()).or(key.as_ref());
        let body = first.map_or(0, |first| first.start)..last.map_or(0, |last| last.end);
        let part = |place: Range<usize>| Part { at: (place.start - body.start) as u32, length: place.len() as u32 };
        OwnedRecord {
            topic: Arc::clone(&self.set.partition.topic),
            partition: self.partition,
            offset: self.offset,
            timestamp: self.timestamp,
            key: key.map(part),
            value: value.map(part),
            headers: headers.map_or(Part { at: 0, length: 0 }, part),
            header_count: self.headers.len() as u32,
            body: keep(data, body),
        }
    }
}

impl OwnedRecord {
    /// The key.
    pub fn key(&self) -> Option<&[u8]> {
        self.key.map(|part| &self.body[part.range()])
    }

    /// The value; `None` is a tombstone where the topic is compacted.
    pub fn value(&self) -> Option<&[u8]> {
        self.value.map(|part| &self.body[part.range()])
    }

    /// The headers, in order, duplicates included.
    pub fn headers(&self) -> Headers<'_> {
        let bytes = &self.body[self.headers.range()];
        Headers::parse(bytes, self.header_count as usize).expect("they were read when the record was")
    }

    /// A part of this record, of its value say, that outlives it, without a copy.
    ///
    /// # Panics
    /// When `part` is not a part of this record.
    pub fn slice(&self, part: &[u8]) -> Bytes {
        self.body.slice_ref(part)
    }
}

impl Part {
    fn range(self) -> Range<usize> {
        self.at as usize..self.at as usize + self.length as usize
    }
}

/// By what they are and where; not by how they are kept.
impl PartialEq for OwnedRecord {
    fn eq(&self, other: &Self) -> bool {
        let place = |record: &Self| (record.partition, record.offset, record.timestamp);
        place(self) == place(other)
            && self.topic == other.topic
            && (self.key(), self.value()) == (other.key(), other.value())
            && self.headers().iter().eq(other.headers())
    }
}

impl Eq for OwnedRecord {}

impl fmt::Debug for OwnedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedRecord")
            .field("topic", &self.topic)
            .field("partition", &self.partition)
            .field("offset", &self.offset)
            .field("timestamp", &self.timestamp)
            .field("key", &self.key())
            .field("value", &self.value())
            .field("headers", &self.headers())
            .finish()
    }
}

impl fmt::Debug for ConsumerRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerRecord")
            .field("topic", &self.topic)
            .field("partition", &self.partition)
            .field("offset", &self.offset)
            .field("timestamp", &self.timestamp)
            .field("key", &self.key)
            .field("value", &self.value)
            .field("headers", &self.headers)
            .finish()
    }
}
