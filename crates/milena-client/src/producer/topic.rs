//! A topic as its records see it: its partitions, resolved once, and the choice among them.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, PoisonError};

use milena_core::metadata::TopicMetadata;
use milena_core::producer::partitioner::{Choice, PartitionLoad, Partitioner, StickyPartitioner};
use milena_protocol::Uuid;

use super::error::SendError;
use super::partition::Partition;
use super::record::Record;

pub(super) struct Topic {
    pub(super) name: Arc<str>,
    partitions: Mutex<Arc<Partitions>>,
    /// Counts the changes of `partitions`, so that whoever kept them sees that they are others now.
    generation: AtomicU64,
    turn: AtomicU32,
    keyless: Mutex<Keyless>,
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
    pub(super) fn new(topic: Arc<Topic>) -> Self {
        // Read before: partitions that are newer than they are said to be are only looked at once more.
        let generation = topic.generation.load(Acquire);
        let partitions = topic.partitions();
        Self { topic, partitions, generation }
    }

    /// Whether it is what a record to `topic` needs now.
    #[inline]
    pub(super) fn is_current(&self, topic: &str) -> bool {
        &*self.topic.name == topic && self.topic.generation.load(Acquire) == self.generation
    }
}

struct Keyless {
    sticky: StickyPartitioner,
    rng: fastrand::Rng,
}

impl Topic {
    pub(super) fn new(name: Arc<str>, batch_size: usize, rng: fastrand::Rng) -> Self {
        let keyless = Keyless { sticky: StickyPartitioner::new(batch_size), rng };
        Self {
            name,
            partitions: Mutex::default(),
            generation: AtomicU64::new(0),
            turn: AtomicU32::new(0),
            keyless: Mutex::new(keyless),
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
        let new = (known.len()..count).map(|index| Partition::new(Arc::clone(&self.name), index as i32));
        known.extend(new);
        let partitions = Arc::new(Partitions { topic_id, known, present });
        *self.partitions.lock().unwrap_or_else(PoisonError::into_inner) = partitions;
        self.generation.fetch_add(1, Release);
    }

    /// Which of `partitions`, at least one, `record` goes to.
    #[inline]
    pub(super) fn choose<'a>(
        &self,
        partitioner: &Partitioner,
        record: &Record<'_>,
        partitions: &'a [Arc<Partition>],
    ) -> Result<&'a Arc<Partition>, SendError> {
        let count = partitions.len() as i32;
        let index = match record.partition {
            Some(partition) => partition,
            None => match partitioner.choose(&self.name, record.key, record.value, count) {
                Choice::Partition(partition) => partition,
                Choice::Next => (self.turn.fetch_add(1, Relaxed) % count.unsigned_abs()).cast_signed(),
                Choice::Sticky if count == 1 => 0,
                choice @ (Choice::Sticky | Choice::Random) => self.draw(choice, record, partitions),
                Choice::Refused => return Err(SendError::NoPartition),
            },
        };
        usize::try_from(index).ok().and_then(|index| partitions.get(index)).ok_or_else(|| SendError::UnknownPartition {
            topic: self.name.as_ref().to_owned(),
            partition: index,
            partitions: count,
        })
    }

    fn draw(&self, choice: Choice, record: &Record<'_>, partitions: &[Arc<Partition>]) -> i32 {
        let mut keyless = self.keyless.lock().unwrap_or_else(PoisonError::into_inner);
        let Keyless { sticky, rng } = &mut *keyless;
        let count = partitions.len() as i32;
        let load = |partition: i32| partitions[partition as usize].load();
        if choice == Choice::Sticky {
            let bytes = record.value.map_or(0, <[u8]>::len) + 16;
            return sticky.next(bytes, count, load, rng);
        }
        let first = rng.i32(0..count);
        // One re-draw where the leader is away, as librdkafka.
        if load(first) == (PartitionLoad { queued: 0, available: false }) { rng.i32(0..count) } else { first }
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
