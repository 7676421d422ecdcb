//! A broker that keeps nothing and answers at once: what a client costs against it is the client's own cost, and that of
//! the kernel's loopback.
//!
//! Every topic exists, with the same number of partitions, all led by this node. A produced batch is looked at as far as
//! its header, to count its records. A fetch is answered from a log that was written once, with its offsets patched, so
//! that partitions of any length cost no memory. One thread a connection, no runtime: what a client measures of itself
//! stands beside as little as possible.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use milena_protocol::compress::Compression;
use milena_protocol::frame::{RequestHeader, decode_request_header, encode_response};
use milena_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, FetchRequest, FetchResponse, FindCoordinatorRequest,
    FindCoordinatorResponse, InitProducerIdRequest, InitProducerIdResponse, ListOffsetsRequest, ListOffsetsResponse,
    MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse,
    api_versions_response::ApiVersion,
    fetch_response::{FetchableTopicResponse, PartitionData},
    find_coordinator_response::Coordinator,
    list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse},
    metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic},
    produce_request::{PartitionProduceData, TopicProduceData},
    produce_response::{PartitionProduceResponse, TopicProduceResponse},
};
use milena_protocol::record::BatchEncoder;
use milena_protocol::{ApiKey, ErrorCode, NodeId, ProducerId, Request, VersionRange};

const NODE: NodeId = NodeId(1);
/// Where a batch has its last offset delta, and the first byte after it.
const LAST_OFFSET_DELTA: std::ops::Range<usize> = 23..27;
/// The lower byte of a batch's attributes, and the bits of it that name the codec.
const ATTRIBUTES: usize = 22;
const CODEC: u8 = 0b111;
const BASE_OFFSET: std::ops::Range<usize> = 0..8;

/// What is served, in which versions: all that name topics by their names.
const SERVED: [(ApiKey, VersionRange); 7] = [
    (ApiKey::Produce, VersionRange::new(3, 12)),
    (ApiKey::Fetch, VersionRange::new(4, 12)),
    (ApiKey::ListOffsets, VersionRange::new(1, 9)),
    (ApiKey::Metadata, VersionRange::new(1, 12)),
    (ApiKey::ApiVersions, VersionRange::new(0, 3)),
    (ApiKey::InitProducerId, VersionRange::new(0, 4)),
    // librdkafka takes a broker without it for one that can't read LZ4, and sends uncompressed batches without a word.
    (ApiKey::FindCoordinator, VersionRange::new(0, 4)),
];

/// What the broker claims to have.
#[derive(Clone, Copy, Debug)]
pub struct Claims {
    /// Partitions of each topic.
    pub partitions: i32,
    /// Records that a consumer finds in each partition.
    pub records: i64,
    /// Bytes of a record's value.
    pub value_bytes: usize,
    /// Bytes of a batch before compression.
    pub batch_bytes: usize,
    /// How the batches are compressed.
    pub codec: Compression,
}

/// What is sent back, and when.
pub struct Answer {
    /// With its length.
    pub frame: BytesMut,
    /// A fetch that finds nothing waits.
    pub after: Duration,
}

/// Some batches, one after the other, which stand for a log of any length.
struct Log {
    batches: Vec<Bytes>,
    records_per_batch: i64,
    claims: Claims,
}

/// The broker, behind a listener or a link inside the process.
pub struct Broker {
    address: SocketAddr,
    log: Log,
    produced: Mutex<HashMap<String, Produced>>,
}

/// What was produced to a topic.
#[derive(Debug, Default)]
struct Produced {
    /// The next offset of each partition.
    offsets: HashMap<i32, i64>,
    tally: Tally,
}

/// The batches that a topic was sent, counted: a client that was asked to compress may not have done so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many batches.
    pub batches: u64,
    /// Their bytes, as they came.
    pub bytes: u64,
    /// Their records, by the codec's id: none, gzip, snappy, LZ4, zstd.
    pub records_by_codec: [u64; 5],
}

/// Serves for as long as the process lives.
///
/// # Errors
/// The listener's.
pub fn serve(listener: &TcpListener, broker: &Arc<Broker>) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        let broker = Arc::clone(broker);
        thread::spawn(move || {
            if let Err(error) = broker.converse(stream)
                && error.kind() != io::ErrorKind::UnexpectedEof
            {
                eprintln!("connection closed: {error}");
            }
        });
    }
}

impl Log {
    /// Distinct batches of 2 MiB together: one batch over and over would be too easy for a branch predictor.
    fn write(claims: Claims) -> Self {
        let mut batches = Vec::new();
        let (mut written, mut records, mut seed) = (0, 0, 0x9e37_79b9_7f4a_7c15_u64);
        while written < 2 * 1024 * 1024 {
            let mut encoder = BatchEncoder::new(Vec::new(), 1_700_000_000_000);
            while encoder.len() < claims.batch_bytes && (records == 0 || i64::from(encoder.record_count()) < records) {
                let (key, value) = record(&mut seed, claims.value_bytes);
                encoder.append(1_700_000_000_000, Some(&key), Some(&value), &[]).expect("a record of usual size");
            }
            // All as long as the first, so that an offset tells its batch.
            records = i64::from(encoder.record_count());
            written += encoder.len();
            let sealed = encoder.seal(claims.codec, None).expect("a codec of this build");
            batches.push(sealed.to_bytes());
        }
        Self { batches, records_per_batch: records, claims }
    }

    /// The batches from `offset` on, up to `limit` bytes, but one at least.
    fn read(&self, offset: i64, limit: usize) -> Bytes {
        let mut found = BytesMut::with_capacity(limit.min(16 * 1024 * 1024));
        let mut number = offset.div_euclid(self.records_per_batch);
        while number * self.records_per_batch < self.claims.records {
            let batch = &self.batches[number.rem_euclid(self.batches.len() as i64) as usize];
            if !found.is_empty() && found.len() + batch.len() > limit {
                break;
            }
            let start = found.len();
            found.extend_from_slice(batch);
            let base = (number * self.records_per_batch).to_be_bytes();
            found[start..][BASE_OFFSET].copy_from_slice(&base);
            number += 1;
        }
        found.freeze()
    }

    /// The offset after the last record: batches are whole.
    fn end(&self) -> i64 {
        (self.claims.records + self.records_per_batch - 1) / self.records_per_batch * self.records_per_batch
    }
}

/// Text like that of JSON events, of so many bytes, other from record to record.
pub fn record(seed: &mut u64, bytes: usize) -> (Vec<u8>, Vec<u8>) {
    let mut next = || {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed
    };
    let key = format!("{:016x}", next()).into_bytes();
    let mut value = Vec::with_capacity(bytes + 64);
    while value.len() < bytes {
        let text = format!("{{\"order\":\"{:08x}\",\"cents\":{},\"state\":\"paid\"}},", next() as u32, next() % 10_000);
        value.extend_from_slice(text.as_bytes());
    }
    value.truncate(bytes);
    (key, value)
}

impl Produced {
    /// Counts a batch, by its header alone; returns its first offset.
    fn take(&mut self, partition: i32, batch: &[u8]) -> i64 {
        let delta = batch.get(LAST_OFFSET_DELTA);
        let delta = delta.map_or(0, |delta| i32::from_be_bytes(delta.try_into().expect("a range of four bytes")));
        let records = i64::from(delta) + 1;
        let codec = batch.get(ATTRIBUTES).map_or(0, |attributes| attributes & CODEC);
        self.tally.batches += 1;
        self.tally.bytes += batch.len() as u64;
        if let Some(count) = self.tally.records_by_codec.get_mut(usize::from(codec)) {
            *count += records.unsigned_abs();
        }
        let next = self.offsets.entry(partition).or_default();
        let base_offset = *next;
        *next += records;
        base_offset
    }
}

impl Broker {
    /// A broker that says it is at `address`.
    pub fn new(address: SocketAddr, claims: Claims) -> Arc<Self> {
        Arc::new(Self { address, log: Log::write(claims), produced: Mutex::default() })
    }

    /// What a topic was sent so far.
    pub fn tally(&self, topic: &str) -> Tally {
        let produced = self.produced.lock().unwrap_or_else(PoisonError::into_inner);
        produced.get(topic).map(|topic| topic.tally).unwrap_or_default()
    }

    fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut buffer = BytesMut::new();
        loop {
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let length = usize::try_from(i32::from_be_bytes(length)).map_err(io::Error::other)?;
            if length > 128 * 1024 * 1024 {
                return Err(io::Error::other("not a frame"));
            }
            // The frames of a connection share one buffer: its slices are gone when the answer is written.
            buffer.resize(length, 0);
            stream.read_exact(&mut buffer)?;
            let frame = buffer.split().freeze();
            let Answer { frame: answer, after } = self.answer(frame.clone()).map_err(io::Error::other)?;
            if !after.is_zero() {
                thread::sleep(after);
            }
            stream.write_all(&answer)?;
            if let Ok(again) = frame.try_into_mut() {
                buffer = again;
                buffer.clear();
            }
        }
    }

    /// Answers a request, without its length.
    ///
    /// # Errors
    /// The request can't be read, or is one that is not served.
    pub fn answer(&self, frame: Bytes) -> Result<Answer, String> {
        let mut after = Duration::ZERO;
        let frame = self.answer_to(frame, &mut after)?;
        Ok(Answer { frame, after })
    }

    fn answer_to(&self, mut frame: Bytes, after: &mut Duration) -> Result<BytesMut, String> {
        let header = decode_request_header(&mut frame).map_err(|error| error.to_string())?;
        let api_key = ApiKey::try_from(header.api_key).map_err(|unknown| unknown.to_string())?;
        match api_key {
            ApiKey::Produce => reply(&header, frame, |request| self.produce(&request)),
            ApiKey::Fetch => reply(&header, frame, |request| self.fetch(&request, after)),
            ApiKey::ListOffsets => reply(&header, frame, |request| self.list_offsets(&request)),
            ApiKey::Metadata => reply(&header, frame, |request| self.metadata(request)),
            ApiKey::InitProducerId => reply(&header, frame, |_: InitProducerIdRequest| InitProducerIdResponse {
                producer_id: ProducerId(1),
                producer_epoch: 0,
                ..Default::default()
            }),
            ApiKey::FindCoordinator => reply(&header, frame, |request| self.find_coordinator(&request)),
            ApiKey::ApiVersions => {
                let served = SERVED.iter().find(|(key, _)| *key == ApiKey::ApiVersions).expect("listed").1;
                let error_code =
                    if served.contains(header.api_version) { ErrorCode::NONE } else { ErrorCode::UNSUPPORTED_VERSION };
                let version = if error_code.is_ok() { header.api_version } else { 0 };
                let api_keys = SERVED
                    .iter()
                    .map(|(key, versions)| ApiVersion {
                        api_key: (*key).into(),
                        min_version: versions.min,
                        max_version: versions.max,
                    })
                    .collect();
                let answer = ApiVersionsResponse { error_code, api_keys, ..Default::default() };
                encode_response::<ApiVersionsRequest>(header.correlation_id, version, &answer)
                    .map_err(|error| error.to_string())
            }
            other => Err(format!("{} is not served", other.name())),
        }
    }

    fn produce(&self, request: &ProduceRequest) -> ProduceResponse {
        let mut produced = self.produced.lock().unwrap_or_else(PoisonError::into_inner);
        let topic = |data: &TopicProduceData| {
            let topic = produced.entry(data.name.to_string()).or_default();
            let partition = |partition: &PartitionProduceData| {
                let base_offset = topic.take(partition.index, partition.records.as_deref().unwrap_or_default());
                PartitionProduceResponse { index: partition.index, base_offset, ..Default::default() }
            };
            TopicProduceResponse {
                name: data.name.clone(),
                partition_responses: data.partition_data.iter().map(partition).collect(),
                ..Default::default()
            }
        };
        ProduceResponse { responses: request.topic_data.iter().map(topic).collect(), ..Default::default() }
    }

    fn fetch(&self, request: &FetchRequest, after: &mut Duration) -> FetchResponse {
        let mut left = usize::try_from(request.max_bytes).unwrap_or(0);
        let mut found = 0;
        let responses = request
            .topics
            .iter()
            .map(|topic| FetchableTopicResponse {
                topic: topic.topic.clone(),
                partitions: topic
                    .partitions
                    .iter()
                    .map(|partition| {
                        let limit = usize::try_from(partition.partition_max_bytes).unwrap_or(0).min(left);
                        let records = self.log.read(partition.fetch_offset, limit);
                        left = left.saturating_sub(records.len());
                        found += records.len();
                        PartitionData {
                            partition_index: partition.partition,
                            high_watermark: self.log.end(),
                            last_stable_offset: self.log.end(),
                            log_start_offset: 0,
                            records: Some(records),
                            ..Default::default()
                        }
                    })
                    .collect(),
                ..Default::default()
            })
            .collect();
        if found == 0 {
            *after = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
        }
        FetchResponse { responses, ..Default::default() }
    }

    fn list_offsets(&self, request: &ListOffsetsRequest) -> ListOffsetsResponse {
        let topics = request
            .topics
            .iter()
            .map(|topic| ListOffsetsTopicResponse {
                name: topic.name.clone(),
                partitions: topic
                    .partitions
                    .iter()
                    .map(|partition| ListOffsetsPartitionResponse {
                        partition_index: partition.partition_index,
                        // −2 asks for the first offset, −1 for the one after the last.
                        offset: if partition.timestamp == -1 { self.log.end() } else { 0 },
                        leader_epoch: 0,
                        ..Default::default()
                    })
                    .collect(),
            })
            .collect();
        ListOffsetsResponse { topics, ..Default::default() }
    }

    /// This node, for every group; of several keys from version 4 on (KIP-699).
    fn find_coordinator(&self, request: &FindCoordinatorRequest) -> FindCoordinatorResponse {
        let (host, port) = (self.address.ip().to_string(), i32::from(self.address.port()));
        let coordinators = request
            .coordinator_keys
            .iter()
            .map(|key| Coordinator {
                key: key.clone(),
                node_id: NODE,
                host: host.clone().into(),
                port,
                ..Default::default()
            })
            .collect();
        FindCoordinatorResponse { node_id: NODE, host: host.into(), port, coordinators, ..Default::default() }
    }

    fn metadata(&self, request: MetadataRequest) -> MetadataResponse {
        let partition = |index| MetadataResponsePartition {
            partition_index: index,
            leader_id: NODE,
            leader_epoch: 0,
            replica_nodes: vec![NODE],
            isr_nodes: vec![NODE],
            ..Default::default()
        };
        let topics = request.topics.unwrap_or_default();
        MetadataResponse {
            brokers: vec![MetadataResponseBroker {
                node_id: NODE,
                host: self.address.ip().to_string().into(),
                port: i32::from(self.address.port()),
                ..Default::default()
            }],
            cluster_id: Some("answers-at-once".into()),
            controller_id: NODE,
            topics: topics
                .into_iter()
                .map(|topic| MetadataResponseTopic {
                    name: topic.name,
                    partitions: (0..self.log.claims.partitions).map(partition).collect(),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }
    }
}

fn reply<R: Request>(
    header: &RequestHeader,
    body: Bytes,
    answer: impl FnOnce(R) -> R::Response,
) -> Result<BytesMut, String> {
    let request = R::decode_exact(header.api_version, body).map_err(|error| error.to_string())?;
    encode_response::<R>(header.correlation_id, header.api_version, &answer(request)).map_err(|error| error.to_string())
}
