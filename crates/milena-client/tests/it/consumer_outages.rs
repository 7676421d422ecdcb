//! What is gone for good: told once within the time limit, with names, and told again when it is back.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::time::Duration;

use milena_broker::{Fault, Rule};
use milena_client::consumer::{Awaited, ConsumeError, Consumer, ConsumerEvent, Outage, Start};
use milena_protocol::{ApiKey, ErrorCode};
use tokio::time::{Instant, timeout};

use crate::consumer_group::{assigned, revoked, subscribe};
use crate::consumer_rig::{LIMIT, Rig, assert_quiet, next, read, tp, values};

/// The longest pause before another attempt: `retry.backoff.max.ms`, and behind it `reconnect.backoff.max.ms`, where another
/// request has found the broker gone meanwhile.
const PAUSE: Duration = Duration::from_secs(2);
/// `heartbeat.interval.ms`, at which the first attempt fails, `default.api.timeout.ms` from then, and the pause before the
/// attempt that shows that it has lasted.
const TOLD: Duration = Duration::from_secs(3 + 60 + PAUSE.as_secs());

/// Each its own backoffs.
const SEEDS: u64 = 60;

async fn told(consumer: &Consumer) -> (Outage, String) {
    match timeout(LIMIT, consumer.next()).await.expect("within the limit") {
        Err(error @ ConsumeError::Unreachable { .. }) => {
            assert!(error.class().is_retriable());
            let text = format!("{error}: {}", error.source().expect("the last attempt's error"));
            let ConsumeError::Unreachable { outage, .. } = error else { unreachable!() };
            (outage, text)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn cluster_that_is_gone_is_told_once_by_address_and_so_is_its_return() {
    let rig = Rig::new(1, "t", 2).await;
    let consumer = subscribe(rig.member("g"));
    assigned(&consumer).await;
    rig.produce("t", 0, 0..10).await;
    read(&consumer, 10).await;
    let address = rig.broker.bootstrap();
    rig.broker.stop_node(0).await.unwrap();
    let start = Instant::now();
    let mut awaited = BTreeSet::new();
    for _ in 0..2 {
        let (outage, text) = told(&consumer).await;
        assert!(text.contains(&*address) && text.contains("check that"), "{address}: {text}");
        match &outage.awaited {
            Awaited::Coordinator(group) => assert!(text.contains(&format!("`{group}`")), "{text}"),
            _ => assert!(text.contains("t-0, t-1") && outage.partitions == [tp("t", 0), tp("t", 1)], "{text}"),
        }
        awaited.insert(outage.awaited);
    }
    assert_eq!(awaited, BTreeSet::from([Awaited::Broker(0), Awaited::Coordinator("g".to_owned())]));
    assert!(start.elapsed() < TOLD, "{:?}", start.elapsed());
    // Long enough for the metadata to begin again with the bootstrap servers.
    assert_quiet(&consumer, Duration::from_secs(900)).await;
    rig.broker.start_node(0).await.unwrap();
    rig.produce("t", 0, 10..20).await;
    let mut read = Vec::new();
    while !awaited.is_empty() || read.last() != Some(&19) {
        match next(&consumer).await {
            ConsumerEvent::Reached(again) => assert!(awaited.remove(&again), "{again:?} is told once"),
            ConsumerEvent::Records(set) => read.extend(values(&set)),
            _ => {}
        }
    }
    assert!(read.ends_with(&(10..20).collect::<Vec<_>>()), "{read:?}");
}

#[tokio::test(start_paused = true)]
async fn group_without_a_coordinator_hears_of_it() {
    let rig = Rig::new(1, "t", 1).await;
    let none = Fault::Error(ErrorCode::COORDINATOR_NOT_AVAILABLE);
    let rule = rig.broker.faults().add(Rule::new(none).api(ApiKey::FindCoordinator).always());
    let consumer = subscribe(rig.member("g"));
    let start = Instant::now();
    let (outage, text) = told(&consumer).await;
    assert_eq!(outage.awaited, Awaited::Coordinator("g".to_owned()));
    assert!(text.contains(&*rig.broker.bootstrap()) && text.contains("COORDINATOR_NOT_AVAILABLE"), "{text}");
    assert!(start.elapsed() < TOLD, "{:?}", start.elapsed());
    rig.broker.faults().remove(rule);
    assert!(matches!(next(&consumer).await, ConsumerEvent::Reached(Awaited::Coordinator(_))));
    assigned(&consumer).await;
}

#[tokio::test(start_paused = true)]
async fn partition_without_a_leader_is_told_by_name_and_others_read_on() {
    let rig = Rig::new(3, "t", 3).await;
    rig.broker.create_topic("single", 1, 1).unwrap();
    let node = rig.broker.leader("single", 0).unwrap().unwrap();
    let consumer = rig.consumer().build().unwrap();
    consumer.assign((0..3).map(|p| ("t", p, Start::Beginning)).chain([("single", 0, Start::Beginning)])).unwrap();
    rig.produce("single", 0, 0..10).await;
    read(&consumer, 10).await;
    rig.broker.stop_node(node).await.unwrap();
    let start = Instant::now();
    rig.produce("t", 0, 0..10).await;
    read(&consumer, 10).await;
    let (outage, text) = told(&consumer).await;
    assert_eq!(outage.awaited, Awaited::Leader(tp("single", 0)), "{text}");
    assert!(text.contains("single-0") && start.elapsed() < TOLD + Duration::from_secs(5), "{:?}", start.elapsed());
    rig.broker.start_node(node).await.unwrap();
    assert!(matches!(next(&consumer).await, ConsumerEvent::Reached(Awaited::Leader(_))));
    rig.produce("single", 0, 10..20).await;
    read(&consumer, 10).await;
}

#[tokio::test(start_paused = true)]
async fn coordinator_that_is_gone_is_told_in_time_whatever_the_backoffs() {
    for seed in 0..SEEDS {
        let rig = Rig::new(1, "t", 1).await.another(seed).await;
        let consumer = subscribe(rig.member("g"));
        assigned(&consumer).await;
        rig.broker.stop_node(0).await.unwrap();
        let start = Instant::now();
        while told(&consumer).await.0.awaited != Awaited::Coordinator("g".to_owned()) {}
        assert!(start.elapsed() < TOLD, "seed {seed}: {:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn broker_that_is_back_in_time_is_no_news() {
    for seed in 0..SEEDS {
        let rig = Rig::new(1, "t", 1).await.another(seed).await;
        let consumer = subscribe(rig.member("g"));
        assigned(&consumer).await;
        for _ in 0..3 {
            rig.broker.stop_node(0).await.unwrap();
            assert_quiet(&consumer, Duration::from_secs(40)).await;
            rig.broker.start_node(0).await.unwrap();
            rig.produce("t", 0, 0..10).await;
            assert!(matches!(next(&consumer).await, ConsumerEvent::Records(_)), "seed {seed}");
            // Records come at once; a node that stops before the next attempt to find the coordinator was never back for it.
            assert_quiet(&consumer, PAUSE).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn coordinator_that_holds_a_join_back_is_there_though_one_before_it_failed() {
    let rig = Rig::new(1, "t", 1).await;
    let first = subscribe(rig.member("g"));
    assigned(&first).await;
    // The first only asks for a member id.
    rig.broker.faults().add(Rule::new(Fault::DropBeforeApply).api(ApiKey::JoinGroup).nth(2));
    let second = subscribe(rig.another(8).await.member("g"));
    let guard = tokio::spawn(async move { (revoked(&first).await, first) });
    // The others take their time to give their partitions up.
    assert_quiet(&second, Duration::from_secs(200)).await;
    let held = guard.await.unwrap();
    rig.broker.stop_node(0).await.unwrap();
    assert_quiet(&second, Duration::from_secs(50)).await;
    let (outage, text) = told(&second).await;
    assert_eq!(outage.awaited, Awaited::Coordinator("g".to_owned()), "{text}");
    assert!(outage.lasting < TOLD, "since the join that was held back failed: {text}");
    drop(held);
}
