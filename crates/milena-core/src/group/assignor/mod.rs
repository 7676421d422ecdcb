//! Client-side assignors of the classic protocol: range, round robin, sticky and cooperative-sticky. Results equal those
//! of Kafka's Java client, ties included (`testdata/java/`), because in a mixed group the leader may be either.
//!
//! Knows members and partition counts only; blobs, generations of the group and the network are elsewhere.

mod range;
mod round_robin;
mod sticky;
#[cfg(test)]
mod tests;

use std::{cmp::Ordering, collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use crate::consumer::TopicPartition;

/// Partitions of the topics that the group subscribed to: for each partition, in order of its index, the racks that hold
/// a replica (empty when the brokers name none).
pub type TopicRacks = BTreeMap<Arc<str>, Vec<Vec<Arc<str>>>>;

/// What the leader knows of one member of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupMember {
    /// The id the coordinator gave.
    pub member_id: Arc<str>,
    /// `group.instance.id` of a static member (KIP-345).
    pub instance_id: Option<Arc<str>>,
    /// Topics subscribed to.
    pub topics: Vec<Arc<str>>,
    /// Partitions held now, as the member claims them.
    pub owned: Vec<TopicPartition>,
    /// The generation in which it came to hold them, when it says so.
    pub generation: Option<i32>,
    /// The member's rack (KIP-881).
    pub rack: Option<Arc<str>>,
}

impl GroupMember {
    /// Static members first, by instance id: it outlives the member id, so a restart doesn't move partitions.
    fn order(&self, other: &Self) -> Ordering {
        match (&self.instance_id, &other.instance_id) {
            (Some(one), Some(other)) => one.cmp(other),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => self.member_id.cmp(&other.member_id),
        }
    }
}

/// How partitions are spread over the members of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Assignor {
    /// Per topic, neighbouring partitions to members in order of their ids; topics with equal counts are co-partitioned.
    Range,
    /// Partition by partition around the members.
    RoundRobin,
    /// Balanced, keeping what members held before; eager.
    Sticky,
    /// As `Sticky`, and a partition that moves is first revoked in one rebalance, then given in the next (KIP-429).
    CooperativeSticky,
}

impl Assignor {
    /// All assignors, in the order of Kafka's documentation.
    pub const ALL: [Self; 4] = [Self::Range, Self::RoundRobin, Self::Sticky, Self::CooperativeSticky];

    /// The name on the wire and in `partition.assignment.strategy`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Range => "range",
            Self::RoundRobin => "roundrobin",
            Self::Sticky => "sticky",
            Self::CooperativeSticky => "cooperative-sticky",
        }
    }

    /// Whether members may keep their partitions while a rebalance runs.
    pub const fn is_cooperative(self) -> bool {
        matches!(self, Self::CooperativeSticky)
    }

    /// Spreads the partitions of `topics` over `members`; the answer has one entry per member, in the same order.
    pub fn assign(self, topics: &TopicRacks, members: &[GroupMember]) -> Vec<Vec<TopicPartition>> {
        // Java leaves out topics that no member asks for or that have no partitions.
        let topics: TopicRacks = topics
            .iter()
            .filter(|(name, racks)| !racks.is_empty() && members.iter().any(|member| member.topics.contains(name)))
            .map(|(name, racks)| (Arc::clone(name), racks.clone()))
            .collect();
        if members.is_empty() {
            return Vec::new();
        }
        match self {
            Self::Range => range::assign(&topics, members),
            Self::RoundRobin => round_robin::assign(&topics, members),
            Self::Sticky => sticky::assign(&topics, members).partitions,
            Self::CooperativeSticky => sticky::assign_cooperatively(&topics, members),
        }
    }
}

impl fmt::Display for Assignor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no assignor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown assignor {0:?}, use range, roundrobin, sticky or cooperative-sticky")]
pub struct UnknownAssignor(pub String);

impl FromStr for Assignor {
    type Err = UnknownAssignor;

    /// Accepts the short name and the name of Java's class.
    fn from_str(text: &str) -> Result<Self, UnknownAssignor> {
        let name = text.trim().strip_prefix("org.apache.kafka.clients.consumer.").unwrap_or_else(|| text.trim());
        match name {
            "range" | "RangeAssignor" => Ok(Self::Range),
            "roundrobin" | "RoundRobinAssignor" => Ok(Self::RoundRobin),
            "sticky" | "StickyAssignor" => Ok(Self::Sticky),
            "cooperative-sticky" | "CooperativeStickyAssignor" => Ok(Self::CooperativeSticky),
            _ => Err(UnknownAssignor(text.to_owned())),
        }
    }
}

/// Whether racks may steer an assignment: some member's rack holds replicas, and partitions differ in the racks they
/// have (else every choice is equally near). KIP-881.
fn racks_matter<'a>(
    member_racks: impl Iterator<Item = &'a Arc<str>>,
    partitions: impl Iterator<Item = &'a Vec<Arc<str>>> + Clone,
) -> bool {
    use std::collections::BTreeSet;
    let members: BTreeSet<&Arc<str>> = member_racks.collect();
    let all: BTreeSet<&Arc<str>> = partitions.clone().flatten().collect();
    if members.is_disjoint(&all) {
        return false;
    }
    partitions.into_iter().any(|racks| racks.iter().collect::<BTreeSet<_>>() != all)
}

fn rack_of(member: &GroupMember) -> Option<&Arc<str>> {
    member.rack.as_ref().filter(|rack| !rack.is_empty())
}
