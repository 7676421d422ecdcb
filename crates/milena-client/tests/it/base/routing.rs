//! Requests find their broker, and find it again when it has moved.

use std::time::Duration;

use milena_broker::{Broker, CoordinatorType, Fault, Rule};
use milena_client::RequestError;
use milena_client::raw::Target;
use milena_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use milena_protocol::messages::{DescribeGroupsRequest, ListOffsetsRequest, ListOffsetsResponse};
use milena_protocol::{ApiKey, ErrorCode};
use tokio::time::Instant;

use super::links::{builder, client};

fn latest(topic: &str, partition: i32) -> ListOffsetsRequest {
    let partition =
        ListOffsetsPartition { partition_index: partition, timestamp: -1, ..ListOffsetsPartition::default() };
    let topic = ListOffsetsTopic { name: topic.into(), partitions: vec![partition], ..ListOffsetsTopic::default() };
    ListOffsetsRequest { replica_id: (-1).into(), topics: vec![topic], ..ListOffsetsRequest::default() }
}

fn error_of(response: &ListOffsetsResponse) -> ErrorCode {
    response.topics[0].partitions[0].error_code
}

fn leader(topic: &str, partition: i32) -> Target {
    Target::Leader { topic: topic.to_owned(), partition }
}

fn count(broker: &Broker, api: ApiKey) -> u64 {
    broker.requests().iter().filter(|count| count.api == api).map(|count| count.count).sum()
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_moved_is_found_again() {
    let broker = Broker::builder().nodes(3).topic("orders", 1).build();
    let client = client(&broker).await;
    let raw = client.raw();
    for _ in 0..3 {
        for node in client.metadata().nodes {
            broker.move_leader("orders", 0, node.id).expect("a node");
            let start = Instant::now();
            let response = raw.send_checked(leader("orders", 0), latest("orders", 0), error_of).await;
            assert_eq!(error_of(&response.expect("an answer")), ErrorCode::NONE);
            assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_leader_is_waited_for() {
    let broker = Broker::builder().nodes(3).topic("orders", 1).build();
    let client = client(&broker).await;
    client.partitions("orders").await.expect("it exists");
    broker.remove_leader("orders", 0).expect("a partition");
    client.refresh_metadata().await.expect("an answer");
    let elect = async {
        tokio::time::sleep(Duration::from_secs(8)).await;
        let node = client.metadata().nodes[1].id;
        broker.move_leader("orders", 0, node).expect("a node");
    };
    let raw = client.raw();
    let (response, ()) = tokio::join!(raw.send_checked(leader("orders", 0), latest("orders", 0), error_of), elect);
    assert_eq!(error_of(&response.expect("an answer")), ErrorCode::NONE);
}

#[tokio::test(start_paused = true)]
async fn what_goes_wrong_on_the_way_is_tried_again() {
    let broker = Broker::builder().topic("orders", 1).build();
    let client = client(&broker).await;
    let raw = client.raw();
    raw.send(leader("orders", 0), latest("orders", 0)).await.expect("an answer");
    for fault in [
        Fault::DropBeforeApply,
        Fault::DropAfterApply,
        Fault::CutReply { after_bytes: 2 },
        Fault::CutReply { after_bytes: 9 },
        Fault::WrongCorrelationId,
        Fault::FlipReplyByte { at: 0 },
        Fault::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER),
    ] {
        let rule = broker.faults().add(Rule::new(fault.clone()).api(ApiKey::ListOffsets).times(3));
        let response = raw.send_checked(leader("orders", 0), latest("orders", 0), error_of).await;
        assert_eq!(error_of(&response.expect("an answer")), ErrorCode::NONE, "{fault:?}");
        assert_eq!(broker.faults().hits(rule), 3, "{fault:?}");
        broker.faults().clear();
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_gone_for_good_is_an_error_at_the_api_timeout() {
    let broker = Broker::builder().topic("orders", 1).build();
    let client = client(&broker).await;
    client.partitions("orders").await.expect("it exists");
    let node = client.metadata().nodes[0].id;
    broker.stop_node(node).await.expect("a node");
    let start = Instant::now();
    let error = client.raw().send(leader("orders", 0), latest("orders", 0)).await.expect_err("nobody there");
    assert!((55..=61).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    let RequestError::Exhausted { api, attempts, source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*api, "ListOffsets");
    assert!(*attempts > 10, "{attempts}");
    assert!(error.class().is_retriable(), "{error:?}");
    assert!(!error.is_possibly_applied(), "{source:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_broker_is_an_error_at_the_api_timeout() {
    let broker = Broker::builder().topic("orders", 1).build();
    let client = client(&broker).await;
    let forever = Duration::from_secs(100_000);
    broker.faults().add(Rule::new(Fault::Delay(forever)).api(ApiKey::ListOffsets).always());
    let start = Instant::now();
    let error = client.raw().send(leader("orders", 0), latest("orders", 0)).await.expect_err("no answer");
    assert!((55..=61).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert!(error.is_possibly_applied(), "it was written: {error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_request_is_not_cut_off_because_metadata_is_wanted_from_a_busy_broker() {
    let broker = Broker::builder().nodes(2).topic("orders", 2).build();
    let client = client(&broker).await;
    client.partitions("orders").await.expect("it exists");
    // A broker answers one request of a connection after the other: no metadata comes within its five seconds.
    let slow = Rule::new(Fault::Delay(Duration::from_secs(15))).api(ApiKey::ListOffsets).always();
    let slow = broker.faults().add(slow);
    let (raw, start) = (client.raw(), Instant::now());
    let ask = |partition| raw.send(leader("orders", partition), latest("orders", partition));
    let refresh = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        client.refresh_metadata().await
    };
    let (first, second, refreshed) = tokio::join!(ask(0), ask(1), refresh);
    first.expect("an answer");
    second.expect("an answer");
    refreshed.expect("metadata in the end");
    assert_eq!(broker.faults().hits(slow), 2, "neither was asked again");
    assert!(start.elapsed() < Duration::from_secs(16), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_error_that_no_retry_mends_comes_back_at_once() {
    let broker = Broker::builder().topic("orders", 1).build();
    let client = client(&broker).await;
    let start = Instant::now();
    let error = client.raw().send(leader("orders", 7), latest("orders", 7)).await.expect_err("no such partition");
    assert!(matches!(error, RequestError::UnknownPartition { partition: 7, partitions: 1, .. }), "{error:?}");
    let error = client.raw().send(leader("a b", 0), latest("a b", 0)).await.expect_err("illegal");
    assert!(matches!(error, RequestError::InvalidTopicName { .. }), "{error:?}");
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_throttle_is_kept_before_the_next_request() {
    let broker = Broker::builder().topic("orders", 1).build();
    let client = client(&broker).await;
    let raw = client.raw();
    raw.send(leader("orders", 0), latest("orders", 0)).await.expect("an answer");
    broker.faults().add(Rule::new(Fault::Throttle(Duration::from_secs(3))).api(ApiKey::ListOffsets));
    raw.send(leader("orders", 0), latest("orders", 0)).await.expect("the throttle comes with an answer");
    let start = Instant::now();
    raw.send(leader("orders", 0), latest("orders", 0)).await.expect("an answer");
    assert!(start.elapsed() >= Duration::from_millis(2_990), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_is_looked_up_once_and_again_when_it_moved() {
    let broker = Broker::builder().nodes(3).build();
    let client = client(&broker).await;
    let describe =
        |group: &str| DescribeGroupsRequest { groups: vec![group.into()], ..DescribeGroupsRequest::default() };
    let ask = |group: &'static str| {
        let (raw, request) = (client.raw(), describe(group));
        async move {
            let target = Target::GroupCoordinator(group.to_owned());
            let response = raw.send_checked(target, request, |response| response.groups[0].error_code).await;
            response.expect("an answer").groups[0].error_code
        }
    };
    let calls = (0..20).map(|_| tokio::spawn(ask("g"))).collect::<Vec<_>>();
    for call in calls {
        assert!(!call.await.expect("no panic").is_retriable());
    }
    assert_eq!(count(&broker, ApiKey::FindCoordinator), 1, "one lookup for all of them");
    assert!(!ask("g").await.is_retriable());
    assert_eq!(count(&broker, ApiKey::FindCoordinator), 1, "it is remembered");

    let before = broker.coordinator(CoordinatorType::Group, "g").expect("it has one");
    let other = client.metadata().nodes.iter().map(|node| node.id).find(|node| *node != before).expect("three nodes");
    broker.move_coordinator(CoordinatorType::Group, "g", other).expect("a node");
    assert!(!ask("g").await.is_retriable());
    assert_eq!(count(&broker, ApiKey::FindCoordinator), 2);

    // A node that is gone is not asked for ever either.
    broker.stop_node(other).await.expect("a node");
    assert!(!ask("g").await.is_retriable());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_stops_no_lookup() {
    let broker = Broker::builder().build();
    let client = builder(&broker).build().await.expect("the broker answers");
    broker.faults().add(Rule::new(Fault::Delay(Duration::from_secs(2))).api(ApiKey::FindCoordinator));
    let request = || DescribeGroupsRequest { groups: vec!["g".into()], ..DescribeGroupsRequest::default() };
    let target = || Target::GroupCoordinator("g".to_owned());
    let impatient = client.raw();
    let gave_up = tokio::time::timeout(Duration::from_secs(1), impatient.send(target(), request())).await;
    assert!(gave_up.is_err());
    client.raw().send(target(), request()).await.expect("an answer");
    assert_eq!(count(&broker, ApiKey::FindCoordinator), 1, "the first lookup served the second caller");
}
