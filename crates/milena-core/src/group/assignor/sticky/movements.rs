//! Which partitions the search has moved, and between whom: moving a partition from A to B is worth nothing when another
//! of the same topic was moved from B to A before; then that one goes back instead.

use std::collections::HashMap;

use super::{Partition, Problem};
use crate::group::java_order::{FirstOut, topic_partition_hash};

/// From one member to another.
type Pair = (usize, usize);

#[derive(Default)]
pub(super) struct Movements {
    by_topic: HashMap<u32, HashMap<Pair, FirstOut<Partition>>>,
    by_partition: HashMap<Partition, Pair>,
}

impl Movements {
    pub(super) fn record(&mut self, problem: &Problem<'_>, tp: Partition, from: usize, to: usize) {
        let from = match self.by_partition.remove(&tp) {
            None => from,
            Some(pair) => {
                self.forget(tp, pair);
                pair.0
            }
        };
        // Back where it started: not a movement any more.
        if from == to {
            return;
        }
        self.by_partition.insert(tp, (from, to));
        let hash = topic_partition_hash(problem.topics[tp.0 as usize].name, tp.1 as i32);
        self.by_topic.entry(tp.0).or_default().entry((from, to)).or_default().insert(hash, tp);
    }

    /// The partition to move in place of `tp`, which is about to go `from` → `to`.
    pub(super) fn better(&self, tp: Partition, from: usize, to: usize) -> Partition {
        let from = self.by_partition.get(&tp).map_or(from, |&(source, _)| source);
        self.by_topic.get(&tp.0).and_then(|pairs| pairs.get(&(to, from))).and_then(FirstOut::first).unwrap_or(tp)
    }

    fn forget(&mut self, tp: Partition, pair: Pair) {
        let Some(pairs) = self.by_topic.get_mut(&tp.0) else { return };
        if let Some(set) = pairs.get_mut(&pair) {
            set.remove(tp);
            if set.is_empty() {
                pairs.remove(&pair);
            }
        }
    }
}
