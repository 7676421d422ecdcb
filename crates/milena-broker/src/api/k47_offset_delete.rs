//! OffsetDelete (47), version 0: deletes committed offsets of topics that no member is subscribed to (KIP-496).

use std::collections::BTreeSet;

use milena_protocol::{
    Decode as _, ErrorCode, VersionRange,
    messages::{
        ConsumerProtocolSubscription, OffsetDeleteRequest, OffsetDeleteResponse,
        offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic},
    },
};

use super::{NoReply, RequestContext, Subject, group_access};
use crate::{fault::Touched, group::GroupDescription};

pub(crate) const VERSIONS: VersionRange = VersionRange::new(0, 0);

impl Subject for OffsetDeleteRequest {
    fn touched(&self, _cx: &RequestContext<'_>) -> Touched {
        Touched { partitions: Vec::new(), key: Some(self.group_id.to_string()) }
    }
}

pub(crate) async fn handle(
    cx: &RequestContext<'_>,
    request: OffsetDeleteRequest,
) -> Result<OffsetDeleteResponse, NoReply> {
    let mut response = OffsetDeleteResponse::default();
    let group = match group_access::check(cx, &request.group_id) {
        Err(error) => Err(error),
        Ok(()) => cx.core.groups.describe(&request.group_id).ok_or(ErrorCode::GROUP_ID_NOT_FOUND),
    };
    let group = match group {
        Ok(group) => group,
        Err(error) => {
            response.error_code = error;
            return Ok(response);
        }
    };
    let read = subscribed_topics(&group);
    let topics = request.topics.into_iter().map(|topic| {
        let subscribed = read.as_ref().is_none_or(|read| read.contains(&*topic.name));
        let delete = |index: i32| {
            if cx.core.cluster.partition(&topic.name, index).is_err() {
                return ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
            }
            if subscribed {
                return ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC;
            }
            cx.core.groups.delete_offset(&request.group_id, &topic.name, index);
            ErrorCode::NONE
        };
        let partitions = topic.partitions.iter().map(|partition| OffsetDeleteResponsePartition {
            partition_index: partition.partition_index,
            error_code: delete(partition.partition_index),
        });
        OffsetDeleteResponseTopic { partitions: partitions.collect(), name: topic.name.clone() }
    });
    response.topics = topics.collect();
    Ok(response)
}

/// The topics that members read. `None` while they agree on nothing, or a subscription can't be read: every topic counts
/// as subscribed then, since deleting the offset of a topic that somebody reads is what must not happen.
fn subscribed_topics(group: &GroupDescription) -> Option<BTreeSet<String>> {
    if group.members.is_empty() {
        return Some(BTreeSet::new());
    }
    if group.state != "Stable" || group.protocol_type != "consumer" {
        return None;
    }
    let mut topics = BTreeSet::new();
    for member in &group.members {
        let mut blob = member.metadata.clone();
        let version = if blob.len() >= 2 { bytes::Buf::get_i16(&mut blob).clamp(0, 3) } else { return None };
        let subscription = ConsumerProtocolSubscription::decode(version, &mut blob).ok()?;
        topics.extend(subscription.topics.iter().map(ToString::to_string));
    }
    Some(topics)
}
