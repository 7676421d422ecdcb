//! Three real nodes of which one dies or stands still under load. One test at a time, alone on its cluster.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use milena_admin::{Admin, NewTopic};
use milena_client::Client;
use milena_client::consumer::Assignor;
use milena_client::producer::{Delivery, Producer, Record};
use milena_client::raw::Target;
use milena_protocol::messages::FindCoordinatorRequest;
use milena_tests::kafka::{Kafka, Outcome, Stop};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::client::{Member, TIME_LIMIT, read_all};

const PARTITIONS: i32 = 6;
/// How long a node is gone: long enough that the cluster gives its partitions to others.
const GONE: Duration = Duration::from_secs(20);
/// How long a wait on the cluster itself may last: it starts a node on a busy machine meanwhile.
const PATIENCE: Duration = Duration::from_secs(120);

/// A topic of three replicas on the cluster, and a producer that writes to it all the while.
struct Scene {
    kafka: Kafka,
    client: Client,
    admin: Admin,
    topic: String,
    stop: watch::Sender<bool>,
    load: JoinHandle<Vec<(u32, Delivery)>>,
}

impl Scene {
    async fn set(name: &str) -> Self {
        let kafka = Kafka::three_nodes().unwrap();
        let client = Client::builder().bootstrap(kafka.bootstrap()).unwrap().build().await.unwrap();
        let admin = Admin::new(&client);
        let topic = format!("{name}-{:016x}", fastrand::u64(..));
        let new = NewTopic::new(&topic).partitions(PARTITIONS).replication_factor(3);
        admin.create_topic(new.config("min.insync.replicas", "2")).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let load = tokio::spawn(load(Producer::builder(&client).build().unwrap(), topic.clone(), stopped));
        let scene = Self { kafka, client, admin, topic, stop, load };
        scene.until("the topic serves", async || scene.written().await > 100).await;
        scene
    }

    /// Records that the log has.
    async fn written(&self) -> i64 {
        let reader = milena_client::consumer::Consumer::builder(&self.client).build().unwrap();
        let partitions = (0..PARTITIONS).map(|partition| milena_client::TopicPartition::new(&*self.topic, partition));
        // Partitions without a leader count as empty: the caller looks again.
        reader.end_offsets(partitions).await.map_or(0, |ends| ends.values().sum())
    }

    async fn leader_of_first(&self) -> u16 {
        let described = self.admin.describe_topics(&[&*self.topic]).await.unwrap();
        let topic = described[0].1.as_ref().unwrap();
        u16::try_from(topic.partitions[0].leader.expect("a leader")).unwrap()
    }

    /// None while the cluster has none to name.
    async fn coordinator_of(&self, group: &str) -> Option<u16> {
        let mut request = FindCoordinatorRequest::default();
        request.coordinator_keys.push(group.to_owned().into());
        let answer = self.client.raw().send(Target::Any, request).await.ok()?;
        u16::try_from(answer.coordinators.first()?.node_id.0).ok()
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds().await {
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn is_led_without(&self, node: u16) -> bool {
        let Ok(described) = self.admin.describe_topics(&[&*self.topic]).await else { return false };
        let led = |leader: Option<i32>| leader.is_some_and(|leader| leader != i32::from(node));
        described[0].1.as_ref().is_ok_and(|topic| topic.partitions.iter().all(|partition| led(partition.leader)))
    }

    async fn is_whole(&self) -> bool {
        let Ok(described) = self.admin.describe_topics(&[&*self.topic]).await else { return false };
        described[0].1.as_ref().is_ok_and(|topic| topic.partitions.iter().all(|partition| partition.isr.len() == 3))
    }

    /// Ends the load once all is whole again: every record was acknowledged, and the log has each once, in order.
    async fn judge(self) {
        self.until("every replica is in sync again", async || self.is_whole().await).await;
        self.stop.send(true).unwrap();
        let mut acknowledged = BTreeMap::new();
        for (number, delivery) in self.load.await.unwrap() {
            let written = timeout(PATIENCE, delivery).await.expect("an outcome").expect("an acknowledgement");
            let before = acknowledged.insert((written.partition(), written.offset().expect("acks=all")), number);
            assert_eq!(before, None, "two records have one place");
        }
        let number = |record: &milena_client::consumer::OwnedRecord| {
            std::str::from_utf8(record.value().unwrap()).unwrap().parse::<u32>().unwrap()
        };
        let log: BTreeMap<_, _> = read_all(&self.client, &self.topic, PARTITIONS)
            .await
            .iter()
            .map(|(place, record)| (*place, number(record)))
            .collect();
        assert_eq!(log, acknowledged, "each acknowledged record is where it was said to be, and no other is");
        for partition in 0..PARTITIONS {
            let of_partition = log.range((partition, 0)..(partition + 1, 0)).map(|(_, number)| number);
            assert!(of_partition.is_sorted(), "partition {partition} is not in the order of its sends");
        }
        self.admin.delete_topic(&self.topic).await.unwrap();
        self.client.close(TIME_LIMIT).await;
    }
}

async fn load(producer: Producer, topic: String, stopped: watch::Receiver<bool>) -> Vec<(u32, Delivery)> {
    let mut sent = Vec::new();
    while !*stopped.borrow() {
        let number = u32::try_from(sent.len()).unwrap();
        let (key, value) = ((number % 64).to_string(), number.to_string());
        sent.push((number, producer.send(Record::to(&topic).key(&key).value(&value)).await.unwrap()));
        sleep(Duration::from_millis(2)).await;
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs three real nodes of its own: cargo xtask test"]
async fn the_leader_is_killed_while_it_is_written_to() {
    let scene = Scene::set("leader-killed").await;
    let node = scene.leader_of_first().await;
    scene.kafka.stop(node, Stop::Hard).await.unwrap();
    scene.until("others lead", async || scene.is_led_without(node).await).await;
    let before = scene.written().await;
    scene.until("records are written meanwhile", async || scene.written().await > before + 100).await;
    scene.kafka.start(node).await.unwrap();
    scene.judge().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs three real nodes of its own: cargo xtask test"]
async fn a_node_stands_still_for_20_s_with_its_connections_open() {
    let scene = Scene::set("frozen").await;
    let node = scene.leader_of_first().await;
    scene.kafka.pause(node).await.unwrap();
    sleep(GONE).await;
    scene.kafka.resume(node).await.unwrap();
    scene.judge().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs three real nodes of its own: cargo xtask test"]
async fn the_coordinator_is_killed_while_its_group_works() -> Outcome {
    let scene = Scene::set("coordinator-killed").await;
    let group = format!("group-of-{}", scene.topic);
    let (seen, mut handled) = mpsc::channel(1024);
    let member = Member::join(&scene.client, &scene.topic, &group, Assignor::CooperativeSticky, seen);
    handled.recv().await.expect("the group works");
    let node = scene.coordinator_of(&group).await.expect("a group that works has one");
    scene.kafka.stop(node, Stop::Hard).await?;
    let counting = tokio::spawn(async move {
        let mut handled_at = BTreeMap::new();
        while let Some(record) = handled.recv().await {
            *handled_at.entry((record.partition, record.offset)).or_insert(0_u32) += 1;
        }
        handled_at
    });
    scene
        .until("another coordinates", async || scene.coordinator_of(&group).await.is_some_and(|now| now != node))
        .await;
    scene.kafka.start(node).await?;

    scene.until("every replica is in sync again", async || scene.is_whole().await).await;
    // What is committed reaches the end of a log that still grows: the member kept its group or found it again.
    let end = scene.written().await;
    let committed = async || {
        let listed = scene.admin.list_group_offsets(&group).await;
        listed.map_or(0, |offsets| offsets.iter().map(|(_, committed)| committed.offset).sum::<i64>())
    };
    scene.until("the group commits on", async || committed().await >= end).await;
    member.leave().await;
    let handled_at = counting.await?;
    // The first was taken before counting began.
    assert!(i64::try_from(handled_at.len())? + 1 >= end, "{} of {end} handled", handled_at.len());
    scene.judge().await;
    Ok(())
}
