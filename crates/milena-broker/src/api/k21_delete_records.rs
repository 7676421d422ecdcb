//! DeleteRecords (21), versions 0–2: raises the log start offset.
//!
//! As Kafka; offset -1 means the high watermark, and a topic that is only compacted refuses.

use milena_protocol::{
    ErrorCode, VersionRange,
    messages::{
        DeleteRecordsRequest, DeleteRecordsResponse,
        delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult},
    },
};

use super::{NoReply, RequestContext, Subject};
use crate::fault::Touched;

pub(crate) const VERSIONS: VersionRange = VersionRange::new(0, 2);

impl Subject for DeleteRecordsRequest {
    fn touched(&self, _cx: &RequestContext<'_>) -> Touched {
        let partitions = self.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|partition| (topic.name.to_string(), partition.partition_index))
        });
        Touched { partitions: partitions.collect(), key: None }
    }
}

pub(crate) async fn handle(
    cx: &RequestContext<'_>,
    request: DeleteRecordsRequest,
) -> Result<DeleteRecordsResponse, NoReply> {
    let mut response = DeleteRecordsResponse::default();
    for topic in request.topics {
        let partitions = topic.partitions.iter().map(|asked| {
            let deleted = delete_records(cx, &topic.name, asked.partition_index, asked.offset);
            let (low_watermark, error_code) = match deleted {
                Ok(low_watermark) => (low_watermark, ErrorCode::NONE),
                Err(code) => (-1, code),
            };
            DeleteRecordsPartitionResult { partition_index: asked.partition_index, low_watermark, error_code }
        });
        let partitions = partitions.collect();
        response.topics.push(DeleteRecordsTopicResult { name: topic.name, partitions });
    }
    Ok(response)
}

fn delete_records(cx: &RequestContext<'_>, topic: &str, index: i32, offset: i64) -> Result<i64, ErrorCode> {
    if let Some(code) = cx.effects.partition_error(topic, index, false) {
        return Err(code);
    }
    let partition = cx.core.cluster.partition(topic, index)?;
    let deletes = cx.core.cluster.topic(topic).is_none_or(|topic| topic.configs.read().settings().deletes);
    let low_watermark = {
        let mut state = partition.lock();
        state.check_leader(cx.node, -1)?;
        if !deletes {
            return Err(ErrorCode::POLICY_VIOLATION);
        }
        let target = if offset == -1 { state.log.high_watermark() } else { offset };
        state.log.delete_before(target)?
    };
    partition.wake();
    Ok(low_watermark)
}
