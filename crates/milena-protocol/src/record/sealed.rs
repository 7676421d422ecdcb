//! A closed batch: a header that can still be stamped, and a record section that no longer changes.
//!
//! The section is compressed once and its CRC computed once. A retry under another producer id, epoch or sequence
//! rewrites 40 header bytes and joins their CRC with the section's; it never reads the payload again.

use std::sync::Arc;

use bytes::Bytes;

use crate::compress::Compression;
use crate::record::batch::RecordBatch;
use crate::record::crc::{self, Shift};
use crate::record::encoder::{BatchEncoder, RecordHeader};
use crate::record::error::RecordError;
use crate::record::layout::{BATCH_HEADER_LEN, CRC_START, LOG_OVERHEAD, MAGIC, at, attributes};

/// The records' bytes, with the whole buffer that they lie at the front of: what is behind them is kept as it is, so
/// that a recycled buffer is made writable once and never again.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    buffer: Arc<Vec<u8>>,
    len: usize,
}

impl Section {
    /// The first `len` bytes of `buffer`.
    pub(crate) fn new(buffer: Vec<u8>, len: usize) -> Self {
        Self { buffer: Arc::new(buffer), len }
    }
}

impl AsRef<[u8]> for Section {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

/// A closed batch, ready to be sent any number of times.
///
/// Cloning shares the record section.
#[derive(Clone, Debug)]
pub struct SealedBatch {
    header: [u8; BATCH_HEADER_LEN],
    /// Of `section`.
    records: Bytes,
    section: Section,
    records_crc: u32,
    shift: Shift,
    raw_records_len: usize,
    level: Option<i32>,
}

impl SealedBatch {
    pub(crate) fn new(
        section: Section,
        raw_records_len: usize,
        compression: Compression,
        level: Option<i32>,
        base_timestamp: i64,
        max_timestamp: i64,
        record_count: i32,
    ) -> Self {
        let mut header = [0; BATCH_HEADER_LEN];
        let batch_length = i32::try_from(BATCH_HEADER_LEN - LOG_OVERHEAD + section.len)
            .expect("append keeps a batch below 2 GiB, and compression is kept only where it makes it smaller");
        put(&mut header, at::BATCH_LENGTH, batch_length.to_be_bytes());
        put(&mut header, at::PARTITION_LEADER_EPOCH, (-1i32).to_be_bytes());
        put(&mut header, at::MAGIC, MAGIC.to_be_bytes());
        put(&mut header, at::ATTRIBUTES, i16::from(compression.id()).to_be_bytes());
        put(&mut header, at::LAST_OFFSET_DELTA, (record_count - 1).max(0).to_be_bytes());
        put(&mut header, at::BASE_TIMESTAMP, base_timestamp.to_be_bytes());
        put(&mut header, at::MAX_TIMESTAMP, max_timestamp.to_be_bytes());
        put(&mut header, at::RECORD_COUNT, record_count.to_be_bytes());
        let records_crc = crc::crc32c(section.as_ref());
        let shift = Shift::by(section.len);
        let records = Bytes::from_owner(section.clone());
        let mut sealed = Self { header, records, section, records_crc, shift, raw_records_len, level };
        sealed.stamp(-1, -1, -1, false);
        sealed
    }

    /// Says which producer sends the batch, and where in its sequence. -1, -1, -1, false, as it is after the seal,
    /// stands for a producer without idempotence.
    pub fn stamp(&mut self, producer_id: i64, producer_epoch: i16, base_sequence: i32, transactional: bool) {
        let bits = i16::from_be_bytes([self.header[at::ATTRIBUTES], self.header[at::ATTRIBUTES + 1]]);
        let bits = if transactional { bits | attributes::TRANSACTIONAL } else { bits & !attributes::TRANSACTIONAL };
        put(&mut self.header, at::ATTRIBUTES, bits.to_be_bytes());
        put(&mut self.header, at::PRODUCER_ID, producer_id.to_be_bytes());
        put(&mut self.header, at::PRODUCER_EPOCH, producer_epoch.to_be_bytes());
        put(&mut self.header, at::BASE_SEQUENCE, base_sequence.to_be_bytes());
        let crc = self.shift.combine(crc::crc32c(&self.header[CRC_START..]), self.records_crc);
        put(&mut self.header, at::CRC, crc.to_be_bytes());
    }

    /// The header as stamped.
    pub fn header(&self) -> Bytes {
        Bytes::copy_from_slice(&self.header)
    }

    /// The header as stamped, borrowed: what to copy into the frame in front of [`records`](Self::records).
    pub fn header_bytes(&self) -> &[u8; BATCH_HEADER_LEN] {
        &self.header
    }

    /// The record section, compressed where that made it smaller. Shared, not copied.
    pub fn records(&self) -> Bytes {
        self.records.clone()
    }

    /// Bytes on the wire: header and record section.
    pub fn wire_len(&self) -> usize {
        BATCH_HEADER_LEN + self.records.len()
    }

    /// Bytes before compression: header and record section.
    pub fn raw_len(&self) -> usize {
        BATCH_HEADER_LEN + self.raw_records_len
    }

    /// How many records it holds.
    pub fn record_count(&self) -> i32 {
        i32::from_be_bytes(field(&self.header, at::RECORD_COUNT))
    }

    /// The highest timestamp of its records.
    pub fn max_timestamp(&self) -> i64 {
        i64::from_be_bytes(field(&self.header, at::MAX_TIMESTAMP))
    }

    /// What its record section is compressed with; none where compressing did not pay.
    pub fn compression(&self) -> Compression {
        let id = self.header[at::ATTRIBUTES + 1] & attributes::COMPRESSION as u8;
        Compression::from_id(id).expect("the seal wrote the id of a codec")
    }

    /// The level that it was sealed with, if one was given.
    pub fn level(&self) -> Option<i32> {
        self.level
    }

    /// Header and record section in one piece, as a log file holds them: a copy.
    pub fn to_bytes(&self) -> Bytes {
        Bytes::from([self.header.as_slice(), &self.records].concat())
    }

    /// The same records in smaller batches, in order: what to do about a broker that finds this one too large. Each
    /// holds at most `at_most` bytes before compression, unless a single record has more; none is stamped.
    ///
    /// # Errors
    /// None is to be expected: the batch was written by this library.
    pub fn split(&self, at_most: usize) -> Result<Vec<Self>, RecordError> {
        let batch = RecordBatch::parse(self.to_bytes())?;
        let records = batch.records(self.raw_records_len)?;
        let mut pieces = Vec::new();
        let mut headers = Vec::new();
        let mut open: Option<BatchEncoder> = None;
        let seal = |piece: BatchEncoder| piece.seal(self.compression(), self.level).map_err(RecordError::Compress);
        for record in &records {
            let record = record?;
            headers.clear();
            let names = "the encoder takes names that are text only";
            headers.extend(record.headers.into_iter().map(|header| RecordHeader::try_from(header).expect(names)));
            let added = |piece: &BatchEncoder| piece.encoded_len(record.timestamp, record.key, record.value, &headers);
            if let Some(full) = open.take_if(|piece| !piece.is_empty() && piece.len() + added(piece) > at_most) {
                pieces.push(seal(full)?);
            }
            open.get_or_insert_with(|| BatchEncoder::new(Vec::new(), record.timestamp)).append(
                record.timestamp,
                record.key,
                record.value,
                &headers,
            )?;
        }
        if let Some(last) = open {
            pieces.push(seal(last)?);
        }
        Ok(pieces)
    }

    /// The buffer of the record section, with whatever was written in it, to be recycled; `None` while a frame still
    /// shares it.
    pub fn into_buffer(self) -> Option<Vec<u8>> {
        drop(self.records);
        Arc::try_unwrap(self.section.buffer).ok()
    }
}

fn put<const N: usize>(header: &mut [u8; BATCH_HEADER_LEN], at: usize, bytes: [u8; N]) {
    header[at..at + N].copy_from_slice(&bytes);
}

fn field<const N: usize>(header: &[u8; BATCH_HEADER_LEN], at: usize) -> [u8; N] {
    *header[at..].first_chunk().expect("the header's fields lie inside it")
}
