//! Makes a topic's next state from its last one and an answer. An answer may come from a broker that lags behind:
//! what it says is older than what is known where its leader epochs are lower, and then it is not believed.

use std::collections::BTreeMap;
use std::sync::Arc;

use milena_protocol::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};

use super::snapshot::{PartitionMetadata, TopicMetadata};

/// An answer with a lower epoch is refused this often in a row, then believed: an unclean restore of the cluster's
/// metadata really lowers epochs, and refusing for ever would cut us off.
const MAX_REFUSALS: u32 = 5;

/// The highest leader epoch seen of each partition of one topic, and how often in a row a lower one was refused.
#[derive(Debug, Clone, Default)]
pub(super) struct SeenEpochs {
    /// By rising index: a client may know thousands.
    epochs: Vec<(i32, i32)>,
    /// Of the few that a lower one was refused for.
    #[expect(clippy::box_collection, reason = "most topics have none, and there may be thousands")]
    refusals: Option<Box<BTreeMap<i32, u32>>>,
}

impl SeenEpochs {
    /// Whether what an answer says of a partition is news.
    fn accept(&mut self, index: i32, epoch: Option<i32>) -> bool {
        // -1 means that the broker does not know epochs: nothing to compare, nothing to remember.
        let Some(epoch) = epoch else { return true };
        let place = self.epochs.binary_search_by_key(&index, |(index, _)| *index);
        if place.is_ok_and(|place| epoch < self.epochs[place].1) {
            let refusals = self.refusals.get_or_insert_default().entry(index).or_insert(0);
            if *refusals < MAX_REFUSALS {
                *refusals += 1;
                return false;
            }
        }
        self.raise(index, epoch);
        true
    }

    /// Takes note of a leader that was learned of in another way.
    pub(super) fn raise(&mut self, index: i32, epoch: i32) {
        if let Some(refusals) = &mut self.refusals {
            refusals.remove(&index);
        }
        match self.epochs.binary_search_by_key(&index, |(index, _)| *index) {
            Ok(place) => self.epochs[place].1 = epoch,
            Err(place) => self.epochs.insert(place, (index, epoch)),
        }
    }
}

/// The topic after `answer`, a good one, given what was known of it.
pub(super) fn merge(
    name: &Arc<str>,
    known: Option<&TopicMetadata>,
    seen: &mut SeenEpochs,
    answer: &MetadataResponseTopic,
) -> TopicMetadata {
    let recreated = known.is_some_and(|known| is_other(known, answer));
    if recreated {
        // Another log under the same name: its epochs start anew.
        *seen = SeenEpochs::default();
    }
    let known = known.filter(|_| !recreated);
    seen.epochs.reserve_exact(answer.partitions.len().saturating_sub(seen.epochs.len()));
    let mut partitions = BTreeMap::new();
    for partition in answer.partitions.iter().filter(|partition| partition.partition_index >= 0) {
        let index = partition.partition_index;
        if partitions.contains_key(&index) {
            continue;
        }
        let fresh = read_partition(partition);
        let before = known.and_then(|known| known.partition(index));
        let accepted = seen.accept(index, fresh.leader_epoch);
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

fn read_partition(partition: &MetadataResponsePartition) -> PartitionMetadata {
    let nodes = |nodes: &[milena_protocol::NodeId]| nodes.iter().map(|node| node.0).collect();
    PartitionMetadata {
        index: partition.partition_index,
        error: partition.error_code,
        leader: Some(partition.leader_id.0).filter(|node| *node >= 0),
        leader_epoch: Some(partition.leader_epoch).filter(|epoch| *epoch >= 0),
        replicas: nodes(&partition.replica_nodes),
        isr: nodes(&partition.isr_nodes),
    }
}
