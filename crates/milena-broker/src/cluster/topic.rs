//! A topic: its id, partitions and configs.

use std::sync::Arc;

use milena_protocol::{TopicName, Uuid};

use super::{config::TopicConfigs, partition::Partition};
use crate::lock::Shared;

/// A topic that exists. Deleting takes it out of the cluster; whoever still holds it sees a log nobody serves.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: TopicName,
    pub(crate) id: Uuid,
    pub(crate) configs: Shared<TopicConfigs>,
    partitions: Shared<Vec<Arc<Partition>>>,
}

impl Topic {
    pub(crate) fn new(name: TopicName, id: Uuid, configs: TopicConfigs, partitions: Vec<Arc<Partition>>) -> Self {
        Self { name, id, configs: Shared::new(configs), partitions: Shared::new(partitions) }
    }

    pub(crate) fn partition(&self, index: i32) -> Option<Arc<Partition>> {
        let index = usize::try_from(index).ok()?;
        self.partitions.read().get(index).cloned()
    }

    /// All partitions, by index.
    pub(crate) fn partitions(&self) -> Vec<Arc<Partition>> {
        self.partitions.read().clone()
    }

    pub(super) fn add_partitions(&self, more: impl IntoIterator<Item = Arc<Partition>>) {
        self.partitions.write().extend(more);
    }
}
