//! OffsetCommit (8), versions 2–10: stores a group's offsets. As Kafka, but offsets never expire.

use milena_protocol::{
    ErrorCode, VersionRange,
    messages::{
        OffsetCommitRequest, OffsetCommitResponse,
        offset_commit_request::OffsetCommitRequestTopic,
        offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic},
    },
};

use super::{NoReply, RequestContext, Subject, group_access};
use crate::{
    fault::Touched,
    group::{Caller, offsets::CommittedOffset},
};

pub(crate) const VERSIONS: VersionRange = VersionRange::new(2, 10);

/// From here on a topic is given by its id.
const TOPIC_IDS: i16 = 10;

impl Subject for OffsetCommitRequest {
    fn touched(&self, _cx: &RequestContext<'_>) -> Touched {
        Touched { partitions: Vec::new(), key: Some(self.group_id.to_string()) }
    }

    fn reply_size(response: &OffsetCommitResponse) -> usize {
        64 + response.topics.iter().map(|topic| 64 + topic.name.len() + topic.partitions.len() * 8).sum::<usize>()
    }
}

pub(crate) async fn handle(
    cx: &RequestContext<'_>,
    request: OffsetCommitRequest,
) -> Result<OffsetCommitResponse, NoReply> {
    let caller = Caller {
        member_id: &request.member_id,
        group_instance_id: request.group_instance_id.as_deref(),
        generation_id: request.generation_id_or_member_epoch,
    };
    let allowed = group_access::check(cx, &request.group_id)
        .and_then(|()| cx.core.groups.check_commit(&request.group_id, caller));
    let commit = |topic| commit_topic(cx, &request.group_id, allowed, topic);
    let topics = request.topics.into_iter().map(commit).collect();
    Ok(OffsetCommitResponse { topics, ..OffsetCommitResponse::default() })
}

fn commit_topic(
    cx: &RequestContext<'_>,
    group_id: &str,
    allowed: Result<(), ErrorCode>,
    topic: OffsetCommitRequestTopic,
) -> OffsetCommitResponseTopic {
    let known = cx.core.cluster.resolve(&topic.name, topic.topic_id, cx.version >= TOPIC_IDS);
    let commit = |partition: &milena_protocol::messages::offset_commit_request::OffsetCommitRequestPartition| {
        allowed?;
        let known = known.as_ref().map_err(|error| *error)?;
        known.partition(partition.partition_index).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        let committed = CommittedOffset {
            offset: partition.committed_offset,
            leader_epoch: partition.committed_leader_epoch,
            metadata: partition.committed_metadata.as_ref().map(ToString::to_string).unwrap_or_default(),
        };
        Ok(cx.core.groups.commit(group_id, &known.name, partition.partition_index, committed))
    };
    let partitions = topic.partitions.iter().map(|partition| OffsetCommitResponsePartition {
        partition_index: partition.partition_index,
        error_code: commit(partition).unwrap_or_else(|error: ErrorCode| error),
    });
    let partitions = partitions.collect();
    OffsetCommitResponseTopic { name: topic.name, topic_id: topic.topic_id, partitions }
}
