//! The range assignor: each topic is cut into neighbouring ranges, one per member. With racks (KIP-881) a member is first
//! given partitions that have a replica near it, and topics with the same members and as many partitions stay
//! co-partitioned.

use std::{collections::BTreeMap, sync::Arc};

use super::{GroupMember, TopicRacks, rack_of, racks_matter};
use crate::consumer::TopicPartition;

pub(super) fn assign(topics: &TopicRacks, members: &[GroupMember]) -> Vec<Vec<TopicPartition>> {
    let mut states: Vec<Topic<'_>> = topics.iter().map(|(name, racks)| Topic::new(name, racks, members)).collect();
    let mut assignment = vec![Vec::new(); members.len()];
    let rack_aware = states.iter().any(|topic| topic.rack_aware);
    if rack_aware {
        assign_near(&mut states, members, &mut assignment);
    }
    for topic in &mut states {
        topic.assign_ranges(None, &mut assignment);
    }
    if rack_aware {
        for partitions in &mut assignment {
            partitions.sort_unstable();
        }
    }
    assignment
}

fn assign_near(states: &mut [Topic<'_>], members: &[GroupMember], assignment: &mut [Vec<TopicPartition>]) {
    let mut groups: BTreeMap<(Vec<usize>, usize), Vec<usize>> = BTreeMap::new();
    for (index, topic) in states.iter().enumerate() {
        groups.entry((topic.consumers.clone(), topic.racks.len())).or_default().push(index);
    }
    for ((consumers, partitions), topics) in groups {
        if let [only] = topics[..] {
            if states[only].rack_aware {
                states[only].assign_ranges(Some(members), assignment);
            }
            continue;
        }
        let mut remaining = consumers;
        for partition in 0..partitions {
            let near = remaining.iter().position(|&consumer| {
                topics.iter().all(|&topic| {
                    states[topic].is_near(&members[consumer], partition) && states[topic].room_of(consumer) > 0
                })
            });
            let Some(position) = near else { continue };
            let consumer = remaining[position];
            for &topic in &topics {
                states[topic].give(consumer, vec![partition], assignment);
            }
            if topics.iter().all(|&topic| states[topic].room_of(consumer) == 0) {
                remaining.remove(position);
            }
        }
    }
}

/// What is left to give of one topic.
struct Topic<'a> {
    name: &'a Arc<str>,
    racks: &'a [Vec<Arc<str>>],
    /// Subscribed members, in the order that ranges are given out.
    consumers: Vec<usize>,
    rack_aware: bool,
    unassigned: Vec<usize>,
    given: BTreeMap<usize, usize>,
    per_consumer: usize,
    extra: usize,
}

impl<'a> Topic<'a> {
    fn new(name: &'a Arc<str>, racks: &'a [Vec<Arc<str>>], members: &[GroupMember]) -> Self {
        let mut consumers: Vec<usize> =
            (0..members.len()).filter(|&index| members[index].topics.contains(name)).collect();
        consumers.sort_by(|&left, &right| members[left].order(&members[right]));
        let count = consumers.len().max(1);
        let rack_aware = racks_matter(consumers.iter().filter_map(|&index| rack_of(&members[index])), racks.iter());
        Self {
            name,
            racks,
            rack_aware,
            unassigned: (0..racks.len()).collect(),
            given: BTreeMap::new(),
            per_consumer: racks.len() / count,
            extra: racks.len() % count,
            consumers,
        }
    }

    fn is_near(&self, member: &GroupMember, partition: usize) -> bool {
        rack_of(member).is_none_or(|rack| self.racks[partition].contains(rack))
    }

    fn room_of(&self, consumer: usize) -> usize {
        let most = self.per_consumer + usize::from(self.extra > 0);
        most.saturating_sub(self.given.get(&consumer).copied().unwrap_or(0))
    }

    fn assign_ranges(&mut self, near_only: Option<&[GroupMember]>, assignment: &mut [Vec<TopicPartition>]) {
        for consumer in self.consumers.clone() {
            if self.unassigned.is_empty() {
                return;
            }
            let room = self.room_of(consumer);
            let partitions: Vec<usize> = self
                .unassigned
                .iter()
                .copied()
                .filter(|&partition| near_only.is_none_or(|members| self.is_near(&members[consumer], partition)))
                .take(room)
                .collect();
            if !partitions.is_empty() {
                self.give(consumer, partitions, assignment);
            }
        }
    }

    fn give(&mut self, consumer: usize, partitions: Vec<usize>, assignment: &mut [Vec<TopicPartition>]) {
        let given = self.given.entry(consumer).or_default();
        *given += partitions.len();
        if *given > self.per_consumer {
            self.extra = self.extra.saturating_sub(1);
        }
        self.unassigned.retain(|partition| !partitions.contains(partition));
        assignment[consumer].extend(
            partitions
                .into_iter()
                .map(|partition| TopicPartition { topic: Arc::clone(self.name), partition: partition as i32 }),
        );
    }
}
