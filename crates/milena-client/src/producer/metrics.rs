//! What the producer counts: per batch and per request, never per record.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use milena_protocol::compress::Compression;

/// A snapshot of a producer's counters. All but the last four only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProducerMetrics {
    /// Records acknowledged.
    pub records_acknowledged: u64,
    /// Records that failed for certain.
    pub records_failed: u64,
    /// Records given up that may have been written.
    pub records_possibly_written: u64,
    /// Batches opened.
    pub batches: u64,
    /// Bytes of closed batches before compression.
    pub bytes_raw: u64,
    /// Bytes of closed batches after it.
    pub bytes_compressed: u64,
    /// Closed batches by codec: none, gzip, snappy, lz4, zstd.
    pub batches_by_codec: [u64; 5],
    /// Produce requests sent.
    pub requests: u64,
    /// Batches sent again.
    pub retries: u64,
    /// Times the epoch was raised, because a sequence had a gap.
    pub epoch_bumps: u64,
    /// Bytes of `buffer.memory` in use.
    pub buffer_used: u64,
    /// `buffer.memory`.
    pub buffer_limit: u64,
    /// Bytes of buffers that lie idle, to be used again.
    pub buffer_idle: u64,
    /// Sends that wait for `buffer.memory`.
    pub waiting_for_buffer: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) acknowledged: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) possibly_written: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) bytes_raw: AtomicU64,
    pub(super) bytes_compressed: AtomicU64,
    by_codec: [AtomicU64; 5],
    pub(super) requests: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) epoch_bumps: AtomicU64,
}

impl Counters {
    pub(super) fn sealed(&self, codec: Compression, raw: usize, compressed: usize) {
        self.by_codec[usize::from(codec.id())].fetch_add(1, Relaxed);
        self.bytes_raw.fetch_add(raw as u64, Relaxed);
        self.bytes_compressed.fetch_add(compressed as u64, Relaxed);
    }

    pub(super) fn read(&self) -> ProducerMetrics {
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        ProducerMetrics {
            records_acknowledged: load(&self.acknowledged),
            records_failed: load(&self.failed),
            records_possibly_written: load(&self.possibly_written),
            batches: load(&self.batches),
            bytes_raw: load(&self.bytes_raw),
            bytes_compressed: load(&self.bytes_compressed),
            batches_by_codec: self.by_codec.each_ref().map(load),
            requests: load(&self.requests),
            retries: load(&self.retries),
            epoch_bumps: load(&self.epoch_bumps),
            ..ProducerMetrics::default()
        }
    }
}
