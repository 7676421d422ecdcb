//! Fetch responses decoded by hand: flat, one entry per partition, records left as slices of the frame.
//!
//! What the generated `FetchResponse` holds for the same bytes is the same values; here nothing is allocated per topic,
//! and fields that say "absent" by a default are `None`.

use bytes::Bytes;

use crate::primitives::Reader;
use crate::{DecodeError, ErrorCode, NodeId, ProducerId, StrBytes, TopicName, Uuid, VersionRange};

/// The versions that can be decoded: those of Kafka 4.4.
pub const VERSIONS: VersionRange = VersionRange::new(4, 18);
const FIRST_WITH_SESSIONS: i16 = 7;
const FIRST_FLEXIBLE: i16 = 12;
const FIRST_WITH_TOPIC_IDS: i16 = 13;
const FIRST_WITH_ENDPOINTS: i16 = 16;

/// The fewest bytes that a topic, a partition, an aborted transaction and an endpoint take, in any version.
const SMALLEST_TOPIC: usize = 3;
const SMALLEST_PARTITION: usize = 30;
const SMALLEST_ABORTED: usize = 16;
const SMALLEST_ENDPOINT: usize = 11;

/// A response to a fetch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FetchReply {
    /// How long the broker asks to be left alone.
    pub throttle_time_ms: i32,
    /// What is wrong with the request or its session; partitions have errors of their own.
    pub error_code: ErrorCode,
    /// The fetch session (KIP-227); 0 for none.
    pub session_id: i32,
    /// The partitions that have something to say.
    pub partitions: Vec<FetchedPartition>,
    /// Where the leaders are that partitions name (KIP-951).
    pub endpoints: Vec<Endpoint>,
}

/// A topic, by what the version in use names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FetchedTopic {
    /// By name, before version 13.
    Name(TopicName),
    /// By id, from version 13 on.
    Id(Uuid),
}

/// One partition of a fetch response.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchedPartition {
    /// Its topic.
    pub topic: FetchedTopic,
    /// Its index.
    pub partition: i32,
    /// What went wrong.
    pub error_code: ErrorCode,
    /// The offset behind the last record that all in-sync replicas have; -1 with an error.
    pub high_watermark: i64,
    /// The offset up to which all transactions are decided; -1 if the broker did not say.
    pub last_stable_offset: i64,
    /// The first offset there is; -1 if the broker did not say.
    pub log_start_offset: i64,
    /// Where the log that was read so far departs from the leader's: all behind it was truncated.
    pub diverging_epoch: Option<EpochEndOffset>,
    /// The leader, where the one that was asked no longer is.
    pub current_leader: Option<LeaderIdAndEpoch>,
    /// The transactions whose records must be skipped when reading committed ones only.
    pub aborted_transactions: Vec<AbortedTransaction>,
    /// The replica to fetch from instead; `None` to stay.
    pub preferred_read_replica: Option<NodeId>,
    /// The batches, for [`RecordBatches`](crate::record::RecordBatches); empty where there are none.
    pub records: Bytes,
}

/// The end of a leader epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEndOffset {
    /// The epoch.
    pub epoch: i32,
    /// The offset behind its last record.
    pub end_offset: i64,
}

/// A partition's leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderIdAndEpoch {
    /// The leader.
    pub leader_id: NodeId,
    /// Its epoch.
    pub leader_epoch: i32,
}

/// A transaction that was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Whose it was.
    pub producer_id: ProducerId,
    /// Its first offset in the partition.
    pub first_offset: i64,
}

/// Where a broker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The broker.
    pub node_id: NodeId,
    /// Its host name.
    pub host: StrBytes,
    /// Its port.
    pub port: i32,
    /// Its rack.
    pub rack: Option<StrBytes>,
}

impl FetchReply {
    /// Decodes the body of a response, which must be all there is in `body`.
    ///
    /// # Errors
    /// [`DecodeError`], saying which field is wrong.
    pub fn decode(version: i16, mut body: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::open("FetchResponse", VERSIONS, FIRST_FLEXIBLE, version, &mut body)?;
        let value = read_reply(&mut reader);
        let value = reader.finish(value, &mut body)?;
        if body.is_empty() { Ok(value) } else { Err(DecodeError::TrailingBytes { left: body.len() }) }
    }
}

fn read_reply(r: &mut Reader) -> FetchReply {
    let version = r.version();
    let mut reply = FetchReply { throttle_time_ms: r.i32("FetchResponse.throttle_time_ms"), ..FetchReply::default() };
    if version >= FIRST_WITH_SESSIONS {
        reply.error_code = ErrorCode(r.i16("FetchResponse.error_code"));
        reply.session_id = r.i32("FetchResponse.session_id");
    }
    let topics = r.required_count("FetchResponse.responses", SMALLEST_TOPIC);
    for _ in 0..topics {
        read_topic(r, &mut reply.partitions);
        if r.failed() {
            break;
        }
    }
    r.tagged_fields("FetchResponse", |r, tag| {
        let known = tag == 0 && version >= FIRST_WITH_ENDPOINTS;
        if known {
            reply.endpoints = r.array::<_, SMALLEST_ENDPOINT>("FetchResponse.node_endpoints", read_endpoint);
        }
        known
    });
    reply
}

fn read_topic(r: &mut Reader, partitions: &mut Vec<FetchedPartition>) {
    let topic = if r.version() >= FIRST_WITH_TOPIC_IDS {
        FetchedTopic::Id(r.uuid("FetchableTopicResponse.topic_id"))
    } else {
        FetchedTopic::Name(r.string("FetchableTopicResponse.topic").into())
    };
    let count = r.required_count("FetchableTopicResponse.partitions", SMALLEST_PARTITION);
    for _ in 0..count {
        let partition = read_partition(r, &topic);
        if r.failed() {
            return;
        }
        partitions.push(partition);
    }
    r.no_tagged_fields("FetchableTopicResponse");
}

fn read_partition(r: &mut Reader, topic: &FetchedTopic) -> FetchedPartition {
    let version = r.version();
    let mut partition = FetchedPartition {
        topic: topic.clone(),
        partition: r.i32("PartitionData.partition_index"),
        error_code: ErrorCode(r.i16("PartitionData.error_code")),
        high_watermark: r.i64("PartitionData.high_watermark"),
        last_stable_offset: r.i64("PartitionData.last_stable_offset"),
        log_start_offset: if version >= 5 { r.i64("PartitionData.log_start_offset") } else { -1 },
        diverging_epoch: None,
        current_leader: None,
        aborted_transactions: r
            .nullable_array::<_, SMALLEST_ABORTED>("PartitionData.aborted_transactions", read_aborted)
            .unwrap_or_default(),
        preferred_read_replica: (version >= 11)
            .then(|| r.i32("PartitionData.preferred_read_replica"))
            .filter(|node| *node >= 0)
            .map(NodeId),
        records: r.nullable_bytes("PartitionData.records").unwrap_or_default(),
    };
    r.tagged_fields("PartitionData", |r, tag| {
        match tag {
            0 => partition.diverging_epoch = read_epoch_end_offset(r),
            1 => partition.current_leader = read_leader(r),
            // Snapshots (tag 2) are between controllers; they are skipped with the tags of newer versions.
            _ => return false,
        }
        true
    });
    partition
}

fn read_epoch_end_offset(r: &mut Reader) -> Option<EpochEndOffset> {
    let epoch = r.i32("EpochEndOffset.epoch");
    let end_offset = r.i64("EpochEndOffset.end_offset");
    r.no_tagged_fields("EpochEndOffset");
    (epoch >= 0 && end_offset >= 0).then_some(EpochEndOffset { epoch, end_offset })
}

fn read_leader(r: &mut Reader) -> Option<LeaderIdAndEpoch> {
    let leader_id = r.i32("LeaderIdAndEpoch.leader_id");
    let leader_epoch = r.i32("LeaderIdAndEpoch.leader_epoch");
    r.no_tagged_fields("LeaderIdAndEpoch");
    (leader_id >= 0).then_some(LeaderIdAndEpoch { leader_id: NodeId(leader_id), leader_epoch })
}

fn read_aborted(r: &mut Reader) -> AbortedTransaction {
    let producer_id = ProducerId(r.i64("AbortedTransaction.producer_id"));
    let first_offset = r.i64("AbortedTransaction.first_offset");
    r.no_tagged_fields("AbortedTransaction");
    AbortedTransaction { producer_id, first_offset }
}

fn read_endpoint(r: &mut Reader) -> Endpoint {
    let endpoint = Endpoint {
        node_id: NodeId(r.i32("NodeEndpoint.node_id")),
        host: r.string("NodeEndpoint.host"),
        port: r.i32("NodeEndpoint.port"),
        rack: r.nullable_string("NodeEndpoint.rack"),
    };
    r.no_tagged_fields("NodeEndpoint");
    endpoint
}
