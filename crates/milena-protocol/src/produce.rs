//! Produce requests framed by hand, so that a payload is never copied.
//!
//! The body becomes a list of parts for one vectored write: framing and batch header, record section, framing and batch
//! header, record section, and so on. All framing lies in one buffer; record sections are shared with their
//! [`SealedBatch`]. What the generated `ProduceRequest` writes for the same values is the same bytes.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::record::{BATCH_HEADER_LEN, SealedBatch};
use crate::{EncodeError, Uuid, VersionRange};

/// The versions that can be framed: those of Kafka 4.4.
pub const VERSIONS: VersionRange = VersionRange::new(3, 13);
const FIRST_FLEXIBLE: i16 = 9;
const FIRST_WITH_TOPIC_IDS: i16 = 13;

/// What a produce request says besides its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProduceSettings<'a> {
    /// The transaction that all batches belong to.
    pub transactional_id: Option<&'a str>,
    /// How many replicas must have appended: -1 for all in sync, 1 for the leader, 0 for none (no response comes).
    pub acks: i16,
    /// How long the broker may wait for replicas.
    pub timeout_ms: i32,
}

/// One batch of a produce request, and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct ProduceEntry<'a> {
    /// The topic's name, sent before version 13.
    pub topic: &'a str,
    /// The topic's id, sent from version 13 on.
    pub topic_id: Uuid,
    /// The partition's index.
    pub partition: i32,
    /// The batch, stamped.
    pub batch: &'a SealedBatch,
}

/// Frames the body of a produce request, without header and length prefix, as parts to be written one after another.
///
/// Entries of one topic must stand together; they share one mention of it. A partition may appear once.
///
/// # Errors
/// [`EncodeError::UnsupportedVersion`], or [`EncodeError::TooLong`] for a name of more than 32,767 bytes.
pub fn encode_produce(
    version: i16,
    settings: ProduceSettings<'_>,
    entries: &[ProduceEntry<'_>],
) -> Result<Vec<Bytes>, EncodeError> {
    if !VERSIONS.contains(version) {
        return Err(EncodeError::UnsupportedVersion { message: "ProduceRequest", version, supported: VERSIONS });
    }
    let topics = || entries.chunk_by(|a, b| same_topic(version, a, b));
    let mut framing = Framing { version, buffer: BytesMut::with_capacity(framing_bound(settings, entries)) };
    let mut parts = Vec::with_capacity(2 * entries.len() + 1);

    framing.nullable_string("ProduceRequest.transactional_id", settings.transactional_id)?;
    framing.buffer.put_i16(settings.acks);
    framing.buffer.put_i32(settings.timeout_ms);
    framing.length("ProduceRequest.topic_data", topics().count())?;
    for topic in topics() {
        if version >= FIRST_WITH_TOPIC_IDS {
            framing.buffer.put_slice(topic[0].topic_id.as_bytes());
        } else {
            framing.string("TopicProduceData.name", topic[0].topic)?;
        }
        framing.length("TopicProduceData.partition_data", topic.len())?;
        for entry in topic {
            framing.buffer.put_i32(entry.partition);
            framing.length("PartitionProduceData.records", entry.batch.wire_len())?;
            framing.buffer.put_slice(entry.batch.header_bytes());
            parts.push(framing.buffer.split().freeze());
            parts.push(entry.batch.records());
            framing.no_tagged_fields();
        }
        framing.no_tagged_fields();
    }
    framing.no_tagged_fields();
    if !framing.buffer.is_empty() {
        parts.push(framing.buffer.freeze());
    }
    Ok(parts)
}

fn same_topic(version: i16, a: &ProduceEntry<'_>, b: &ProduceEntry<'_>) -> bool {
    if version >= FIRST_WITH_TOPIC_IDS { a.topic_id == b.topic_id } else { a.topic == b.topic }
}

/// Room for all framing, so that it is one allocation.
fn framing_bound(settings: ProduceSettings<'_>, entries: &[ProduceEntry<'_>]) -> usize {
    // Per entry at most: topic length or id 16, partition count 5, index 4, records length 5, three ends of structs.
    const PER_ENTRY: usize = BATCH_HEADER_LEN + 40;
    let names = entries.iter().map(|entry| entry.topic.len() + PER_ENTRY).sum::<usize>();
    names + settings.transactional_id.map_or(0, str::len) + 32
}

struct Framing {
    version: i16,
    buffer: BytesMut,
}

impl Framing {
    fn is_flexible(&self) -> bool {
        self.version >= FIRST_FLEXIBLE
    }

    /// The length of an array or byte field.
    fn length(&mut self, field: &'static str, length: usize) -> Result<(), EncodeError> {
        let prefix = i32::try_from(length).map_err(|_| EncodeError::TooLong { field, length })?;
        if self.is_flexible() {
            self.unsigned_varint(prefix as u32 + 1);
        } else {
            self.buffer.put_i32(prefix);
        }
        Ok(())
    }

    fn string(&mut self, field: &'static str, text: &str) -> Result<(), EncodeError> {
        let length = text.len();
        let prefix = i16::try_from(length).map_err(|_| EncodeError::TooLong { field, length })?;
        if self.is_flexible() {
            self.unsigned_varint(prefix as u32 + 1);
        } else {
            self.buffer.put_i16(prefix);
        }
        self.buffer.put_slice(text.as_bytes());
        Ok(())
    }

    fn nullable_string(&mut self, field: &'static str, text: Option<&str>) -> Result<(), EncodeError> {
        match text {
            Some(text) => return self.string(field, text),
            None if self.is_flexible() => self.buffer.put_u8(0),
            None => self.buffer.put_i16(-1),
        }
        Ok(())
    }

    fn no_tagged_fields(&mut self) {
        if self.is_flexible() {
            self.buffer.put_u8(0);
        }
    }

    fn unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.buffer.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.buffer.put_u8(value as u8);
    }
}
