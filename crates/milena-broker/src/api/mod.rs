//! The requests this broker serves: one file per API key, and the table that joins them.
//!
//! **To add an API**: write `api/kNN_name.rs` with
//! - `pub(crate) const VERSIONS: VersionRange`, the versions served (its head says how they differ from Kafka's),
//! - `impl Subject for NameRequest`, so that fault rules can name its topics or its key,
//! - `pub(crate) async fn handle(cx: &RequestContext<'_>, request: NameRequest) -> Result<NameResponse, NoReply>`,
//!
//! then a line in `serve!` below. Versions are checked, bodies decoded and encoded, requests counted and faults applied
//! here; `handle` may ask [`Effects`] for the errors that rules inject into single partitions.
//!
//! **To park an answer** `handle` just awaits: its connection is muted meanwhile, as in Kafka, and other connections go
//! on. Await something that others complete (a `tokio::sync::Notify` or `oneshot` kept in shared state) inside
//! `tokio::time::timeout_at(deadline, …)`, with a deadline from `cx.core.clock.now()`. Register before looking at the
//! state, so that no wake-up is lost, and hold no lock while waiting. When the node stops, the future is dropped: what
//! must be undone then belongs into a guard's `Drop`.

mod group_access;
mod k00_produce;
mod k01_fetch;
mod k02_list_offsets;
mod k03_metadata;
mod k08_offset_commit;
mod k09_offset_fetch;
mod k10_find_coordinator;
mod k11_join_group;
mod k12_heartbeat;
mod k13_leave_group;
mod k14_sync_group;
mod k15_describe_groups;
mod k16_list_groups;
mod k18_api_versions;
mod k19_create_topics;
mod k20_delete_topics;
mod k21_delete_records;
mod k22_init_producer_id;
mod k23_offset_for_leader_epoch;
mod k32_describe_configs;
mod k37_create_partitions;
mod k42_delete_groups;
mod k44_incremental_alter_configs;
mod k46_list_partition_reassignments;
mod k47_offset_delete;
mod k60_describe_cluster;
mod k75_describe_topic_partitions;
mod operations;

use std::{io, sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use milena_protocol::{
    ApiKey, DecodeError, EncodeError, NodeId, Request, StrBytes, VersionRange,
    frame::{FrameError, decode_request_header, encode_response_header},
    messages,
};

use crate::{
    core::Core,
    fault::{Change, Effects, Touched},
    net::{Endpoint, Link},
};

/// What a handler knows of the request beside its body.
#[derive(Debug)]
pub(crate) struct RequestContext<'a> {
    pub(crate) core: &'a Arc<Core>,
    /// The node that was asked.
    pub(crate) node: NodeId,
    /// The connection it came by.
    pub(crate) link: &'a Link,
    pub(crate) version: i16,
    pub(crate) client_id: Option<StrBytes>,
    /// What fault rules want of this request.
    pub(crate) effects: Effects,
}

impl RequestContext<'_> {
    /// Where this client is told to find `node`.
    pub(crate) fn endpoint(&self, node: NodeId) -> Endpoint {
        self.core.endpoints.advertised(node, self.link.via)
    }

    /// The rack of `node`, if it has one.
    pub(crate) fn rack(&self, node: NodeId) -> Option<StrBytes> {
        self.core.cluster.rack(node).map(StrBytes::from)
    }
}

/// What a request is about, for fault rules, and how large its answer will be.
pub(crate) trait Subject: Request {
    /// The topics, partitions and key that it names. Asked only while there are fault rules.
    fn touched(&self, _cx: &RequestContext<'_>) -> Touched {
        Touched::default()
    }

    /// About how many bytes the answer takes.
    fn reply_size(_response: &Self::Response) -> usize {
        256
    }
}

/// An answer on its way out.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The whole frame, length prefix included.
    pub(crate) frame: Bytes,
    /// For how long the connection is muted afterwards (KIP-219).
    pub(crate) throttle: Duration,
    /// A fault: close the connection after this many bytes.
    pub(crate) cut_after: Option<usize>,
}

/// Why a request is not answered.
#[derive(Debug)]
pub(crate) enum NoReply {
    /// The client wants none (`acks=0`).
    NotWanted,
    /// The connection ends.
    Close(Disconnect),
}

impl From<Disconnect> for NoReply {
    fn from(reason: Disconnect) -> Self {
        Self::Close(reason)
    }
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Disconnect {
    #[error("the link failed")]
    Io(#[from] io::Error),
    #[error("not a Kafka frame: {0}")]
    Frame(#[from] FrameError),
    #[error("malformed request header: {0}")]
    Header(DecodeError),
    #[error("malformed {} request, version {version}: {source}", .api.name())]
    Body { api: ApiKey, version: i16, source: DecodeError },
    #[error("api key {0} is not served")]
    UnknownApi(i16),
    #[error("{} version {version} is not served", .api.name())]
    UnsupportedVersion { api: ApiKey, version: i16 },
    #[error("an unacknowledged produce request failed, and closing is how its client learns of it")]
    UnackedFailure,
    #[error("the answer can't be encoded: {0}")]
    Encode(#[from] EncodeError),
    #[error("the connection was idle too long")]
    Idle,
    #[error("a fault rule closes it")]
    Fault,
}

/// One request without its header.
struct Body {
    version: i16,
    correlation_id: i32,
    client_id: Option<StrBytes>,
    bytes: Bytes,
}

/// Answers one frame; `None` where the client wants no answer.
pub(crate) async fn answer(core: &Arc<Core>, link: &Link, mut frame: Bytes) -> Result<Option<Reply>, Disconnect> {
    let header = decode_request_header(&mut frame).map_err(Disconnect::Header)?;
    let api = ApiKey::try_from(header.api_key).map_err(|_| Disconnect::UnknownApi(header.api_key))?;
    let version = header.api_version;
    let offered = served(api).and_then(|served| core.versions_of(api, served));
    let offered = offered.ok_or(Disconnect::UnknownApi(header.api_key))?;
    if !offered.contains(version) {
        // KIP-511: how a client from the future learns what there is.
        if api == ApiKey::ApiVersions {
            let response = k18_api_versions::unsupported_version(offered);
            return encode(api, 0, header.correlation_id, 64, &response)
                .map(|frame| Some(Reply { frame: frame.freeze(), throttle: Duration::ZERO, cut_after: None }));
        }
        return Err(Disconnect::UnsupportedVersion { api, version });
    }
    let client_id = header.client_id;
    let body = Body { version, correlation_id: header.correlation_id, client_id, bytes: frame };
    match dispatch(core, link, api, body).await {
        Ok(reply) => Ok(Some(reply)),
        Err(NoReply::NotWanted) => Ok(None),
        Err(NoReply::Close(reason)) => Err(reason),
    }
}

macro_rules! serve {
    ($($api:ident($request:ident) => $module:ident,)*) => {
        /// Every API served, with its versions, by key.
        pub(crate) const SERVED: &[(ApiKey, VersionRange)] = &[$((ApiKey::$api, $module::VERSIONS)),*];

        fn served(api: ApiKey) -> Option<VersionRange> {
            match api {
                $(ApiKey::$api => Some($module::VERSIONS),)*
                _ => None,
            }
        }

        async fn dispatch(core: &Arc<Core>, link: &Link, api: ApiKey, body: Body) -> Result<Reply, NoReply> {
            match api {
                $(ApiKey::$api => {
                    let (version, correlation_id) = (body.version, body.correlation_id);
                    let (cx, request): (_, messages::$request) = prepare(core, link, body).await?;
                    let mut response = $module::handle(&cx, request).await?;
                    if !cx.effects.throttle.is_zero() {
                        response.throttle_time_ms = i32::try_from(cx.effects.throttle.as_millis()).unwrap_or(i32::MAX);
                    }
                    let size = messages::$request::reply_size(&response);
                    Ok(conclude(&cx, encode(api, version, correlation_id, size, &response)?)?)
                })*
                _ => Err(Disconnect::UnknownApi(api.into()).into()),
            }
        }
    };
}

serve! {
    Produce(ProduceRequest) => k00_produce,
    Fetch(FetchRequest) => k01_fetch,
    ListOffsets(ListOffsetsRequest) => k02_list_offsets,
    Metadata(MetadataRequest) => k03_metadata,
    OffsetCommit(OffsetCommitRequest) => k08_offset_commit,
    OffsetFetch(OffsetFetchRequest) => k09_offset_fetch,
    FindCoordinator(FindCoordinatorRequest) => k10_find_coordinator,
    JoinGroup(JoinGroupRequest) => k11_join_group,
    Heartbeat(HeartbeatRequest) => k12_heartbeat,
    LeaveGroup(LeaveGroupRequest) => k13_leave_group,
    SyncGroup(SyncGroupRequest) => k14_sync_group,
    DescribeGroups(DescribeGroupsRequest) => k15_describe_groups,
    ListGroups(ListGroupsRequest) => k16_list_groups,
    ApiVersions(ApiVersionsRequest) => k18_api_versions,
    CreateTopics(CreateTopicsRequest) => k19_create_topics,
    DeleteTopics(DeleteTopicsRequest) => k20_delete_topics,
    DeleteRecords(DeleteRecordsRequest) => k21_delete_records,
    InitProducerId(InitProducerIdRequest) => k22_init_producer_id,
    OffsetForLeaderEpoch(OffsetForLeaderEpochRequest) => k23_offset_for_leader_epoch,
    DescribeConfigs(DescribeConfigsRequest) => k32_describe_configs,
    CreatePartitions(CreatePartitionsRequest) => k37_create_partitions,
    DeleteGroups(DeleteGroupsRequest) => k42_delete_groups,
    IncrementalAlterConfigs(IncrementalAlterConfigsRequest) => k44_incremental_alter_configs,
    ListPartitionReassignments(ListPartitionReassignmentsRequest) => k46_list_partition_reassignments,
    OffsetDelete(OffsetDeleteRequest) => k47_offset_delete,
    DescribeCluster(DescribeClusterRequest) => k60_describe_cluster,
    DescribeTopicPartitions(DescribeTopicPartitionsRequest) => k75_describe_topic_partitions,
}

/// Decodes the body, counts the request and lets the fault rules act that come before it.
async fn prepare<'a, R: Subject>(
    core: &'a Arc<Core>,
    link: &'a Link,
    body: Body,
) -> Result<(RequestContext<'a>, R), NoReply> {
    let api = R::API_KEY;
    let Body { version, client_id, mut bytes, .. } = body;
    // Like Kafka: what follows a whole body is ignored.
    let request = R::decode(version, &mut bytes).map_err(|source| Disconnect::Body { api, version, source })?;
    core.requests.note(link.node, api, version);
    let mut cx = RequestContext { core, node: link.node, link, version, client_id, effects: Effects::default() };
    if !core.faults.is_empty() {
        let touched = request.touched(&cx);
        cx.effects = core.faults.decide(link.node, api, &touched);
        if !cx.effects.delay.is_zero() {
            tokio::time::sleep(cx.effects.delay).await;
        }
        if cx.effects.drop_before {
            return Err(Disconnect::Fault.into());
        }
        let changes = std::mem::take(&mut cx.effects.changes);
        changes.iter().for_each(|change| core.apply(change));
    }
    Ok((cx, request))
}

/// Lets the fault rules act that come after the request.
fn conclude(cx: &RequestContext<'_>, mut frame: BytesMut) -> Result<Reply, Disconnect> {
    let effects = &cx.effects;
    if effects.drop_after {
        return Err(Disconnect::Fault);
    }
    if effects.wrong_correlation {
        // The last byte of the correlation id, behind the length prefix.
        frame[7] ^= 0x55;
    }
    if let Some(at) = effects.flip_reply_at {
        let last = frame.len() - 1;
        frame[at.min(last)] ^= 0xff;
    }
    Ok(Reply { frame: frame.freeze(), throttle: effects.throttle, cut_after: effects.cut_reply_at })
}

fn encode<T: milena_protocol::Encode>(
    api: ApiKey,
    version: i16,
    correlation_id: i32,
    size: usize,
    response: &T,
) -> Result<BytesMut, Disconnect> {
    let mut frame = BytesMut::with_capacity(size);
    frame.put_i32(0);
    encode_response_header(&mut frame, api, version, correlation_id);
    response.encode(version, &mut frame)?;
    let too_long = EncodeError::TooLong { field: "response frame", length: frame.len() };
    let length = i32::try_from(frame.len() - 4).map_err(|_| too_long)?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

impl Core {
    fn apply(&self, change: &Change) {
        match change {
            // A rule may name what does not exist (any more): then there is nothing to change.
            Change::Leader { topic, partition, to } => {
                let _ = self.cluster.move_leader(topic, *partition, *to);
            }
            Change::Coordinator { kind, key, to } => self.cluster.move_coordinator(*kind, key, *to),
            Change::Truncate { topic, partition, to_offset } => {
                if let Ok(partition) = self.cluster.partition(topic, *partition) {
                    partition.lock().log.truncate_to(*to_offset);
                    partition.wake();
                }
            }
            Change::ForgetProducers { topic, partition } => {
                if let Ok(partition) = self.cluster.partition(topic, *partition) {
                    partition.lock().log.forget_producers();
                }
            }
        }
    }
}
