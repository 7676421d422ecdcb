//! Which of a topic's partitions are held, and under which numbers: in one list, since a consumer of many topics holds one or
//! two of most, and a tree has room for eleven.

use super::Slot;

#[derive(Debug, Default)]
pub(super) struct Partitions {
    /// By rising partition.
    held: Vec<(i32, Slot)>,
}

impl Partitions {
    fn at(&self, partition: i32) -> Result<usize, usize> {
        self.held.binary_search_by_key(&partition, |(held, _)| *held)
    }

    pub(super) fn get(&self, partition: i32) -> Option<Slot> {
        self.at(partition).ok().map(|at| self.held[at].1)
    }

    pub(super) fn insert(&mut self, partition: i32, slot: Slot) {
        match self.at(partition) {
            Ok(at) => self.held[at].1 = slot,
            Err(at) => {
                if self.held.is_empty() {
                    // By itself it would have room for four.
                    self.held.reserve_exact(1);
                }
                self.held.insert(at, (partition, slot));
            }
        }
    }

    pub(super) fn remove(&mut self, partition: i32) {
        if let Ok(at) = self.at(partition) {
            self.held.remove(at);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> {
        self.held.iter().map(|(_, slot)| *slot)
    }
}
