//! What a consumer counts: per fetch and per record set, never per record.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A snapshot of a consumer's counters ([`Consumer::metrics`](super::Consumer::metrics)). All but the last two only grow.
///
/// What brokers sent and the application is not shown of it is `bytes_cut_off` and `bytes_voided`: both were, or will be,
/// sent again where they are still wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerMetrics {
    /// Fetches answered, those aside included.
    pub fetches: u64,
    /// Fetches answered that went aside of a parked one, without a session.
    pub fetches_aside: u64,
    /// Fetches answered by replicas that do not lead, in place of leaders (KIP-392).
    pub fetches_from_replicas: u64,
    /// Times that a leader had another log than was read, be it only what was fetched ahead (KIP-320).
    pub truncations: u64,
    /// Bytes of batches that came.
    pub bytes_fetched: u64,
    /// Bytes of batches that were cut off at the end of an answer, by `max.partition.fetch.bytes`, `fetch.max.bytes` or
    /// the budget.
    pub bytes_cut_off: u64,
    /// Bytes of batches that came and were dropped unread: the partition was sought or given up, its log was truncated, or
    /// they were damaged.
    pub bytes_voided: u64,
    /// Batches that were checked and inflated off the application's task, since they are large.
    pub batches_read_away: u64,
    /// Records handed over.
    pub records: u64,
    /// Record sets handed over.
    pub record_sets: u64,
    /// Bytes of the client's prefetch budget in use, by this consumer and others.
    pub prefetch_used: u64,
    /// The client's prefetch budget.
    pub prefetch_limit: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) fetches: AtomicU64,
    pub(super) fetches_aside: AtomicU64,
    pub(super) fetches_from_replicas: AtomicU64,
    pub(super) truncations: AtomicU64,
    pub(super) bytes_fetched: AtomicU64,
    pub(super) bytes_cut_off: AtomicU64,
    pub(super) bytes_voided: AtomicU64,
    pub(super) batches_read_away: AtomicU64,
    pub(super) records: AtomicU64,
    pub(super) record_sets: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Relaxed);
}

impl Counters {
    pub(super) fn read(&self) -> ConsumerMetrics {
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        ConsumerMetrics {
            fetches: load(&self.fetches),
            fetches_aside: load(&self.fetches_aside),
            fetches_from_replicas: load(&self.fetches_from_replicas),
            truncations: load(&self.truncations),
            bytes_fetched: load(&self.bytes_fetched),
            bytes_cut_off: load(&self.bytes_cut_off),
            bytes_voided: load(&self.bytes_voided),
            batches_read_away: load(&self.batches_read_away),
            records: load(&self.records),
            record_sets: load(&self.record_sets),
            ..ConsumerMetrics::default()
        }
    }
}
