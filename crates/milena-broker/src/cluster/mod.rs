//! The cluster that all nodes of one broker share: topics, partitions, leaders, configs, coordinators, producer ids.
//!
//! Decides; answers no requests and knows no connections. Lookups by topic take a read lock for as long as a map
//! lookup; everything per record is behind the partition's own lock.

pub(crate) mod config;
mod create;
mod image;
mod names;
mod partition;
mod topic;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use milena_protocol::{ErrorCode, NodeId, TopicName, Uuid};

use self::config::BrokerConfig;
pub(crate) use self::{
    create::{NewTopic, Refusal},
    image::{ClusterImage, PartitionImage, TopicImage},
    names::check_topic_name,
    partition::{Partition, PartitionState},
    topic::Topic,
};
use crate::lock::{Lock, Shared};

/// The only `replica.selector.class` there is but for none.
const RACK_AWARE: &str = "org.apache.kafka.common.replica.RackAwareReplicaSelector";

/// The coordinator of what: the `key_type` of FindCoordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CoordinatorType {
    /// Of a consumer group.
    Group,
    /// Of a transactional id.
    Transaction,
}

/// Nodes, topics and what else is one for the whole cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) id: String,
    /// All nodes, running or not.
    pub(crate) nodes: Vec<NodeId>,
    pub(crate) config: Arc<BrokerConfig>,
    racks: BTreeMap<NodeId, String>,
    running: Shared<BTreeSet<NodeId>>,
    topics: Shared<Topics>,
    /// Keys whose coordinator was moved away from where the hash puts it.
    coordinators: Lock<BTreeMap<(CoordinatorType, String), NodeId>>,
    producer_ids: Lock<ProducerIds>,
    rng: Lock<fastrand::Rng>,
}

#[derive(Debug, Default)]
struct Topics {
    by_name: BTreeMap<TopicName, Arc<Topic>>,
    by_id: BTreeMap<[u8; 16], Arc<Topic>>,
}

#[derive(Debug, Default)]
struct ProducerIds {
    next: i64,
    transactional: BTreeMap<String, (i64, i16)>,
}

impl Cluster {
    pub(crate) fn new(node_count: i32, config: BrokerConfig, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let id = random_uuid(&mut rng).to_string();
        let nodes: Vec<_> = (0..node_count).map(NodeId).collect();
        Self {
            id,
            running: Shared::new(nodes.iter().copied().collect()),
            nodes,
            config: Arc::new(config),
            racks: BTreeMap::new(),
            topics: Shared::default(),
            coordinators: Lock::default(),
            producer_ids: Lock::default(),
            rng: Lock::new(rng),
        }
    }

    pub(crate) fn with_racks(self, racks: Vec<String>) -> Self {
        let racks = self.nodes.iter().copied().zip(racks).collect();
        Self { racks, ..self }
    }

    /// `broker.rack` of a node.
    pub(crate) fn rack(&self, node: NodeId) -> Option<&str> {
        self.racks.get(&node).map(String::as_str)
    }

    /// The replica that a client in `rack` should read from instead of the leader, as Kafka's `RackAwareReplicaSelector`
    /// picks it; none where the leader is in that rack, or nobody is.
    pub(crate) fn preferred_replica(&self, state: &PartitionState, rack: &str) -> Option<NodeId> {
        let selector = self.config.value("replica.selector.class");
        if rack.is_empty() || selector != RACK_AWARE {
            return None;
        }
        let is_near = |node: &NodeId| self.rack(*node) == Some(rack);
        if state.leader.is_none_or(|leader| is_near(&leader)) {
            return None;
        }
        state.in_sync.iter().copied().find(|node| is_near(node) && self.is_running(*node))
    }

    pub(crate) fn is_running(&self, node: NodeId) -> bool {
        self.running.read().contains(&node)
    }

    pub(crate) fn running_nodes(&self) -> Vec<NodeId> {
        self.running.read().iter().copied().collect()
    }

    pub(crate) fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.read().by_name.get(name).cloned()
    }

    pub(crate) fn topic_by_id(&self, id: Uuid) -> Option<Arc<Topic>> {
        self.topics.read().by_id.get(id.as_bytes()).cloned()
    }

    /// All topics, by name.
    pub(crate) fn topics(&self) -> Vec<Arc<Topic>> {
        self.topics.read().by_name.values().cloned().collect()
    }

    /// The partition, or the error a client gets for one that isn't there.
    pub(crate) fn partition(&self, topic: &str, index: i32) -> Result<Arc<Partition>, ErrorCode> {
        self.topic(topic).and_then(|topic| topic.partition(index)).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
    }

    /// The topic of a request that names it (before topic ids) or gives its id (KIP-516).
    pub(crate) fn resolve(&self, name: &TopicName, id: Uuid, by_id: bool) -> Result<Arc<Topic>, ErrorCode> {
        if by_id {
            self.topic_by_id(id).ok_or(ErrorCode::UNKNOWN_TOPIC_ID)
        } else {
            self.topic(name).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
        }
    }

    /// Takes a topic out of the cluster and wakes whoever waits for its records.
    pub(crate) fn delete_topic(&self, name: &str) -> Option<Arc<Topic>> {
        let topic = {
            let mut topics = self.topics.write();
            let topic = topics.by_name.remove(name)?;
            topics.by_id.remove(topic.id.as_bytes());
            topic
        };
        topic.partitions().iter().for_each(|partition| partition.wake());
        Some(topic)
    }

    /// A node went away: its partitions elect other leaders.
    pub(crate) fn node_stopped(&self, node: NodeId) {
        self.running.write().remove(&node);
        self.for_each_partition(|state| state.node_stopped(node));
    }

    /// A node came back.
    pub(crate) fn node_started(&self, node: NodeId) {
        self.running.write().insert(node);
        self.for_each_partition(|state| state.node_started(node));
    }

    fn for_each_partition(&self, change: impl Fn(&mut PartitionState) -> bool) {
        for partition in self.topics().iter().flat_map(|topic| topic.partitions()) {
            if change(&mut partition.lock()) {
                partition.wake();
            }
        }
    }

    /// Makes `leader` the leader of a partition, or nobody, in a new epoch. The leader becomes a replica if it was none.
    pub(crate) fn move_leader(&self, topic: &str, index: i32, leader: Option<NodeId>) -> Result<(), ErrorCode> {
        let partition = self.partition(topic, index)?;
        {
            let mut state = partition.lock();
            if let Some(leader) = leader
                && !state.replicas.contains(&leader)
            {
                state.replicas.push(leader);
            }
            state.elect(leader);
        }
        partition.wake();
        Ok(())
    }

    /// The running node that coordinates `key`: where it was moved to, else by hash; the next one if that is down.
    pub(crate) fn coordinator(&self, kind: CoordinatorType, key: &str) -> Option<NodeId> {
        let moved = self.coordinators.lock().get(&(kind, key.to_owned())).copied();
        let count = i32::try_from(self.nodes.len()).unwrap_or(i32::MAX);
        let home = moved.map_or_else(|| java_hash(key).rem_euclid(count), |node| node.0);
        let running = self.running.read();
        (0..count).map(|step| NodeId((home + step) % count)).find(|node| running.contains(node))
    }

    /// `Ok` if `node` coordinates the group or transactional id; else what a client gets that asks the wrong node.
    pub(crate) fn check_coordinator(&self, kind: CoordinatorType, key: &str, node: NodeId) -> Result<(), ErrorCode> {
        if self.coordinator(kind, key) == Some(node) { Ok(()) } else { Err(ErrorCode::NOT_COORDINATOR) }
    }

    pub(crate) fn move_coordinator(&self, kind: CoordinatorType, key: &str, node: NodeId) {
        self.coordinators.lock().insert((kind, key.to_owned()), node);
    }

    /// A producer id nobody has.
    pub(crate) fn new_producer_id(&self) -> i64 {
        let mut ids = self.producer_ids.lock();
        ids.next += 1;
        ids.next - 1
    }

    /// The producer id and epoch for a transactional id: a known one is fenced by a higher epoch. `claimed` is what a
    /// client says it has (KIP-360); a stale claim is refused.
    pub(crate) fn transactional_producer(
        &self,
        transactional_id: &str,
        claimed: Option<(i64, i16)>,
    ) -> Result<(i64, i16), ErrorCode> {
        let mut ids = self.producer_ids.lock();
        let known = ids.transactional.get(transactional_id).copied();
        if claimed.is_some() && known.is_some() && claimed != known {
            return Err(ErrorCode::PRODUCER_FENCED);
        }
        let granted = match known {
            Some((id, epoch)) if epoch < i16::MAX - 1 => (id, epoch + 1),
            _ => {
                ids.next += 1;
                (ids.next - 1, 0)
            }
        };
        ids.transactional.insert(transactional_id.to_owned(), granted);
        Ok(granted)
    }

    fn new_topic_id(&self) -> Uuid {
        random_uuid(&mut self.rng.lock())
    }

    /// A random number from the broker's seed.
    pub(crate) fn random_i32(&self, range: std::ops::Range<i32>) -> i32 {
        self.rng.lock().i32(range)
    }

    /// A random id from the broker's seed, printed as Kafka prints one; for member ids and the like.
    pub(crate) fn random_id(&self) -> String {
        random_uuid(&mut self.rng.lock()).to_string()
    }
}

fn random_uuid(rng: &mut fastrand::Rng) -> Uuid {
    loop {
        let id = Uuid::from_u128(rng.u128(..));
        // Kafka too draws again what would read like a command line option.
        if !id.is_zero() && !id.to_string().starts_with('-') {
            return id;
        }
    }
}

/// `String.hashCode` of Java, by which Kafka spreads groups over the partitions of its offsets topic.
fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0, |hash: i32, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_hash_is_javas() {
        assert_eq!(java_hash(""), 0);
        assert_eq!(java_hash("hello"), 99_162_322);
        assert_eq!(java_hash("polygenelubricants"), i32::MIN);
    }

    #[test]
    fn a_coordinator_that_is_down_is_replaced_by_the_next_node() {
        let cluster = Cluster::new(3, BrokerConfig::default(), 1);
        let home = cluster.coordinator(CoordinatorType::Group, "g").expect("three nodes run");
        cluster.node_stopped(home);
        let next = cluster.coordinator(CoordinatorType::Group, "g").expect("two nodes run");
        assert_eq!(next.0, (home.0 + 1) % 3);
        cluster.node_started(home);
        assert_eq!(cluster.coordinator(CoordinatorType::Group, "g"), Some(home));
        cluster.move_coordinator(CoordinatorType::Group, "g", next);
        assert_eq!(cluster.check_coordinator(CoordinatorType::Group, "g", home), Err(ErrorCode::NOT_COORDINATOR));
        assert_eq!(cluster.check_coordinator(CoordinatorType::Group, "g", next), Ok(()));
    }
}
