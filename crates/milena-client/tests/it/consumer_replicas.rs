//! Reading from a replica in one's own rack (KIP-392), and following leaders by the hints of fetches (KIP-951).

use std::time::Duration;

use milena_broker::{Fault, Rule};
use milena_client::consumer::{Consumer, Start};
use milena_protocol::{ApiKey, ErrorCode};
use tokio::time::Instant;

use crate::consumer_rig::{LIMIT, Rig, assert_quiet, read, records, values};

const SELECTOR: &str = "org.apache.kafka.common.replica.RackAwareReplicaSelector";

/// Three nodes in racks `r0` to `r2`, of which node 0 leads, and a consumer in `r2`.
async fn in_rack_two(
    config: impl FnOnce(milena_client::ClientBuilder) -> milena_client::ClientBuilder,
) -> (Rig, Consumer) {
    let broker = Rig::broker(3).topic("t", 1).racks(["r0", "r1", "r2"]).config("replica.selector.class", SELECTOR);
    let rig = Rig::of(broker).await.with(config).await;
    rig.broker.move_leader("t", 0, 0).unwrap();
    rig.client.refresh_metadata().await.unwrap();
    rig.produce("t", 0, 0..10).await;
    let consumer = rig.consumer().rack("r2").build().unwrap();
    consumer.assign([("t", 0, Start::Beginning)]).unwrap();
    (rig, consumer)
}

fn fetches(rig: &Rig) -> [u64; 3] {
    [0, 1, 2].map(|node| rig.asked(node, ApiKey::Fetch))
}

#[tokio::test(start_paused = true)]
async fn replica_in_the_consumers_rack_is_read_from() {
    let (rig, consumer) = in_rack_two(|client| client).await;
    for round in 0..10 {
        assert_eq!(read(&consumer, 10).await[&0], (round * 10..round * 10 + 10).collect::<Vec<_>>());
        rig.produce("t", 0, round * 10 + 10..round * 10 + 20).await;
    }
    let [leader, other, near] = fetches(&rig);
    assert!(leader == 1 && other == 0 && near >= 10, "{leader} {other} {near}: the leader only names the replica");
}

#[tokio::test(start_paused = true)]
async fn consumer_without_a_rack_or_in_the_leaders_reads_from_the_leader() {
    let (rig, consumer) = in_rack_two(|client| client).await;
    drop(consumer);
    let before = fetches(&rig);
    for rack in [None, Some("r0"), Some("nowhere")] {
        let builder = rig.consumer();
        let consumer = rack.map_or(builder, |rack| rig.consumer().rack(rack)).build().unwrap();
        consumer.assign([("t", 0, Start::Beginning)]).unwrap();
        read(&consumer, 10).await;
    }
    assert_eq!(fetches(&rig)[1..], before[1..]);
}

#[tokio::test(start_paused = true)]
async fn replica_is_asked_for_anew_when_metadata_is_old() {
    let (rig, consumer) = in_rack_two(|client| client.set("metadata.max.age.ms", "20000").unwrap()).await;
    read(&consumer, 10).await;
    assert_quiet(&consumer, Duration::from_secs(19)).await;
    assert_eq!(fetches(&rig)[0], 1);
    assert_quiet(&consumer, Duration::from_secs(2)).await;
    assert_eq!(fetches(&rig)[0], 2, "the leader names it again");
    let before = consumer.metrics().fetches_from_replicas;
    rig.produce("t", 0, 10..20).await;
    read(&consumer, 10).await;
    assert!(consumer.metrics().fetches_from_replicas > before, "what came then came from it");
}

#[tokio::test(start_paused = true)]
async fn what_a_replica_cannot_serve_the_leader_does_and_nothing_is_reset() {
    for error in [
        ErrorCode::OFFSET_NOT_AVAILABLE,
        ErrorCode::OFFSET_OUT_OF_RANGE,
        ErrorCode::NOT_LEADER_OR_FOLLOWER,
        ErrorCode::UNKNOWN_LEADER_EPOCH,
        ErrorCode::REPLICA_NOT_AVAILABLE,
        ErrorCode::KAFKA_STORAGE_ERROR,
    ] {
        let (rig, consumer) = in_rack_two(|client| client).await;
        let rule = rig.broker.faults().add(Rule::new(Fault::Error(error)).node(2).api(ApiKey::Fetch).always());
        let began = Instant::now();
        assert_eq!(read(&consumer, 10).await[&0], (0..10).collect::<Vec<_>>(), "{error}");
        rig.produce("t", 0, 10..20).await;
        assert_eq!(read(&consumer, 10).await[&0], (10..20).collect::<Vec<_>>(), "{error}");
        assert!(began.elapsed() < Duration::from_millis(50), "{error}: {:?}", began.elapsed());
        assert_quiet(&consumer, Duration::from_secs(60)).await;
        let [leader, _, near] = fetches(&rig);
        assert!(near < 20 && leader < 200, "{error}: {leader} and {near} are no ping-pong");
        rig.broker.faults().remove(rule);
        assert_quiet(&consumer, Duration::from_secs(10)).await;
        let before = fetches(&rig);
        for round in 2..12 {
            rig.produce("t", 0, round * 10..round * 10 + 10).await;
            read(&consumer, 10).await;
        }
        let after = fetches(&rig);
        assert!(after[0] == before[0] && after[2] >= before[2] + 10, "{error}: back at the replica");
    }
}

#[tokio::test(start_paused = true)]
async fn replica_that_is_gone_costs_no_outage_and_no_record() {
    let (rig, consumer) = in_rack_two(|client| client).await;
    read(&consumer, 10).await;
    rig.broker.stop_node(2).await.unwrap();
    let began = Instant::now();
    for round in 1..5 {
        rig.produce("t", 0, round * 10..round * 10 + 10).await;
        assert_eq!(read(&consumer, 10).await[&0], (round * 10..round * 10 + 10).collect::<Vec<_>>());
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_quiet(&consumer, Duration::from_secs(120)).await;
}

#[tokio::test(start_paused = true)]
async fn leader_that_moved_is_followed_by_the_answers_hint_without_metadata() {
    let rig = Rig::new(3, "t", 1).await;
    rig.broker.move_leader("t", 0, 0).unwrap();
    rig.client.refresh_metadata().await.unwrap();
    let consumer = rig.consumer().build().unwrap();
    consumer.assign([("t", 0, Start::Beginning)]).unwrap();
    rig.produce("t", 0, 0..10).await;
    read(&consumer, 10).await;
    rig.broker.faults().add(Rule::new(Fault::StaleMetadata).api(ApiKey::Metadata).always());
    for (round, node) in [(1, 1), (2, 2), (3, 0), (4, 2)] {
        let before = rig.asked(node, ApiKey::Fetch);
        let began = Instant::now();
        rig.broker.move_leader("t", 0, node).unwrap();
        // The poll that was parked ends and tells where to go; metadata would name the old leader for ever.
        while rig.asked(node, ApiKey::Fetch) == before {
            assert!(began.elapsed() < LIMIT, "not followed");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(began.elapsed() < Duration::from_millis(5), "{:?} is a metadata's backoff", began.elapsed());
        // All of the client has learned of it, those that write included.
        rig.produce("t", 0, round * 10..round * 10 + 10).await;
        assert_eq!(values(&records(&consumer).await), (round * 10..round * 10 + 10).collect::<Vec<_>>());
        assert!(began.elapsed() < Duration::from_millis(10), "{:?}", began.elapsed());
    }
}
