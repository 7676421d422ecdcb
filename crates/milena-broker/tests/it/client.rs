//! A protocol client with no opinions: sends what it is told and decodes what comes back.

use bytes::{Bytes, BytesMut};
use milena_broker::Broker;
use milena_protocol::{
    ErrorCode, Request, Uuid,
    compress::Compression,
    frame::{decode_response_header, encode_request},
    messages::{
        FetchRequest, FetchResponse, MetadataRequest, ProduceRequest, ProduceResponse,
        fetch_request::{FetchPartition, FetchTopic},
        fetch_response::PartitionData,
        metadata_request::MetadataRequestTopic,
        produce_request::{PartitionProduceData, TopicProduceData},
        produce_response::PartitionProduceResponse,
    },
    record::{BatchEncoder, RecordBatches},
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};

/// One connection.
pub(crate) struct Client<S = DuplexStream> {
    pub(crate) stream: S,
    next_correlation_id: i32,
}

impl Client {
    /// An in-memory link to a node.
    pub(crate) fn to(broker: &Broker, node: i32) -> Self {
        Self::over(broker.connect(&format!("embedded-{node}"), 9092).expect("the node runs"))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, next_correlation_id: 100 }
    }

    /// Sends a request and returns its correlation id.
    pub(crate) async fn send<R: Request>(&mut self, version: i16, request: &R) -> i32 {
        let id = self.next_correlation_id;
        self.next_correlation_id += 1;
        let frame = encode_request(id, Some("it"), version, request).expect("the request fits its version");
        self.stream.write_all(&frame).await.expect("the broker reads");
        id
    }

    /// The next frame, or what of it came before the end.
    pub(crate) async fn frame(&mut self) -> Result<Bytes, Vec<u8>> {
        let mut length = [0; 4];
        let mut got = 0;
        while got < 4 {
            match self.stream.read(&mut length[got..]).await {
                Ok(0) | Err(_) => return Err(length[..got].to_vec()),
                Ok(read) => got += read,
            }
        }
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        let mut got = 0;
        while got < body.len() {
            match self.stream.read(&mut body[got..]).await {
                Ok(0) | Err(_) => return Err([&length[..], &body[..got]].concat()),
                Ok(read) => got += read,
            }
        }
        Ok(Bytes::from(body))
    }

    /// The answer to a request of type `R`, with its correlation id; `None` if the connection was closed.
    pub(crate) async fn receive<R: Request>(&mut self, version: i16) -> Option<(i32, R::Response)> {
        let mut frame = self.frame().await.ok()?;
        let id = decode_response_header(&mut frame, R::API_KEY, version).expect("a response header");
        let response = milena_protocol::Decode::decode_exact(version, frame);
        Some((id, response.expect("a response of that version and nothing behind it")))
    }

    /// Asks, and expects an answer.
    pub(crate) async fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.try_call(version, request).await.expect("the connection stays open")
    }

    /// Asks; `None` if the connection was closed instead of an answer.
    pub(crate) async fn try_call<R: Request>(&mut self, version: i16, request: &R) -> Option<R::Response> {
        let sent = self.send(version, request).await;
        let (id, response) = self.receive::<R>(version).await?;
        assert_eq!(id, sent, "answers come in the order of the requests");
        Some(response)
    }

    /// Produces one batch in version 9.
    pub(crate) async fn produce(&mut self, topic: &str, partition: i32, batch: Bytes) -> PartitionProduceResponse {
        let response = self.call(9, &produce_request(topic, partition, batch)).await;
        only_partition(response)
    }

    /// Fetches one partition in version 12, without a session and without waiting.
    pub(crate) async fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> PartitionData {
        only_fetched(self.call(12, &fetch_request(topic, &[(partition, offset)])).await)
    }
}

pub(crate) fn only_partition(mut response: ProduceResponse) -> PartitionProduceResponse {
    assert_eq!(response.responses.len(), 1);
    response.responses.remove(0).partition_responses.remove(0)
}

pub(crate) fn only_fetched(mut response: FetchResponse) -> PartitionData {
    assert_eq!((response.error_code, response.responses.len()), (ErrorCode::NONE, 1));
    response.responses.remove(0).partitions.remove(0)
}

pub(crate) fn produce_request(topic: &str, index: i32, records: Bytes) -> ProduceRequest {
    // The attributes say whether the batch is part of a transaction; its request must name that.
    let transactional_id = records.get(22).filter(|attributes| **attributes & 0x10 != 0).map(|_| "tx".into());
    let partition_data = vec![PartitionProduceData { index, records: Some(records) }];
    let topic_data = vec![TopicProduceData { name: topic.into(), topic_id: Uuid::ZERO, partition_data }];
    ProduceRequest { transactional_id, acks: -1, timeout_ms: 1000, topic_data }
}

/// A full fetch of some partitions: without a session, 1 MiB, no waiting.
pub(crate) fn fetch_request(topic: &str, partitions: &[(i32, i64)]) -> FetchRequest {
    let partitions = partitions.iter().map(|&(partition, fetch_offset)| FetchPartition {
        partition,
        fetch_offset,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    });
    let topics = vec![FetchTopic { topic: topic.into(), partitions: partitions.collect(), ..Default::default() }];
    FetchRequest { max_wait_ms: 0, min_bytes: 1, max_bytes: 1 << 20, topics, ..Default::default() }
}

pub(crate) fn metadata_request(topics: &[&str]) -> MetadataRequest {
    let topics = topics.iter().map(|&name| MetadataRequestTopic { topic_id: Uuid::ZERO, name: Some(name.into()) });
    MetadataRequest { topics: Some(topics.collect()), allow_auto_topic_creation: false, ..Default::default() }
}

/// What a batch carries beside its records.
#[derive(Clone, Copy, Default)]
pub(crate) struct Stamp {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
    pub(crate) sequence: i32,
    pub(crate) transactional: bool,
}

/// A batch of these values, with timestamps 1000, 1001, …
pub(crate) fn batch(values: &[&str], compression: Compression, stamp: Option<Stamp>) -> Bytes {
    let mut encoder = BatchEncoder::new(Vec::new(), 1000);
    for (timestamp, value) in (1000..).zip(values) {
        encoder.append(timestamp, Some(b"key"), Some(value.as_bytes()), &[]).expect("it fits");
    }
    let mut sealed = encoder.seal(compression, None).expect("it compresses");
    if let Some(stamp) = stamp {
        sealed.stamp(stamp.producer_id, stamp.epoch, stamp.sequence, stamp.transactional);
    }
    let mut bytes = BytesMut::from(&sealed.header()[..]);
    bytes.extend_from_slice(&sealed.records());
    bytes.freeze()
}

/// An uncompressed batch of these values, without a producer.
pub(crate) fn plain(values: &[&str]) -> Bytes {
    batch(values, Compression::None, None)
}

/// Offsets and values of fetched records; CRCs are checked.
pub(crate) fn records(data: &PartitionData) -> Vec<(i64, String)> {
    let mut all = Vec::new();
    for batch in RecordBatches::new(data.records.clone().unwrap_or_default()) {
        let batch = batch.expect("a whole batch");
        batch.verify_crc().expect("a right CRC");
        if batch.is_control() {
            continue;
        }
        for record in &batch.records(1 << 24).expect("it inflates") {
            let record = record.expect("well-formed");
            all.push((record.offset, String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned()));
        }
    }
    all
}

/// The values alone.
pub(crate) fn values(data: &PartitionData) -> Vec<String> {
    records(data).into_iter().map(|(_, value)| value).collect()
}
