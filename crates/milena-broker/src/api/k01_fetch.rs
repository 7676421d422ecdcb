//! Fetch (1), versions 4–18: reads records, and waits for them.
//!
//! As Kafka: true long polls (minimum bytes, maximum wait, woken by appends, leader moves and deletions), sessions
//! (KIP-227) with rotation, at least one batch however large, byte limits that cut the last batch, isolation levels with
//! the aborted list, epoch checks and diverging epochs (KIP-320), topic ids from version 13, leader hints from version 12
//! (endpoints from 16), from version 11 a preferred replica for a client's rack and reads from replicas in sync (KIP-392).
//! Unlike Kafka: replicas never lag; a replica id is ignored.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use milena_protocol::{
    ErrorCode, NodeId, ProducerId, TopicName, VersionRange,
    messages::{
        FetchRequest, FetchResponse,
        fetch_response::{
            AbortedTransaction, EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
        },
    },
};
use tokio::{sync::Notify, time::timeout_at};

use super::{NoReply, RequestContext, Subject};
use crate::{
    cluster::{Partition, PartitionState},
    fault::Touched,
    fetch_session::{FetchContext, Seen, Wanted},
    log::{Isolation, ReadResult, UNDEFINED_EPOCH, UNDEFINED_OFFSET},
};

pub(crate) const VERSIONS: VersionRange = VersionRange::new(4, 18);

/// From here on the answer has an error of its own, and sessions exist.
const SESSIONS: i16 = 7;
/// From here on a topic is given by its id.
const TOPIC_IDS: i16 = 13;
/// From here on replicas serve clients.
const REPLICAS: i16 = 11;
/// From here on answers say who leads.
const LEADER_HINTS: i16 = 12;
/// From here on they say where the leader is, too.
const LEADER_ENDPOINTS: i16 = 16;

impl Subject for FetchRequest {
    fn touched(&self, cx: &RequestContext<'_>) -> Touched {
        let asked = self.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|partition| (topic.topic.clone(), topic.topic_id, partition.partition))
        });
        let remembered = cx.core.with_fetch_sessions(cx.node, |sessions| sessions.partitions(self.session_id));
        let all: BTreeSet<_> = asked.chain(remembered.unwrap_or_default()).collect();
        let named = all.into_iter().map(|(name, id, partition)| {
            let topic = cx.core.cluster.resolve(&name, id, cx.version >= TOPIC_IDS);
            (topic.map_or_else(|_| name.to_string(), |topic| topic.name.to_string()), partition)
        });
        Touched { partitions: named.collect(), key: None }
    }

    fn reply_size(response: &FetchResponse) -> usize {
        let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
        256 + partitions.map(|data| 128 + data.records.as_ref().map_or(0, Bytes::len)).sum::<usize>()
    }
}

/// What was read of one partition.
#[derive(Default)]
struct PartitionRead {
    error: ErrorCode,
    /// The partition isn't there.
    missing: bool,
    high_watermark: i64,
    last_stable_offset: i64,
    log_start_offset: i64,
    result: ReadResult,
    diverging: Option<(i32, i64)>,
    /// Leader and epoch, for a client that asked the wrong node or with an old epoch; not for one that knows more.
    leader: Option<(NodeId, i32)>,
    /// The replica to read from instead.
    preferred: Option<NodeId>,
}

impl PartitionRead {
    fn failed(error: ErrorCode) -> Self {
        Self { error, high_watermark: -1, last_stable_offset: -1, log_start_offset: -1, ..Default::default() }
    }

    /// Read from that replica instead, unless something is wrong.
    fn sent_to(self, replica: NodeId) -> Self {
        let is_sound = !self.error.is_error() && self.diverging.is_none();
        Self { preferred: is_sound.then_some(replica), ..self }
    }

    /// A partition that isn't there: Kafka sends an empty list of aborted transactions then, else a null one.
    fn missing(error: ErrorCode) -> Self {
        let mut read = Self { missing: true, ..Self::failed(error) };
        read.result.aborted = Some(Vec::new());
        read
    }
}

pub(crate) async fn handle(cx: &RequestContext<'_>, request: FetchRequest) -> Result<FetchResponse, NoReply> {
    let core = cx.core;
    let begun = core.with_fetch_sessions(cx.node, |sessions| {
        if cx.effects.evict_session {
            sessions.evict(request.session_id);
        }
        sessions.begin(&request, cx.version >= TOPIC_IDS, core.clock.now())
    });
    let session_error = cx.effects.error().filter(|code| is_session_error(*code));
    let context = match (begun, session_error) {
        (_, Some(error_code)) => return Ok(FetchResponse { error_code, ..Default::default() }),
        (Some(Ok(context)), None) => context,
        (Some(Err(error_code)), None) => return Ok(FetchResponse { error_code, ..Default::default() }),
        (None, None) => return Ok(FetchResponse { error_code: ErrorCode::UNKNOWN_SERVER_ERROR, ..Default::default() }),
    };
    let reads = read_until_satisfied(cx, &request, &context).await;
    Ok(respond(cx, &context, &reads))
}

/// Errors that stand for the whole answer.
fn is_session_error(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::FETCH_SESSION_ID_NOT_FOUND
            | ErrorCode::INVALID_FETCH_SESSION_EPOCH
            | ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR
    )
}

/// Reads at once and, if that is too little, again with each change, until there is enough or the wait is over.
async fn read_until_satisfied(
    cx: &RequestContext<'_>,
    request: &FetchRequest,
    context: &FetchContext,
) -> Vec<PartitionRead> {
    let limit = request.max_bytes.min(cx.core.cluster.config.int("fetch.max.bytes"));
    let limit = usize::try_from(limit).unwrap_or(0);
    let min_bytes = usize::try_from(request.min_bytes).unwrap_or(0).min(limit);
    let isolation = Isolation::from_wire(request.isolation_level);
    let rack = request.rack_id.as_str();
    let reads = read_all(cx, context, isolation, limit, rack);
    // What isn't there is told of, but does not cut the wait for the others short.
    let present: Vec<bool> = reads.iter().map(|read| !read.missing).collect();
    let enough = |reads: &[PartitionRead]| {
        let bytes: usize = reads.iter().map(|read| read.result.records.len()).sum();
        let ends_wait =
            |read: &PartitionRead| read.error.is_error() || read.diverging.is_some() || read.preferred.is_some();
        bytes >= min_bytes || reads.iter().zip(&present).any(|(read, present)| *present && ends_wait(read))
    };
    if request.max_wait_ms <= 0 || !present.contains(&true) || enough(&reads) {
        return reads;
    }
    let max_wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let deadline = cx.core.clock.now() + max_wait;
    let waiter = Arc::new(Notify::new());
    for wanted in &context.wanted {
        if let Ok((_, partition)) = find(cx, wanted) {
            partition.register(&waiter);
        }
    }
    loop {
        // Registered before this read: what comes after it leaves a permit in the waiter.
        let reads = read_all(cx, context, isolation, limit, rack);
        if enough(&reads) || timeout_at(deadline, waiter.notified()).await.is_err() {
            return reads;
        }
    }
}

fn find(cx: &RequestContext<'_>, wanted: &Wanted) -> Result<(TopicName, Arc<Partition>), ErrorCode> {
    let topic = cx.core.cluster.resolve(&wanted.topic, wanted.topic_id, cx.version >= TOPIC_IDS)?;
    let partition = topic.partition(wanted.partition).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    Ok((topic.name.clone(), partition))
}

fn read_all(
    cx: &RequestContext<'_>,
    context: &FetchContext,
    isolation: Isolation,
    limit: usize,
    rack: &str,
) -> Vec<PartitionRead> {
    let mut room = limit;
    let mut nothing_yet = true;
    let mut reads = Vec::with_capacity(context.wanted.len());
    for wanted in &context.wanted {
        let read = match find(cx, wanted) {
            Err(code) => PartitionRead::missing(code),
            Ok((topic, partition)) => match cx.effects.partition_error(&topic, wanted.partition, false) {
                Some(code) => PartitionRead::failed(code),
                None => {
                    let state = partition.lock();
                    let is_leader = state.leader == Some(cx.node) && cx.version >= REPLICAS;
                    match cx.core.cluster.preferred_replica(&state, rack).filter(|_| is_leader) {
                        // As Kafka: the leader has no records for whom another is to serve.
                        Some(preferred) => read_one(cx, &state, wanted, isolation, 0, false).sent_to(preferred),
                        None => read_one(cx, &state, wanted, isolation, room, nothing_yet),
                    }
                }
            },
        };
        let bytes = read.result.records.len();
        nothing_yet &= bytes == 0;
        room = room.saturating_sub(bytes);
        reads.push(read);
    }
    reads
}

fn read_one(
    cx: &RequestContext<'_>,
    state: &PartitionState,
    wanted: &Wanted,
    isolation: Isolation,
    room: usize,
    at_least_one: bool,
) -> PartitionRead {
    let check = if cx.version >= REPLICAS { PartitionState::check_reader } else { PartitionState::check_leader };
    if let Err(code) = check(state, cx.node, wanted.current_leader_epoch) {
        let stale = code != ErrorCode::UNKNOWN_LEADER_EPOCH;
        let leader = state.leader.filter(|_| stale).map(|leader| (leader, state.leader_epoch));
        return PartitionRead { leader, ..PartitionRead::failed(code) };
    }
    let log = &state.log;
    let mut read = PartitionRead {
        high_watermark: log.high_watermark(),
        last_stable_offset: log.last_stable_offset(),
        log_start_offset: log.start_offset(),
        ..Default::default()
    };
    if wanted.last_fetched_epoch >= 0 {
        let (epoch, end_offset) = log.end_offset_for_epoch(wanted.last_fetched_epoch);
        if epoch == UNDEFINED_EPOCH || end_offset == UNDEFINED_OFFSET {
            return PartitionRead::failed(ErrorCode::OFFSET_OUT_OF_RANGE);
        }
        if epoch < wanted.last_fetched_epoch || end_offset < wanted.fetch_offset {
            read.diverging = Some((epoch, end_offset));
            return read;
        }
    }
    let max_bytes = usize::try_from(wanted.max_bytes).unwrap_or(0).min(room);
    match log.read(wanted.fetch_offset, isolation, max_bytes, at_least_one) {
        Ok(result) => PartitionRead { result, ..read },
        Err(code) => PartitionRead::failed(code),
    }
}

fn respond(cx: &RequestContext<'_>, context: &FetchContext, reads: &[PartitionRead]) -> FetchResponse {
    let seen: Vec<Seen> = reads
        .iter()
        .map(|read| Seen {
            failed: read.error.is_error(),
            has_records: read.result.records.len() > 0,
            diverging: read.diverging.is_some() || read.preferred.is_some(),
            high_watermark: read.high_watermark,
            log_start_offset: read.log_start_offset,
        })
        .collect();
    let finished = cx.core.with_fetch_sessions(cx.node, |sessions| {
        let draw = || cx.core.cluster.random_i32(1..i32::MAX);
        if cx.version < SESSIONS {
            return (0, vec![true; seen.len()]);
        }
        sessions.finish(context, &seen, cx.core.clock.now(), draw)
    });
    let (session_id, mention) = finished.unwrap_or_default();
    let mut response = FetchResponse { session_id, ..Default::default() };
    let mut leaders = BTreeSet::new();
    for ((wanted, read), mention) in context.wanted.iter().zip(reads).zip(mention) {
        if !mention {
            continue;
        }
        let data = partition_data(cx, wanted.partition, read);
        if cx.version >= LEADER_ENDPOINTS && data.current_leader.leader_id.0 >= 0 {
            leaders.insert(data.current_leader.leader_id);
        }
        match response.responses.last_mut() {
            Some(last) if last.topic == wanted.topic && last.topic_id == wanted.topic_id => last.partitions.push(data),
            _ => response.responses.push(FetchableTopicResponse {
                topic: wanted.topic.clone(),
                topic_id: wanted.topic_id,
                partitions: vec![data],
            }),
        }
    }
    for node_id in leaders {
        let endpoint = cx.endpoint(node_id);
        let (host, port) = (endpoint.host.into(), i32::from(endpoint.port));
        response.node_endpoints.push(NodeEndpoint { node_id, host, port, rack: cx.rack(node_id) });
    }
    response
}

fn partition_data(cx: &RequestContext<'_>, partition_index: i32, read: &PartitionRead) -> PartitionData {
    let aborted = read.result.aborted.as_ref().map(|aborted| {
        let entries = aborted
            .iter()
            .map(|txn| AbortedTransaction { producer_id: ProducerId(txn.producer_id), first_offset: txn.first_offset });
        entries.collect()
    });
    let mut data = PartitionData {
        partition_index,
        error_code: read.error,
        high_watermark: read.high_watermark,
        last_stable_offset: read.last_stable_offset,
        log_start_offset: read.log_start_offset,
        aborted_transactions: aborted,
        records: Some(read.result.records.to_bytes()),
        ..Default::default()
    };
    if let Some(replica) = read.preferred {
        data.preferred_read_replica = replica;
    }
    if cx.version >= LEADER_HINTS {
        if let Some((leader_id, leader_epoch)) = read.leader {
            data.current_leader = LeaderIdAndEpoch { leader_id, leader_epoch };
        }
        if let Some((epoch, end_offset)) = read.diverging {
            data.diverging_epoch = EpochEndOffset { epoch, end_offset };
        }
    }
    data
}
