//! Large batches are checked and inflated on a thread of their own, ahead of the application, one of each partition at a
//! time: neither a task of the runtime nor whoever waits for small ones has to wait for them. In virtual time nothing is
//! elsewhere: everything is read in place, so that a simulation repeats itself.
//!
//! A consumer has as many read at a time as there are processors, four at least: what is inflated ahead is memory that no
//! fetch has reserved. Beyond that whoever asks for records reads the next batch itself, one at a time.

use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::sync::{Arc, LazyLock, MutexGuard};
use std::time::Duration;

use milena_core::consumer::TopicPartition;
use milena_protocol::compress::Compression;

use super::{Fetched, Taken};
use crate::consumer::metrics::add;
use crate::consumer::shared::{Shared, State};

/// Compressed batches above this are worth a thread's attention, which costs some ten microseconds.
const LARGE_COMPRESSED: usize = 64 << 10;
/// Others are merely checked, many times faster.
const LARGE: usize = 256 << 10;
/// How many a consumer has read at a time.
pub(super) static MOST: LazyLock<usize> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(4, |found| found.get().max(4)));
/// Before a batch whose reading panicked is fetched again.
const AFTER_PANIC: Duration = Duration::from_secs(1);

impl Fetched {
    /// Whether the next batch is better read elsewhere.
    pub(super) fn is_large(&self) -> bool {
        match self.batches.clone().next() {
            Some(Ok(batch)) => {
                let limit = if batch.compression() == Compression::None { LARGE } else { LARGE_COMPRESSED };
                batch.bytes().len() > limit
            }
            // The end, or damage: both are told where batches are read.
            Some(Err(_)) | None => false,
        }
    }
}

impl Shared {
    /// Whether there is an elsewhere, and nobody to wait for there.
    pub(super) fn reads_away(&self) -> bool {
        !self.client.clock.is_virtual() && self.away.load(Acquire) < *MOST
    }

    /// Has the next batch of a partition read elsewhere, if it is large. Releases the lock: where nothing may start any more,
    /// the end of the task comes at once.
    pub(in crate::consumer) fn send_away(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        partition: &TopicPartition,
    ) {
        if !self.reads_away() || state.closed {
            return;
        }
        let Some(taken) = state.take_large(partition) else { return };
        // Under the lock, as all that look at it here do.
        self.away.fetch_add(1, AcqRel);
        drop(state);
        add(&self.counters.batches_read_away, 1);
        let shared = Arc::clone(self);
        let (partition, version) = (taken.partition.clone(), taken.part.version);
        let work = move || {
            let Taken { mut part, unread, position, .. } = taken;
            let step = part.step(position, &shared.config, false);
            part.prepared = Some((step, unread));
            part
        };
        let shared = Arc::clone(self);
        // One at a time for each partition: the buffer says that it is being read.
        let read = async move {
            let part = tokio::task::spawn_blocking(work).await.ok();
            shared.come_back(&partition, version, part);
        };
        if self.client.tasks.spawn("read a batch", read).is_err() {
            self.end();
        }
    }

    fn come_back(&self, partition: &TopicPartition, version: u64, part: Option<Fetched>) {
        let mut state = self.state();
        self.away.fetch_sub(1, AcqRel);
        let is_current = state.positions.current(partition, version).is_some_and(|held| !held.is_held_back());
        match part {
            Some(part) if is_current => state.put_back(partition, version, Some(part)),
            Some(part) => {
                // Sought, revoked or lost while it was read.
                state.void(part.unread_bytes());
                state.put_back(partition, version, None);
            }
            // It panicked, which is a bug, or the runtime ends: nothing is lost that can't be fetched again.
            None if is_current => {
                tracing::error!(%partition, "a batch could not be read: the thread that read it panicked; fetching it again");
                state.discard(partition);
                state.positions.refetch(partition, version);
                state.delay(partition, self.client.clock.now() + AFTER_PANIC);
                self.fetchers.notify_waiters();
            }
            None => state.put_back(partition, version, None),
        }
        drop(state);
        self.app.notify_waiters();
    }
}

impl State {
    /// Takes the part that is to be read next, if its next batch is large and nobody reads it.
    fn take_large(&mut self, partition: &TopicPartition) -> Option<Taken> {
        let buffer = self.buffers.get_mut(partition).filter(|buffer| buffer.is_available())?;
        let front = buffer.parts.front()?;
        let current = self.positions.current(partition, front.version)?;
        let (position, epoch) = (current.position()?, current.epoch);
        if front.prepared.is_some() || current.is_held_back() || !front.is_large() {
            return None;
        }
        let part = buffer.take()?;
        self.ready.retain(|ready| ready != partition);
        let unread = part.unread_bytes();
        Some(Taken { partition: partition.clone(), part, unread, position, epoch })
    }
}
