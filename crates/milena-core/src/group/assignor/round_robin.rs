//! The round robin assignor: topics by name, partitions by index, members in their order, one after another.

use std::sync::Arc;

use super::{GroupMember, TopicRacks};
use crate::consumer::TopicPartition;

pub(super) fn assign(topics: &TopicRacks, members: &[GroupMember]) -> Vec<Vec<TopicPartition>> {
    let mut around: Vec<usize> = (0..members.len()).collect();
    around.sort_by(|&left, &right| members[left].order(&members[right]));
    let mut assignment = vec![Vec::new(); members.len()];
    let mut next = 0;
    for (topic, racks) in topics {
        for partition in 0..racks.len() {
            // Ends: `topics` holds only what at least one member subscribed to.
            while !members[around[next]].topics.contains(topic) {
                next = (next + 1) % around.len();
            }
            assignment[around[next]].push(TopicPartition { topic: Arc::clone(topic), partition: partition as i32 });
            next = (next + 1) % around.len();
        }
    }
    assignment
}
