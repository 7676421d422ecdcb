//! ListOffsets (2), versions 1–11: offsets by time, and the ends of the log.
//!
//! As Kafka, including the special timestamps: latest (-1), earliest (-2), maximum timestamp (-3), earliest local (-4,
//! the log start, as nothing is tiered), latest tiered (-5) and earliest pending upload (-6), both of which find nothing.

use std::sync::Arc;

use milena_protocol::{
    ErrorCode, VersionRange,
    messages::{
        ListOffsetsRequest, ListOffsetsResponse,
        list_offsets_request::ListOffsetsPartition,
        list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse},
    },
};

use super::{NoReply, RequestContext, Subject};
use crate::{cluster::Partition, fault::Touched, log::Isolation};

pub(crate) const VERSIONS: VersionRange = VersionRange::new(1, 11);

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;

impl Subject for ListOffsetsRequest {
    fn touched(&self, _cx: &RequestContext<'_>) -> Touched {
        let partitions = self.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|partition| (topic.name.to_string(), partition.partition_index))
        });
        Touched { partitions: partitions.collect(), key: None }
    }
}

/// Timestamp, offset and leader epoch; all -1 for "nothing found".
type Found = (i64, i64, i32);
const NOTHING: Found = (-1, -1, -1);

pub(crate) async fn handle(
    cx: &RequestContext<'_>,
    request: ListOffsetsRequest,
) -> Result<ListOffsetsResponse, NoReply> {
    let isolation = Isolation::from_wire(request.isolation_level);
    let mut response = ListOffsetsResponse::default();
    for topic in request.topics {
        let partitions = topic.partitions.iter().map(|asked| {
            let looked_up = match cx.effects.partition_error(&topic.name, asked.partition_index, false) {
                Some(code) => Err(code),
                None => look_up(cx, &topic.name, asked, isolation),
            };
            let (error_code, (timestamp, offset, leader_epoch)) = match looked_up {
                Ok(found) => (ErrorCode::NONE, found),
                Err(code) => (code, NOTHING),
            };
            // Versions before 4 have no epoch.
            let leader_epoch = if cx.version >= 4 { leader_epoch } else { -1 };
            ListOffsetsPartitionResponse {
                partition_index: asked.partition_index,
                error_code,
                timestamp,
                offset,
                leader_epoch,
            }
        });
        let partitions = partitions.collect();
        response.topics.push(ListOffsetsTopicResponse { name: topic.name, partitions });
    }
    Ok(response)
}

fn look_up(
    cx: &RequestContext<'_>,
    topic: &str,
    asked: &ListOffsetsPartition,
    isolation: Isolation,
) -> Result<Found, ErrorCode> {
    let partition = cx.core.cluster.partition(topic, asked.partition_index)?;
    let state = partition.lock();
    state.check_leader(cx.node, asked.current_leader_epoch)?;
    let log = &state.log;
    let epoch = |epoch: Option<i32>| epoch.unwrap_or(-1);
    match asked.timestamp {
        LATEST => Ok((-1, log.visible_end(isolation), epoch(log.latest_epoch()))),
        EARLIEST => Ok((-1, log.start_offset(), epoch(log.earliest_epoch()))),
        EARLIEST_LOCAL if cx.version >= 8 => Ok((-1, log.start_offset(), epoch(log.earliest_epoch()))),
        LATEST_TIERED if cx.version >= 9 => Ok(NOTHING),
        EARLIEST_PENDING_UPLOAD if cx.version >= 11 => Ok(NOTHING),
        MAX_TIMESTAMP if cx.version >= 7 => {
            let batch = log.batch_with_max_timestamp();
            let from = log.start_offset();
            drop(state);
            let found = batch.and_then(|batch| batch.find_timestamp(batch.max_timestamp(), from));
            Ok(with_epoch(&partition, found, isolation))
        }
        timestamp if timestamp < 0 => Err(ErrorCode::UNSUPPORTED_VERSION),
        timestamp => {
            let mut from = log.start_offset();
            drop(state);
            // A batch may only claim to hold such a timestamp; then the next one is searched.
            let found = loop {
                let Some(batch) = partition.lock().log.batch_for_timestamp(timestamp, from) else { break None };
                match batch.find_timestamp(timestamp, from) {
                    Some(found) => break Some(found),
                    None => from = batch.next_offset(),
                }
            };
            Ok(with_epoch(&partition, found, isolation))
        }
    }
}

/// Adds the epoch to what was found, unless it lies beyond what the client may see.
fn with_epoch(partition: &Arc<Partition>, found: Option<(i64, i64)>, isolation: Isolation) -> Found {
    let state = partition.lock();
    match found {
        Some((timestamp, offset)) if offset < state.log.visible_end(isolation) => {
            (timestamp, offset, state.log.epoch_at(offset).unwrap_or(-1))
        }
        _ => NOTHING,
    }
}
