//! OffsetForLeaderEpoch (23), versions 2–4: where a leader epoch ended (KIP-320).
//!
//! As Kafka. Followers do not ask here: there are none.

use milena_protocol::{
    ErrorCode, VersionRange,
    messages::{
        OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
        offset_for_leader_epoch_request::OffsetForLeaderPartition,
        offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult},
    },
};

use super::{NoReply, RequestContext, Subject};
use crate::fault::Touched;

pub(crate) const VERSIONS: VersionRange = VersionRange::new(2, 4);

impl Subject for OffsetForLeaderEpochRequest {
    fn touched(&self, _cx: &RequestContext<'_>) -> Touched {
        let partitions = self
            .topics
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|partition| (topic.topic.to_string(), partition.partition)));
        Touched { partitions: partitions.collect(), key: None }
    }
}

pub(crate) async fn handle(
    cx: &RequestContext<'_>,
    request: OffsetForLeaderEpochRequest,
) -> Result<OffsetForLeaderEpochResponse, NoReply> {
    let mut response = OffsetForLeaderEpochResponse::default();
    for topic in request.topics {
        let partitions = topic.partitions.iter().map(|asked| {
            let (error_code, leader_epoch, end_offset) = match end_of_epoch(cx, &topic.topic, asked) {
                Ok((epoch, offset)) => (ErrorCode::NONE, epoch, offset),
                Err(code) => (code, -1, -1),
            };
            EpochEndOffset { error_code, partition: asked.partition, leader_epoch, end_offset }
        });
        let partitions = partitions.collect();
        response.topics.push(OffsetForLeaderTopicResult { topic: topic.topic, partitions });
    }
    Ok(response)
}

fn end_of_epoch(
    cx: &RequestContext<'_>,
    topic: &str,
    asked: &OffsetForLeaderPartition,
) -> Result<(i32, i64), ErrorCode> {
    if let Some(code) = cx.effects.partition_error(topic, asked.partition, false) {
        return Err(code);
    }
    let partition = cx.core.cluster.partition(topic, asked.partition)?;
    let state = partition.lock();
    state.check_leader(cx.node, asked.current_leader_epoch)?;
    Ok(state.log.end_offset_for_epoch(asked.leader_epoch))
}
