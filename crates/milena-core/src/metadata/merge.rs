//! Makes a topic's next state from its last one and an answer. An answer may come from a broker that lags behind:
//! what it says is older than what is known where its leader epochs are lower, and then it is not believed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use milena_protocol::NodeId;
use milena_protocol::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};

use super::snapshot::{PartitionMetadata, TopicMetadata};

/// An answer with a lower epoch is refused this often in a row, then believed: an unclean restore of the cluster's
/// metadata really lowers epochs, and refusing for ever would cut us off.
const MAX_REFUSALS: u32 = 5;

/// The highest leader epoch seen of each partition of one topic, and how often in a row a lower one was refused. As a rule
/// that is what is known of the partition, and never: kept here is what differs.
#[derive(Debug, Clone, Default)]
pub(super) struct SeenEpochs {
    apart: BTreeMap<i32, (i32, u32)>,
}

impl SeenEpochs {
    /// Whether what an answer says of a partition is news, beside the epoch that is `known` of it.
    fn accept(&mut self, index: i32, known: Option<i32>, epoch: Option<i32>) -> bool {
        let seen = self.apart.remove(&index).or_else(|| known.map(|epoch| (epoch, 0)));
        let Some((highest, refusals)) = seen else { return true };
        match epoch {
            // -1 means that the broker does not know epochs: nothing to compare, nothing to forget.
            None => drop(self.apart.insert(index, (highest, refusals))),
            Some(epoch) if epoch < highest && refusals < MAX_REFUSALS => {
                self.apart.insert(index, (highest, refusals + 1));
                return false;
            }
            Some(_) => {}
        }
        true
    }

    /// Whether a leader that was learned of in another way is news, which it is under a higher epoch alone.
    pub(super) fn raise(&mut self, index: i32, known: Option<i32>, epoch: i32) -> bool {
        let highest = self.apart.get(&index).map(|(highest, _)| *highest).max(known);
        let is_news = highest < Some(epoch);
        if is_news {
            self.apart.remove(&index);
        }
        is_news
    }

    pub(super) fn is_empty(&self) -> bool {
        self.apart.is_empty()
    }
}

/// The lists of nodes in one answer, each once: thousands of partitions lie on a handful of brokers in a handful of ways.
#[derive(Debug, Default)]
pub(super) struct NodeLists {
    known: BTreeSet<Arc<[i32]>>,
}

impl NodeLists {
    fn of(&mut self, nodes: &[NodeId]) -> Arc<[i32]> {
        let list: Vec<i32> = nodes.iter().map(|node| node.0).collect();
        if let Some(known) = self.known.get(&*list) {
            return Arc::clone(known);
        }
        let list: Arc<[i32]> = list.into();
        self.known.insert(Arc::clone(&list));
        list
    }
}

/// The topic after `answer`, a good one, given what was known of it.
pub(super) fn merge(
    name: &Arc<str>,
    known: Option<&TopicMetadata>,
    seen: &mut SeenEpochs,
    lists: &mut NodeLists,
    answer: &MetadataResponseTopic,
) -> TopicMetadata {
    let recreated = known.is_some_and(|known| is_other(known, answer));
    if recreated {
        // Another log under the same name: its epochs start anew.
        *seen = SeenEpochs::default();
    }
    let known = known.filter(|_| !recreated);
    let mut partitions = BTreeMap::new();
    for partition in answer.partitions.iter().filter(|partition| partition.partition_index >= 0) {
        let index = partition.partition_index;
        if partitions.contains_key(&index) {
            continue;
        }
        let fresh = read_partition(partition, lists);
        let before = known.and_then(|known| known.partition(index));
        let accepted = seen.accept(index, before.and_then(|before| before.leader_epoch), fresh.leader_epoch);
        partitions.insert(index, before.filter(|_| !accepted).cloned().unwrap_or(fresh));
    }
    // Partitions are never taken away from a topic; an answer with fewer is older than what is known.
    for partition in known.iter().flat_map(|known| &known.partitions) {
        partitions.entry(partition.index).or_insert_with(|| partition.clone());
    }
    TopicMetadata {
        name: Arc::clone(name),
        id: if answer.topic_id.is_zero() { known.map_or(answer.topic_id, |known| known.id) } else { answer.topic_id },
        error: answer.error_code,
        is_internal: answer.is_internal,
        partitions: partitions.into_values().collect(),
    }
}

/// The topic after an answer that has an error for it: what was known stays beside the error.
pub(super) fn keep(name: &Arc<str>, known: Option<&TopicMetadata>, answer: &MetadataResponseTopic) -> TopicMetadata {
    let empty = || TopicMetadata {
        name: Arc::clone(name),
        id: answer.topic_id,
        error: answer.error_code,
        is_internal: answer.is_internal,
        partitions: Vec::new(),
    };
    known.map_or_else(empty, |known| TopicMetadata { error: answer.error_code, ..known.clone() })
}

fn is_other(known: &TopicMetadata, answer: &MetadataResponseTopic) -> bool {
    !known.id.is_zero() && !answer.topic_id.is_zero() && known.id != answer.topic_id
}

fn read_partition(partition: &MetadataResponsePartition, lists: &mut NodeLists) -> PartitionMetadata {
    PartitionMetadata {
        index: partition.partition_index,
        error: partition.error_code,
        leader: Some(partition.leader_id.0).filter(|node| *node >= 0),
        leader_epoch: Some(partition.leader_epoch).filter(|epoch| *epoch >= 0),
        replicas: lists.of(&partition.replica_nodes),
        isr: lists.of(&partition.isr_nodes),
    }
}
