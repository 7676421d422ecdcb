//! Where records without a key go: to one partition until a batch's worth of bytes was appended, then to another
//! (KIP-480, KIP-794). The next is drawn at random, the likelier the shorter its queue, so that a slow broker gets less.

/// What the sticky partitioner wants to know of a partition when it draws the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionLoad {
    /// Batches waiting or in flight.
    pub queued: u32,
    /// Whether its leader is known and reachable.
    pub available: bool,
}

/// The sticky partition of one topic.
#[derive(Debug)]
pub struct StickyPartitioner {
    current: Option<i32>,
    /// Bytes appended to the current partition since it was drawn.
    appended: usize,
    /// Bytes after which another is drawn.
    switch_at: usize,
}

/// A draw looks at no more partitions than this, however many the topic has.
const DRAWS: u32 = 16;

impl StickyPartitioner {
    /// Switches after `switch_at` bytes: `batch.size`.
    pub fn new(switch_at: usize) -> Self {
        Self { current: None, appended: 0, switch_at: switch_at.max(1) }
    }

    /// The partition for the next record, of about `bytes`.
    pub fn next(
        &mut self,
        bytes: usize,
        partitions: i32,
        load: impl Fn(i32) -> PartitionLoad,
        rng: &mut fastrand::Rng,
    ) -> i32 {
        let current = match self.current {
            Some(current) if self.appended < self.switch_at && current < partitions => current,
            _ => {
                self.appended = 0;
                *self.current.insert(draw(partitions, load, rng))
            }
        };
        self.appended += bytes;
        current
    }
}

/// Draws a partition with a probability that falls with its queue: one drawn at random is kept with probability
/// 1 / (1 + queued), else the draw is repeated, and at the end the shortest queue seen wins. It needs no pass over all
/// partitions.
fn draw(partitions: i32, load: impl Fn(i32) -> PartitionLoad, rng: &mut fastrand::Rng) -> i32 {
    let mut best = (u64::MAX, 0);
    for _ in 0..DRAWS {
        let partition = rng.i32(0..partitions);
        let PartitionLoad { queued, available } = load(partition);
        let rank = u64::from(queued) + if available { 0 } else { 1 << 32 };
        if rank < best.0 {
            best = (rank, partition);
        }
        if available && rng.u32(0..=queued) == 0 {
            return partition;
        }
    }
    best.1
}
