//! A topic as its records see it: its partitions, resolved once, and the choice among them.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use milena_core::metadata::TopicMetadata;
use milena_core::producer::partitioner::{Choice, PartitionLoad, Partitioner, StickyPartitioner};

use super::error::SendError;
use super::partition::Partition;
use super::record::Record;

pub(super) struct Topic {
    pub(super) name: Arc<str>,
    partitions: ArcSwap<Vec<Arc<Partition>>>,
    turn: AtomicU32,
    keyless: Mutex<Keyless>,
}

struct Keyless {
    sticky: StickyPartitioner,
    rng: fastrand::Rng,
}

impl Topic {
    pub(super) fn new(name: Arc<str>, batch_size: usize, rng: fastrand::Rng) -> Self {
        let keyless = Keyless { sticky: StickyPartitioner::new(batch_size), rng };
        Self { name, partitions: ArcSwap::default(), turn: AtomicU32::new(0), keyless: Mutex::new(keyless) }
    }

    pub(super) fn partitions(&self) -> Guard<Arc<Vec<Arc<Partition>>>> {
        self.partitions.load()
    }

    /// Adds the partitions that the topic has got; returns those that are new. A topic never loses partitions but by
    /// being deleted, and then its records wait for `delivery.timeout` as for any other absence.
    pub(super) fn update(&self, metadata: &TopicMetadata) -> Vec<Arc<Partition>> {
        let known = self.partitions();
        let count = metadata.partitions.last().map_or(0, |last| last.index.max(-1) as usize + 1);
        if count <= known.len() {
            return Vec::new();
        }
        let new: Vec<_> =
            (known.len()..count).map(|index| Partition::new(Arc::clone(&self.name), index as i32)).collect();
        let all = known.iter().chain(&new).cloned().collect();
        self.partitions.store(Arc::new(all));
        new
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

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic").field("name", &self.name).finish_non_exhaustive()
    }
}
