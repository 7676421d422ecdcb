//! One view of the cluster. Never changes after it is made; names are copied out of the response, so that no snapshot
//! keeps a frame alive.

use std::collections::BTreeMap;
use std::sync::Arc;

use milena_protocol::{ErrorCode, Uuid};

use super::shared_map::SharedMap;

/// Brokers, topics and partitions as one metadata response left them. Holds what it has in common with the view before it
/// together with that one.
#[derive(Debug, Clone, Default)]
pub struct ClusterSnapshot {
    pub(super) generation: u64,
    pub(super) cluster_id: Option<Arc<str>>,
    pub(super) controller: Option<i32>,
    pub(super) brokers: BTreeMap<i32, BrokerMetadata>,
    pub(super) topics: SharedMap<Arc<str>, Arc<TopicMetadata>>,
    pub(super) topic_ids: SharedMap<[u8; 16], Arc<str>>,
}

/// A broker and where it says that it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerMetadata {
    /// Its node id.
    pub node: i32,
    /// As advertised, unchecked.
    pub host: Arc<str>,
    /// As advertised, unchecked.
    pub port: i32,
    /// Its rack, if it has one.
    pub rack: Option<Arc<str>>,
}

/// A topic, or why there is none.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicMetadata {
    /// Its name.
    pub name: Arc<str>,
    /// Its id; zero where the broker is too old to have told.
    pub id: Uuid,
    /// What the broker said of it last. Partitions of an earlier answer may still be here beside an error: a topic
    /// that is missing for a moment keeps its state.
    pub error: ErrorCode,
    /// Whether Kafka keeps it for itself.
    pub is_internal: bool,
    /// By rising index, without duplicates.
    pub partitions: Vec<PartitionMetadata>,
}

/// A partition and who leads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionMetadata {
    /// Its index in the topic.
    pub index: i32,
    /// What the broker said of it; `LEADER_NOT_AVAILABLE` while there is no leader.
    pub error: ErrorCode,
    /// The node id of its leader, if it has one.
    pub leader: Option<i32>,
    /// The leader's epoch, if the broker told.
    pub leader_epoch: Option<i32>,
    /// Node ids of all replicas, the preferred leader first. Partitions of one answer that have the same list share it.
    pub replicas: Arc<[i32]>,
    /// Node ids of the replicas in sync.
    pub isr: Arc<[i32]>,
}

impl ClusterSnapshot {
    /// Rises by one with each change.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The id of the cluster, once a broker told it.
    pub fn cluster_id(&self) -> Option<&Arc<str>> {
        self.cluster_id.as_ref()
    }

    /// The node to which requests for the controller go, if one is known.
    pub fn controller(&self) -> Option<i32> {
        self.controller.filter(|node| self.brokers.contains_key(node))
    }

    /// A broker by node id.
    pub fn broker(&self, node: i32) -> Option<&BrokerMetadata> {
        self.brokers.get(&node)
    }

    /// All brokers, by rising node id.
    pub fn brokers(&self) -> impl ExactSizeIterator<Item = &BrokerMetadata> + '_ {
        self.brokers.values()
    }

    /// A topic by name, be it there or not; `None` if it was never asked for.
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicMetadata>> {
        self.topics.get(name)
    }

    /// A topic by id.
    pub fn topic_by_id(&self, id: &Uuid) -> Option<&Arc<TopicMetadata>> {
        self.topic(self.topic_ids.get(id.as_bytes())?).filter(|topic| topic.id == *id)
    }

    /// All topics that were asked for, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<TopicMetadata>> + '_ {
        self.topics.iter().map(|(_, topic)| topic)
    }

    /// How many topics were asked for.
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// The topics that are others here than in `before`, an earlier view, or were not there, by name. Takes as long as
    /// there are changes, not as there are topics. Where [`Self::has_brokers_of`] is false, partitions of any topic may
    /// have gained or lost their leader all the same.
    pub fn topics_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a Arc<TopicMetadata>> + 'a {
        self.topics.since(&before.topics, Arc::ptr_eq).map(|(_, topic)| topic)
    }

    /// Whether the node ids of its brokers are those of `other`.
    pub fn has_brokers_of(&self, other: &Self) -> bool {
        self.brokers.keys().eq(other.brokers.keys())
    }

    /// A partition by topic and index.
    pub fn partition(&self, topic: &str, index: i32) -> Option<&PartitionMetadata> {
        self.topic(topic)?.partition(index)
    }

    /// The leader of a partition with its epoch, if it has a leader whose address is known.
    pub fn leader(&self, topic: &str, index: i32) -> Option<(i32, Option<i32>)> {
        let partition = self.partition(topic, index)?;
        let leader = partition.leader.filter(|node| self.brokers.contains_key(node))?;
        Some((leader, partition.leader_epoch))
    }

    /// Takes in a topic as it is now.
    pub(super) fn put(&mut self, topic: Arc<TopicMetadata>) {
        let known = self.topics.get(&*topic.name).map(|known| known.id);
        if let Some(id) = known.filter(|id| *id != topic.id) {
            self.forget_id(&topic.name, id);
        }
        if known != Some(topic.id) && !topic.id.is_zero() {
            self.topic_ids.insert(*topic.id.as_bytes(), Arc::clone(&topic.name));
        }
        self.topics.insert(Arc::clone(&topic.name), topic);
    }

    pub(super) fn forget(&mut self, name: &str) {
        if let Some(id) = self.topics.get(name).map(|topic| topic.id) {
            self.forget_id(name, id);
            self.topics.remove(name);
        }
    }

    /// Unless another topic goes by this id now.
    fn forget_id(&mut self, name: &str, id: Uuid) {
        if self.topic_ids.get(id.as_bytes()).is_some_and(|known| **known == *name) {
            self.topic_ids.remove(id.as_bytes());
        }
    }
}

impl TopicMetadata {
    /// A partition by index.
    pub fn partition(&self, index: i32) -> Option<&PartitionMetadata> {
        // Indices run from 0 without gaps, unless a broker is odd.
        let expected = usize::try_from(index).ok()?;
        match self.partitions.get(expected) {
            Some(partition) if partition.index == index => Some(partition),
            _ => {
                let found = self.partitions.binary_search_by_key(&index, |partition| partition.index).ok()?;
                Some(&self.partitions[found])
            }
        }
    }
}
