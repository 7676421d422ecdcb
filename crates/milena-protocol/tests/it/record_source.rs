//! Records for the tests of batches: random ones, and the bytes of batches made of them.

use bytes::Bytes;
use milena_protocol::compress::Compression;
use milena_protocol::record::{BatchEncoder, RecordHeader, RecordRef, SealedBatch};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

pub(crate) const TIME: i64 = 1_700_000_000_000;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OwnedRecord {
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl OwnedRecord {
    pub(crate) fn headers(&self) -> Vec<RecordHeader<'_>> {
        self.headers.iter().map(|(key, value)| RecordHeader { key, value: value.as_deref() }).collect()
    }
}

impl From<RecordRef<'_>> for OwnedRecord {
    fn from(record: RecordRef<'_>) -> Self {
        Self {
            timestamp: record.timestamp,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record.headers.iter().map(|h| (h.name().into_owned(), h.value.map(<[u8]>::to_vec))).collect(),
        }
    }
}

/// Bytes that compress, and bytes that don't.
fn blob() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..40),
        vec(any::<u8>(), 60..70),
        (any::<u8>(), 0usize..3000).prop_map(|(b, n)| vec![b; n])
    ]
}

pub(crate) fn record() -> impl Strategy<Value = OwnedRecord> {
    let timestamp = prop_oneof![Just(-1), TIME - 1000..TIME + 1_000_000, 0..i64::MAX];
    let header = ("\\PC{0,6}", option::of(vec(any::<u8>(), 0..20)));
    (timestamp, option::of(blob()), option::of(blob()), vec(header, 0..4))
        .prop_map(|(timestamp, key, value, headers)| OwnedRecord { timestamp, key, value, headers })
}

pub(crate) fn records() -> impl Strategy<Value = Vec<OwnedRecord>> {
    vec(record(), 1..30)
}

pub(crate) fn compression() -> impl Strategy<Value = Compression> {
    prop::sample::select(available())
}

pub(crate) fn available() -> Vec<Compression> {
    Compression::ALL.into_iter().filter(|codec| codec.is_available()).collect()
}

pub(crate) fn encode(records: &[OwnedRecord]) -> BatchEncoder {
    let mut batch = BatchEncoder::new(Vec::new(), records.first().map_or(TIME, |record| record.timestamp));
    for record in records {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        batch.append(record.timestamp, key, value, &record.headers()).unwrap();
    }
    batch
}

pub(crate) fn seal(records: &[OwnedRecord], compression: Compression) -> SealedBatch {
    encode(records).seal(compression, None).unwrap()
}

/// Records as applications have them: JSON of about 100 bytes.
pub(crate) fn flights(count: usize) -> Vec<OwnedRecord> {
    (0..count)
        .map(|index| OwnedRecord {
            timestamp: TIME + index as i64,
            key: Some(format!("airport-{}", index % 7).into_bytes()),
            value: Some(format!(r#"{{"origin":"ORD","destination":"SFO","delay":{index}}}"#).into_bytes()),
            headers: Vec::new(),
        })
        .collect()
}

/// Writes the CRC that a batch's bytes have, so that damage elsewhere is reached.
pub(crate) fn repair_crc(batch: &mut [u8]) {
    let crc = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// Bit by bit, as the polynomial says: independent of what is tested.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

/// A batch from its parts, its length and CRC right unless told otherwise later.
pub(crate) struct RawBatch {
    pub(crate) attributes: i16,
    pub(crate) last_offset_delta: i32,
    pub(crate) base_timestamp: i64,
    pub(crate) record_count: i32,
    pub(crate) section: Vec<u8>,
}

impl RawBatch {
    /// A batch of `record_count` that claims dense offsets.
    pub(crate) fn new(record_count: i32, section: Vec<u8>) -> Self {
        Self {
            attributes: 0,
            last_offset_delta: (record_count - 1).max(0),
            base_timestamp: TIME,
            record_count,
            section,
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut batch = Vec::new();
        batch.extend_from_slice(&0i64.to_be_bytes());
        batch.extend_from_slice(&(49 + self.section.len() as i32).to_be_bytes());
        batch.extend_from_slice(&(-1i32).to_be_bytes());
        batch.push(2);
        batch.extend_from_slice(&[0; 4]);
        batch.extend_from_slice(&self.attributes.to_be_bytes());
        batch.extend_from_slice(&self.last_offset_delta.to_be_bytes());
        batch.extend_from_slice(&self.base_timestamp.to_be_bytes());
        batch.extend_from_slice(&(TIME + 9).to_be_bytes());
        batch.extend_from_slice(&(-1i64).to_be_bytes());
        batch.extend_from_slice(&(-1i16).to_be_bytes());
        batch.extend_from_slice(&(-1i32).to_be_bytes());
        batch.extend_from_slice(&self.record_count.to_be_bytes());
        batch.extend_from_slice(&self.section);
        repair_crc(&mut batch);
        batch
    }

    pub(crate) fn frozen(&self) -> Bytes {
        Bytes::from(self.bytes())
    }
}

/// A record with its length in front; every field of it may lie.
pub(crate) fn raw_record(body: &[u8]) -> Vec<u8> {
    let mut record = zigzag(body.len() as i64);
    record.extend_from_slice(body);
    record
}

/// A zigzag varint of any width.
pub(crate) fn zigzag(value: i64) -> Vec<u8> {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    let mut bytes = Vec::new();
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}
