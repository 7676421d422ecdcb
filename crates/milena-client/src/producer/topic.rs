//! A topic as its records see it: its partitions, resolved once, and the choice among them.

use std::cell::RefCell;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, PoisonError};

use milena_core::metadata::TopicMetadata;
use milena_core::producer::partitioner::{Choice, LoadTable, PartitionLoad, StickyPartition};
use milena_protocol::Uuid;

use super::error::SendError;
use super::partition::{After, OfTopic, Partition};
use super::record::Record;
use super::shared::Shared;
use super::topic_config::Settings;

pub(super) struct Topic {
    pub(super) name: Arc<str>,
    settings: Arc<Settings>,
    /// The same, as partitions have it.
    of: Arc<OfTopic>,
    partitions: Mutex<Arc<Partitions>>,
    /// Counts the changes of `partitions`, so that whoever kept them sees that they are others now.
    generation: AtomicU64,
    turn: AtomicU32,
    sticky: StickyPartition,
    draws: Mutex<Draws>,
}

/// The partitions of a topic, as the metadata showed them last.
#[derive(Default)]
pub(super) struct Partitions {
    /// Zero where the brokers do not tell.
    topic_id: Uuid,
    /// All that there ever were: those that are no more may still have records to answer for.
    known: Vec<Arc<Partition>>,
    /// How many of them there are now.
    present: usize,
}

impl Partitions {
    /// Those that there are now.
    #[inline]
    pub(super) fn present(&self) -> &[Arc<Partition>] {
        &self.known[..self.present]
    }

    /// All that there ever were.
    pub(super) fn iter(&self) -> std::slice::Iter<'_, Arc<Partition>> {
        self.known.iter()
    }

    pub(super) fn topic_id(&self) -> Uuid {
        self.topic_id
    }
}

/// A topic with its partitions as of some moment: found with one look, for as long as they are the same.
pub(super) struct Resolved {
    pub(super) topic: Arc<Topic>,
    pub(super) partitions: Arc<Partitions>,
    generation: u64,
}

impl Resolved {
    /// As things are now.
    pub(super) fn new(topic: Arc<Topic>) -> Arc<Self> {
        // Read before: partitions that are newer than they are said to be are only looked at once more.
        let generation = topic.generation.load(Acquire);
        let partitions = topic.partitions();
        Arc::new(Self { topic, partitions, generation })
    }

    /// Whether it is what a record to `topic` needs now.
    #[inline]
    pub(super) fn is_current(&self, topic: &str) -> bool {
        &*self.topic.name == topic && self.topic.generation.load(Acquire) == self.generation
    }
}

struct Draws {
    /// Made by the first draw: records with keys need none.
    table: Option<Box<LoadTable>>,
    rng: fastrand::Rng,
}

impl Topic {
    pub(super) fn new(name: Arc<str>, settings: Arc<Settings>, rng: fastrand::Rng) -> Self {
        let of = Arc::new(OfTopic { name: Arc::clone(&name), settings: Arc::clone(&settings) });
        Self {
            name,
            of,
            partitions: Mutex::default(),
            generation: AtomicU64::new(0),
            turn: AtomicU32::new(0),
            sticky: StickyPartition::new(settings.batch_size),
            draws: Mutex::new(Draws { table: None, rng }),
            settings,
        }
    }

    pub(super) fn partitions(&self) -> Arc<Partitions> {
        Arc::clone(&self.partitions.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the partitions that the topic has now. A topic loses some only by being deleted, and created anew with
    /// fewer: then it has another id. The records of those that are gone, and of all while there is no topic, wait for
    /// `delivery.timeout` as in any other absence.
    pub(super) fn update(&self, metadata: &TopicMetadata) {
        let before = self.partitions();
        let count = metadata.partitions.last().map_or(0, |last| last.index.max(-1) as usize + 1);
        if count == 0 {
            return;
        }
        let recreated = is_other(before.topic_id, metadata.id);
        let topic_id = if metadata.id.is_zero() { before.topic_id } else { metadata.id };
        let present = if recreated { count } else { count.max(before.present) };
        if (topic_id, present) == (before.topic_id, before.present) {
            return;
        }
        if recreated {
            tracing::info!(topic = %self.name, partitions = count, "the topic was deleted and created anew");
        }
        let mut known = before.known.clone();
        let new = |index| Partition::new(Arc::clone(&self.of), index as i32);
        let new = (known.len()..count).map(new);
        known.extend(new);
        let partitions = Arc::new(Partitions { topic_id, known, present });
        *self.partitions.lock().unwrap_or_else(PoisonError::into_inner) = partitions;
        self.generation.fetch_add(1, Release);
    }

    /// Which of `partitions`, at least one, `record` goes to; and whether because it is the sticky one: then
    /// [`Self::appended`] wants to know what became of the record.
    #[inline]
    pub(super) fn choose<'a>(
        &self,
        shared: &Shared,
        record: &Record<'_>,
        partitions: &'a [Arc<Partition>],
    ) -> Result<(&'a Arc<Partition>, bool), SendError> {
        let count = partitions.len() as i32;
        let mut is_sticky = false;
        let index = match record.partition {
            Some(partition) => partition,
            None => {
                let Settings { partitioner, ignore_keys, .. } = &*self.settings;
                let key = record.key.filter(|_| !ignore_keys);
                match partitioner.choose(&self.name, key, record.value, count) {
                    Choice::Partition(partition) => partition,
                    Choice::Sticky if count == 1 => 0,
                    Choice::Sticky => {
                        is_sticky = true;
                        self.sticky.current(count).unwrap_or_else(|| self.switch(shared, partitions, None))
                    }
                    Choice::Next => self.next_in_turn(partitions),
                    Choice::Random => self.random(partitions),
                    Choice::Refused => return Err(SendError::NoPartition),
                }
            }
        };
        let partition = usize::try_from(index).ok().and_then(|index| partitions.get(index));
        partition.map(|partition| (partition, is_sticky)).ok_or_else(|| SendError::UnknownPartition {
            topic: self.name.as_ref().to_owned(),
            partition: index,
            partitions: count,
        })
    }

    /// Counts what was appended to the sticky partition, and goes on to another one when it was enough.
    #[inline]
    pub(super) fn appended(&self, shared: &Shared, partition: i32, after: &After, partitions: &[Arc<Partition>]) {
        if self.sticky.appended(partition, after.appended, after.is_full) {
            self.switch(shared, partitions, Some((partition, after)));
        }
    }

    /// Draws the next sticky partition, unless somebody else has done so since `from`.
    #[cold]
    fn switch(&self, shared: &Shared, partitions: &[Arc<Partition>], from: Option<(i32, &After)>) -> i32 {
        let mut draws = self.draws.lock().unwrap_or_else(PoisonError::into_inner);
        let count = partitions.len() as i32;
        let is_due = from.is_none_or(|(partition, after)| self.sticky.is_due(partition, after.is_full));
        if let Some(current) = self.sticky.current(count).filter(|_| from.is_none() || !is_due) {
            return current;
        }
        let leaders = Leaders::new(shared, self.settings.rack_aware);
        let Draws { table, rng } = &mut *draws;
        let table = table.get_or_insert_with(|| Box::new(LoadTable::new(self.settings.adaptive)));
        let next = table.draw(count, rng.u32(..), |partition| leaders.load(&partitions[partition as usize]));
        self.sticky.switch_to(next);
        next
    }

    /// One after the other; those that nobody leads are passed over, unless nobody leads any.
    fn next_in_turn(&self, partitions: &[Arc<Partition>]) -> i32 {
        let count = partitions.len() as u32;
        let next = || (self.turn.fetch_add(1, Relaxed) % count).cast_signed();
        let led = |partition: &i32| partitions[*partition as usize].leader().is_some();
        (0..count).map(|_| next()).find(led).unwrap_or_else(next)
    }

    /// Any; with a second draw where nobody leads the first, as librdkafka does.
    fn random(&self, partitions: &[Arc<Partition>]) -> i32 {
        let mut draws = self.draws.lock().unwrap_or_else(PoisonError::into_inner);
        let first = draws.rng.usize(0..partitions.len());
        let drawn = if partitions[first].leader().is_some() { first } else { draws.rng.usize(0..partitions.len()) };
        drawn as i32
    }
}

/// What the partitioner wants to know of brokers, each looked up once for a draw.
struct Leaders<'a> {
    shared: &'a Shared,
    rack_aware: bool,
    /// By node, whether it is slow and whether it is near.
    known: RefCell<Vec<(i32, bool, bool)>>,
}

impl<'a> Leaders<'a> {
    fn new(shared: &'a Shared, rack_aware: bool) -> Self {
        Self { shared, rack_aware, known: RefCell::default() }
    }

    fn load(&self, partition: &Partition) -> PartitionLoad {
        let load = partition.load();
        match partition.leader() {
            Some(leader) if self.rack_aware || !self.shared.config.partition_availability_timeout.is_zero() => {
                let (is_slow, is_near) = self.look_up(leader);
                PartitionLoad { is_slow, is_near, ..load }
            }
            _ => load,
        }
    }

    fn look_up(&self, node: i32) -> (bool, bool) {
        let mut known = self.known.borrow_mut();
        match known.binary_search_by_key(&node, |(node, ..)| *node) {
            Ok(place) => (known[place].1, known[place].2),
            Err(place) => {
                let is_slow = self.shared.is_slow(node);
                let is_near = self.rack_aware && self.shared.is_near(node);
                known.insert(place, (node, is_slow, is_near));
                (is_slow, is_near)
            }
        }
    }
}

/// Whether two ids are those of different topics; a zero one, of a broker that has none, says nothing.
pub(super) fn is_other(known: Uuid, new: Uuid) -> bool {
    !known.is_zero() && !new.is_zero() && known != new
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic").field("name", &self.name).finish_non_exhaustive()
    }
}
