//! Single requests to a cluster, by the codec alone: no client of ours is in between, so that what a broker answers is
//! seen as it is. Finds leaders and coordinators, and waits where Kafka asks to; interprets nothing else.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use bytes::BytesMut;
use milena_protocol::ErrorCode;
use milena_protocol::NodeId;
use milena_protocol::Request;
use milena_protocol::StrBytes;
use milena_protocol::TopicName;
use milena_protocol::Uuid;
use milena_protocol::frame;
use milena_protocol::frame::FrameDecoder;
use milena_protocol::messages::CreateTopicsRequest;
use milena_protocol::messages::FetchRequest;
use milena_protocol::messages::FindCoordinatorRequest;
use milena_protocol::messages::ListOffsetsRequest;
use milena_protocol::messages::MetadataRequest;
use milena_protocol::messages::ProduceRequest;
use milena_protocol::messages::create_topics_request::CreatableTopic;
use milena_protocol::messages::create_topics_request::CreatableTopicConfig;
use milena_protocol::messages::fetch_request::FetchPartition;
use milena_protocol::messages::fetch_request::FetchTopic;
use milena_protocol::messages::fetch_response::PartitionData;
use milena_protocol::messages::list_offsets_request::ListOffsetsPartition;
use milena_protocol::messages::list_offsets_request::ListOffsetsTopic;
use milena_protocol::messages::metadata_request::MetadataRequestTopic;
use milena_protocol::messages::metadata_response::MetadataResponseTopic;
use milena_protocol::messages::produce_request::PartitionProduceData;
use milena_protocol::messages::produce_request::TopicProduceData;
use milena_protocol::messages::produce_response::PartitionProduceResponse;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio::time::sleep;
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::kafka::Outcome;

/// The version of Produce and Fetch in which topics are still named.
const BY_NAME: i16 = 12;

/// Longer than any broker on this machine takes, coordinators that load included.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// Sent as "whatever the epoch".
const ANY_EPOCH: i32 = -1;

/// One connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    decoder: FrameDecoder,
    correlation_id: i32,
}

impl Wire {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect(address: &str) -> Outcome<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, decoder: FrameDecoder::new(100 << 20), correlation_id: 0 })
    }

    /// Sends `request` in `version` and waits for its response.
    ///
    /// # Errors
    /// The connection ends, nothing comes for 30 s, or what comes can't be decoded.
    pub async fn send<R: Request>(&mut self, version: i16, request: &R) -> Outcome<R::Response> {
        self.correlation_id += 1;
        let frame = frame::encode_request(self.correlation_id, Some("milena-tests"), version, request)?;
        let mut body = self.exchange(&frame).await?;
        let correlation_id = frame::decode_response_header(&mut body, R::API_KEY, version)?;
        if correlation_id != self.correlation_id {
            return Err(format!("correlation id {correlation_id} instead of {}", self.correlation_id).into());
        }
        Ok(milena_protocol::Decode::decode_exact(version, body)?)
    }

    /// Produces to a partition, whoever leads it, and gives back the whole answer.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        records: Option<Bytes>,
        acks: i16,
    ) -> Outcome<PartitionProduceResponse> {
        let partition_data = vec![PartitionProduceData { index: partition, records }];
        let name = TopicName::from(topic.to_owned());
        let topic_data = vec![TopicProduceData { name, partition_data, ..Default::default() }];
        let request = ProduceRequest { acks, timeout_ms: 10_000, topic_data, ..Default::default() };
        let response = self.send(BY_NAME, &request).await?;
        let topic = response.responses.into_iter().next().ok_or("the broker answers for the topic")?;
        Ok(topic.partition_responses.into_iter().next().ok_or("the broker answers for the partition")?)
    }

    /// Sends a whole frame, length prefix included, and waits for one back; gives it without its prefix.
    ///
    /// # Errors
    /// The connection ends, or nothing comes for 30 s.
    pub async fn exchange(&mut self, frame: &[u8]) -> Outcome<Bytes> {
        self.stream.write_all(frame).await?;
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(frame);
            }
            let mut chunk = BytesMut::with_capacity(64 << 10);
            let read = timeout(TIME_LIMIT, self.stream.read_buf(&mut chunk));
            if read.await.map_err(|_| "no answer within 30 s")?? == 0 {
                return Err("the broker closed the connection".into());
            }
            self.decoder.push(&chunk);
        }
    }
}

/// Connections to the nodes of a cluster, each made when first needed.
#[derive(Debug)]
pub struct Wires {
    bootstrap: String,
    nodes: HashMap<String, Wire>,
}

impl Wires {
    /// No connection yet.
    #[must_use]
    pub fn to(cluster: &Cluster) -> Self {
        Self { bootstrap: cluster.bootstrap().to_owned(), nodes: HashMap::new() }
    }

    async fn node(&mut self, address: &str) -> Outcome<&mut Wire> {
        if !self.nodes.contains_key(address) {
            self.nodes.insert(address.to_owned(), Wire::connect(address).await?);
        }
        Ok(self.nodes.get_mut(address).expect("it was inserted just now"))
    }

    /// The first node.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn any(&mut self) -> Outcome<&mut Wire> {
        let first = self.bootstrap.split(',').next().unwrap_or_default().to_owned();
        self.node(&first).await
    }

    /// What the first node knows of `topic`, and where the nodes are.
    ///
    /// # Errors
    /// As [`Wire::send`].
    pub async fn describe(&mut self, topic: &str) -> Outcome<(MetadataResponseTopic, HashMap<NodeId, String>)> {
        let name = Some(TopicName::from(topic.to_owned()));
        let request = MetadataRequest {
            topics: Some(vec![MetadataRequestTopic { name, topic_id: Uuid::ZERO }]),
            allow_auto_topic_creation: false,
            ..Default::default()
        };
        let response = self.any().await?.send(12, &request).await?;
        let nodes = response.brokers.iter().map(|node| (node.node_id, format!("{}:{}", node.host, node.port)));
        let nodes = nodes.collect();
        Ok((response.topics.into_iter().next().ok_or("the broker describes the topic")?, nodes))
    }

    /// The node that leads the partition.
    ///
    /// # Errors
    /// There is none.
    pub async fn leader(&mut self, topic: &str, partition: i32) -> Outcome<&mut Wire> {
        let (described, nodes) = self.describe(topic).await?;
        let leader = described
            .partitions
            .iter()
            .find(|described| described.partition_index == partition)
            .and_then(|described| nodes.get(&described.leader_id))
            .ok_or_else(|| format!("{topic}-{partition} has no leader"))?;
        self.node(leader).await
    }

    /// The node that coordinates `group`, waiting until there is one.
    ///
    /// # Errors
    /// There is none within 30 s.
    pub async fn coordinator(&mut self, group: &str) -> Outcome<&mut Wire> {
        let key = StrBytes::from(group.to_owned());
        let request = FindCoordinatorRequest { coordinator_keys: vec![key], ..Default::default() };
        let deadline = Instant::now() + TIME_LIMIT;
        loop {
            let response = self.any().await?.send(4, &request).await?;
            let found = response.coordinators.first().ok_or("the broker answers for the group")?;
            if found.error_code == ErrorCode::NONE {
                let address = format!("{}:{}", found.host, found.port);
                return self.node(&address).await;
            }
            wait_for(deadline, &format!("{group} has no coordinator: {}", found.error_code)).await?;
        }
    }

    /// Sends `request` to the coordinator of `group`, again while that loads or moves; `code` finds the error code.
    ///
    /// # Errors
    /// As [`Wire::send`], or it is still not ready after 30 s.
    pub async fn coordinate<R: Request>(
        &mut self,
        group: &str,
        version: i16,
        request: &R,
        code: impl Fn(&R::Response) -> ErrorCode,
    ) -> Outcome<R::Response> {
        let deadline = Instant::now() + TIME_LIMIT;
        loop {
            let response = self.coordinator(group).await?.send(version, request).await?;
            match code(&response) {
                ErrorCode::COORDINATOR_LOAD_IN_PROGRESS
                | ErrorCode::COORDINATOR_NOT_AVAILABLE
                | ErrorCode::NOT_COORDINATOR => wait_for(deadline, "the coordinator isn't ready").await?,
                _ => return Ok(response),
            }
        }
    }

    /// Asks for a topic to be created, `n_replicas` 0 meaning the broker's choice.
    ///
    /// # Errors
    /// As [`Wire::send`].
    pub async fn try_create(
        &mut self,
        topic: &str,
        n_partitions: i32,
        n_replicas: i16,
        configs: &[(&str, &str)],
    ) -> Outcome<ErrorCode> {
        let text = |text: &str| StrBytes::from(text.to_owned());
        let configs =
            configs.iter().map(|(name, value)| CreatableTopicConfig { name: text(name), value: Some(text(value)) });
        let topic = CreatableTopic {
            name: TopicName::from(topic.to_owned()),
            num_partitions: n_partitions,
            replication_factor: if n_replicas == 0 { -1 } else { n_replicas },
            configs: configs.collect(),
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, validate_only: false };
        let response = self.any().await?.send(7, &request).await?;
        Ok(response.topics.first().ok_or("the broker answers for the topic")?.error_code)
    }

    /// Creates a topic and waits until each of its partitions serves.
    ///
    /// # Errors
    /// It can't be created, or doesn't serve within 30 s.
    pub async fn create(&mut self, topic: &str, n_partitions: i32, configs: &[(&str, &str)]) -> Outcome {
        // Tests write records of any age, which Kafka's retention would delete under their eyes.
        let mut configs = configs.to_vec();
        if !configs.iter().any(|(name, _)| *name == "retention.ms") {
            configs.push(("retention.ms", "-1"));
        }
        let code = self.try_create(topic, n_partitions, 0, &configs).await?;
        if code != ErrorCode::NONE {
            return Err(format!("{topic} can't be created: {code}").into());
        }
        let deadline = Instant::now() + TIME_LIMIT;
        for partition in 0..n_partitions {
            loop {
                match self.list_offset(topic, partition, -1).await {
                    Ok((ErrorCode::NONE, ..)) => break,
                    other => wait_for(deadline, &format!("{topic}-{partition} doesn't serve: {other:?}")).await?,
                }
            }
        }
        Ok(())
    }

    /// Produces one batch with acks=all; gives back error code and base offset.
    ///
    /// # Errors
    /// As [`Wire::send`].
    pub async fn produce(&mut self, topic: &str, partition: i32, batch: Bytes) -> Outcome<(ErrorCode, i64)> {
        let answer = self.leader(topic, partition).await?.produce(topic, partition, Some(batch), -1).await?;
        Ok((answer.error_code, answer.base_offset))
    }

    /// Fetches from `offset`, without a session, waiting up to half a second for a byte.
    ///
    /// # Errors
    /// As [`Wire::send`].
    pub async fn fetch(&mut self, topic: &str, partition: i32, offset: i64, max_bytes: i32) -> Outcome<PartitionData> {
        let partitions = vec![FetchPartition {
            partition,
            current_leader_epoch: ANY_EPOCH,
            fetch_offset: offset,
            last_fetched_epoch: ANY_EPOCH,
            log_start_offset: -1,
            partition_max_bytes: max_bytes,
            ..Default::default()
        }];
        let name = TopicName::from(topic.to_owned());
        let request = FetchRequest {
            replica_id: NodeId(-1),
            max_wait_ms: 500,
            min_bytes: 1,
            max_bytes: 50 << 20,
            session_id: 0,
            session_epoch: -1,
            topics: vec![FetchTopic { topic: name, partitions, ..Default::default() }],
            ..Default::default()
        };
        let response = self.leader(topic, partition).await?.send(BY_NAME, &request).await?;
        let topic = response.responses.into_iter().next().ok_or("the broker answers for the topic")?;
        Ok(topic.partitions.into_iter().next().ok_or("the broker answers for the partition")?)
    }

    /// The offset at `timestamp` (-1 latest, -2 earliest, -3 of the largest timestamp): error code, timestamp, offset.
    ///
    /// # Errors
    /// As [`Wire::send`].
    pub async fn list_offset(&mut self, topic: &str, partition: i32, timestamp: i64) -> Outcome<(ErrorCode, i64, i64)> {
        let partitions =
            vec![ListOffsetsPartition { partition_index: partition, current_leader_epoch: ANY_EPOCH, timestamp }];
        let topics = vec![ListOffsetsTopic { name: TopicName::from(topic.to_owned()), partitions }];
        let request = ListOffsetsRequest { replica_id: NodeId(-1), topics, ..Default::default() };
        let response = self.leader(topic, partition).await?.send(7, &request).await?;
        let topic = response.topics.first().ok_or("the broker answers for the topic")?;
        let partition = topic.partitions.first().ok_or("the broker answers for the partition")?;
        Ok((partition.error_code, partition.timestamp, partition.offset))
    }
}

/// Waits a moment before another try, unless the time is up.
async fn wait_for(deadline: Instant, still: &str) -> Outcome {
    if Instant::now() > deadline {
        return Err(still.into());
    }
    sleep(Duration::from_millis(50)).await;
    Ok(())
}
