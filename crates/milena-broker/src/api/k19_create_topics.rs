//! CreateTopics (19), versions 2–7: creates topics, or only finds out whether it could.
//!
//! As Kafka's controller judges; any node may be asked, and the topic is there when the answer is.

use std::collections::BTreeMap;

use milena_protocol::{
    ErrorCode, TopicName, VersionRange,
    messages::{
        CreateTopicsRequest, CreateTopicsResponse,
        create_topics_request::CreatableTopic,
        create_topics_response::{CreatableTopicConfigs, CreatableTopicResult},
    },
};

use super::{NoReply, RequestContext, Subject};
use crate::{
    cluster::{NewTopic, Refusal, Topic},
    fault::Touched,
};

pub(crate) const VERSIONS: VersionRange = VersionRange::new(2, 7);

/// From here on the answer says what was created.
const DETAILS: i16 = 5;

impl Subject for CreateTopicsRequest {
    fn touched(&self, _cx: &RequestContext<'_>) -> Touched {
        let topics = self.topics.iter().map(|topic| (topic.name.to_string(), -1));
        Touched { partitions: topics.collect(), key: None }
    }
}

pub(crate) async fn handle(
    cx: &RequestContext<'_>,
    request: CreateTopicsRequest,
) -> Result<CreateTopicsResponse, NoReply> {
    let mut counts: BTreeMap<TopicName, usize> = BTreeMap::new();
    for topic in &request.topics {
        *counts.entry(topic.name.clone()).or_default() += 1;
    }
    let mut response = CreateTopicsResponse::default();
    for asked in request.topics {
        let name = asked.name.clone();
        let times = counts.get(&name).copied().unwrap_or_default();
        if times > 1 {
            // Kafka mentions a name that comes twice once.
            counts.insert(name.clone(), 0);
            let refusal = Refusal::new(ErrorCode::INVALID_REQUEST, "Duplicate topic name.");
            response.topics.push(refused(name, refusal));
        } else if times == 1 {
            let created = match cx.effects.partition_error(&name, -1, false) {
                Some(code) => Err(Refusal::new(code, code.to_string())),
                None => create(cx, asked, request.validate_only),
            };
            response.topics.push(created.unwrap_or_else(|refusal| refused(name, refusal)));
        }
    }
    Ok(response)
}

fn create(
    cx: &RequestContext<'_>,
    asked: CreatableTopic,
    validate_only: bool,
) -> Result<CreatableTopicResult, Refusal> {
    let assigned = asked.assignments.len();
    let assignments: BTreeMap<_, _> =
        asked.assignments.into_iter().map(|assignment| (assignment.partition_index, assignment.broker_ids)).collect();
    if assignments.len() != assigned {
        let message = "Found multiple manual partition assignments for a partition";
        return Err(Refusal::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, message));
    }
    let mut configs = BTreeMap::new();
    for config in asked.configs {
        let Some(value) = config.value else {
            let message = format!("Null value not supported for topic configs: {}", config.name);
            return Err(Refusal::new(ErrorCode::INVALID_CONFIG, message));
        };
        configs.insert(config.name.to_string(), value.to_string());
    }
    let new = NewTopic {
        name: asked.name,
        partitions: asked.num_partitions,
        replication_factor: asked.replication_factor,
        assignments,
        configs,
    };
    let topic = cx.core.cluster.create_topic(&new, validate_only)?;
    let details = if cx.version >= DETAILS { details(&topic) } else { CreatableTopicResult::default() };
    Ok(CreatableTopicResult { name: topic.name.clone(), topic_id: topic.id, error_message: None, ..details })
}

fn details(topic: &Topic) -> CreatableTopicResult {
    let partitions = topic.partitions();
    let factor = partitions.first().map_or(0, |partition| partition.lock().replicas.len());
    let configs = topic.configs.read().effective().into_iter().map(|config| CreatableTopicConfigs {
        name: config.key.name.into(),
        value: Some(config.value.into()),
        read_only: false,
        config_source: config.source,
        is_sensitive: false,
    });
    CreatableTopicResult {
        num_partitions: i32::try_from(partitions.len()).unwrap_or(i32::MAX),
        replication_factor: i16::try_from(factor).unwrap_or(i16::MAX),
        configs: Some(configs.collect()),
        ..Default::default()
    }
}

fn refused(name: TopicName, refusal: Refusal) -> CreatableTopicResult {
    CreatableTopicResult {
        name,
        error_code: refusal.code,
        error_message: Some(refusal.message.into()),
        // No configs and -1 are what Kafka sends beside an error.
        num_partitions: -1,
        replication_factor: -1,
        configs: Some(Vec::new()),
        ..Default::default()
    }
}
