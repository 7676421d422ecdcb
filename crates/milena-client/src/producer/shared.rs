//! What the handles of a producer, its driver and its waves share.
//!
//! Lock order: the list of topics, then a partition, then a node, the identity, the timers, the buffer pool or the
//! compression's effort, each alone. A topic's draws come before the nodes, and with no partition. No lock is held while
//! a completion is answered, a batch dropped or a wave started.

use std::collections::BTreeMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use milena_core::metadata::{ClusterSnapshot, TopicMetadata};
use milena_core::producer::budget::headroom::Headroom;
use milena_core::producer::buffers::BufferPool;
use milena_core::producer::completion::{BatchOutcome, BatchShare};
use milena_core::producer::compression_effort::CompressionEffort;
use milena_core::producer::failure::{Cause, ProduceFailure};
use milena_core::producer::identity::{Identity, ProducerIdentity};
use milena_core::producer::open_batch::ProducerBatch;
use milena_core::producer::partition_queue::{Done, Leader};
use milena_core::retry::Backoff;
use milena_protocol::Uuid;
use tokio::sync::Notify;

use super::config::ProducerConfig;
use super::metrics::Counters;
use super::node::Node;
use super::partition::{After, Partition, State};
use super::timers::{Due, Timers};
use super::topic::{Resolved, Topic, is_other};
use super::topic_config::{Settings, TopicConfig};
use crate::client::ClientInner;
use crate::error::RequestError;

/// The fewest and the most shares, each a power of two.
const SHARES: (usize, usize) = (8, 64);

const OPEN: u8 = 0;
const CLOSED: u8 = 1;

pub(super) struct Shared {
    pub(super) client: Arc<ClientInner>,
    pub(super) config: ProducerConfig,
    pub(super) retry: Backoff,
    /// Of every topic that has none of its own.
    settings: Arc<Settings>,
    settings_by_topic: BTreeMap<String, Arc<Settings>>,
    /// How much of a core compressing takes.
    pub(super) effort: Mutex<CompressionEffort>,
    pub(super) buffers: Arc<BufferPool>,
    pub(super) counters: Counters,
    /// Partitions with anything open or queued.
    pub(super) active_partitions: AtomicUsize,
    topics: DashMap<Arc<str>, Arc<Resolved>, BuildHasherDefault<NameHasher>>,
    /// The same, in an order that repeats itself. Whoever changes a topic's partitions holds it.
    in_order: Mutex<InOrder>,
    nodes: Mutex<BTreeMap<i32, Arc<Node>>>,
    identity: Mutex<Whoami>,
    timers: Mutex<Timers>,
    /// Wakes the driver.
    pub(super) wake: Notify,
    pub(super) rng: Mutex<fastrand::Rng>,
    numbers: AtomicU64,
    started: Instant,
    lifecycle: AtomicU8,
    /// The driver is to end when nothing is left.
    pub(super) ending: AtomicBool,
    /// How many batches a partition that is spread has open: few enough to fill, and enough that two tasks seldom meet.
    pub(super) shares: usize,
}

#[derive(Default)]
struct InOrder {
    /// By first use: what is done for all is done in this order.
    topics: Vec<Arc<Topic>>,
    /// What all of them were brought up to date with.
    seen: Arc<ClusterSnapshot>,
}

#[derive(Default)]
struct Whoami {
    identity: Identity,
    waiting: Vec<Arc<Partition>>,
    needed: bool,
    /// Why there is none yet, as of the last attempt.
    trouble: Option<Cause>,
}

/// FNV-1a, 64 bit: topic names are short, and no order may depend on a random hash.
pub(super) struct NameHasher(u64);

impl Default for NameHasher {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Shared {
    pub(super) fn new(client: Arc<ClientInner>, config: ProducerConfig, buffers: Arc<BufferPool>) -> Arc<Self> {
        let of_topic = |(name, topic): (&String, &TopicConfig)| (name.clone(), Settings::new(&topic.over(&config)));
        let rng = client.chance.fork();
        let shares = match client.clock.is_virtual() {
            true => SHARES.0,
            false => (4 * std::thread::available_parallelism().map_or(1, usize::from)).next_power_of_two(),
        };
        let shares = shares.clamp(SHARES.0, SHARES.1);
        Arc::new(Self {
            retry: Backoff::new(config.retry_backoff, config.retry_backoff_max),
            settings: Settings::new(&config),
            settings_by_topic: config.topics.iter().map(of_topic).collect(),
            effort: Mutex::default(),
            started: client.clock.now(),
            client,
            config,
            buffers,
            counters: Counters::default(),
            active_partitions: AtomicUsize::new(0),
            topics: DashMap::default(),
            in_order: Mutex::default(),
            nodes: Mutex::default(),
            identity: Mutex::default(),
            timers: Mutex::default(),
            wake: Notify::new(),
            rng: Mutex::new(rng),
            numbers: AtomicU64::new(0),
            lifecycle: AtomicU8::new(OPEN),
            ending: AtomicBool::new(false),
            shares,
        })
    }

    #[inline]
    pub(super) fn is_closed(&self) -> bool {
        self.lifecycle.load(Ordering::SeqCst) != OPEN
    }

    /// Refuses every further record.
    pub(super) fn refuse(&self) {
        self.lifecycle.store(CLOSED, Ordering::SeqCst);
    }

    /// What is compressed into is kept from those who append, for as many batches as there are threads and for two at
    /// least: a full memory has batches compressed too. For as long as what this returns lives.
    pub(super) fn keep_headroom(&self) -> Option<Headroom> {
        let all = self.settings_by_topic.values().chain([&self.settings]);
        let compressed = all.filter(|settings| !settings.compression.is_none());
        let largest = compressed.map(|settings| settings.batch_size).max()?;
        let at_a_time = match self.client.clock.is_virtual() {
            true => 2,
            false => std::thread::available_parallelism().map_or(2, usize::from).max(2),
        };
        let bytes = at_a_time.saturating_mul(BufferPool::capacity_for(largest));
        Some(self.buffers.budget().keep_headroom(bytes))
    }

    /// How large a buffer a partition may take at first, so that all that are active get one.
    pub(super) fn fair_buffer(&self) -> usize {
        let active = self.active_partitions.load(Relaxed).max(1);
        (self.buffers.budget().limit() / (4 * active)).max(1024)
    }

    /// When a partition is looked at that wakes now. All that wake within such a time are looked at together: the driver
    /// would wake for each else.
    pub(super) fn first_look(&self, settings: &Settings) -> Instant {
        const TOGETHER: Duration = Duration::from_millis(250);
        let now = self.client.clock.now();
        let since = (now + settings.look_after).saturating_duration_since(self.started);
        let turns = since.as_nanos().div_ceil(TOGETHER.as_nanos());
        let together = self.started + TOGETHER.saturating_mul(u32::try_from(turns).unwrap_or(u32::MAX));
        together.min(now + settings.queue.delivery_timeout)
    }

    pub(super) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Relaxed)
    }

    // Topics and leaders.

    pub(super) fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.get(name).map(|known| Arc::clone(&known.topic))
    }

    /// The topic with its partitions as they are now: the same for all who ask, until they change.
    pub(super) fn resolve(&self, name: &str) -> Option<Arc<Resolved>> {
        let known = Arc::clone(&*self.topics.get(name)?);
        if known.is_current(name) {
            return Some(known);
        }
        let resolved = Resolved::new(Arc::clone(&known.topic));
        self.topics.insert(Arc::clone(&resolved.topic.name), Arc::clone(&resolved));
        Some(resolved)
    }

    /// What `topic` goes by.
    fn settings(&self, topic: &str) -> &Arc<Settings> {
        self.settings_by_topic.get(topic).unwrap_or(&self.settings)
    }

    pub(super) fn topics(&self) -> Vec<Arc<Topic>> {
        lock(&self.in_order).topics.clone()
    }

    /// The topic of `metadata`, made if it is new.
    pub(super) fn resolved(self: &Arc<Self>, metadata: &TopicMetadata) -> Arc<Topic> {
        let mut in_order = lock(&self.in_order);
        let snapshot = self.client.metadata.snapshot();
        if let Some(topic) = self.topic(&metadata.name) {
            // Whoever waits for its partitions must find them now, or would ask again without a pause.
            if topic.partitions().present().is_empty() {
                self.update_topic(&topic, &snapshot);
            }
            return topic;
        }
        let rng = lock(&self.rng).fork();
        let topic = Arc::new(Topic::new(Arc::clone(&metadata.name), Arc::clone(self.settings(&metadata.name)), rng));
        self.client.metadata.pin(&metadata.name);
        // With what all others have seen too, or a change between that and this would be none to it later.
        self.catch_up(&mut in_order, &snapshot);
        self.update_topic(&topic, &snapshot);
        self.topics.insert(Arc::clone(&topic.name), Resolved::new(Arc::clone(&topic)));
        in_order.topics.push(Arc::clone(&topic));
        self.need_identity();
        topic
    }

    /// Takes partitions and leaders from the metadata, and starts what can be sent now.
    pub(super) fn update_leaders(self: &Arc<Self>) {
        {
            // Held, so that nobody who resolves a topic updates it at the same time: one partition must not become two.
            let mut in_order = lock(&self.in_order);
            self.catch_up(&mut in_order, &self.client.metadata.snapshot());
        }
        // What lies ready for a broker that is not reached may have another leader now.
        let nodes: Vec<_> = lock(&self.nodes).values().cloned().collect();
        for node in &nodes {
            let ready = std::mem::take(&mut node.lock().ready);
            for partition in ready {
                self.relist(&partition);
            }
        }
        let nodes: Vec<_> = lock(&self.nodes).keys().copied().collect();
        for node in nodes {
            self.pump(node);
        }
    }

    /// Updates the topics that are others in `snapshot`, and no others: thousands may be idle. Whoever has something to
    /// send then is listed; the driver, which is told of each snapshot, pumps.
    fn catch_up(&self, in_order: &mut InOrder, snapshot: &Arc<ClusterSnapshot>) {
        if Arc::ptr_eq(&in_order.seen, snapshot) {
            return;
        }
        if snapshot.has_brokers_of(&in_order.seen) {
            for metadata in snapshot.topics_since(&in_order.seen) {
                if let Some(topic) = self.topic(&metadata.name) {
                    self.update_topic(&topic, snapshot);
                }
            }
        } else {
            // A leader counts while its address is known: any partition may have lost or gained one.
            in_order.topics.iter().for_each(|topic| self.update_topic(topic, snapshot));
        }
        in_order.seen = Arc::clone(snapshot);
    }

    fn update_topic(&self, topic: &Topic, snapshot: &ClusterSnapshot) {
        let Some(metadata) = snapshot.topic(&topic.name) else { return };
        topic.update(metadata);
        let partitions = topic.partitions();
        for partition in partitions.iter() {
            let leader = snapshot.leader(&topic.name, partition.index);
            let leader = leader.map(|(node, epoch)| Leader { node, epoch: epoch.unwrap_or(-1) });
            partition.update(|state| {
                if is_other(state.topic_id, partitions.topic_id()) {
                    // The new log's elections are counted from 0 again: nothing that is known of the old one's counts.
                    state.queue.log_replaced();
                    state.leader = None;
                }
                state.topic_id = partitions.topic_id();
                // The metadata itself refuses what is older than what it has seen; later than that is only a hint.
                let is_older = |known: Leader, new: Leader| new.epoch >= 0 && new.epoch < known.epoch;
                let hint = state.leader.filter(|_| state.leader_hinted);
                if !hint.zip(leader).is_some_and(|(hint, leader)| is_older(hint, leader)) {
                    state.leader_hinted = false;
                    self.set_leader(partition, state, leader);
                }
                self.list(partition, state);
            });
        }
    }

    /// Takes a leader that a broker named in its answer about `topic_id`, if it is a later one (KIP-951).
    pub(super) fn take_hint(&self, partition: &Partition, state: &mut State, hint: Leader, topic_id: Uuid) {
        if state.topic_id == topic_id && state.leader.is_none_or(|known| hint.epoch > known.epoch) {
            state.leader_hinted = true;
            self.set_leader(partition, state, Some(hint));
        }
    }

    fn set_leader(&self, partition: &Partition, state: &mut State, leader: Option<Leader>) {
        if state.leader != leader {
            if let Some(leader) = leader {
                state.queue.leader_learned(leader);
            }
            state.leader = leader;
        }
        partition.publish(state);
    }

    // Ready lists.

    /// Lists the partition with its leader, if it may have something to send; says which node to pump then.
    pub(super) fn list(&self, partition: &Arc<Partition>, state: &mut State) -> Option<i32> {
        if state.listed {
            return None;
        }
        let eager = state.taking.has_open() && !state.must_linger && state.queue.is_empty();
        if !state.waits() && !eager {
            return None;
        }
        let Some(leader) = state.leader else {
            self.client.metadata.request_refresh();
            return None;
        };
        state.listed = true;
        self.node(leader.node).lock().ready.push(Arc::clone(partition));
        Some(leader.node)
    }

    /// As [`Self::list`], for one that is on no list and still marked as listed.
    pub(super) fn relist(&self, partition: &Arc<Partition>) -> Option<i32> {
        let mut state = partition.lock_listed()?;
        state.listed = false;
        let node = self.list(partition, &mut state);
        if node.is_none() {
            self.arm_linger(partition, &mut state);
        }
        node
    }

    pub(super) fn node(&self, id: i32) -> Arc<Node> {
        Arc::clone(lock(&self.nodes).entry(id).or_insert_with(|| Node::new(id)))
    }

    /// Whether the node has kept records waiting for longer than `partitioner.availability.timeout.ms`.
    pub(super) fn is_slow(&self, node: i32) -> bool {
        let limit = self.config.partition_availability_timeout;
        if limit.is_zero() {
            return false;
        }
        let node = lock(&self.nodes).get(&node).cloned();
        node.is_some_and(|node| node.is_slow(self.client.clock.now(), limit))
    }

    /// Whether the node is in `client.rack`.
    pub(super) fn is_near(&self, node: i32) -> bool {
        let snapshot = self.client.metadata.snapshot();
        let rack = snapshot.broker(node).and_then(|broker| broker.rack.as_deref());
        rack.is_some() && rack == self.config.rack.as_deref()
    }

    /// Does what an append asks for.
    pub(super) fn follow_up(self: &Arc<Self>, partition: &Arc<Partition>, after: &After) {
        if let Some(at) = after.deadline {
            self.arm(at, partition, Due::Deadline);
        }
        if let Some((opened, number)) = after.linger {
            self.arm(opened + partition.settings().linger, partition, Due::Linger(number));
        }
        if after.leaderless {
            self.client.metadata.request_refresh();
        }
        if let Some(node) = after.pump {
            self.node(node).lock().ready.push(Arc::clone(partition));
            self.pump(node);
        }
    }

    // Time.

    pub(super) fn arm(&self, at: Instant, partition: &Arc<Partition>, due: Due) {
        if lock(&self.timers).push(at, Arc::clone(partition), due) {
            self.wake.notify_one();
        }
    }

    /// Makes sure that what is open will go when its linger ends.
    pub(super) fn arm_linger(&self, partition: &Arc<Partition>, state: &mut State) {
        let Some(created) = state.taking.oldest() else { return };
        if !state.linger_armed {
            state.linger_armed = true;
            self.arm(created + partition.settings().linger, partition, Due::Linger(state.opened));
        }
    }

    pub(super) fn timers(&self) -> MutexGuard<'_, Timers> {
        lock(&self.timers)
    }

    // Identity.

    pub(super) fn identity(&self) -> Option<ProducerIdentity> {
        lock(&self.identity).identity.current()
    }

    fn need_identity(&self) {
        if self.config.idempotence {
            let mut whoami = lock(&self.identity);
            if whoami.identity.current().is_none() && !whoami.needed {
                whoami.needed = true;
                drop(whoami);
                self.wake.notify_one();
            }
        }
    }

    /// Leaves the partition, which stays listed, until there is another identity than `seen`. Returns whether there is
    /// one already.
    pub(super) fn await_identity(&self, partition: &Arc<Partition>, seen: Option<ProducerIdentity>) -> bool {
        let mut whoami = lock(&self.identity);
        if whoami.identity.current() != seen {
            return true;
        }
        whoami.waiting.push(Arc::clone(partition));
        whoami.needed = true;
        drop(whoami);
        self.wake.notify_one();
        false
    }

    /// Whether the driver is to ask a broker for an identity now.
    pub(super) fn poll_init(&self) -> bool {
        let mut whoami = lock(&self.identity);
        whoami.needed && whoami.identity.poll_init()
    }

    /// There is no identity yet; it is asked for again.
    pub(super) fn init_delayed(&self, error: RequestError) {
        lock(&self.identity).trouble = Some(Cause(Arc::new(error)));
    }

    /// What has kept the producer from getting an id, if it has none for that reason now.
    pub(super) fn no_producer_id(&self) -> Option<Cause> {
        lock(&self.identity).trouble.clone()
    }

    pub(super) fn init_failed(&self) {
        lock(&self.identity).identity.init_failed();
    }

    /// There is no identity, and asking again would not help: fails all that wait for one. The next record asks anew.
    pub(super) fn init_refused(self: &Arc<Self>, failure: &ProduceFailure) {
        {
            let mut whoami = lock(&self.identity);
            whoami.identity.init_failed();
            whoami.needed = false;
        }
        self.abort(failure);
        self.release_waiting();
    }

    pub(super) fn initialized(self: &Arc<Self>, identity: ProducerIdentity) {
        {
            let mut whoami = lock(&self.identity);
            whoami.identity.initialized(identity);
            whoami.trouble = None;
        }
        self.release_waiting();
    }

    /// A partition's sequence has a gap: its epoch is spent.
    pub(super) fn bump(self: &Arc<Self>, used: ProducerIdentity) {
        self.counters.epoch_bumps.fetch_add(1, Relaxed);
        let current = {
            let mut whoami = lock(&self.identity);
            whoami.identity.bump(used);
            whoami.needed = true;
            whoami.identity.current()
        };
        tracing::debug!(?used, ?current, "a sequence has a gap: the epoch is raised");
        match current {
            Some(_) => self.release_waiting(),
            None => self.wake.notify_one(),
        }
    }

    fn release_waiting(self: &Arc<Self>) {
        let waiting = std::mem::take(&mut lock(&self.identity).waiting);
        let mut nodes: Vec<_> = waiting.iter().filter_map(|partition| self.relist(partition)).collect();
        nodes.sort_unstable();
        nodes.dedup();
        for node in nodes {
            self.pump(node);
        }
    }

    // Answers.

    /// Tells everyone what became of these batches, and lets the buffers go. No lock may be held.
    pub(super) fn finish(&self, done: Vec<Done<ProducerBatch>>) {
        for Done { batch, report } in done {
            drop(batch);
            if let Some((share, outcome)) = report {
                self.answer(share, outcome);
            }
        }
    }

    pub(super) fn answer(&self, share: BatchShare, outcome: BatchOutcome) {
        let counter = match outcome {
            BatchOutcome::Acknowledged { .. } => &self.counters.acknowledged,
            BatchOutcome::Failed(_) => &self.counters.failed,
            BatchOutcome::PossiblyWritten(_) => &self.counters.possibly_written,
        };
        counter.fetch_add(u64::from(share.records()), Relaxed);
        share.resolve(outcome);
    }
}

/// Nothing that holds these locks panics half-way through a change; a poisoned one is as good as any.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
