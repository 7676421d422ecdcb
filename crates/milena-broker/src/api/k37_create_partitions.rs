//! CreatePartitions (37), versions 0–3: adds partitions to topics.
//!
//! As Kafka's controller judges; the partitions are there when the answer is.

use std::collections::BTreeSet;

use milena_protocol::{
    ErrorCode, VersionRange,
    messages::{
        CreatePartitionsRequest, CreatePartitionsResponse, create_partitions_response::CreatePartitionsTopicResult,
    },
};

use super::{NoReply, RequestContext, Subject};
use crate::{cluster::Refusal, fault::Touched};

pub(crate) const VERSIONS: VersionRange = VersionRange::new(0, 3);

impl Subject for CreatePartitionsRequest {
    fn touched(&self, _cx: &RequestContext<'_>) -> Touched {
        let topics = self.topics.iter().map(|topic| (topic.name.to_string(), -1));
        Touched { partitions: topics.collect(), key: None }
    }
}

pub(crate) async fn handle(
    cx: &RequestContext<'_>,
    request: CreatePartitionsRequest,
) -> Result<CreatePartitionsResponse, NoReply> {
    let mut seen = BTreeSet::new();
    let mut twice = BTreeSet::new();
    for topic in &request.topics {
        if !seen.insert(topic.name.clone()) {
            twice.insert(topic.name.clone());
        }
    }
    let mut response = CreatePartitionsResponse::default();
    for topic in request.topics {
        if !seen.remove(&topic.name) {
            continue;
        }
        let assignments: Option<Vec<_>> =
            topic.assignments.map(|all| all.into_iter().map(|assignment| assignment.broker_ids).collect());
        let made = if twice.contains(&topic.name) {
            Err(Refusal::new(ErrorCode::INVALID_REQUEST, "Duplicate topic name."))
        } else if let Some(code) = cx.effects.partition_error(&topic.name, -1, false) {
            Err(Refusal::new(code, code.to_string()))
        } else {
            let cluster = &cx.core.cluster;
            cluster.create_partitions(&topic.name, topic.count, assignments.as_deref(), request.validate_only)
        };
        let (error_code, error_message) = match made {
            Ok(()) => (ErrorCode::NONE, None),
            // Kafka says nothing beside an unknown topic.
            Err(refusal) => (refusal.code, (!refusal.message.is_empty()).then(|| refusal.message.into())),
        };
        response.results.push(CreatePartitionsTopicResult { name: topic.name, error_code, error_message });
    }
    Ok(response)
}
