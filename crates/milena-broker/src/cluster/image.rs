//! What Metadata and its kin tell of the cluster at one moment; a stale image can be kept and served again.

use std::collections::BTreeMap;

use milena_protocol::{NodeId, TopicName, Uuid};

use super::Cluster;

/// The cluster as seen at one moment.
#[derive(Debug, Clone)]
pub(crate) struct ClusterImage {
    /// The nodes that run, by id.
    pub(crate) nodes: Vec<NodeId>,
    pub(crate) controller: NodeId,
    pub(crate) topics: BTreeMap<TopicName, TopicImage>,
}

/// A topic as seen at one moment.
#[derive(Debug, Clone)]
pub(crate) struct TopicImage {
    pub(crate) id: Uuid,
    pub(crate) partitions: Vec<PartitionImage>,
}

/// A partition as seen at one moment.
#[derive(Debug, Clone)]
pub(crate) struct PartitionImage {
    pub(crate) index: i32,
    pub(crate) leader: Option<NodeId>,
    pub(crate) leader_epoch: i32,
    pub(crate) replicas: Vec<NodeId>,
    pub(crate) in_sync: Vec<NodeId>,
    pub(crate) offline: Vec<NodeId>,
}

impl ClusterImage {
    /// The topics that `wanted` names; all with `None`.
    pub(crate) fn of(cluster: &Cluster, wanted: Option<&[TopicName]>) -> Self {
        let nodes = cluster.running_nodes();
        let topics = match wanted {
            None => cluster.topics(),
            Some(names) => names.iter().filter_map(|name| cluster.topic(name)).collect(),
        };
        let topics = topics
            .into_iter()
            .map(|topic| {
                let partitions = topic.partitions().into_iter().map(|partition| {
                    let state = partition.lock();
                    PartitionImage {
                        index: partition.index,
                        leader: state.leader,
                        leader_epoch: state.leader_epoch,
                        replicas: state.replicas.clone(),
                        in_sync: state.in_sync.clone(),
                        offline: state.replicas.iter().copied().filter(|node| !nodes.contains(node)).collect(),
                    }
                });
                (topic.name.clone(), TopicImage { id: topic.id, partitions: partitions.collect() })
            })
            .collect();
        let controller = nodes.first().copied().unwrap_or(NodeId(-1));
        Self { nodes, controller, topics }
    }

    /// The topic with this id.
    pub(crate) fn topic_by_id(&self, id: Uuid) -> Option<(&TopicName, &TopicImage)> {
        self.topics.iter().find(|(_, topic)| topic.id == id)
    }
}
