//! DeleteTopics (20), versions 1–6: takes topics away, by name or (from 6) by id.
//!
//! As Kafka, but that the topic is gone when the answer is there.

use std::collections::BTreeSet;

use milena_protocol::{
    ErrorCode, TopicName, Uuid, VersionRange,
    messages::{
        DeleteTopicsRequest, DeleteTopicsResponse, delete_topics_request::DeleteTopicState,
        delete_topics_response::DeletableTopicResult,
    },
};

use super::{NoReply, RequestContext, Subject};
use crate::{cluster::Refusal, fault::Touched};

pub(crate) const VERSIONS: VersionRange = VersionRange::new(1, 6);

/// From here on topics may be given by id.
const BY_ID: i16 = 6;

impl Subject for DeleteTopicsRequest {
    fn touched(&self, _cx: &RequestContext<'_>) -> Touched {
        let named = self.topics.iter().filter_map(|topic| topic.name.as_ref());
        let topics = named.chain(&self.topic_names).map(|name| (name.to_string(), -1));
        Touched { partitions: topics.collect(), key: None }
    }
}

pub(crate) async fn handle(
    cx: &RequestContext<'_>,
    request: DeleteTopicsRequest,
) -> Result<DeleteTopicsResponse, NoReply> {
    let asked = if cx.version >= BY_ID {
        request.topics
    } else {
        let names = request.topic_names.into_iter();
        names.map(|name| DeleteTopicState { name: Some(name), ..Default::default() }).collect()
    };
    let mut response = DeleteTopicsResponse::default();
    let (mut once, mut twice) = (BTreeSet::new(), BTreeSet::new());
    for name in asked.iter().map(|topic| &topic.name).filter(|name| name.is_some()) {
        if !once.insert(name) {
            twice.insert(name.clone());
        }
    }
    for name in &twice {
        response.responses.push(DeletableTopicResult {
            name: name.clone(),
            error_code: ErrorCode::INVALID_REQUEST,
            error_message: Some("Duplicate topic name.".into()),
            ..Default::default()
        });
    }
    for topic in asked.into_iter().filter(|topic| !twice.contains(&topic.name)) {
        let (name, topic_id, deleted) = delete(cx, topic);
        let (error_code, error_message) = match deleted {
            Ok(()) => (ErrorCode::NONE, None),
            Err(refusal) => (refusal.code, Some(refusal.message.into())),
        };
        response.responses.push(DeletableTopicResult { name, topic_id, error_code, error_message });
    }
    Ok(response)
}

fn delete(cx: &RequestContext<'_>, asked: DeleteTopicState) -> (Option<TopicName>, Uuid, Result<(), Refusal>) {
    let cluster = &cx.core.cluster;
    let invalid = match (&asked.name, asked.topic_id.is_zero()) {
        (Some(_), false) => Some("You may not specify both topic name and topic id."),
        (None, true) => Some("Neither topic name nor id were specified."),
        _ => None,
    };
    if let Some(message) = invalid {
        return (asked.name, asked.topic_id, Err(Refusal::new(ErrorCode::INVALID_REQUEST, message)));
    }
    let (name, id) = match asked.name {
        Some(name) => (Some(name), Uuid::ZERO),
        None => (cluster.topic_by_id(asked.topic_id).map(|topic| topic.name.clone()), asked.topic_id),
    };
    let Some(name) = name else {
        let message = "This server does not host this topic ID.";
        return (None, id, Err(Refusal::new(ErrorCode::UNKNOWN_TOPIC_ID, message)));
    };
    if let Some(code) = cx.effects.partition_error(&name, -1, false) {
        return (Some(name), id, Err(Refusal::new(code, code.to_string())));
    }
    if !cluster.config.flag("delete.topic.enable") {
        let refusal = Refusal::new(ErrorCode::TOPIC_DELETION_DISABLED, "Topic deletion is disabled.");
        return (Some(name), id, Err(refusal));
    }
    match cluster.delete_topic(&name) {
        Some(topic) => {
            cx.core.groups.forget_topic(&name);
            (Some(name), topic.id, Ok(()))
        }
        None => {
            let message = "This server does not host this topic-partition.";
            (Some(name), id, Err(Refusal::new(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, message)))
        }
    }
}
