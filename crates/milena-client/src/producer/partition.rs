//! One partition: the batch that takes records, the closed ones before they are sealed, and the queue of the sealed.
//!
//! One lock holds it all. It is taken after nothing and before the buffer pool's and the budget's; nobody is woken and
//! no completion is answered while it is held.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use milena_core::producer::budget::Reservation;
use milena_core::producer::buffers::BufferPool;
use milena_core::producer::completion::{BatchShare, Completion};
use milena_core::producer::compression_choice::{CompressionChoice, CompressionChooser};
use milena_core::producer::open_batch::{OpenBatch, ProducerBatch, Room};
use milena_core::producer::partition_queue::{Leader, PartitionQueue, QueueConfig};
use milena_core::producer::partitioner::PartitionLoad;
use milena_protocol::Uuid;
use milena_protocol::record::BATCH_HEADER_LEN;

use super::config::ProducerConfig;
use super::delivery::Delivery;
use super::error::SendError;
use super::record::Record;
use super::shared::Shared;
use super::topic_config::Settings;

/// The first buffer of a partition about which nothing is known; later ones are as large as the batches were.
const FIRST_BUFFER: usize = 4 * 1024;
/// After so many records the clock is read again, if the batch did not change before.
const RECORDS_PER_CLOCK: u32 = 64;
const NOBODY: i32 = -1;

pub(super) struct Partition {
    pub(super) topic: Arc<str>,
    pub(super) index: i32,
    pub(super) settings: Arc<Settings>,
    /// Batches closed and not in flight, for the adaptive partitioner.
    queued: AtomicU32,
    /// The node that leads it, for the same; [`NOBODY`] where there is none.
    leader: AtomicI32,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) open: Option<OpenBatch>,
    /// Counts opened batches, so that a timer knows whether it is about the one that is open.
    pub(super) opened: u64,
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
    /// The open batch has its linger timer.
    pub(super) linger_armed: bool,
    /// The open batch has lingered long enough: it goes as soon as it can be sent, and takes records until then.
    pub(super) ripe: bool,
    pub(super) age_armed: bool,
    pub(super) deadline_armed: bool,
    /// A wave found the open batch and no token for it: it waits for its linger.
    pub(super) must_linger: bool,
    wall_millis: i64,
    records_since_clock: u32,
    /// How large the last batches became.
    usual: usize,
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
    /// Arm the partition's delivery deadline.
    pub(super) deadline: Option<Instant>,
    /// Nobody leads the partition.
    pub(super) leaderless: bool,
    /// Bytes that the record takes, with its batch's header if it is the first; 0 where it wasn't appended.
    pub(super) appended: usize,
    /// Its batch takes no more.
    pub(super) is_full: bool,
}

impl After {
    /// Whether there is anything to do: seldom, once per batch or so.
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        self.pump.is_some() || self.linger.is_some() || self.deadline.is_some() || self.leaderless
    }
}

pub(super) enum Refusal {
    /// So many bytes must be reserved first.
    Memory(usize),
    /// Boxed: what is returned for every record stays small.
    Error(Box<SendError>),
}

impl From<SendError> for Refusal {
    fn from(error: SendError) -> Self {
        Self::Error(Box::new(error))
    }
}

impl Partition {
    pub(super) fn new(topic: Arc<str>, index: i32, settings: Arc<Settings>) -> Arc<Self> {
        Arc::new(Self {
            topic,
            index,
            settings,
            queued: AtomicU32::new(0),
            leader: AtomicI32::new(NOBODY),
            state: Mutex::default(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Encodes `record` into the open batch, opening or closing batches as needed. `granted` are bytes that were waited
    /// for; they are used or given back. What is to be done next is said in `after`, whether it succeeds or not.
    #[inline]
    pub(super) fn append(
        &self,
        shared: &Shared,
        record: &Record<'_>,
        granted: Option<Reservation>,
        after: &mut After,
    ) -> Result<Delivery, Refusal> {
        let mut state = self.lock();
        // Under the lock: whoever closes the producer has said so before looking at the partitions.
        if shared.is_closed() {
            return Err(SendError::Closed.into());
        }
        let result = match state.append_in_place(&self.settings, &shared.config, record, after) {
            Some(delivery) => Ok(delivery),
            None => self.append_with_care(shared, &mut state, record, granted, after),
        };
        if !state.listed {
            self.after_append(&mut state, after);
        }
        result
    }

    /// The way of the few: the batch is to be opened, closed or grown, the clock to be read, or the record is at fault.
    #[cold]
    fn append_with_care(
        &self,
        shared: &Shared,
        state: &mut State,
        record: &Record<'_>,
        granted: Option<Reservation>,
        after: &mut After,
    ) -> Result<Delivery, Refusal> {
        let result = self.append_in(shared, state, record, granted, after);
        // An empty batch must not stay: its age would count for records that come much later.
        if result.is_err() && state.open.as_ref().is_some_and(OpenBatch::is_empty) {
            state.open = None;
        }
        result
    }

    fn append_in(
        &self,
        shared: &Shared,
        state: &mut State,
        record: &Record<'_>,
        mut granted: Option<Reservation>,
        after: &mut After,
    ) -> Result<Delivery, Refusal> {
        if state.records_since_clock == 0 {
            state.wall_millis = shared.client.clock.wall_millis();
        }
        state.count_record();
        let batch_size = self.settings.batch_size;
        loop {
            let timestamp = record.timestamp.unwrap_or(state.wall_millis);
            let Some(open) = &mut state.open else {
                self.open(shared, state, record, granted.take(), after)?;
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
                // No memory for a larger buffer: the batch is as full as it gets, and the next waits for its own.
                Room::Grow(_) if open.is_empty() => {
                    state.open = None;
                    if granted.is_none() {
                        return Err(Refusal::Memory(BufferPool::capacity_for(length)));
                    }
                    continue;
                }
                Room::Grow(_) | Room::Full => {
                    state.close();
                    continue;
                }
            }
            let index = open
                .append(usize::MAX, timestamp, record.key, record.value, record.headers)
                .map_err(SendError::unencodable)?
                .expect("there was room, or room was made");
            let delivery = Delivery::new(Arc::clone(open.completion()), index, timestamp);
            after.appended = if index == 0 { length + BATCH_HEADER_LEN } else { length };
            if open.len() >= batch_size {
                after.is_full = true;
                state.close();
            }
            return Ok(delivery);
        }
    }

    #[cold]
    fn open(
        &self,
        shared: &Shared,
        state: &mut State,
        record: &Record<'_>,
        granted: Option<Reservation>,
        after: &mut After,
    ) -> Result<(), Refusal> {
        // A generous bound of the record's own length; what is exact is known once there is a batch.
        let headers: usize = record.headers.iter().map(|header| header.key.len() + value_len(header.value) + 10).sum();
        let least =
            (value_len(record.key) + value_len(record.value) + headers + 40).min(shared.config.max_request_size);
        let usual =
            state.usual.clamp(FIRST_BUFFER, self.settings.batch_size.max(FIRST_BUFFER)).min(shared.fair_buffer());
        let budget = shared.buffers.budget();
        let charge = match granted {
            Some(granted) => granted,
            None => {
                let wished = budget.try_reserve(BufferPool::capacity_for(usual.max(least)));
                match wished.or_else(|| budget.try_reserve(BufferPool::capacity_for(least))) {
                    Some(charge) => charge,
                    None => return Err(Refusal::Memory(BufferPool::capacity_for(least))),
                }
            }
        };
        let now = shared.client.clock.now();
        state.wall_millis = shared.client.clock.wall_millis();
        state.records_since_clock = 1;
        let timestamp = record.timestamp.unwrap_or(state.wall_millis);
        let completion = Completion::new(Arc::clone(&self.topic), self.index);
        state.open = Some(OpenBatch::new(&shared.buffers, charge, completion, now, timestamp));
        state.opened += 1;
        state.linger_armed = false;
        state.must_linger = false;
        state.ripe = false;
        shared.counters.batches.fetch_add(1, Relaxed);
        if !state.deadline_armed {
            state.deadline_armed = true;
            shared.active_partitions.fetch_add(1, Relaxed);
            after.deadline = Some(now + self.settings.queue.delivery_timeout);
        }
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
            && let Some(open) = &state.open
        {
            state.linger_armed = true;
            after.linger = Some((open.created(), state.opened));
        }
    }
}

fn value_len(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(0, <[u8]>::len)
}

impl State {
    /// Appends `record`, if there is an open batch with room for it and the clock need not be read.
    #[inline]
    fn append_in_place(
        &mut self,
        settings: &Settings,
        config: &ProducerConfig,
        record: &Record<'_>,
        after: &mut After,
    ) -> Option<Delivery> {
        let open = self.open.as_mut().filter(|open| self.records_since_clock != 0 && !open.is_empty())?;
        let timestamp = record.timestamp.unwrap_or(self.wall_millis);
        let (limit, before) = (settings.batch_size.min(config.max_request_size), open.len());
        // What is wrong with a record is found out with care.
        let index = open.append(limit, timestamp, record.key, record.value, record.headers).ok().flatten()?;
        let delivery = Delivery::new(Arc::clone(open.completion()), index, timestamp);
        after.appended = open.len() - before;
        after.is_full = open.len() >= settings.batch_size;
        self.count_record();
        if after.is_full {
            self.close();
        }
        Some(delivery)
    }

    #[inline]
    fn count_record(&mut self) {
        self.records_since_clock = (self.records_since_clock + 1) % RECORDS_PER_CLOCK;
    }

    /// Closes the open batch, if there is one with records in it.
    pub(super) fn close(&mut self) -> bool {
        let Some(open) = self.open.take_if(|open| !open.is_empty()) else { return false };
        // Batches that linger closes early say less about the next one than full ones.
        self.usual = open.len().max(self.usual / 2);
        self.ripe = false;
        self.closing.push_back(Closing::Whole(open, None));
        true
    }

    /// Whether something is ready that is not on its way yet.
    pub(super) fn waits(&self) -> bool {
        let ripe = self.ripe && self.open.as_ref().is_some_and(|open| !open.is_empty());
        ripe || !self.closing.is_empty() || self.queue.len() > self.queue.in_flight()
    }

    /// Forgets what was given up before it was sealed: a partition that nobody leads would be held busy by it for ever.
    pub(super) fn sweep(&mut self) {
        self.closing.retain(|closing| !matches!(closing, Closing::Void));
    }

    /// Whether anything is open, closed, queued or in flight.
    pub(super) fn has_work(&self) -> bool {
        self.open.as_ref().is_some_and(|open| !open.is_empty()) || !self.closing.is_empty() || !self.queue.is_empty()
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
        let open = self.open.as_ref().filter(|open| !open.is_empty()).map(|open| Arc::clone(open.completion()));
        queued.chain(closing).chain(open).collect()
    }

    /// When the oldest batch runs out of time.
    pub(super) fn next_deadline(&self, config: &QueueConfig) -> Option<Instant> {
        let closing = self.closing.iter().find_map(|closing| match closing {
            Closing::Whole(open, _) => Some(open.created()),
            Closing::Sealed { created, .. } => Some(*created),
            // Whatever comes back is looked at again then.
            Closing::Away { .. } | Closing::Void => None,
        });
        let open = self.open.as_ref().filter(|open| !open.is_empty()).map(OpenBatch::created);
        let unsent = closing.or(open).map(|created| created + config.delivery_timeout);
        [self.queue.next_deadline(config), unsent].into_iter().flatten().min()
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.index)
    }
}
