//! Which broker a request goes to, and what its failure says about that choice.

use std::sync::Arc;
use std::time::Duration;

use milena_net::Broker;
use milena_protocol::ErrorCode;

use super::ClientInner;
use super::coordinators::CoordinatorKind;
use crate::error::RequestError;
use crate::raw::Target;

impl ClientInner {
    /// The broker for `target` as things stand, waiting no longer than `limit` for what must be found out first.
    pub(crate) async fn route(self: &Arc<Self>, target: &Target, limit: Duration) -> Result<Broker, RequestError> {
        match target {
            Target::Any => self.metadata.candidates().into_iter().next().ok_or(RequestError::NoBroker),
            Target::Controller => self.metadata.snapshot().controller().map(Broker::Node).ok_or(RequestError::NoBroker),
            Target::Node(node) => Ok(Broker::Node(*node)),
            Target::Leader { topic, partition } => self.leader(topic, *partition, limit).await,
            Target::GroupCoordinator(group) => self.coordinator(CoordinatorKind::Group, group, limit).await,
            Target::TransactionCoordinator(id) => self.coordinator(CoordinatorKind::Transaction, id, limit).await,
        }
    }

    async fn leader(&self, topic: &str, partition: i32, limit: Duration) -> Result<Broker, RequestError> {
        let known = self.metadata.topic(topic, limit).await?;
        if known.partition(partition).is_none() {
            let (topic, partitions) = (topic.to_owned(), known.partitions.len());
            return Err(RequestError::UnknownPartition { topic, partition, partitions });
        }
        match self.metadata.snapshot().leader(topic, partition) {
            Some((leader, _)) => Ok(Broker::Node(leader)),
            None => Err(RequestError::NoLeader { topic: topic.to_owned(), partition }),
        }
    }

    async fn coordinator(
        self: &Arc<Self>,
        kind: CoordinatorKind,
        key: &str,
        limit: Duration,
    ) -> Result<Broker, RequestError> {
        match tokio::time::timeout(limit, self.coordinators.find(self, kind, key)).await {
            Ok(found) => found.map(Broker::Node),
            Err(_) => Err(RequestError::broker(
                format!("coordinator of `{key}`"),
                ErrorCode::COORDINATOR_NOT_AVAILABLE,
                Some("none was found in time"),
            )),
        }
    }

    /// The request to `broker` failed in a way that may mean that it was the wrong one: look again before the next.
    pub(crate) fn reconsider(&self, target: &Target, broker: Option<&Broker>) {
        match (target, broker) {
            (Target::GroupCoordinator(group), Some(Broker::Node(node))) => {
                self.coordinators.invalidate(CoordinatorKind::Group, group, *node);
            }
            (Target::TransactionCoordinator(id), Some(Broker::Node(node))) => {
                self.coordinators.invalidate(CoordinatorKind::Transaction, id, *node);
            }
            _ => {}
        }
        self.metadata.request_refresh();
    }
}
