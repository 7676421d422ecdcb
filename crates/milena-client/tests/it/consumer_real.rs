//! The consumer on every cluster, embedded and real (see CONTRIBUTING.md).
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use milena_client::consumer::{Assignor, Consumer, ConsumerEvent, OffsetReset, Start};
use milena_client::raw::Target;
use milena_client::{Client, TopicPartition};
use milena_protocol::ErrorCode;
use milena_protocol::compress::Compression;
use milena_protocol::messages::{DeleteTopicsRequest, DescribeGroupsRequest, DescribeGroupsResponse};
use tokio::time::timeout;

use crate::cluster::{Cluster, on_every_cluster};
use crate::consumer_rig::{assert_quiet, produce, read, records, tp, values};

const LIMIT: Duration = Duration::from_secs(60);

on_every_cluster!(
    group_shares_joins_and_leaves,
    static_member_keeps_its_partitions_through_a_restart,
    seeks_times_and_parked_polls_work_by_hand,
);

struct Real {
    cluster: Cluster,
    client: Client,
    topic: String,
}

impl Real {
    async fn on(cluster: Cluster, partitions: i32, name: &str) -> Self {
        let client = cluster.client().await;
        let topic = cluster.topic(&client, name, partitions).await;
        Self { cluster, client, topic }
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

async fn group_shares_joins_and_leaves(cluster: Cluster) {
    let real = Real::on(cluster, 4, "group").await;
    let other = real.cluster.client().await;
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

/// Waits until every member of the group has its partitions, in the coordinator's eyes.
async fn until_stable(client: &Client, group: &str) {
    let wait = async {
        loop {
            let request = DescribeGroupsRequest { groups: vec![group.into()], ..DescribeGroupsRequest::default() };
            let target = Target::GroupCoordinator(group.to_owned());
            let build = |_| request.clone();
            let of = |_, response: &DescribeGroupsResponse| response.groups[0].error_code;
            let described = client.raw().send_versioned(target, 5, build, of).await.unwrap();
            if &*described.groups[0].group_state == "Stable" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, wait).await.expect("the group becomes stable");
}

async fn static_member_keeps_its_partitions_through_a_restart(cluster: Cluster) {
    let real = Real::on(cluster, 2, "static").await;
    let member = |id: &str| {
        let consumer = real.member(&real.client, Assignor::Range).instance_id(id).build().unwrap();
        consumer.subscribe([&real.topic]).unwrap();
        let works = work(&consumer);
        (consumer, works)
    };
    let (stays, _works) = member("a");
    let (leaves, _leaves_works) = member("b");
    until("they share", || held(&stays).len() == 1 && held(&leaves).len() == 1).await;
    until_stable(&real.client, &format!("{}-{}", real.topic, Assignor::Range)).await;
    let (before, mine) = (stays.assignment(), held(&leaves));
    leaves.close(Duration::from_secs(5)).await.unwrap();
    let (back, _back_works) = member("b");
    until("it is back", || held(&back) == mine).await;
    assert_eq!(stays.assignment(), before, "the other noticed nothing");
    back.close(Duration::from_secs(5)).await.unwrap();
    stays.close(Duration::from_secs(5)).await.unwrap();
    real.end().await;
}

async fn seeks_times_and_parked_polls_work_by_hand(cluster: Cluster) {
    let real = Real::on(cluster, 3, "hand").await;
    for partition in 0..3 {
        real.produce(partition, 0, 100).await;
    }
    let consumer = Consumer::builder(&real.client).fetch_max_wait(Duration::from_secs(5)).build().unwrap();
    let all = |start| (0..3).map(|p| (real.topic.clone(), p, start)).collect::<Vec<_>>();
    consumer.assign(all(Start::Beginning)).unwrap();
    let all_read = read(&consumer, 300).await;
    assert_eq!(all_read, (0..3).map(|partition| (partition, (0..100).collect())).collect());
    // Nothing more is there, so the polls are parked at the brokers.
    assert_quiet(&consumer, Duration::from_secs(1)).await;
    for round in 0..5 {
        let start = Instant::now();
        consumer.seek(&tp(&real.topic, round % 3), Start::Offset(90)).unwrap();
        let set = records(&consumer).await;
        assert_eq!(values(&set)[0], 90);
        assert!(start.elapsed() < Duration::from_secs(2), "behind a parked poll: {:?}", start.elapsed());
    }
    let time = crate::consumer_rig::WALL + 40;
    let found = consumer.offsets_for_times([(tp(&real.topic, 1), time)]).await.unwrap();
    assert_eq!(found[&tp(&real.topic, 1)], (40, time));
    consumer.close(Duration::from_secs(5)).await.unwrap();
    real.end().await;
}
