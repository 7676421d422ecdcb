//! Where records without a key go: to one partition until a batch's worth of bytes was appended, then to another
//! (KIP-480, KIP-794), preferably one whose leader is in the producer's rack (KIP-1123). As Java's
//! `BuiltInPartitioner`: the next partition is drawn with a probability that falls with its queue, so that a slow broker
//! gets less. Chance is an argument.

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::Relaxed};

/// A draw looks at about so many partitions, however many the topic has: the table of a larger one serves several draws.
const LOOKS_PER_DRAW: usize = 64;
const NONE: i32 = -1;

/// What a draw wants to know of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionLoad {
    /// Batches that wait, those in flight not counted.
    pub queued: u32,
    /// Whether anybody leads it.
    pub has_leader: bool,
    /// Whether its leader has kept records waiting for longer than `partitioner.availability.timeout.ms`.
    pub is_slow: bool,
    /// Whether its leader is in the producer's rack, and that counts (`partitioner.rack.aware`).
    pub is_near: bool,
}

/// The partition that a topic's records without a key go to for now. Shared: whoever appends reads and counts, whoever
/// is told to draws the next.
#[derive(Debug)]
pub struct StickyPartition {
    current: AtomicI32,
    /// Bytes appended to the current one since it was drawn.
    appended: AtomicUsize,
    switch_at: usize,
}

impl StickyPartition {
    /// None yet; another is due after `switch_at` bytes, which is `batch.size`.
    pub fn new(switch_at: usize) -> Self {
        Self { current: AtomicI32::new(NONE), appended: AtomicUsize::new(0), switch_at: switch_at.max(1) }
    }

    /// The current one, if it is one of the topic's `partitions`.
    #[inline]
    pub fn current(&self, partitions: i32) -> Option<i32> {
        let current = self.current.load(Relaxed);
        (0..partitions).contains(&current).then_some(current)
    }

    /// Counts `bytes` appended to `partition`; says whether the next is to be drawn. `is_full`: the batch they went into
    /// takes no more. Where it takes more, the switch waits for it, or a part of the next batch would be left behind each
    /// time: up to twice the bytes (KAFKA-14156). Full means to the last byte, as in Java. Were it to mean that another
    /// record has no room, slow brokers, where batches fill, would be left sooner than quick ones, adaptive or not.
    #[inline]
    pub fn appended(&self, partition: i32, bytes: usize, is_full: bool) -> bool {
        if self.current.load(Relaxed) != partition {
            return false;
        }
        let appended = self.appended.fetch_add(bytes, Relaxed).saturating_add(bytes);
        self.is_over(appended, is_full)
    }

    /// Whether it is still due. Ask where only one can be asking, before the draw: others were told so too.
    pub fn is_due(&self, partition: i32, is_full: bool) -> bool {
        self.current.load(Relaxed) == partition && self.is_over(self.appended.load(Relaxed), is_full)
    }

    /// Goes on with `partition`.
    pub fn switch_to(&self, partition: i32) {
        self.appended.store(0, Relaxed);
        self.current.store(partition, Relaxed);
    }

    fn is_over(&self, appended: usize, is_full: bool) -> bool {
        appended >= if is_full { self.switch_at } else { self.switch_at.saturating_mul(2) }
    }
}

/// What the next partition of a topic is drawn from.
#[derive(Debug)]
pub struct LoadTable {
    adaptive: bool,
    /// Of how many partitions it was made.
    partitions: i32,
    /// Those that may be drawn, and the sum of the weights up to each.
    sums: Vec<(u64, i32)>,
    draws_left: usize,
}

/// Which partitions may be drawn.
#[derive(Clone, Copy, PartialEq)]
enum Among {
    /// Those whose leader takes records.
    Prompt,
    /// Those with a leader.
    Led,
    All,
}

impl LoadTable {
    /// `adaptive` is `partitioner.adaptive.partitioning.enable`: without it each partition is as likely as the other.
    pub fn new(adaptive: bool) -> Self {
        Self { adaptive, partitions: 0, sums: Vec::new(), draws_left: 0 }
    }

    /// Draws one of `partitions`, at least one, by `random`, which may be any number.
    pub fn draw(&mut self, partitions: i32, random: u32, load: impl Fn(i32) -> PartitionLoad) -> i32 {
        let is_fresh = self.draws_left == 0 || self.partitions != partitions;
        if is_fresh {
            self.make(partitions, &load);
        }
        self.draws_left -= 1;
        let drawn = self.pick(random);
        if is_fresh || (load(drawn).has_leader && !(self.adaptive && load(drawn).is_slow)) {
            return drawn;
        }
        // Lost its leader since the table was made.
        self.make(partitions, &load);
        self.pick(random)
    }

    fn make(&mut self, partitions: i32, load: &impl Fn(i32) -> PartitionLoad) {
        self.partitions = partitions;
        self.draws_left = partitions.unsigned_abs() as usize / LOOKS_PER_DRAW + 1;
        for among in [Among::Prompt, Among::Led, Among::All] {
            if among == Among::Prompt && !self.adaptive {
                continue;
            }
            self.fill(partitions, among, load);
            if !self.sums.is_empty() {
                return;
            }
        }
    }

    /// The longer a queue, the less likely: by how much it is shorter than the longest.
    fn fill(&mut self, partitions: i32, among: Among, load: &impl Fn(i32) -> PartitionLoad) {
        self.sums.clear();
        let mut is_near_found = false;
        let mut longest = 0;
        for partition in 0..partitions {
            let load = load(partition);
            let is_in = match among {
                Among::Prompt => load.has_leader && !load.is_slow,
                Among::Led => load.has_leader,
                Among::All => true,
            };
            if !is_in || (is_near_found && !load.is_near) {
                continue;
            }
            if load.is_near && !is_near_found {
                is_near_found = true;
                longest = 0;
                self.sums.clear();
            }
            let queued = if among == Among::Prompt { u64::from(load.queued) } else { 0 };
            longest = longest.max(queued);
            self.sums.push((queued, partition));
        }
        let mut sum = 0;
        for (place, _) in &mut self.sums {
            sum += longest + 1 - *place;
            *place = sum;
        }
    }

    fn pick(&self, random: u32) -> i32 {
        let total = self.sums.last().map_or(1, |last| last.0);
        let random = u64::from(random) % total;
        let place = self.sums.partition_point(|(sum, _)| *sum <= random);
        self.sums[place].1
    }
}
