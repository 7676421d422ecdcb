//! Open and aborted transactions of one partition: what `read_committed` may see.
//!
//! The last stable offset is the first offset of the oldest open transaction; the aborted index tells a reader which
//! records to drop (Kafka's `TransactionIndex`).

use std::collections::BTreeMap;

/// One aborted transaction that a reader has to filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AbortedTransaction {
    pub(crate) producer_id: i64,
    pub(crate) first_offset: i64,
    last_offset: i64,
}

#[derive(Debug, Default)]
pub(crate) struct Transactions {
    /// First offset of the open transaction, by producer id.
    open: BTreeMap<i64, i64>,
    /// In the order of their markers.
    aborted: Vec<AbortedTransaction>,
}

impl Transactions {
    /// A transactional batch was written at `base_offset`.
    pub(crate) fn note_batch(&mut self, producer_id: i64, base_offset: i64) {
        self.open.entry(producer_id).or_insert(base_offset);
    }

    /// A commit or abort marker was written at `offset`.
    pub(crate) fn note_marker(&mut self, producer_id: i64, offset: i64, committed: bool) {
        if let Some(first_offset) = self.open.remove(&producer_id)
            && !committed
        {
            self.aborted.push(AbortedTransaction { producer_id, first_offset, last_offset: offset });
        }
    }

    /// First offset of the oldest open transaction.
    pub(crate) fn first_open_offset(&self) -> Option<i64> {
        self.open.values().copied().min()
    }

    /// The aborted transactions that overlap `from..to`.
    pub(crate) fn aborted_between(&self, from: i64, to: i64) -> Vec<AbortedTransaction> {
        self.aborted.iter().filter(|txn| txn.last_offset >= from && txn.first_offset < to).copied().collect()
    }

    /// Forgets aborted transactions that ended before `log_start_offset`.
    pub(crate) fn truncate_from_start(&mut self, log_start_offset: i64) {
        self.aborted.retain(|txn| txn.last_offset >= log_start_offset);
    }

    pub(crate) fn clear(&mut self) {
        self.open.clear();
        self.aborted.clear();
    }
}
