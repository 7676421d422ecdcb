//! Metadata (3), versions 0–13: nodes, topics, partitions and their leaders.
//!
//! As Kafka, including auto-creation: a topic that this request creates is answered with UNKNOWN_TOPIC_OR_PARTITION and
//! is there for the next one. Unlike Kafka: all nodes know the same at the same moment, unless a fault says otherwise.

use std::sync::Arc;

use milena_protocol::{
    ErrorCode, NodeId, TopicName, Uuid, VersionRange,
    messages::{
        MetadataRequest, MetadataResponse,
        metadata_request::MetadataRequestTopic,
        metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic},
    },
};
use tracing::debug;

use super::{NoReply, RequestContext, Subject, operations};
use crate::{
    cluster::{ClusterImage, NewTopic, TopicImage, check_topic_name},
    fault::Touched,
};

pub(crate) const VERSIONS: VersionRange = VersionRange::new(0, 13);

/// From here on a client may ask by id alone.
const BY_ID: i16 = 12;

impl Subject for MetadataRequest {
    fn touched(&self, _cx: &RequestContext<'_>) -> Touched {
        let topics = self.topics.iter().flatten().filter_map(|topic| Some((topic.name.as_ref()?.to_string(), -1)));
        Touched { partitions: topics.collect(), key: None }
    }
}

pub(crate) async fn handle(cx: &RequestContext<'_>, request: MetadataRequest) -> Result<MetadataResponse, NoReply> {
    let cluster = &cx.core.cluster;
    // Version 0 has no null: an empty list means all topics there.
    let wanted = request.topics.filter(|topics| cx.version > 0 || !topics.is_empty());
    let image = match &cx.effects.stale_image {
        Some(image) => Arc::clone(image),
        None => {
            let names = wanted.as_ref().map(|topics| named(cx, topics));
            Arc::new(ClusterImage::of(cluster, names.as_deref()))
        }
    };
    let asked_operations = request.include_topic_authorized_operations;
    let topics = match wanted {
        None => image.topics.iter().map(|(name, topic)| describe(cx, name, topic, asked_operations)).collect(),
        Some(topics) => {
            let answer = |asked| answer_topic(cx, &image, asked, request.allow_auto_topic_creation, asked_operations);
            topics.into_iter().map(answer).collect()
        }
    };
    let brokers = image.nodes.iter().map(|&node_id| {
        let endpoint = cx.endpoint(node_id);
        let (host, port) = (endpoint.host.into(), i32::from(endpoint.port));
        MetadataResponseBroker { node_id, host, port, rack: cx.rack(node_id) }
    });
    Ok(MetadataResponse {
        brokers: brokers.collect(),
        cluster_id: Some(cluster.id.clone().into()),
        controller_id: image.controller,
        topics,
        cluster_authorized_operations: operations::of_cluster(request.include_cluster_authorized_operations),
        ..Default::default()
    })
}

/// The names of the topics asked for, those given by id resolved.
fn named(cx: &RequestContext<'_>, topics: &[MetadataRequestTopic]) -> Vec<TopicName> {
    let names = topics.iter().filter_map(|asked| match &asked.name {
        Some(name) => Some(name.clone()),
        None => cx.core.cluster.topic_by_id(asked.topic_id).map(|topic| topic.name.clone()),
    });
    names.collect()
}

fn answer_topic(
    cx: &RequestContext<'_>,
    image: &ClusterImage,
    asked: MetadataRequestTopic,
    may_create: bool,
    asked_operations: bool,
) -> MetadataResponseTopic {
    let MetadataRequestTopic { topic_id, name, .. } = asked;
    let Some(name) = name else {
        let found = image.topic_by_id(topic_id).filter(|_| cx.version >= BY_ID);
        return match found {
            Some((name, topic)) => describe(cx, name, topic, asked_operations),
            None if cx.version < BY_ID => failed(ErrorCode::INVALID_REQUEST, Some(TopicName::default()), topic_id),
            None => failed(ErrorCode::UNKNOWN_TOPIC_ID, None, topic_id),
        };
    };
    if let Some(code) = cx.effects.partition_error(&name, -1, false) {
        return failed(code, Some(name), Uuid::ZERO);
    }
    if let Some(topic) = image.topics.get(&name) {
        return describe(cx, &name, topic, asked_operations);
    }
    let legal = check_topic_name(&name).is_ok();
    if legal && may_create && cx.core.cluster.config.flag("auto.create.topics.enable") {
        create(cx, &name);
    }
    let code = if legal { ErrorCode::UNKNOWN_TOPIC_OR_PARTITION } else { ErrorCode::INVALID_TOPIC_EXCEPTION };
    failed(code, Some(name), Uuid::ZERO)
}

fn create(cx: &RequestContext<'_>, name: &TopicName) {
    let new = NewTopic { name: name.clone(), partitions: -1, replication_factor: -1, ..Default::default() };
    // Another client may have been faster, or the name collides: the next request will tell.
    if let Err(refusal) = cx.core.cluster.create_topic(&new, false) {
        debug!(topic = %name, code = %refusal.code, reason = refusal.message, "topic not created");
    }
}

fn failed(error_code: ErrorCode, name: Option<TopicName>, topic_id: Uuid) -> MetadataResponseTopic {
    MetadataResponseTopic { error_code, name, topic_id, ..Default::default() }
}

fn describe(
    cx: &RequestContext<'_>,
    name: &TopicName,
    topic: &TopicImage,
    asked_operations: bool,
) -> MetadataResponseTopic {
    let partitions = topic.partitions.iter().map(|partition| MetadataResponsePartition {
        error_code: match partition.leader {
            Some(_) => ErrorCode::NONE,
            None => ErrorCode::LEADER_NOT_AVAILABLE,
        },
        partition_index: partition.index,
        leader_id: partition.leader.unwrap_or(NodeId(-1)),
        leader_epoch: partition.leader_epoch,
        replica_nodes: partition.replicas.clone(),
        isr_nodes: partition.in_sync.clone(),
        offline_replicas: partition.offline.clone(),
    });
    MetadataResponseTopic {
        error_code: cx.effects.partition_error(name, -1, false).unwrap_or(ErrorCode::NONE),
        name: Some(name.clone()),
        topic_id: topic.id,
        is_internal: false,
        partitions: partitions.collect(),
        topic_authorized_operations: operations::of_topic(asked_operations),
    }
}
