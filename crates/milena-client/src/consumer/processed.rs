//! For `commit_on_drop`: which record sets the application has dropped, per partition. What may be committed ends at the
//! first set that it still holds.

use std::collections::{BTreeMap, VecDeque};

use milena_core::consumer::{AssignmentEpoch, TopicPartition};

#[derive(Debug, Default)]
pub(super) struct Processed {
    partitions: BTreeMap<TopicPartition, Sets>,
    numbers: u64,
}

#[derive(Debug)]
struct Sets {
    epoch: AssignmentEpoch,
    handed: VecDeque<Set>,
    /// Offset and leader epoch behind the last set that was dropped with all before it.
    reached: Option<(i64, i32)>,
}

#[derive(Debug)]
struct Set {
    number: u64,
    next_offset: i64,
    leader_epoch: i32,
    dropped: bool,
}

impl Processed {
    /// A set was handed over; returns its number.
    pub(super) fn handed_over(
        &mut self,
        partition: &TopicPartition,
        epoch: AssignmentEpoch,
        next_offset: i64,
        leader_epoch: i32,
    ) -> u64 {
        self.numbers += 1;
        let number = self.numbers;
        let fresh = || Sets { epoch, handed: VecDeque::new(), reached: None };
        let sets = self.partitions.entry(partition.clone()).or_insert_with(fresh);
        if sets.epoch != epoch {
            *sets = fresh();
        }
        sets.handed.push_back(Set { number, next_offset, leader_epoch, dropped: false });
        number
    }

    /// A set was dropped; says whether there is more to commit.
    pub(super) fn dropped(&mut self, partition: &TopicPartition, epoch: AssignmentEpoch, number: u64) -> bool {
        let Some(sets) = self.partitions.get_mut(partition).filter(|sets| sets.epoch == epoch) else { return false };
        if let Some(set) = sets.handed.iter_mut().find(|set| set.number == number) {
            set.dropped = true;
        }
        let mut moved = false;
        while let Some(set) = sets.handed.front().filter(|set| set.dropped) {
            sets.reached = Some((set.next_offset, set.leader_epoch));
            sets.handed.pop_front();
            moved = true;
        }
        moved
    }

    /// The partition was given up, or goes on elsewhere: a commit of what was read before would undo the seek.
    pub(super) fn forget(&mut self, partition: &TopicPartition) {
        self.partitions.remove(partition);
    }

    /// What is to be committed of these partitions and was not taken yet: offset and leader epoch.
    pub(super) fn take(
        &mut self,
        of: impl Fn(&TopicPartition) -> bool,
    ) -> Vec<(TopicPartition, AssignmentEpoch, i64, i32)> {
        let mut taken = Vec::new();
        for (partition, sets) in self.partitions.iter_mut().filter(|(partition, _)| of(partition)) {
            if let Some((offset, leader_epoch)) = sets.reached.take() {
                taken.push((partition.clone(), sets.epoch, offset, leader_epoch));
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commit_ends_at_the_first_set_still_held() {
        let partition = TopicPartition::new("t", 0);
        let epoch = AssignmentEpoch(1);
        let mut processed = Processed::default();
        let sets: Vec<u64> = (1..4).map(|n| processed.handed_over(&partition, epoch, n * 10, 0)).collect();
        assert!(!processed.dropped(&partition, epoch, sets[1]));
        assert_eq!(processed.take(|_| true), vec![]);
        assert!(processed.dropped(&partition, epoch, sets[0]));
        assert_eq!(processed.take(|_| true), vec![(partition.clone(), epoch, 20, 0)]);
        assert_eq!(processed.take(|_| true), vec![], "taken once");
        assert!(!processed.dropped(&partition, AssignmentEpoch(2), sets[2]), "another spell");
    }
}
