//! The consumer on every cluster, embedded and real (see CONTRIBUTING.md).
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use milena_client::consumer::{Assignor, Consumer, ConsumerEvent, OffsetAndMetadata, OffsetReset, Start};
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
    replica_in_the_consumers_rack_is_read_from,
    reset_by_duration_begins_with_what_is_that_young,
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

async fn replica_in_the_consumers_rack_is_read_from(cluster: Cluster) {
    let real = Real::on(cluster, 3, "rack").await;
    for partition in 0..3 {
        real.produce(partition, 0, 100).await;
    }
    let nodes = real.client.metadata().nodes;
    let rack = nodes[0].rack.clone().expect("each node has a rack");
    let consumer = Consumer::builder(&real.client).rack(rack).build().unwrap();
    consumer.assign((0..3).map(|p| (real.topic.clone(), p, Start::Beginning))).unwrap();
    assert_eq!(read(&consumer, 300).await, (0..3).map(|partition| (partition, (0..100).collect())).collect());
    // Each of three nodes leads one of the partitions; of the others there are replicas in the rack.
    let metrics = consumer.metrics();
    assert_eq!(metrics.fetches_from_replicas > 0, nodes.len() > 1, "{metrics:?}");
    for partition in 0..3 {
        real.produce(partition, 100, 110).await;
    }
    assert_eq!(read(&consumer, 30).await.len(), 3);
    consumer.close(Duration::from_secs(5)).await.unwrap();
    real.end().await;
}

/// The rig's records are of 2023, but for the last.
async fn reset_by_duration_begins_with_what_is_that_young(cluster: Cluster) {
    let real = Real::on(cluster, 1, "young").await;
    real.produce(0, 0, 100).await;
    let now = real.client.time().wall_millis() - crate::consumer_rig::WALL;
    // All in the past: one that is as young as the search is what the last consumer would begin with.
    real.produce(0, now - 10, now).await;
    let start = |policy: &str, group: &str| {
        let builder = Consumer::builder(&real.client).group(format!("{}-{group}", real.topic));
        let consumer = builder.set("auto.offset.reset", policy).unwrap().build().unwrap();
        consumer.assign([(&real.topic, 0, Start::Committed)]).unwrap();
        consumer
    };
    let hour = start("by_duration:PT1H", "hour");
    assert_eq!(values(&records(&hour).await)[0], now - 10, "the first of the last hour");
    let ages = start("by_duration:P10000D", "ages");
    assert_eq!(values(&records(&ages).await)[0], 0);
    // Nothing is that young: what comes next is.
    let next = start("by_duration:PT0S", "next");
    assert_eq!(next.positioned(&[tp(&real.topic, 0)]).await.unwrap(), [110]);
    for consumer in [hour, ages, next] {
        consumer.close(Duration::from_secs(5)).await.unwrap();
    }
    real.end().await;
}

/// What only a cluster of real brokers does: elect leaders.
mod elections {
    mod three_nodes {
        use milena_protocol::NodeId;
        use milena_protocol::messages::alter_partition_reassignments_request::{
            ReassignablePartition, ReassignableTopic,
        };
        use milena_protocol::messages::elect_leaders_request::TopicPartitions;
        use milena_protocol::messages::{AlterPartitionReassignmentsRequest, ElectLeadersRequest};

        use super::super::*;

        /// Makes another replica the leader.
        async fn move_leader(real: &Real, to: usize) {
            let known = real.client.partitions(&real.topic).await.unwrap().remove(0);
            let mut replicas = known.replicas.clone();
            replicas.sort_unstable();
            let leader = replicas[to % replicas.len()];
            replicas.sort_by_key(|node| *node != leader);
            let partition = ReassignablePartition {
                partition_index: 0,
                replicas: Some(replicas.iter().map(|node| NodeId(*node)).collect()),
            };
            let name = milena_protocol::TopicName::from(&*real.topic);
            let topics = vec![ReassignableTopic { name: name.clone(), partitions: vec![partition] }];
            let reassign = AlterPartitionReassignmentsRequest {
                timeout_ms: 30_000,
                topics,
                ..AlterPartitionReassignmentsRequest::default()
            };
            real.client.raw().send(Target::Controller, reassign).await.unwrap();
            let wait = async {
                loop {
                    let elect = ElectLeadersRequest {
                        election_type: 0,
                        topic_partitions: Some(vec![TopicPartitions { topic: name.clone(), partitions: vec![0] }]),
                        timeout_ms: 30_000,
                    };
                    real.client.raw().send(Target::Controller, elect).await.unwrap();
                    real.client.refresh_metadata().await.unwrap();
                    let known = real.client.partitions(&real.topic).await.unwrap().remove(0);
                    if known.leader == Some(leader) {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            timeout(LIMIT, wait).await.expect("the preferred replica leads")
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        #[ignore = "needs a real Kafka: cargo xtask test"]
        async fn moved_leader_vouches_for_what_was_read_and_nothing_is_lost_or_repeated() {
            let real = Real::on(Cluster::real("MILENA_KAFKA_3", 3), 1, "moved").await;
            let consumer = Consumer::builder(&real.client).group(real.topic.clone()).build().unwrap();
            consumer.assign([(&real.topic, 0, Start::Beginning)]).unwrap();
            let mut epochs = BTreeSet::new();
            for round in 0..5 {
                real.produce(0, round * 10, round * 10 + 10).await;
                let set = records(&consumer).await;
                assert_eq!(values(&set), (round * 10..round * 10 + 10).collect::<Vec<_>>());
                let leader_epoch = Some(set.leader_epoch());
                epochs.insert(leader_epoch);
                let commit =
                    OffsetAndMetadata { offset: set.next_offset(), leader_epoch, ..OffsetAndMetadata::default() };
                consumer.commit([(set.topic_partition().clone(), commit, set.epoch())]).await.unwrap();
                move_leader(&real, round as usize).await;
            }
            assert!(epochs.len() > 2, "{epochs:?}: leaders wrote in epochs of their own");
            assert_eq!(consumer.metrics().truncations, 0);
            consumer.close(Duration::from_secs(5)).await.unwrap();
            // The committed epoch is an older leader's: it is validated before anything is read.
            real.produce(0, 50, 60).await;
            let again = Consumer::builder(&real.client).group(real.topic.clone()).build().unwrap();
            again.assign([(&real.topic, 0, Start::Committed)]).unwrap();
            assert_eq!(values(&records(&again).await), (50..60).collect::<Vec<_>>());
            assert_eq!(again.metrics().truncations, 0);
            again.close(Duration::from_secs(5)).await.unwrap();
            real.end().await;
        }
    }
}
