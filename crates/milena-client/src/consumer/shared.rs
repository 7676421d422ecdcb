//! What the application's calls, the driver and the fetchers of one consumer share: one lock, held for moments and never
//! across an await, and three ways to wake one another. Does no I/O.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use milena_core::consumer::positions::{Divergence, Positions, Start};
use milena_core::consumer::prefetch::Account;
use milena_core::consumer::{AssignmentEpoch, TopicPartition};
use milena_net::{Connection, Purpose};
use tokio::sync::Notify;

use super::config::ConsumerConfig;
use super::error::ConsumeError;
use super::event::ConsumerEvent;
use super::fetcher::Kind;
use super::hand_over::Buffer;
use super::metrics::{Counters, add};
use super::outages::Outages;
use super::pauses::{Paused, Pauses};
use super::processed::Processed;
use crate::client::ClientInner;

/// What is not handed over for long must not pile up errors.
const MOST_ERRORS: usize = 100;

/// Decides by name whether a topic belongs to a subscription.
pub(super) type TopicFilter = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What the application asked for.
#[derive(Clone, Default)]
pub(super) enum Subscription {
    #[default]
    None,
    Assigned,
    Topics(BTreeSet<Arc<str>>),
    Matching(TopicFilter),
}

pub(super) struct Shared {
    pub(super) client: Arc<ClientInner>,
    pub(super) config: ConsumerConfig,
    pub(super) counters: Arc<Counters>,
    /// Batches that are being read by threads of their own.
    pub(super) away: AtomicUsize,
    /// Wakes `next`.
    pub(super) app: Notify,
    /// Wakes the driver.
    pub(super) driver: Notify,
    /// Wakes all fetchers: something may be fetchable that was not.
    pub(super) fetchers: Notify,
    pub(super) created: Instant,
    /// Numbers of our own connections, for [`milena_net::Purpose::Own`].
    pub(super) connections: Connections,
    /// Wakes what ends with the consumer.
    over: Notify,
    /// Connections that are ours alone; `None` once they were closed.
    own: Mutex<Option<Vec<Connection>>>,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Connections {
    pub(super) fetch: u64,
    pub(super) aside: u64,
    pub(super) parked: u64,
    pub(super) membership: u64,
}

/// All behind the lock.
pub(super) struct State {
    pub(super) positions: Positions,
    /// None that is empty: idle partitions have none.
    pub(super) buffers: BTreeMap<TopicPartition, Buffer>,
    /// Partitions with something to hand over, in turn.
    pub(super) ready: VecDeque<TopicPartition>,
    pub(super) events: VecDeque<Result<ConsumerEvent, ConsumeError>>,
    /// Partitions in a fetch aside that is under way: the node that was asked, and for which version.
    pub(super) asked: BTreeMap<TopicPartition, (i32, u64)>,
    pub(super) paused: Paused,
    /// Nodes that have a fetcher, and what it may bring.
    pub(super) fetching: BTreeMap<i32, Account>,
    /// Nodes that are fetched from aside, and how.
    pub(super) asides: BTreeSet<(i32, Kind)>,
    /// Partitions, by node and version, that had nothing when they were fetched aside.
    pub(super) quiet: BTreeMap<TopicPartition, (i32, u64)>,
    pub(super) subscription: Subscription,
    /// Rises with each change of the subscription.
    pub(super) subscribed: u64,
    /// Revocations whose guards are gone.
    pub(super) revocations_over: Vec<u64>,
    pub(super) processed: Processed,
    pub(super) last_poll: Instant,
    pub(super) polling: usize,
    /// Nothing more is handed over or fetched.
    pub(super) closed: bool,
    /// The membership lapsed, and the next poll renews it.
    pub(super) stale: bool,
    /// The last handle is gone.
    pub(super) abandoned: bool,
    pub(super) outages: Outages,
    epochs: u64,
    /// How often the batch at an offset was found damaged.
    damaged: BTreeMap<TopicPartition, (i64, u32)>,
    counters: Arc<Counters>,
}

impl Shared {
    pub(super) fn new(client: Arc<ClientInner>, config: ConsumerConfig) -> Arc<Self> {
        let counters = Arc::new(Counters::default());
        let connections = client.chance.with(|rng| Connections {
            fetch: rng.u64(..),
            aside: rng.u64(..),
            parked: rng.u64(..),
            membership: rng.u64(..),
        });
        let state = State {
            positions: Positions::new(config.auto_offset_reset),
            buffers: BTreeMap::new(),
            ready: VecDeque::new(),
            events: VecDeque::new(),
            asked: BTreeMap::new(),
            paused: Paused::default(),
            fetching: BTreeMap::new(),
            asides: BTreeSet::new(),
            quiet: BTreeMap::new(),
            subscription: Subscription::None,
            subscribed: 0,
            revocations_over: Vec::new(),
            processed: Processed::default(),
            last_poll: client.clock.now(),
            polling: 0,
            closed: false,
            stale: false,
            abandoned: false,
            outages: Outages::default(),
            epochs: 0,
            damaged: BTreeMap::new(),
            counters: Arc::clone(&counters),
        };
        Arc::new(Self {
            created: client.clock.now(),
            counters,
            away: AtomicUsize::new(0),
            app: Notify::new(),
            driver: Notify::new(),
            fetchers: Notify::new(),
            connections,
            over: Notify::new(),
            own: Mutex::new(Some(Vec::new())),
            state: Mutex::new(state),
            client,
            config,
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code that holds this lock can panic")
    }

    /// Something changed that decides what may be fetched or asked.
    pub(super) fn wake_all(&self) {
        self.driver.notify_one();
        self.fetchers.notify_waiters();
        self.app.notify_waiters();
    }

    /// Nothing more is fetched or handed over. Idempotent.
    pub(super) fn end(&self) {
        let unread = {
            let mut state = self.state();
            state.closed = true;
            state.fetching.clear();
            state.ready.clear();
            // However long a clone of the consumer lives, its client's budget gets back what was fetched ahead.
            std::mem::take(&mut state.buffers)
        };
        drop(unread);
        self.over.notify_waiters();
        self.wake_all();
    }

    /// Resolves when nothing more is fetched or handed over.
    pub(super) async fn ended(&self) {
        let over = self.over.notified();
        tokio::pin!(over);
        over.as_mut().enable();
        // In its own statement: the guard must be gone before the await.
        let closed = self.state().closed;
        if !closed {
            over.await;
        }
    }

    /// Keeps a connection that is ours alone, to close it in the end: nobody else would use it. Call this before the
    /// first request, which the broker may hold for as long as it likes.
    pub(super) fn remember(&self, connection: &Connection) {
        match &mut *self.own.lock().expect("no code that holds this lock can panic") {
            Some(own) => {
                if !own.iter().any(|known| known.is_same(connection)) {
                    own.retain(|known| !known.is_closed());
                    own.push(connection.clone());
                }
            }
            // Found too late.
            None => connection.close(),
        }
    }

    /// Closes the connections that are ours alone, now and later: what brokers hold there is not waited for.
    pub(super) fn disconnect(&self) {
        let own = self.own.lock().expect("no code that holds this lock can panic").take();
        own.iter().flatten().for_each(Connection::close);
        self.retire();
    }

    /// Ends what was dialled for us alone, too, by somebody who may have gone before it was there.
    fn retire(&self) {
        let Connections { fetch, aside, parked, membership } = self.connections;
        for number in [fetch, aside, parked, membership] {
            self.client.pool.retire(Purpose::Own(number));
        }
    }

    pub(super) fn push(&self, event: Result<ConsumerEvent, ConsumeError>) {
        self.state().push(event);
        self.app.notify_waiters();
    }

    pub(super) fn revocation_over(&self, revocation: u64) {
        self.state().revocations_over.push(revocation);
        self.driver.notify_one();
    }

    pub(super) fn set_dropped(&self, partition: &TopicPartition, epoch: AssignmentEpoch, set: u64) {
        if self.state().processed.dropped(partition, epoch, set) {
            self.driver.notify_one();
        }
    }
}

impl State {
    /// An event for `next`. Errors that nobody fetches do not pile up, for they are told again; but that a partition has
    /// no offset to read from is told once for each change of its course, and an outage once.
    pub(super) fn push(&mut self, event: Result<ConsumerEvent, ConsumeError>) {
        let is_told_once = matches!(
            event,
            Ok(_) | Err(ConsumeError::NoOffset(_) | ConsumeError::Truncated(_) | ConsumeError::Unreachable { .. })
        );
        if is_told_once || self.events.len() < MOST_ERRORS {
            self.events.push_back(event);
        }
    }

    /// When a question about a position is due; none is put any more once it is closed.
    pub(super) fn next_question(&self) -> Option<Instant> {
        self.positions.next_timeout().filter(|_| !self.closed)
    }

    /// Rises with each assignment.
    pub(super) fn assignments(&self) -> u64 {
        self.epochs
    }

    /// Starts holding partitions, in a spell of their own.
    pub(super) fn assign(&mut self, partitions: impl IntoIterator<Item = (TopicPartition, Start)>) -> AssignmentEpoch {
        self.epochs += 1;
        let epoch = AssignmentEpoch(self.epochs);
        for (partition, start) in partitions {
            self.discard(&partition);
            self.positions.assign(partition, epoch, start);
        }
        epoch
    }

    /// The partition is not fetched before then, and then at once.
    pub(super) fn delay(&mut self, partition: &TopicPartition, until: Instant) {
        self.paused.delay(partition, until);
        self.quiet.remove(partition);
        self.positions.mark(partition);
    }

    /// The partition is not fetched before what is here of it was handed over, or before then.
    pub(super) fn drain(&mut self, partition: &TopicPartition, until: Instant) {
        self.paused.drain(partition, until);
        self.quiet.remove(partition);
        self.positions.mark(partition);
    }

    /// A fetch of the partition failed: another has to wait, the longer the more failed before it.
    pub(super) fn fail(&mut self, partition: &TopicPartition, now: Instant, pauses: &Pauses<'_>) {
        self.paused.fail(partition, now, pauses);
        // It may have what was asked for: one poll is parked at a time, and it must not wait for that of another.
        self.quiet.remove(partition);
        self.positions.mark(partition);
    }

    /// Takes over who leads the partition. Another leader is asked at once, whatever the one before refused (KIP-951).
    pub(super) fn set_leader(&mut self, partition: &TopicPartition, leader: Option<(i32, i32)>) {
        if self.positions.set_leader(partition, leader) && leader.is_some() {
            self.paused.forget(partition);
        }
    }

    /// Stops holding a partition.
    pub(super) fn give_up(&mut self, partition: &TopicPartition) {
        self.discard(partition);
        self.positions.remove(partition);
        self.processed.forget(partition);
        self.damaged.remove(partition);
        self.quiet.remove(partition);
        self.paused.forget(partition);
    }

    /// Positions of held partitions, in the order given; `None` while one is not known.
    pub(super) fn positions_of(&self, partitions: &[TopicPartition]) -> Result<Option<Vec<i64>>, ConsumeError> {
        if self.closed {
            return Err(ConsumeError::Closed);
        }
        let held = |partition: &TopicPartition| {
            self.positions.get(partition).ok_or_else(|| ConsumeError::NotAssigned(partition.clone()))
        };
        let positions = partitions.iter().map(|partition| Ok(held(partition)?.position()));
        // All are looked at: one that is not held would be waited for in vain.
        Ok(positions.collect::<Result<Vec<_>, ConsumeError>>()?.into_iter().collect())
    }

    /// Drops what was fetched ahead of a partition.
    pub(super) fn discard(&mut self, partition: &TopicPartition) {
        if let Some(buffer) = self.buffers.remove(partition) {
            self.void(buffer.unread_bytes());
        }
        self.paused.drained(partition);
        self.ready.retain(|ready| ready != partition);
    }

    /// The leader has another log than was read: what was fetched ahead is void, and what is lost is told.
    pub(super) fn take_divergence(&mut self, partition: &TopicPartition, divergence: Divergence) {
        add(&self.counters.truncations, 1);
        self.discard(partition);
        self.paused.forget(partition);
        match divergence {
            Divergence::Ahead => {}
            Divergence::Behind(lost) => {
                self.processed.forget(partition);
                self.push(Ok(ConsumerEvent::Truncated(lost)));
            }
            Divergence::Stopped(lost) => {
                self.processed.forget(partition);
                self.push(Err(ConsumeError::Truncated(lost)));
            }
        }
    }

    /// Counts bytes that came and are dropped unread.
    pub(super) fn void(&self, bytes: usize) {
        add(&self.counters.bytes_voided, bytes);
    }

    /// Counts the times that the batch at `offset` was damaged, this one included.
    pub(super) fn count_damage(&mut self, partition: &TopicPartition, offset: i64) -> u32 {
        let (at, times) = self.damaged.entry(partition.clone()).or_insert((offset, 0));
        if *at != offset {
            (*at, *times) = (offset, 0);
        }
        *times += 1;
        *times
    }

    /// Changes the course of a partition; what was fetched ahead is void.
    pub(super) fn seek(&mut self, partition: &TopicPartition, to: Start) -> bool {
        self.discard(partition);
        self.paused.forget(partition);
        self.processed.forget(partition);
        self.positions.seek(partition, to)
    }

    /// Pauses or resumes; what was fetched ahead stays.
    pub(super) fn set_paused(&mut self, partition: &TopicPartition, paused: bool) -> bool {
        let held = self.positions.set_paused(partition, paused);
        if paused {
            self.ready.retain(|ready| ready != partition);
        } else {
            self.make_ready(partition);
        }
        held
    }

    /// Puts a partition in turn when it has something to hand over.
    pub(super) fn make_ready(&mut self, partition: &TopicPartition) {
        let wanted = self.positions.get(partition).is_some_and(|position| position.is_wanted());
        let filled = self.buffers.get(partition).is_some_and(Buffer::is_available);
        if wanted && filled && !self.ready.contains(partition) {
            self.ready.push_back(partition.clone());
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A fetcher that was just ended may have had a dial begun since.
        self.retire();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("group", &self.config.group).finish_non_exhaustive()
    }
}

/// While one exists the application is inside `next`, which counts as polling however long it takes.
pub(super) struct Polling<'a>(&'a Shared);

impl<'a> Polling<'a> {
    pub(super) fn begin(shared: &'a Shared) -> Self {
        let mut state = shared.state();
        state.polling += 1;
        state.last_poll = shared.client.clock.now();
        if state.stale {
            shared.driver.notify_one();
        }
        drop(state);
        Self(shared)
    }
}

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        let now = self.0.client.clock.now();
        let mut state = self.0.state();
        state.polling -= 1;
        state.last_poll = now;
    }
}
