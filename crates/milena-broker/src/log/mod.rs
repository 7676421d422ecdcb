//! The log of one partition, in memory: batches kept verbatim, with base offset and leader epoch patched in.
//!
//! Holds offsets, the leader-epoch history, producer state and the transaction index. Knows no leaders, nodes or
//! clients, takes no locks and reads no clock. There is one log per partition, shared by all its replicas: replication
//! is instant, so the high watermark follows the log end at once.

mod batch;
mod epochs;
mod marker;
mod producer_state;
#[cfg(test)]
mod tests;
mod transactions;

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use milena_protocol::ErrorCode;

pub(crate) use self::batch::{
    BatchRules, CheckedBatch, RejectedBatch, check_produced, check_transactional, cleaned, only_batch,
};
use self::batch::{HEADER_LEN, StoredBatch};
use self::epochs::LeaderEpochs;
pub(crate) use self::epochs::{UNDEFINED_EPOCH, UNDEFINED_OFFSET};
use self::producer_state::{ProducerBatch, ProducerStates, Verdict};
use self::transactions::{AbortedTransaction, Transactions};

/// The log of one partition.
#[derive(Debug, Default)]
pub(crate) struct Log {
    batches: VecDeque<StoredBatch>,
    start_offset: i64,
    end_offset: i64,
    epochs: LeaderEpochs,
    producers: ProducerStates,
    transactions: Transactions,
}

/// Where an appended (or recognised) batch lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) base_offset: i64,
    /// -1 unless the topic stamps records with the broker's time, or it is a duplicate.
    pub(crate) log_append_time: i64,
    /// The batch was already there; nothing was written.
    pub(crate) duplicate: bool,
}

/// Up to which offset a reader may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// Up to the high watermark.
    ReadUncommitted,
    /// Up to the last stable offset.
    ReadCommitted,
}

impl Isolation {
    pub(crate) fn from_wire(level: i8) -> Self {
        if level == 1 { Self::ReadCommitted } else { Self::ReadUncommitted }
    }
}

/// Whole batches in offset order, to be cut to `limit` bytes when written out.
#[derive(Debug, Default)]
pub(crate) struct RecordSlices {
    batches: Vec<StoredBatch>,
    limit: usize,
}

impl RecordSlices {
    /// Bytes that [`RecordSlices::to_bytes`] yields.
    pub(crate) fn len(&self) -> usize {
        self.batches.iter().map(StoredBatch::len).sum::<usize>().min(self.limit)
    }

    /// The records field of a fetch response. Like Kafka it may end within a batch, which the client ignores.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.len());
        for batch in &self.batches {
            for part in [&batch.head[..], &batch.payload[..]] {
                let room = self.limit - out.len();
                out.extend_from_slice(&part[..part.len().min(room)]);
            }
        }
        out.freeze()
    }
}

/// What a reader gets from one partition.
#[derive(Debug, Default)]
pub(crate) struct ReadResult {
    pub(crate) records: RecordSlices,
    /// Only for `read_committed`.
    pub(crate) aborted: Option<Vec<AbortedTransaction>>,
}

impl Log {
    pub(crate) fn start_offset(&self) -> i64 {
        self.start_offset
    }

    pub(crate) fn end_offset(&self) -> i64 {
        self.end_offset
    }

    /// Replication is instant, so everything written is committed.
    pub(crate) fn high_watermark(&self) -> i64 {
        self.end_offset
    }

    /// The end for `read_committed`: the oldest open transaction holds it back.
    pub(crate) fn last_stable_offset(&self) -> i64 {
        self.transactions.first_open_offset().unwrap_or(self.end_offset).min(self.high_watermark())
    }

    pub(crate) fn visible_end(&self, isolation: Isolation) -> i64 {
        match isolation {
            Isolation::ReadUncommitted => self.high_watermark(),
            Isolation::ReadCommitted => self.last_stable_offset(),
        }
    }

    pub(crate) fn epoch_at(&self, offset: i64) -> Option<i32> {
        self.epochs.epoch_at(offset)
    }

    pub(crate) fn latest_epoch(&self) -> Option<i32> {
        self.epochs.latest()
    }

    pub(crate) fn earliest_epoch(&self) -> Option<i32> {
        self.epochs.earliest_at(self.start_offset)
    }

    pub(crate) fn end_offset_for_epoch(&self, epoch: i32) -> (i32, i64) {
        self.epochs.end_offset_for(epoch, self.end_offset)
    }

    /// A new leader took over: its epoch begins at the current end.
    pub(crate) fn begin_epoch(&mut self, leader_epoch: i32) {
        self.epochs.assign(leader_epoch, self.end_offset);
    }

    /// Writes a batch of a client, unless its producer's state says it is a repeat or out of order.
    pub(crate) fn append(
        &mut self,
        batch: CheckedBatch,
        leader_epoch: i32,
        append_time_ms: Option<i64>,
    ) -> Result<Appended, ErrorCode> {
        let producer = batch.producer;
        if let Some(producer) = &producer
            && let Verdict::Duplicate { base_offset, timestamp } = self.producers.judge(producer)?
        {
            // Kafka answers a duplicate with its timestamp, whoever set that.
            return Ok(Appended { base_offset, log_append_time: timestamp, duplicate: true });
        }
        let transactional = batch.transactional;
        let base_offset = self.end_offset;
        let stored = batch.store(base_offset, leader_epoch, append_time_ms);
        if let Some(producer) = &producer {
            self.producers.record(producer, base_offset, stored.max_timestamp);
            if transactional {
                self.transactions.note_batch(producer.producer_id, base_offset);
            }
        }
        self.push(stored, leader_epoch);
        Ok(Appended { base_offset, log_append_time: append_time_ms.unwrap_or(-1), duplicate: false })
    }

    /// Writes the marker that ends a transaction, as a transaction coordinator does (`WriteTxnMarkers`).
    pub(crate) fn append_marker(
        &mut self,
        producer_id: i64,
        producer_epoch: i16,
        committed: bool,
        leader_epoch: i32,
        now_ms: i64,
    ) -> Result<i64, ErrorCode> {
        self.producers.check_marker(producer_id, producer_epoch)?;
        let offset = self.end_offset;
        let bytes = marker::end_txn_marker(producer_id, producer_epoch, committed, now_ms);
        let producer = ProducerBatch { producer_id, epoch: producer_epoch, base_sequence: -1, last_offset_delta: 0 };
        let stored = StoredBatch::from_marker(&bytes, producer, committed, offset, leader_epoch, now_ms);
        self.producers.record_marker(producer_id, producer_epoch);
        self.transactions.note_marker(producer_id, offset, committed);
        self.push(stored, leader_epoch);
        Ok(offset)
    }

    fn push(&mut self, stored: StoredBatch, leader_epoch: i32) {
        self.epochs.assign(leader_epoch, stored.base_offset);
        self.end_offset = stored.last_offset + 1;
        self.batches.push_back(stored);
    }

    /// Reads from `offset`: at most `max_bytes`, but with `at_least_one` the first batch whole, however large.
    ///
    /// Kafka cuts at the byte, not at the batch, and answers nothing when not even the first batch fits.
    pub(crate) fn read(
        &self,
        offset: i64,
        isolation: Isolation,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<ReadResult, ErrorCode> {
        if offset < self.start_offset || offset > self.end_offset {
            return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
        }
        let end = self.visible_end(isolation);
        let mut result = ReadResult::default();
        let mut upper = offset;
        let first = self.batches.partition_point(|batch| batch.last_offset < offset);
        for batch in self.batches.range(first..) {
            if batch.base_offset >= end {
                break;
            }
            let records = &mut result.records;
            if records.batches.is_empty() {
                records.limit = if at_least_one { max_bytes.max(batch.len()) } else { max_bytes };
                if batch.len() > records.limit {
                    break;
                }
            } else if records.len() >= records.limit {
                break;
            }
            upper = batch.last_offset + 1;
            records.batches.push(batch.clone());
        }
        if isolation == Isolation::ReadCommitted {
            result.aborted = Some(self.transactions.aborted_between(offset, upper));
        }
        Ok(result)
    }

    /// The batch in which the first record with `timestamp` or later lies, if its producer told the truth about its
    /// largest timestamp. Searching inside it may inflate, which is the caller's work, outside the partition's lock.
    pub(crate) fn batch_for_timestamp(&self, timestamp: i64, from_offset: i64) -> Option<StoredBatch> {
        let from = from_offset.max(self.start_offset);
        self.batches.iter().find(|batch| batch.last_offset >= from && batch.max_timestamp >= timestamp).cloned()
    }

    /// The first batch that holds the largest timestamp of the log.
    pub(crate) fn batch_with_max_timestamp(&self) -> Option<StoredBatch> {
        let largest = self.batches.iter().map(|batch| batch.max_timestamp).max()?;
        self.batch_for_timestamp(largest, self.start_offset)
    }

    /// Raises the log start offset (DeleteRecords) and drops the batches that lie wholly before it.
    pub(crate) fn delete_before(&mut self, offset: i64) -> Result<i64, ErrorCode> {
        if offset < 0 || offset > self.high_watermark() {
            return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
        }
        if offset > self.start_offset {
            self.start_offset = offset;
            while self.batches.front().is_some_and(|batch| batch.last_offset < offset) {
                self.batches.pop_front();
            }
            self.epochs.truncate_from_start(offset);
            self.transactions.truncate_from_start(offset);
        }
        Ok(self.start_offset)
    }

    /// Cuts the log back to `offset`, as a follower that became leader with a shorter log does. Acknowledged records
    /// are lost: only a fault may ask for it. Cuts at a batch boundary, at or below `offset`.
    pub(crate) fn truncate_to(&mut self, offset: i64) {
        self.end_offset = self.end_offset.min(offset);
        while let Some(batch) = self.batches.pop_back_if(|batch| batch.last_offset >= offset) {
            // Of a first batch, a part may have been deleted.
            self.end_offset = self.end_offset.min(batch.base_offset.max(self.start_offset));
        }
        self.start_offset = self.start_offset.min(self.end_offset);
        self.epochs.truncate_from_end(self.end_offset);
        self.rebuild_producers();
    }

    /// Forgets all producers (`producer.id.expiration.ms` in real Kafka).
    pub(crate) fn forget_producers(&mut self) {
        self.producers.clear();
    }

    /// Reads producer state and open transactions anew from what is left of the log.
    fn rebuild_producers(&mut self) {
        self.producers.clear();
        self.transactions.clear();
        for batch in &self.batches {
            match (&batch.producer, batch.marker) {
                (Some(producer), Some(committed)) => {
                    self.producers.record_marker(producer.producer_id, producer.epoch);
                    self.transactions.note_marker(producer.producer_id, batch.base_offset, committed);
                }
                (Some(producer), None) => {
                    self.producers.record(producer, batch.base_offset, batch.max_timestamp);
                    if batch.transactional {
                        self.transactions.note_batch(producer.producer_id, batch.base_offset);
                    }
                }
                (None, _) => {}
            }
        }
    }
}

const _: () = assert!(HEADER_LEN == 61, "record batch v2 has a header of 61 bytes");
