//! What the consumer's tests share: a broker, clients on it in virtual time, ways to write to it and to read events.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use milena_broker::{Broker, BrokerBuilder};
use milena_client::consumer::{Consumer, ConsumerBuilder, ConsumerEvent, RecordSet};
use milena_client::raw::Target;
use milena_client::{Client, ClientBuilder, TimeSource, TopicPartition};
use milena_protocol::compress::Compression;
use milena_protocol::messages::ProduceRequest;
use milena_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use milena_protocol::record::{BatchEncoder, RecordHeader};
use milena_protocol::{ApiKey, Uuid};
use tokio::time::timeout;

use crate::link::Link;

/// Wall clock of every rig at its start.
pub(crate) const WALL: i64 = 1_700_000_000_000;
/// Nothing here takes this long, in virtual time.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

pub(crate) struct Rig {
    pub(crate) broker: Broker,
    pub(crate) client: Client,
}

pub(crate) fn tp(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

impl Rig {
    pub(crate) async fn new(nodes: u16, topic: &str, partitions: i32) -> Self {
        Self::of(Self::broker(nodes).topic(topic, partitions)).await
    }

    /// What a broker of a rig is like.
    pub(crate) fn broker(nodes: u16) -> BrokerBuilder {
        Broker::builder()
            .nodes(nodes)
            .auto_create(false)
            .wall_clock(WALL)
            .config("group.initial.rebalance.delay.ms", "0")
            .seed(3)
    }

    pub(crate) async fn of(broker: BrokerBuilder) -> Self {
        let broker = broker.build();
        let client = client(&broker, 7).await;
        Self { broker, client }
    }

    /// The same brokers, with a client of other settings.
    pub(crate) async fn with(self, settings: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Self {
        let client = settings(builder(&self.broker, 7)).build().await.expect("the broker answers");
        Self { client, ..self }
    }

    /// With a client whose consumers fetch ahead no more than that.
    pub(crate) async fn with_prefetch(self, bytes: usize) -> Self {
        self.with(|client| client.prefetch(bytes)).await
    }

    /// Another process: its own connections.
    pub(crate) async fn another(&self, seed: u64) -> Self {
        Self { broker: self.broker.clone(), client: client(&self.broker, seed).await }
    }

    pub(crate) fn consumer(&self) -> ConsumerBuilder {
        Consumer::builder(&self.client)
    }

    pub(crate) fn member(&self, group: &str) -> ConsumerBuilder {
        self.consumer().group(group).auto_offset_reset(milena_client::consumer::OffsetReset::Earliest)
    }

    /// How often a node was asked for something.
    pub(crate) fn asked(&self, node: i32, api: ApiKey) -> u64 {
        let requests = self.broker.requests();
        requests.iter().filter(|count| count.node == node && count.api == api).map(|count| count.count).sum()
    }

    /// Writes one batch of values `from..to`, timestamps [`WALL`] + value.
    pub(crate) async fn produce(&self, topic: &str, partition: i32, values: std::ops::Range<i64>) -> i64 {
        self.produce_batch(topic, partition, values, None, Compression::None).await
    }

    /// As [`Self::produce`], of a transaction of that producer id and base sequence.
    pub(crate) async fn produce_batch(
        &self,
        topic: &str,
        partition: i32,
        values: std::ops::Range<i64>,
        transaction: Option<(i64, i32)>,
        compression: Compression,
    ) -> i64 {
        produce(&self.client, topic, partition, values, transaction, compression).await
    }
}

/// Writes one batch of values, timestamps [`WALL`] + value; returns its first offset.
pub(crate) async fn produce(
    client: &Client,
    topic: &str,
    partition: i32,
    values: std::ops::Range<i64>,
    transaction: Option<(i64, i32)>,
    compression: Compression,
) -> i64 {
    let mut batch = BatchEncoder::new(Vec::new(), WALL + values.start);
    for value in values {
        let text = value.to_string();
        let header = RecordHeader { key: "n", value: Some(text.as_bytes()) };
        batch.append(WALL + value, Some(b"k"), Some(text.as_bytes()), &[header]).expect("fits");
    }
    let mut batch = batch.seal(compression, None).expect("compresses");
    if let Some((producer_id, sequence)) = transaction {
        batch.stamp(producer_id, 0, sequence, true);
    }
    write(client, topic, partition, batch.to_bytes(), transaction.is_some()).await
}

/// Writes a batch as it is; returns its first offset.
pub(crate) async fn write(client: &Client, topic: &str, partition: i32, records: Bytes, transactional: bool) -> i64 {
    let build = |_| ProduceRequest {
        transactional_id: transactional.then(|| "tx".into()),
        acks: -1,
        // It is sent again when this runs out, and then written twice: as long as replicas of a new topic may need.
        timeout_ms: 30_000,
        topic_data: vec![TopicProduceData {
            name: topic.into(),
            partition_data: vec![PartitionProduceData { index: partition, records: Some(records.clone()) }],
            topic_id: Uuid::ZERO,
        }],
        ..ProduceRequest::default()
    };
    let target = Target::Leader { topic: topic.to_owned(), partition };
    let of = |_, response: &milena_protocol::messages::ProduceResponse| {
        response.responses[0].partition_responses[0].error_code
    };
    let response = client.raw().send_versioned(target, 11, build, of).await.expect("the broker answers");
    let written = &response.responses[0].partition_responses[0];
    assert!(written.error_code.is_ok(), "{}", written.error_code);
    written.base_offset
}

async fn client(broker: &Broker, seed: u64) -> Client {
    builder(broker, seed).build().await.expect("the broker answers")
}

fn builder(broker: &Broker, seed: u64) -> ClientBuilder {
    Client::builder()
        .bootstrap(broker.bootstrap())
        .expect("addresses")
        .connector(Arc::new(Link(broker.clone())))
        .clock(TimeSource::virtual_from(std::time::UNIX_EPOCH + Duration::from_millis(WALL as u64)))
        .seed(seed)
}

pub(crate) async fn next(consumer: &Consumer) -> ConsumerEvent {
    timeout(LIMIT, consumer.next()).await.expect("an event in time").expect("no error")
}

/// The next records; anything else on the way is dropped, so that rebalances go on.
pub(crate) async fn records(consumer: &Consumer) -> RecordSet {
    loop {
        if let ConsumerEvent::Records(set) = next(consumer).await {
            return set;
        }
    }
}

pub(crate) fn values(set: &RecordSet) -> Vec<i64> {
    set.iter()
        .map(|record| std::str::from_utf8(record.value.expect("a value")).expect("text").parse().expect("a number"))
        .collect()
}

/// Reads `count` records, checks that each partition's offsets rise without gaps or repeats from where it began, and
/// returns the values by partition.
pub(crate) async fn read(consumer: &Consumer, count: usize) -> BTreeMap<i32, Vec<i64>> {
    let mut read: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    let mut offsets: BTreeMap<i32, i64> = BTreeMap::new();
    let mut total = 0;
    while total < count {
        let set = records(consumer).await;
        for record in &set {
            let last = offsets.insert(record.partition, record.offset);
            assert!(last.is_none_or(|last| record.offset == last + 1), "{last:?} then {}", record.offset);
        }
        total += set.len();
        read.entry(set.partition()).or_default().extend(values(&set));
    }
    assert_eq!(total, count);
    read
}

/// Nothing arrives for that long.
pub(crate) async fn assert_quiet(consumer: &Consumer, time: Duration) {
    if let Ok(event) = timeout(time, consumer.next()).await {
        panic!("unexpected {event:?}");
    }
}
