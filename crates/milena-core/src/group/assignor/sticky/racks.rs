//! Which members are near which partitions (KIP-881). Empty when racks can't make a difference.

use std::{collections::BTreeSet, sync::Arc};

use super::{Partition, Topic};
use crate::group::assignor::{GroupMember, rack_of, racks_matter};

pub(super) struct Racks {
    members: Vec<Option<Arc<str>>>,
    partitions: Vec<Vec<BTreeSet<Arc<str>>>>,
    pub(super) in_use: bool,
}

impl Racks {
    pub(super) fn new(topics: &[Topic<'_>], members: &[GroupMember]) -> Self {
        let in_use = racks_matter(members.iter().filter_map(rack_of), topics.iter().flat_map(|topic| topic.racks));
        if !in_use {
            return Self { members: vec![None; members.len()], partitions: Vec::new(), in_use };
        }
        Self {
            members: members.iter().map(|member| rack_of(member).cloned()).collect(),
            partitions: topics
                .iter()
                .map(|topic| topic.racks.iter().map(|racks| racks.iter().cloned().collect()).collect())
                .collect(),
            in_use,
        }
    }

    fn of(&self, (topic, partition): Partition) -> Option<&BTreeSet<Arc<str>>> {
        self.partitions.get(topic as usize)?.get(partition as usize)
    }

    /// The member has a rack and the partition has no replica there.
    pub(super) fn mismatch(&self, member: usize, tp: Partition) -> bool {
        self.members[member].as_ref().is_some_and(|rack| self.of(tp).is_none_or(|racks| !racks.contains(rack)))
    }

    /// The member has a rack and the partition has a replica there.
    pub(super) fn is_near(&self, member: usize, tp: Partition) -> bool {
        self.members[member].as_ref().is_some_and(|rack| self.of(tp).is_some_and(|racks| racks.contains(rack)))
    }

    /// Partitions with the fewest near members first, so that they are not left over.
    pub(super) fn sort_by_near_members(&self, partitions: &mut [Partition]) {
        if self.in_use {
            partitions.sort_by_key(|&tp| (0..self.members.len()).filter(|&member| self.is_near(member, tp)).count());
        }
    }

    /// Position in `members` of the next one near `tp`, starting from `first`, around the end.
    pub(super) fn next_near(&self, tp: Partition, members: &[usize], first: usize) -> Option<usize> {
        (0..members.len())
            .map(|step| (first + step) % members.len())
            .find(|&position| self.is_near(members[position], tp))
    }
}
