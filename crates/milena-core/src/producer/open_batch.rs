//! The batch that still takes records, and what it becomes when it is closed: encoded at append, compressed once,
//! charged to the byte budget from its first byte to its last reference.
//!
//! Knows no lock and no clock. Whoever appends holds the partition's lock; sealing needs none.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use milena_protocol::compress::{CompressError, Compression};
use milena_protocol::record::{AppendError, BATCH_HEADER_LEN, BatchEncoder, RecordBatches, RecordHeader, SealedBatch};

use crate::producer::budget::Reservation;
use crate::producer::buffers::{BufferPool, CopyPlan, CopyTurn};
use crate::producer::completion::{BatchShare, Completion};
use crate::producer::compression_choice::CompressionChoice;
use crate::producer::identity::ProducerIdentity;
use crate::producer::partition_queue::QueuedBatch;

/// Whether a record has room in an open batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// In the buffer as it is.
    Fits,
    /// In a buffer of this capacity.
    Grow(usize),
    /// The batch is full: it would pass `batch.size`.
    Full,
}

/// A batch that takes records.
#[derive(Debug)]
pub struct OpenBatch {
    encoder: BatchEncoder,
    charge: Reservation,
    completion: Arc<Completion>,
    created: Instant,
}

impl OpenBatch {
    /// An empty batch over a buffer of `pool` that `charge` pays for.
    pub fn new(
        pool: &BufferPool,
        charge: Reservation,
        completion: Arc<Completion>,
        created: Instant,
        base_timestamp: i64,
    ) -> Self {
        let encoder = BatchEncoder::new(pool.take(&charge), base_timestamp);
        Self { encoder, charge, completion, created }
    }

    /// Whether a record of `bytes` has room, where a batch is to have at most `batch_size`. A batch takes its first
    /// record however large it is.
    #[inline]
    pub fn room_for(&self, bytes: usize, batch_size: usize) -> Room {
        let needed = self.encoder.len() - BATCH_HEADER_LEN + bytes;
        if needed + BATCH_HEADER_LEN > batch_size && !self.encoder.is_empty() {
            return Room::Full;
        }
        match needed.checked_sub(self.encoder.capacity()) {
            None | Some(0) => Room::Fits,
            Some(_) => Room::Grow(BufferPool::capacity_for(needed)),
        }
    }

    /// How many bytes a record would add.
    #[inline]
    pub fn encoded_len(
        &self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[RecordHeader<'_>],
    ) -> usize {
        self.encoder.encoded_len(timestamp, key, value, headers)
    }

    /// Moves to a buffer of `capacity`, if the budget has room for one beside this; then this one is free for another
    /// batch. So there are never more buffers of a size than batches that once needed it at a time.
    pub fn try_grow(&mut self, capacity: usize, pool: &BufferPool) -> bool {
        let Some(charge) = pool.budget().try_reserve(capacity) else { return false };
        let free = self.encoder.move_to(pool.take(&charge));
        pool.put(free, std::mem::replace(&mut self.charge, charge));
        true
    }

    /// Appends a record and returns its index in the batch, unless the batch would pass `limit` bytes, or its buffer's
    /// capacity: `None` then, and the batch is unchanged.
    ///
    /// # Errors
    /// The format can't hold the record; the batch is unchanged.
    #[inline]
    pub fn append(
        &mut self,
        limit: usize,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[RecordHeader<'_>],
    ) -> Result<Option<u32>, AppendError> {
        let limit = limit.min(self.encoder.capacity() + BATCH_HEADER_LEN);
        Ok(self.encoder.append_within(limit, timestamp, key, value, headers)?.map(i32::cast_unsigned))
    }

    /// What those wait for whose records are in it.
    #[inline]
    pub fn completion(&self) -> &Arc<Completion> {
        &self.completion
    }

    /// When it was opened: linger and `delivery.timeout` count from here.
    pub fn created(&self) -> Instant {
        self.created
    }

    /// Bytes so far, the batch's header included.
    pub fn len(&self) -> usize {
        self.encoder.len()
    }

    /// Whether no record was appended yet.
    pub fn is_empty(&self) -> bool {
        self.encoder.is_empty()
    }

    /// Records so far.
    pub fn record_count(&self) -> u32 {
        self.encoder.record_count().cast_unsigned()
    }

    /// The records so far, in the wire's format: what a compression choice looks at.
    pub fn records(&self) -> &[u8] {
        self.encoder.records()
    }

    /// The right to answer for its records; no record is appended after this.
    pub fn share(&self) -> BatchShare {
        Arc::clone(&self.completion).close(self.record_count())
    }

    /// What compressing it takes. A batch of one record has it even where that passes the budget: it can't be split, and
    /// may be too large for the broker as it is.
    pub fn copy_plan(&self) -> CopyPlan {
        // A buffer holds what is behind the header: with it, a batch that fills its own would be charged the next size.
        CopyPlan { bytes: self.encoder.len() - BATCH_HEADER_LEN, is_due: self.record_count() == 1 }
    }

    /// Compresses, computes the CRC, and gives the buffer back that this frees. Takes long for a large batch. Without a
    /// `turn`, or where the budget had no room for the copy, the records stay as they are.
    ///
    /// # Errors
    /// The codec is not in this build, or has no such level. The buffer is lost then, its charge is not.
    pub fn seal(
        self,
        choice: CompressionChoice,
        turn: Option<CopyTurn>,
        pool: &Arc<BufferPool>,
    ) -> Result<ProducerBatch, CompressError> {
        let pays = choice.at_most(self.copy_plan().bytes);
        let Self { encoder, charge, .. } = self;
        // The turn ends when everything is given back.
        let (copy, _turn) = turn.map(|turn| (turn.charge, turn.turn)).unzip();
        let copy = copy.flatten().filter(|_| choice.codec != Compression::None);
        let (output, at_most) = match &copy {
            Some(copy) => (pool.take(copy), copy.bytes().min(pays)),
            None => (Vec::new(), 0),
        };
        let codec = if copy.is_some() { choice.codec } else { Compression::None };
        let (sealed, free) = encoder.seal_within(codec, choice.level, output, at_most)?;
        let is_raw = sealed.compression() == Compression::None;
        let (kept, freed) = match copy {
            Some(copy) if is_raw => (charge, Some(copy)),
            Some(copy) => (copy, Some(charge)),
            None => (charge, None),
        };
        if let Some(freed) = freed {
            pool.put(free, freed);
        }
        let lacked_room = is_raw && choice.codec != Compression::None && at_most < pays;
        let mut batch = ProducerBatch::new(sealed, kept, Arc::clone(pool));
        batch.lacked_room = lacked_room;
        Ok(batch)
    }
}

/// A closed batch, ready to be sent any number of times. Its buffer goes back to the pool when it drops.
#[derive(Debug)]
pub struct ProducerBatch {
    /// Taken only by drop.
    sealed: Option<SealedBatch>,
    charge: Option<Reservation>,
    pool: Arc<BufferPool>,
    lacked_room: bool,
}

impl ProducerBatch {
    fn new(sealed: SealedBatch, charge: Reservation, pool: Arc<BufferPool>) -> Self {
        Self { sealed: Some(sealed), charge: Some(charge), pool, lacked_room: false }
    }

    /// Whether it was to be compressed and is not, since the budget had no room for what came of it.
    pub fn lacked_room(&self) -> bool {
        self.lacked_room
    }

    /// The batch as the wire has it.
    pub fn sealed(&self) -> &SealedBatch {
        self.sealed.as_ref().expect("only drop takes it")
    }
}

impl QueuedBatch for ProducerBatch {
    fn stamp(&mut self, numbered: Option<(ProducerIdentity, i32)>) {
        let (id, epoch, sequence) =
            numbered.map_or((-1, -1, -1), |(identity, sequence)| (identity.id, identity.epoch, sequence));
        self.sealed.as_mut().expect("only drop takes it").stamp(id, epoch, sequence, false);
    }

    fn cut(&self, ranges: &[Range<u32>]) -> Result<Vec<Self>, String> {
        let sealed = self.sealed();
        let batch = RecordBatches::new(sealed.to_bytes())
            .next()
            .ok_or("the batch is empty")?
            .map_err(|error| error.to_string())?;
        // What it was before it was compressed bounds what it inflates to.
        let records = batch.records(sealed.raw_len()).map_err(|error| error.to_string())?;
        let (codec, level) = (sealed.compression(), sealed.level());
        let mut records = records.iter();
        let mut at = 0;
        let mut parts = Vec::with_capacity(ranges.len());
        // How long a part is, is known once it is encoded: it is moved from here to a buffer of that size.
        let draft_charge = self.pool.budget().book(BufferPool::capacity_for(sealed.raw_len()));
        let mut draft = self.pool.take(&draft_charge);
        for range in ranges {
            let mut encoder = BatchEncoder::new(draft, batch.base_timestamp());
            for record in records.by_ref() {
                let record = record.map_err(|error| error.to_string())?;
                let inside = range.contains(&at);
                at += 1;
                if inside {
                    let headers = record.headers.iter().map(RecordHeader::try_from);
                    let headers: Vec<_> = headers.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
                    encoder
                        .append(record.timestamp, record.key, record.value, &headers)
                        .map_err(|error| error.to_string())?;
                }
                if at >= range.end {
                    break;
                }
            }
            let charge = self.pool.budget().book(encoder.len() - BATCH_HEADER_LEN);
            draft = encoder.move_to(self.pool.take(&charge));
            let (sealed, free) = encoder.seal_into(codec, level, Vec::new()).map_err(|error| error.to_string())?;
            let mut charge = charge;
            if sealed.compression() == Compression::None {
                parts.push(Self::new(sealed, charge, Arc::clone(&self.pool)));
            } else {
                let compressed = self.pool.budget().book(sealed.wire_len() - BATCH_HEADER_LEN);
                charge.settle(free.capacity());
                self.pool.put(free, charge);
                parts.push(Self::new(sealed, compressed, Arc::clone(&self.pool)));
            }
        }
        self.pool.put(draft, draft_charge);
        Ok(parts)
    }
}

impl Drop for ProducerBatch {
    fn drop(&mut self) {
        let (Some(sealed), Some(charge)) = (self.sealed.take(), self.charge.take()) else { return };
        // A frame that still shares the bytes frees them itself.
        if let Some(buffer) = sealed.into_buffer() {
            self.pool.put(buffer, charge);
        }
    }
}

#[cfg(test)]
mod tests;
