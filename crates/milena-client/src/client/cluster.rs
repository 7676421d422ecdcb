//! The cluster as users see it: plain values, copied out of a snapshot.

use milena_core::metadata::{ClusterSnapshot, TopicMetadata};

/// A cluster: its brokers, and those of its topics that the client uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cluster {
    /// The cluster's id.
    pub cluster_id: Option<String>,
    /// Node id of the broker to which requests for the controller go.
    pub controller: Option<i32>,
    /// By rising id.
    pub nodes: Vec<Node>,
    /// By name.
    pub topics: Vec<Topic>,
}

/// A broker.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// Its node id.
    pub id: i32,
    /// Where it says that it listens.
    pub host: String,
    /// Where it says that it listens.
    pub port: i32,
    /// Its rack.
    pub rack: Option<String>,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// By rising index; empty while the topic does not exist.
    pub partitions: Vec<Partition>,
}

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Partition {
    /// Its index.
    pub index: i32,
    /// Node id of its leader.
    pub leader: Option<i32>,
    /// Node ids of its replicas.
    pub replicas: Vec<i32>,
    /// Node ids of the replicas in sync.
    pub isr: Vec<i32>,
}

impl Cluster {
    pub(crate) fn read(snapshot: &ClusterSnapshot) -> Self {
        let node = |broker: &milena_core::metadata::BrokerMetadata| Node {
            id: broker.node,
            host: broker.host.to_string(),
            port: broker.port,
            rack: broker.rack.as_deref().map(str::to_owned),
        };
        Self {
            cluster_id: snapshot.cluster_id().map(|id| id.to_string()),
            controller: snapshot.controller(),
            nodes: snapshot.brokers().map(node).collect(),
            topics: snapshot.topics().map(|topic| Topic::read(topic)).collect(),
        }
    }
}

impl Topic {
    pub(crate) fn read(topic: &TopicMetadata) -> Self {
        let partition = |partition: &milena_core::metadata::PartitionMetadata| Partition {
            index: partition.index,
            leader: partition.leader,
            replicas: partition.replicas.to_vec(),
            isr: partition.isr.to_vec(),
        };
        Self { name: topic.name.to_string(), partitions: topic.partitions.iter().map(partition).collect() }
    }
}
