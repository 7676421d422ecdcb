//! The consumer on a real Kafka, one node and three, when `MILENA_KAFKA_1` and `MILENA_KAFKA_3` name them.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use milena_client::consumer::{Assignor, Consumer, ConsumerEvent, OffsetReset, Start};
use milena_client::raw::Target;
use milena_client::{Client, TopicPartition};
use milena_protocol::ErrorCode;
use milena_protocol::compress::Compression;
use milena_protocol::messages::create_topics_request::CreatableTopic;
use milena_protocol::messages::{CreateTopicsRequest, DeleteTopicsRequest};
use tokio::time::timeout;

use crate::consumer_rig::{produce, records, tp, values};

const LIMIT: Duration = Duration::from_secs(60);

struct Real {
    client: Client,
    topic: String,
    servers: String,
}

impl Real {
    async fn on(variable: &str, replicas: i16, partitions: i32, name: &str) -> Option<Self> {
        let Ok(servers) = std::env::var(variable) else {
            eprintln!("NOT TESTED on a real Kafka: {variable} is not set");
            return None;
        };
        let client = connect(&servers).await;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
        let topic = format!("consumer-{name}-{now}");
        let request = CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: (&*topic).into(),
                num_partitions: partitions,
                replication_factor: replicas,
                ..CreatableTopic::default()
            }],
            timeout_ms: 30_000,
            ..CreateTopicsRequest::default()
        };
        let created = client.raw().send(Target::Controller, request).await.unwrap();
        assert_eq!(created.topics[0].error_code, ErrorCode::NONE);
        client.partitions(&topic).await.unwrap();
        Some(Self { client, topic, servers })
    }

    async fn produce(&self, partition: i32, from: i64, to: i64) {
        produce(&self.client, &self.topic, partition, from..to, None, Compression::Lz4).await;
    }

    fn member(&self, client: &Client, assignor: Assignor) -> milena_client::consumer::ConsumerBuilder {
        Consumer::builder(client)
            .group(format!("{}-{assignor}", self.topic))
            .assignors([assignor])
            .auto_offset_reset(OffsetReset::Earliest)
            .session_timeout(Duration::from_secs(6))
            .heartbeat_interval(Duration::from_millis(300))
    }

    async fn end(self) {
        use milena_protocol::messages::delete_topics_request::DeleteTopicState;
        let build = |version: i16| {
            let name = milena_protocol::TopicName::from(&*self.topic);
            let mut request = DeleteTopicsRequest { timeout_ms: 30_000, ..DeleteTopicsRequest::default() };
            if version >= 6 {
                request.topics = vec![DeleteTopicState { name: Some(name), ..DeleteTopicState::default() }];
            } else {
                request.topic_names = vec![name];
            }
            request
        };
        self.client.raw().send_versioned(Target::Controller, 6, build, |_, _| ErrorCode::NONE).await.unwrap();
        assert!(self.client.close(Duration::from_secs(10)).await.clean);
    }
}

async fn connect(servers: &str) -> Client {
    Client::builder().bootstrap(servers).unwrap().build().await.unwrap()
}

fn held(consumer: &Consumer) -> BTreeSet<TopicPartition> {
    consumer.assignment().into_iter().map(|(partition, _)| partition).collect()
}

/// Reads, commits each batch, gives up what is revoked, until the consumer is closed; returns what it read.
fn work(consumer: &Consumer) -> tokio::task::JoinHandle<Vec<(i32, i64)>> {
    let consumer = consumer.clone();
    tokio::spawn(async move {
        let mut read = Vec::new();
        while let Ok(event) = consumer.next().await {
            if let ConsumerEvent::Records(set) = event {
                let commit = (set.topic_partition().clone(), set.next_offset().into(), set.epoch());
                // Refused: its next owner reads it again.
                if consumer.commit([commit]).await.is_ok() {
                    read.extend(set.iter().map(|record| (record.partition, record.offset)));
                }
            }
        }
        read
    })
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

async fn group_shares_joins_and_leaves(variable: &str, replicas: i16) {
    let Some(real) = Real::on(variable, replicas, 4, "group").await else { return };
    let other = connect(&real.servers).await;
    for assignor in Assignor::ALL {
        let first = real.member(&real.client, assignor).build().unwrap();
        first.subscribe([&real.topic]).unwrap();
        let first_works = work(&first);
        until("the first holds all", || held(&first).len() == 4).await;
        for partition in 0..4 {
            real.produce(partition, 0, 100).await;
        }
        let second = real.member(&other, assignor).build().unwrap();
        second.subscribe([&real.topic]).unwrap();
        let second_works = work(&second);
        until("they share", || held(&first).len() == 2 && held(&second).len() == 2).await;
        assert!(held(&first).is_disjoint(&held(&second)), "{assignor}");
        for partition in 0..4 {
            real.produce(partition, 100, 200).await;
        }
        let ends = second.end_offsets((0..4).map(|p| tp(&real.topic, p))).await.unwrap();
        let start = Instant::now();
        loop {
            let committed = second.committed((0..4).map(|p| tp(&real.topic, p))).await.unwrap();
            if ends.iter().all(|(partition, end)| committed.get(partition).is_some_and(|c| c.offset == *end)) {
                break;
            }
            assert!(start.elapsed() < LIMIT, "{assignor}: {committed:?} of {ends:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        second.close(Duration::from_secs(10)).await.unwrap();
        until("the first holds all again", || held(&first).len() == 4).await;
        first.close(Duration::from_secs(10)).await.unwrap();
        let mut read = first_works.await.unwrap();
        read.extend(second_works.await.unwrap());
        let distinct: BTreeSet<(i32, i64)> = read.iter().copied().collect();
        assert_eq!(distinct.len() as i64, ends.values().sum::<i64>(), "{assignor}: all read");
        assert_eq!(read.len(), distinct.len(), "{assignor}: what was committed is read once");
    }
    assert!(other.close(Duration::from_secs(10)).await.clean);
    real.end().await;
}

#[tokio::test]
async fn group_shares_joins_and_leaves_on_one_node() {
    group_shares_joins_and_leaves("MILENA_KAFKA_1", 1).await;
}

#[tokio::test]
async fn group_shares_joins_and_leaves_on_three_nodes() {
    group_shares_joins_and_leaves("MILENA_KAFKA_3", 3).await;
}

#[tokio::test]
async fn static_member_keeps_its_partitions_through_a_restart() {
    let Some(real) = Real::on("MILENA_KAFKA_1", 1, 2, "static").await else { return };
    let member = |id: &str| {
        let consumer = real.member(&real.client, Assignor::Range).instance_id(id).build().unwrap();
        consumer.subscribe([&real.topic]).unwrap();
        let works = work(&consumer);
        (consumer, works)
    };
    let (stays, _works) = member("a");
    let (leaves, _leaves_works) = member("b");
    until("they share", || held(&stays).len() == 1 && held(&leaves).len() == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (before, mine) = (stays.assignment(), held(&leaves));
    leaves.close(Duration::from_secs(5)).await.unwrap();
    let (back, _back_works) = member("b");
    until("it is back", || held(&back) == mine).await;
    assert_eq!(stays.assignment(), before, "the other noticed nothing");
    back.close(Duration::from_secs(5)).await.unwrap();
    stays.close(Duration::from_secs(5)).await.unwrap();
    real.end().await;
}

#[tokio::test]
async fn seeks_times_and_parked_polls_work_by_hand() {
    let Some(real) = Real::on("MILENA_KAFKA_3", 3, 3, "hand").await else { return };
    for partition in 0..3 {
        real.produce(partition, 0, 100).await;
    }
    let consumer = Consumer::builder(&real.client).fetch_max_wait(Duration::from_secs(5)).build().unwrap();
    let all = |start| (0..3).map(|p| (real.topic.clone(), p, start)).collect::<Vec<_>>();
    consumer.assign(all(Start::Beginning)).unwrap();
    let mut count = 0;
    while count < 300 {
        count += records(&consumer).await.len();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for round in 0..5 {
        let start = Instant::now();
        consumer.seek(&tp(&real.topic, round % 3), Start::Offset(90)).unwrap();
        let set = records(&consumer).await;
        assert_eq!(values(&set)[0], 90);
        assert!(start.elapsed() < Duration::from_millis(500), "behind a parked poll: {:?}", start.elapsed());
    }
    let time = crate::consumer_rig::WALL + 40;
    let found = consumer.offsets_for_times([(tp(&real.topic, 1), time)]).await.unwrap();
    assert_eq!(found[&tp(&real.topic, 1)], (40, time));
    consumer.close(Duration::from_secs(5)).await.unwrap();
    real.end().await;
}
