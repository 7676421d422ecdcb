//! One partition: the batch that takes records, the closed ones before they are sealed, and the queue of the sealed.
//!
//! One lock holds it all, but for the open batches of a partition that is spread (`taking`): each has its own, taken after
//! the partition's. The partition's is taken after nothing and before the buffer pool's and the budget's; while it
//! is held no completion is answered, and nobody woken but who waits for memory.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, TryLockError};
use std::time::{Duration, Instant};

use milena_core::producer::budget::Reservation;
use milena_core::producer::buffers::BufferPool;
use milena_core::producer::completion::{BatchShare, Completion};
use milena_core::producer::compression_choice::{CompressionChoice, CompressionChooser};
use milena_core::producer::open_batch::{OpenBatch, ProducerBatch, Room};
use milena_core::producer::partition_queue::{Leader, PartitionQueue, QueueConfig};
use milena_core::producer::partitioner::PartitionLoad;
use milena_protocol::Uuid;
use milena_protocol::record::BATCH_HEADER_LEN;

use super::company::Company;
use super::config::Ordering;
use super::delivery::Appended;
use super::error::SendError;
use super::idle::{Held, Locked};
use super::record::Record;
use super::shared::{Shared, lock};
use super::taking::{Share, Slot, Taking, lock_share};
use super::topic_config::Settings;

/// The first buffer of a partition about which nothing is known; later ones are as large as the batches were.
const FIRST_BUFFER: usize = 4 * 1024;
const NOBODY: i32 = -1;

/// What all partitions of a topic have the same.
pub(super) struct OfTopic {
    pub(super) name: Arc<str>,
    pub(super) settings: Arc<Settings>,
}

pub(super) struct Partition {
    of: Arc<OfTopic>,
    pub(super) index: i32,
    /// Batches closed and not in flight, for the adaptive partitioner.
    queued: AtomicU32,
    /// The node that leads it, for the same; [`NOBODY`] where there is none.
    leader: AtomicI32,
    /// Whether `shares` take the records.
    is_spread: AtomicBool,
    /// Made when it is spread for the first time. Boxed: of the many that are idle few ever are.
    shares: OnceLock<Box<Arc<[Share]>>>,
    held: Mutex<Held>,
}

/// What a partition has while it is not idle, and a timer that looks whether it is.
#[derive(Default)]
pub(super) struct State {
    pub(super) taking: Taking,
    /// Counts what becomes the oldest open batch, so that a timer knows whether it is about the one that is so now.
    pub(super) opened: u64,
    /// What that was when it was last looked whether the partition is idle.
    pub(super) opened_before: u64,
    /// Closed and not sealed yet, oldest first.
    pub(super) closing: VecDeque<Closing>,
    pub(super) queue: PartitionQueue<ProducerBatch>,
    pub(super) chooser: CompressionChooser,
    pub(super) leader: Option<Leader>,
    /// A broker named the leader in its answer, so that it may be later than what the metadata has (KIP-951).
    pub(super) leader_hinted: bool,
    /// The topic whose log `leader` leads; zero where the brokers do not tell.
    pub(super) topic_id: Uuid,
    /// On the list of a node, or being looked at by one.
    pub(super) listed: bool,
    /// The oldest open batch has its linger timer.
    pub(super) linger_armed: bool,
    /// The oldest open batch has lingered long enough: it goes as soon as it can be sent, and takes records until then.
    pub(super) ripe: bool,
    pub(super) age_armed: bool,
    /// A wave found the open batch and no token for it: it waits for its linger.
    pub(super) must_linger: bool,
    pub(super) company: Company,
}

/// A closed batch on its way to the queue.
pub(super) enum Closing {
    /// Complete, not compressed; with the codec, once it was chosen.
    Whole(OpenBatch, Option<CompressionChoice>),
    /// Being compressed elsewhere.
    Away {
        /// To find it when it is back.
        number: u64,
        completion: Arc<Completion>,
    },
    /// Back.
    Sealed { created: Instant, batch: ProducerBatch, share: BatchShare },
    /// Given up: it is skipped.
    Void,
}

/// What an append asks of whoever made it.
#[derive(Debug, Default)]
pub(super) struct After {
    /// The node that has something to send now.
    pub(super) pump: Option<i32>,
    /// Arm the linger timer of this batch.
    pub(super) linger: Option<(Instant, u64)>,
    /// Arm the partition's timer: it was idle.
    pub(super) deadline: Option<Instant>,
    /// Nobody leads the partition.
    pub(super) leaderless: bool,
    /// The record's time, where it was appended.
    pub(super) timestamp: i64,
    /// Why it wasn't, where it was not.
    pub(super) stop: Stop,
    /// Bytes that the record takes, with its batch's header if it is the first; 0 where it wasn't appended.
    pub(super) appended: usize,
    /// Its batch takes no more.
    pub(super) is_full: bool,
}

impl After {
    /// The record is not appended.
    #[cold]
    pub(super) fn stop(&mut self, stop: impl Into<Stop>) -> Option<Appended> {
        self.stop = stop.into();
        None
    }

    /// Whether there is anything to do: seldom, once per batch or so.
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        self.pump.is_some() || self.linger.is_some() || self.deadline.is_some() || self.leaderless
    }
}

/// Why a record is not appended now.
#[derive(Debug, Default)]
pub(super) enum Stop {
    /// The topic's metadata must be known first.
    #[default]
    Topic,
    /// So many bytes must be reserved first.
    Memory(usize),
    Error(SendError),
}

impl From<SendError> for Stop {
    fn from(error: SendError) -> Self {
        Self::Error(error)
    }
}

impl Partition {
    pub(super) fn new(of: Arc<OfTopic>, index: i32) -> Arc<Self> {
        Arc::new(Self {
            of,
            index,
            queued: AtomicU32::new(0),
            leader: AtomicI32::new(NOBODY),
            is_spread: AtomicBool::new(false),
            shares: OnceLock::new(),
            held: Mutex::default(),
        })
    }

    pub(super) fn topic(&self) -> &Arc<str> {
        &self.of.name
    }

    #[inline]
    pub(super) fn settings(&self) -> &Settings {
        &self.of.settings
    }

    /// Its state; `None` while it is idle.
    pub(super) fn lock(&self) -> Option<Locked<'_>> {
        Locked::new(lock(&self.held))
    }

    /// Has `change` made to its state, be it idle or not.
    pub(super) fn update<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        lock(&self.held).update(change)
    }

    /// As [`Self::lock`], for one that was taken off a list. Marks it so if it is idle.
    pub(super) fn lock_listed(&self) -> Option<Locked<'_>> {
        let mut held = lock(&self.held);
        held.unlist();
        Locked::new(held)
    }

    /// Gives up what an idle partition need not have. Says whether that was done.
    pub(super) fn retire(&self, shared: &Shared, state: &mut Locked<'_>) -> bool {
        if state.has_work() {
            return false;
        }
        self.gather(state);
        self.publish(state);
        let is_retired = state.retire();
        if is_retired {
            shared.active_partitions.fetch_sub(1, Relaxed);
        }
        is_retired
    }

    /// How it stands for the partitioner; what depends on its leader is for whoever knows that one.
    pub(super) fn load(&self) -> PartitionLoad {
        PartitionLoad {
            queued: self.queued.load(Relaxed),
            has_leader: self.leader().is_some(),
            ..PartitionLoad::default()
        }
    }

    /// The node that leads it.
    pub(super) fn leader(&self) -> Option<i32> {
        Some(self.leader.load(Relaxed)).filter(|leader| *leader != NOBODY)
    }

    /// Tells the partitioner how things stand. Call it when the lock is about to be released after a change.
    pub(super) fn publish(&self, state: &State) {
        let queued = state.closing.len() + state.queue.len() - state.queue.in_flight();
        self.queued.store(queued as u32, Relaxed);
        self.leader.store(state.leader.map_or(NOBODY, |leader| leader.node), Relaxed);
    }

    /// Encodes `record`, of the producer's `handle`, into the open batch, opening or closing batches as needed. `granted`
    /// are bytes that were waited for; they are used or given back. What is to be done next is said in `after`, whether
    /// it succeeds or not.
    #[inline]
    pub(super) fn append(
        &self,
        shared: &Shared,
        record: &Record<'_>,
        handle: u64,
        granted: &mut Option<Reservation>,
        after: &mut After,
    ) -> Option<Appended> {
        if self.is_spread.load(Relaxed)
            && let Some(appended) = self.append_to_share(shared, record, handle, after)
        {
            return Some(appended);
        }
        let settings = self.settings();
        let (mut held, found_locked) = match settings.ordering {
            Ordering::Partition => (lock(&self.held), false),
            Ordering::Key => self.lock_to_append(),
        };
        // Under the lock: whoever closes the producer has said so before looking at the partitions.
        if shared.is_closed() {
            return after.stop(SendError::Closed);
        }
        let state = match &mut held.active {
            Some(state) => &mut **state,
            None => self.wake(shared, &mut held, after),
        };
        if settings.ordering == Ordering::Key {
            self.spread_if_contended(shared, state, found_locked);
        }
        let result = match state.taking.whole.append_in_place(settings, record, after) {
            Some(appended) => {
                if after.is_full {
                    state.close();
                }
                Some(appended)
            }
            None => self.append_with_care(shared, state, record, handle, granted, after),
        };
        if !state.listed {
            self.after_append(state, after);
        }
        result
    }

    /// The partition's lock, with whether somebody had it.
    #[inline]
    fn lock_to_append(&self) -> (MutexGuard<'_, Held>, bool) {
        match self.held.try_lock() {
            Ok(held) => (held, false),
            Err(TryLockError::WouldBlock) => (lock(&self.held), true),
            Err(TryLockError::Poisoned(poisoned)) => (poisoned.into_inner(), false),
        }
    }

    /// Makes the state of an idle partition, and has its timer armed.
    #[cold]
    fn wake<'a>(&self, shared: &Shared, held: &'a mut Held, after: &mut After) -> &'a mut State {
        shared.active_partitions.fetch_add(1, Relaxed);
        after.deadline = Some(shared.first_look(self.settings()));
        held.wake()
    }

    /// Spreads the partition if too many wait for it.
    fn spread_if_contended(&self, shared: &Shared, state: &mut State, found_locked: bool) {
        // In virtual time nobody is ever in another's way: what is to be simulated is spread from the beginning.
        let is_virtual = state.taking.shares().is_none() && shared.client.clock.is_virtual();
        if state.taking.is_contended(found_locked) || is_virtual {
            self.spread(shared, state);
        }
    }

    #[cold]
    fn spread(&self, shared: &Shared, state: &mut State) {
        state.close();
        let shares = self.shares.get_or_init(|| Box::new((0..shared.shares).map(|_| Share::default()).collect()));
        state.taking.spread(shares);
        state.company = Company::default();
        shared.counters.spreads.fetch_add(1, Relaxed);
        self.is_spread.store(true, Relaxed);
    }

    fn gather(&self, state: &mut State) {
        state.close();
        state.taking.gather();
        self.is_spread.store(false, Relaxed);
    }

    /// Into the open batch of the key's share, if there is room in it: without the partition's lock.
    #[inline]
    fn append_to_share(
        &self,
        shared: &Shared,
        record: &Record<'_>,
        handle: u64,
        after: &mut After,
    ) -> Option<Appended> {
        // A share of a partition that was gathered meanwhile has nothing open.
        let (share, mut slot) = lock_share(self.shares.get()?, record.key, handle);
        // The way with care says so.
        if shared.is_closed() {
            return None;
        }
        let appended = slot.append_in_place(self.settings(), record, after)?;
        drop(slot);
        if after.is_full {
            self.close_full(share, after);
        }
        Some(appended)
    }

    #[cold]
    fn close_full(&self, share: usize, after: &mut After) {
        let Some(mut state) = self.lock() else { return };
        let Some(shares) = state.taking.shares().cloned() else { return };
        let mut slot = lock(&shares[share]);
        // Unless somebody else has closed it, and others have begun the next one.
        if slot.open.as_ref().is_some_and(|open| open.len() >= self.settings().batch_size) {
            state.close_slot(&mut slot, Some(share));
        }
        drop(slot);
        if !state.listed {
            self.after_append(&mut state, after);
        }
    }

    /// The way of the few: the batch is to be opened, closed or grown, the clock to be read, or the record is at fault.
    #[cold]
    fn append_with_care(
        &self,
        shared: &Shared,
        state: &mut State,
        record: &Record<'_>,
        handle: u64,
        granted: &mut Option<Reservation>,
        after: &mut After,
    ) -> Option<Appended> {
        if state.taking.is_calm() && !shared.client.clock.is_virtual() {
            self.gather(state);
        }
        let Some(shares) = state.taking.shares().cloned() else {
            let mut whole = std::mem::take(&mut state.taking.whole);
            let result = self.append_in(shared, state, (&mut whole, None), record, granted, after);
            whole.drop_empty();
            state.taking.whole = whole;
            return result.map_err(|stop| after.stop = stop).ok();
        };
        let (share, mut slot) = lock_share(&shares, record.key, handle);
        let result = self.append_in(shared, state, (&mut slot, Some(share)), record, granted, after);
        slot.drop_empty();
        state.taking.opened(share, &slot);
        result.map_err(|stop| after.stop = stop).ok()
    }

    fn append_in(
        &self,
        shared: &Shared,
        state: &mut State,
        (slot, share): (&mut Slot, Option<usize>),
        record: &Record<'_>,
        granted: &mut Option<Reservation>,
        after: &mut After,
    ) -> Result<Appended, Stop> {
        if slot.wants_clock() {
            slot.wall_millis = shared.client.clock.wall_millis();
        }
        slot.count_record();
        let batch_size = self.settings().batch_size;
        loop {
            let timestamp = record.timestamp.unwrap_or(slot.wall_millis);
            let Some(open) = &mut slot.open else {
                self.open(shared, state, slot, record, granted.take())?;
                continue;
            };
            let length = open.encoded_len(timestamp, record.key, record.value, record.headers);
            let (bytes, limit) = (length + BATCH_HEADER_LEN, shared.config.max_request_size);
            if bytes > limit {
                return Err(SendError::RecordTooLarge { bytes, limit }.into());
            }
            match open.room_for(length, batch_size) {
                Room::Fits => {}
                Room::Grow(capacity) if open.try_grow(capacity, &shared.buffers) => {}
                // Where there is no memory for a larger buffer the batch is as full as it gets, and the next waits for its
                // own.
                Room::Grow(_) | Room::Full => {
                    debug_assert!(!open.is_empty(), "a batch is opened with room for its first record");
                    state.close_slot(slot, share);
                    continue;
                }
            }
            let index = open
                .append(usize::MAX, timestamp, record.key, record.value, record.headers)
                .map_err(SendError::unencodable)?
                .expect("there was room, or room was made");
            let completion = Arc::clone(open.completion());
            after.timestamp = timestamp;
            after.appended = if index == 0 { length + BATCH_HEADER_LEN } else { length };
            if open.len() >= batch_size {
                after.is_full = true;
                state.close_slot(slot, share);
            }
            return Ok(Appended { completion, index });
        }
    }

    fn open(
        &self,
        shared: &Shared,
        state: &mut State,
        slot: &mut Slot,
        record: &Record<'_>,
        granted: Option<Reservation>,
    ) -> Result<(), Stop> {
        // A generous bound of the record's own length; what is exact is known once there is a batch.
        let headers: usize = record.headers.iter().map(|header| header.key.len() + value_len(header.value) + 10).sum();
        let least =
            (value_len(record.key) + value_len(record.value) + headers + 40).min(shared.config.max_request_size);
        let fair = shared.fair_buffer() / state.taking.shares().map_or(1, |shares| shares.len());
        let usual = slot.usual.clamp(FIRST_BUFFER, self.settings().batch_size.max(FIRST_BUFFER)).min(fair);
        let budget = shared.buffers.budget();
        let charge = match granted {
            Some(granted) => granted,
            None => {
                let wished = budget.try_reserve(BufferPool::capacity_for(usual.max(least)));
                match wished.or_else(|| budget.try_reserve(BufferPool::capacity_for(least))) {
                    Some(charge) => charge,
                    None => return Err(Stop::Memory(BufferPool::capacity_for(least))),
                }
            }
        };
        let now = shared.client.clock.now();
        slot.read_clock(shared.client.clock.wall_millis());
        let timestamp = record.timestamp.unwrap_or(slot.wall_millis);
        let completion = Completion::new(Arc::clone(self.topic()), self.index);
        slot.open = Some(OpenBatch::new(&shared.buffers, charge, completion, now, timestamp));
        if !state.taking.has_open() {
            state.opened += 1;
            state.linger_armed = false;
            state.must_linger = false;
            state.ripe = false;
        }
        shared.counters.batches.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Decides whether what was appended goes out now, or waits, and for what.
    fn after_append(&self, state: &mut State, after: &mut After) {
        // Nothing of the partition is on its way: the record need not wait, if the node has a token for it.
        let eager = !state.must_linger && state.queue.is_empty();
        if eager || !state.closing.is_empty() {
            match state.leader {
                Some(leader) => {
                    state.listed = true;
                    after.pump = Some(leader.node);
                }
                None => after.leaderless = true,
            }
            self.publish(state);
        }
        if after.pump.is_none()
            && !state.linger_armed
            && let Some(created) = state.taking.oldest()
        {
            state.linger_armed = true;
            after.linger = Some((created, state.opened));
        }
    }
}

fn value_len(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(0, <[u8]>::len)
}

impl State {
    /// Closes all open batches.
    pub(super) fn close(&mut self) {
        while self.close_oldest() {}
    }

    /// Closes the oldest open batch, if there is one.
    pub(super) fn close_oldest(&mut self) -> bool {
        let open = self.taking.close_oldest();
        let is_open = open.is_some();
        self.closed(open);
        is_open
    }

    /// Closes the batch of `slot`, which is the share's, or the whole partition's.
    fn close_slot(&mut self, slot: &mut Slot, share: Option<usize>) {
        let open = self.taking.close(slot, share);
        self.closed(open);
    }

    /// What was known of the oldest open batch is not so of the next, if that one is younger.
    fn closed(&mut self, open: Option<OpenBatch>) {
        let Some(open) = open else { return };
        if self.taking.oldest().is_none_or(|next| open.created() < next) {
            self.ripe = false;
            self.linger_armed = false;
            self.opened += 1;
        }
        self.closing.push_back(Closing::Whole(open, None));
    }

    /// The oldest open batch has lingered since it was opened: that of a share may, while another was sent.
    pub(super) fn ripen(&mut self, now: Instant, linger: Duration) {
        self.ripe = self.taking.oldest().is_some_and(|created| created + linger <= now);
    }

    /// Whether something is ready that is not on its way yet.
    pub(super) fn waits(&self) -> bool {
        let ripe = self.ripe && self.taking.has_open();
        ripe || !self.closing.is_empty() || self.queue.len() > self.queue.in_flight()
    }

    /// Forgets what was given up before it was sealed: a partition that nobody leads would be held busy by it for ever.
    pub(super) fn sweep(&mut self) {
        self.closing.retain(|closing| !matches!(closing, Closing::Void));
    }

    /// Whether anything is open, closed, queued or in flight.
    pub(super) fn has_work(&self) -> bool {
        self.taking.has_open() || !self.closing.is_empty() || !self.queue.is_empty()
    }

    /// The completions of everything that is not answered for yet.
    pub(super) fn unanswered(&self) -> Vec<Arc<Completion>> {
        let queued = self.queue.unreported().map(|share| Arc::clone(share.completion()));
        let closing = self.closing.iter().filter_map(|closing| match closing {
            Closing::Whole(open, _) => Some(Arc::clone(open.completion())),
            Closing::Sealed { share, .. } => Some(Arc::clone(share.completion())),
            Closing::Away { completion, .. } => Some(Arc::clone(completion)),
            Closing::Void => None,
        });
        let open = self.taking.completions().map(Arc::clone);
        queued.chain(closing).chain(open).collect()
    }

    /// When the oldest batch runs out of time.
    pub(super) fn next_deadline(&self, config: &QueueConfig) -> Option<Instant> {
        let closing = self.closing.iter().filter_map(|closing| match closing {
            Closing::Whole(open, _) => Some(open.created()),
            Closing::Sealed { created, .. } => Some(*created),
            // Whatever comes back is looked at again then.
            Closing::Away { .. } | Closing::Void => None,
        });
        // The first to be closed need not have been opened first, where keys have batches of their own.
        let unsent = closing.chain(self.taking.oldest()).map(|created| created + config.delivery_timeout);
        self.queue.next_deadline(config).into_iter().chain(unsent).min()
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic(), self.index)
    }
}

#[cfg(test)]
mod tests;
