//! What tests through the client share: a client of a cluster, reading topics to their end, a member of a group that
//! processes and commits.

use std::collections::BTreeMap;
use std::time::Duration;

use milena_client::Client;
use milena_client::TopicPartition;
use milena_client::consumer::Assignor;
use milena_client::consumer::Consumer;
use milena_client::consumer::ConsumerEvent;
use milena_client::consumer::OffsetAndMetadata;
use milena_client::consumer::OffsetReset;
use milena_client::consumer::OwnedRecord;
use milena_client::consumer::Start;
use milena_client::producer::Compression;
use milena_tests::cluster::Cluster;
use milena_tests::kafka::Outcome;
use milena_tests::wire::Wires;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than any single step takes on a loaded machine.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(60);

pub(crate) const CODECS: [(&str, Compression); 5] = [
    ("none", Compression::None),
    ("gzip", Compression::Gzip(None)),
    ("snappy", Compression::Snappy),
    ("lz4", Compression::Lz4),
    ("zstd", Compression::Zstd(None)),
];

/// A client, and a new topic that serves.
pub(crate) async fn client_and_topic(cluster: &Cluster, name: &str, n_partitions: i32) -> (Client, String) {
    let topic = cluster.unique(name);
    Wires::to(cluster).create(&topic, n_partitions, &[]).await.unwrap();
    (client(cluster).await, topic)
}

pub(crate) async fn client(cluster: &Cluster) -> Client {
    Client::builder().bootstrap(cluster.bootstrap()).unwrap().build().await.unwrap()
}

/// Every record of the topic, by partition and offset.
pub(crate) async fn read_all(client: &Client, topic: &str, n_partitions: i32) -> BTreeMap<(i32, i64), OwnedRecord> {
    let consumer = Consumer::builder(client).build().unwrap();
    let partitions = || (0..n_partitions).map(|partition| TopicPartition::new(topic, partition));
    let ends = consumer.end_offsets(partitions()).await.unwrap();
    consumer.assign((0..n_partitions).map(|partition| (topic, partition, Start::Beginning))).unwrap();
    let mut records = BTreeMap::new();
    let is_at_end = |partition| consumer.position(&partition).unwrap_or(0) >= ends[&partition];
    while !partitions().all(is_at_end) {
        let event = timeout(TIME_LIMIT, consumer.next()).await.expect("records come").unwrap();
        let ConsumerEvent::Records(set) = event else { continue };
        for record in set.iter() {
            let record = record.to_owned();
            let before = records.insert((record.partition, record.offset), record);
            assert!(before.is_none(), "handed over twice: {before:?}");
        }
    }
    consumer.close(TIME_LIMIT).await.unwrap();
    records
}

/// A member of a group that hands on each record it gets, then commits it; it stops when told to.
pub(crate) struct Member {
    task: JoinHandle<Outcome>,
    stop: mpsc::Sender<()>,
}

impl Member {
    pub(crate) fn join(
        client: &Client,
        topic: &str,
        group: &str,
        assignor: Assignor,
        seen: mpsc::Sender<OwnedRecord>,
    ) -> Self {
        let (stop, mut stopped) = mpsc::channel(1);
        let consumer = Consumer::builder(client)
            .group(group)
            .assignors([assignor])
            .auto_offset_reset(OffsetReset::Earliest)
            .heartbeat_interval(Duration::from_millis(300))
            .build()
            .unwrap();
        consumer.subscribe([topic]).unwrap();
        let task = tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    event = consumer.next() => event?,
                    _ = stopped.recv() => break,
                };
                // A revocation is over when its guard drops: everything handed over was committed before.
                let ConsumerEvent::Records(set) = event else { continue };
                for record in set.iter() {
                    seen.send(record.to_owned()).await?;
                }
                let offset = OffsetAndMetadata::from(set.next_offset());
                consumer.commit([(set.topic_partition().clone(), offset, set.epoch())]).await?;
            }
            consumer.close(TIME_LIMIT).await?;
            Ok(())
        });
        Self { task, stop }
    }

    /// Lets it commit, and leave the group.
    pub(crate) async fn leave(self) {
        // It may have failed already, which its own outcome tells better.
        let _ = self.stop.send(()).await;
        timeout(TIME_LIMIT, self.task).await.expect("it leaves").unwrap().unwrap();
    }
}
