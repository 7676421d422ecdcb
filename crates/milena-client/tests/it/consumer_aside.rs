//! Fetches beside a long poll that is parked, when they are refused or lost: what they ask for does not wait for the poll.

use std::time::Duration;

use milena_broker::{Fault, Rule};
use milena_client::consumer::Start;
use milena_protocol::{ApiKey, ErrorCode};
use tokio::time::Instant;

use crate::consumer_rig::{Rig, assert_quiet, read};

const PARKED: Duration = Duration::from_secs(60);
const SELECTOR: &str = "org.apache.kafka.common.replica.RackAwareReplicaSelector";

#[tokio::test(start_paused = true)]
async fn partition_that_is_put_off_is_fetched_when_its_time_has_come() {
    for fault in [Fault::Error(ErrorCode::KAFKA_STORAGE_ERROR), Fault::DropBeforeApply] {
        // Also beside one that becomes fetchable with it, has nothing, and is parked.
        for beside in [None, Some(("t", 2, Start::Offset(0)))] {
            let rig = Rig::new(1, "t", 3).await;
            rig.produce("t", 1, 0..10).await;
            let consumer = rig.consumer().fetch_max_wait(PARKED).build().unwrap();
            consumer.assign([("t", 0, Start::End)]).unwrap();
            assert_quiet(&consumer, Duration::from_secs(1)).await;
            rig.broker.faults().add(Rule::new(fault.clone()).api(ApiKey::Fetch).partition(1));
            let began = Instant::now();
            let assigned = [("t", 0, Start::Committed), ("t", 1, Start::Offset(0))];
            consumer.assign(assigned.into_iter().chain(beside)).unwrap();
            assert_eq!(read(&consumer, 10).await[&1], (0..10).collect::<Vec<_>>());
            let took = began.elapsed();
            assert!(took < Duration::from_millis(200), "{took:?} is more than a retry.backoff.ms, beside {beside:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn replica_that_serves_no_fetch_aside_is_given_up_for_the_leader() {
    let broker = Rig::broker(3).topic("t", 2).racks(["r0", "r1", "r2"]).config("replica.selector.class", SELECTOR);
    let rig = Rig::of(broker).await;
    for partition in 0..2 {
        rig.broker.move_leader("t", partition, 0).unwrap();
    }
    rig.client.refresh_metadata().await.unwrap();
    for partition in 0..2 {
        rig.produce("t", partition, 0..10).await;
    }
    let consumer = rig.consumer().rack("r2").fetch_max_wait(PARKED).build().unwrap();
    consumer.assign([("t", 0, Start::Beginning)]).unwrap();
    read(&consumer, 10).await;
    assert!(rig.asked(2, ApiKey::Fetch) > 0, "the replica in its rack");
    assert_quiet(&consumer, Duration::from_secs(1)).await;
    rig.broker.faults().add(Rule::new(Fault::DropBeforeApply).node(2).api(ApiKey::Fetch).partition(1).always());
    let began = Instant::now();
    consumer.assign([("t", 0, Start::Committed), ("t", 1, Start::Offset(0))]).unwrap();
    assert_eq!(read(&consumer, 10).await[&1], (0..10).collect::<Vec<_>>());
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}
