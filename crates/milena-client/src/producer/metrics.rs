//! What the producer counts: per batch and per request, never per record.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use milena_core::producer::compression_choice::CompressionReason;
use milena_protocol::compress::Compression;

const CODECS: usize = Compression::ALL.len();
const REASONS: usize = CompressionReason::ALL.len();

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
    /// How closed batches were compressed, and why so.
    pub compression: CompressionMetrics,
    /// Produce requests sent.
    pub requests: u64,
    /// Batches sent again.
    pub retries: u64,
    /// Times the epoch was raised, because a sequence had a gap.
    pub epoch_bumps: u64,
    /// Times that a partition went over to several open batches, since many tasks wrote to it at once: with
    /// [`Ordering::Key`](super::Ordering::Key) only.
    pub spreads: u64,
    /// Bytes of `buffer.memory` in use.
    pub buffer_used: u64,
    /// `buffer.memory`.
    pub buffer_limit: u64,
    /// Bytes of buffers that lie idle, to be used again.
    pub buffer_idle: u64,
    /// Sends that wait for `buffer.memory`.
    pub waiting_for_buffer: u64,
}

/// Closed batches by codec and reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompressionMetrics {
    counts: [[[u64; 3]; REASONS]; CODECS],
}

/// Batches of one codec, chosen for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompressionUse {
    /// What they were sent with; none also where compressing brought too little.
    pub codec: Compression,
    /// Why.
    pub reason: CompressionReason,
    /// How many.
    pub batches: u64,
    /// Their bytes before compression.
    pub bytes_in: u64,
    /// Their bytes after it.
    pub bytes_out: u64,
}

impl CompressionMetrics {
    /// What was used at all, by codec and reason.
    pub fn iter(&self) -> impl Iterator<Item = CompressionUse> + '_ {
        Compression::ALL.into_iter().zip(&self.counts).flat_map(|(codec, reasons)| {
            let uses = CompressionReason::ALL.into_iter().zip(reasons);
            uses.filter(|(_, [batches, ..])| *batches > 0).map(move |(reason, [batches, bytes_in, bytes_out])| {
                CompressionUse { codec, reason, batches: *batches, bytes_in: *bytes_in, bytes_out: *bytes_out }
            })
        })
    }

    /// Batches sent with `codec`, for whatever reason.
    pub fn batches(&self, codec: Compression) -> u64 {
        self.iter().filter(|used| used.codec == codec).map(|used| used.batches).sum()
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) acknowledged: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) possibly_written: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) bytes_raw: AtomicU64,
    pub(super) bytes_compressed: AtomicU64,
    /// Batches, their bytes before and after, by codec and reason.
    compression: [[[AtomicU64; 3]; REASONS]; CODECS],
    pub(super) requests: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) epoch_bumps: AtomicU64,
    pub(super) spreads: AtomicU64,
}

impl Counters {
    pub(super) fn sealed(&self, codec: Compression, reason: CompressionReason, raw: usize, compressed: usize) {
        let counters = &self.compression[usize::from(codec.id())][reason as usize];
        for (counter, more) in counters.iter().zip([1, raw as u64, compressed as u64]) {
            counter.fetch_add(more, Relaxed);
        }
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
            compression: CompressionMetrics {
                counts: self
                    .compression
                    .each_ref()
                    .map(|reasons| reasons.each_ref().map(|counters| counters.each_ref().map(load))),
            },
            requests: load(&self.requests),
            retries: load(&self.retries),
            epoch_bumps: load(&self.epoch_bumps),
            spreads: load(&self.spreads),
            ..ProducerMetrics::default()
        }
    }
}
