//! Produce (0), versions 3–13: appends one batch per partition.
//!
//! As Kafka: batches are checked (CRC, records, timestamps, size), idempotence is enforced, NOT_LEADER answers carry the
//! new leader from version 10 (KIP-951), topics go by id from version 13 (KIP-516), a failed `acks=0` request closes the
//! connection. Unlike Kafka: replication is instant, so `acks=all` waits for nobody, though `min.insync.replicas` is
//! enforced; a topic's `compression.type` is not, batches stay as they were compressed. Attributes that Kafka doesn't know,
//! and record offsets inside a batch that don't rise, are refused; null records are refused where Kafka never answers; a
//! transaction's partitions need not have been added to it.

use std::collections::BTreeSet;

use milena_protocol::{
    ErrorCode, NodeId, VersionRange,
    messages::{
        ProduceRequest, ProduceResponse,
        produce_request::PartitionProduceData,
        produce_response::{
            BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
        },
    },
};

use tracing::debug;

use super::{Disconnect, NoReply, RequestContext, Subject};
use crate::{
    cluster::{PartitionState, Topic},
    fault::Touched,
    log::{Appended, BatchRules, RejectedBatch, check_produced, check_transactional, only_batch},
};

pub(crate) const VERSIONS: VersionRange = VersionRange::new(3, 13);

/// From here on a topic is given by its id.
const TOPIC_IDS: i16 = 13;
/// From here on NOT_LEADER answers say who leads.
const LEADER_HINTS: i16 = 10;
/// From here on batches may be compressed with zstd.
const ZSTD: i16 = 7;

impl Subject for ProduceRequest {
    fn touched(&self, cx: &RequestContext<'_>) -> Touched {
        let partitions = self.topic_data.iter().flat_map(|data| {
            let topic = cx.core.cluster.resolve(&data.name, data.topic_id, cx.version >= TOPIC_IDS);
            let name = topic.map_or_else(|_| data.name.to_string(), |topic| topic.name.to_string());
            data.partition_data.iter().map(move |partition| (name.clone(), partition.index))
        });
        Touched { partitions: partitions.collect(), key: self.transactional_id.as_deref().map(str::to_owned) }
    }
}

/// What became of one partition's batch.
struct Outcome {
    result: Result<Appended, RejectedBatch>,
    /// Where the batch was appended, if an error came after that.
    base_offset: i64,
    log_start_offset: i64,
    /// Leader and epoch, for a client that asked the wrong node.
    leader: Option<(NodeId, i32)>,
}

impl Outcome {
    fn refused(code: ErrorCode) -> Self {
        Self::rejected(RejectedBatch::at_once(code, ""))
    }

    fn rejected(rejected: RejectedBatch) -> Self {
        Self { result: Err(rejected), base_offset: -1, log_start_offset: -1, leader: None }
    }
}

pub(crate) async fn handle(cx: &RequestContext<'_>, request: ProduceRequest) -> Result<ProduceResponse, NoReply> {
    let mut response = ProduceResponse::default();
    let mut leaders = BTreeSet::new();
    let mut failed = false;
    let refused = refuses_all(&request);
    for data in request.topic_data {
        let topic = cx.core.cluster.resolve(&data.name, data.topic_id, cx.version >= TOPIC_IDS);
        let mut partition_responses = Vec::with_capacity(data.partition_data.len());
        for partition in data.partition_data {
            let index = partition.index;
            let outcome = match (&refused, &topic) {
                (Some(rejected), _) => Outcome::rejected(rejected.clone()),
                (None, Ok(_)) if !(-1..=1).contains(&request.acks) => {
                    Outcome::refused(ErrorCode::INVALID_REQUIRED_ACKS)
                }
                (None, Ok(topic)) => produce(cx, topic, partition, request.acks),
                (None, Err(code)) => Outcome::refused(*code),
            };
            failed |= outcome.result.is_err();
            if cx.version >= LEADER_HINTS {
                leaders.extend(outcome.leader.map(|(node, _)| node));
            }
            partition_responses.push(answer(cx, index, outcome));
        }
        response.responses.push(TopicProduceResponse { name: data.name, topic_id: data.topic_id, partition_responses });
    }
    if request.acks == 0 {
        return Err(if failed { Disconnect::UnackedFailure.into() } else { NoReply::NotWanted });
    }
    for node_id in leaders {
        let endpoint = cx.endpoint(node_id);
        let (host, port) = (endpoint.host.into(), i32::from(endpoint.port));
        response.node_endpoints.push(NodeEndpoint { node_id, host, port, rack: cx.rack(node_id) });
    }
    Ok(response)
}

/// Why Kafka refuses the request as a whole, if it does.
fn refuses_all(request: &ProduceRequest) -> Option<RejectedBatch> {
    let is_named = request.transactional_id.is_some();
    let mut partitions = request.topic_data.iter().flat_map(|topic| &topic.partition_data);
    partitions.find_map(|data| check_transactional(data.records.as_deref().unwrap_or_default(), is_named).err())
}

fn produce(cx: &RequestContext<'_>, topic: &Topic, data: PartitionProduceData, acks: i16) -> Outcome {
    if let Some(code) = cx.effects.partition_error(&topic.name, data.index, false) {
        return Outcome::refused(code);
    }
    let Some(partition) = topic.partition(data.index) else {
        return Outcome::refused(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    };
    let settings = topic.configs.read().settings();
    let now = cx.core.clock.wall_ms();
    let stamped = settings.log_append_time;
    let rules = BatchRules {
        max_bytes: settings.max_message_bytes,
        needs_keys: settings.compacted,
        log_append_time: stamped,
        earliest_timestamp: if stamped { i64::MIN } else { now.saturating_sub(settings.timestamp_before_max_ms) },
        latest_timestamp: if stamped { i64::MAX } else { now.saturating_add(settings.timestamp_after_max_ms) },
    };
    let refuse = |rejected: RejectedBatch| {
        debug!(topic = %topic.name, partition = data.index, code = %rejected.code, reason = rejected.message, "refused");
        let log_start_offset = if rejected.by_log { partition.lock().log.start_offset() } else { -1 };
        Outcome { log_start_offset, ..Outcome::rejected(rejected) }
    };
    let batch = match only_batch(data.records, cx.version >= ZSTD) {
        Ok(batch) => batch,
        Err(rejected) => return refuse(rejected),
    };
    let may_write = |state: &PartitionState| {
        if let Err(code) = state.check_leader(cx.node, -1) {
            let leader = state.leader.map(|leader| (leader, state.leader_epoch));
            return Err(Outcome { leader, ..Outcome::refused(code) });
        }
        if acks == -1 && state.in_sync.len() < settings.min_insync_replicas {
            return Err(Outcome::refused(ErrorCode::NOT_ENOUGH_REPLICAS));
        }
        Ok(())
    };
    // Who leads is asked before the batch is looked into, and again when it is written: inflating and checking happen
    // while the partition is not locked.
    if let Err(outcome) = may_write(&partition.lock()) {
        return outcome;
    }
    let batch = match check_produced(batch, &rules, format_args!("{}-{}", topic.name, data.index)) {
        Ok(batch) => batch,
        Err(rejected) => return refuse(rejected),
    };
    let outcome = {
        let mut state = partition.lock();
        if let Err(outcome) = may_write(&state) {
            return outcome;
        }
        let epoch = state.leader_epoch;
        match state.log.append(batch, epoch, stamped.then_some(now)) {
            Ok(appended) => Outcome {
                base_offset: appended.base_offset,
                result: Ok(appended),
                log_start_offset: state.log.start_offset(),
                leader: None,
            },
            Err(code) => Outcome { log_start_offset: state.log.start_offset(), ..Outcome::refused(code) },
        }
    };
    if outcome.result.as_ref().is_ok_and(|appended| !appended.duplicate) {
        partition.wake();
    }
    match cx.effects.partition_error(&topic.name, data.index, true) {
        // As in Kafka's delayed produce: the error is another one, and the offset stays.
        Some(code) => Outcome { result: Err(RejectedBatch::at_once(code, "")), ..outcome },
        None => outcome,
    }
}

fn answer(cx: &RequestContext<'_>, index: i32, outcome: Outcome) -> PartitionProduceResponse {
    let Outcome { base_offset, log_start_offset, .. } = outcome;
    match outcome.result {
        Ok(Appended { log_append_time, .. }) => PartitionProduceResponse {
            index,
            base_offset,
            log_append_time_ms: log_append_time,
            log_start_offset,
            ..Default::default()
        },
        Err(rejected) => {
            let error_message = rejected.told.then(|| rejected.message.clone().into());
            let record_errors = rejected.records.into_iter().map(|(batch_index, message)| BatchIndexAndErrorMessage {
                batch_index,
                batch_index_error_message: Some(message.into()),
            });
            let current_leader = match outcome.leader {
                Some((leader_id, leader_epoch)) if cx.version >= LEADER_HINTS => {
                    LeaderIdAndEpoch { leader_id, leader_epoch }
                }
                _ => LeaderIdAndEpoch::default(),
            };
            PartitionProduceResponse {
                index,
                error_code: rejected.code,
                base_offset,
                log_start_offset,
                record_errors: record_errors.collect(),
                error_message,
                current_leader,
                ..Default::default()
            }
        }
    }
}
