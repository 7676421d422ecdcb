//! Every fault, seen from the client.

use std::time::Duration;

use milena_broker::{Broker, CoordinatorType, Fault, Rule};
use milena_protocol::{
    ApiKey, ErrorCode, NodeId,
    messages::{FetchRequest, FindCoordinatorRequest, MetadataRequest, ProduceRequest},
};
use tokio::time::Instant;

use crate::client::{Client, fetch_request, metadata_request, only_partition, plain, produce_request, values};

fn broker() -> Broker {
    Broker::builder().nodes(2).topic("t", 2).build()
}

fn on_produce(fault: Fault) -> Rule {
    Rule::new(fault).api(ApiKey::Produce)
}

#[tokio::test(start_paused = true)]
async fn a_request_dropped_before_it_applies_leaves_no_trace() {
    let broker = broker();
    let rule = broker.faults().add(on_produce(Fault::DropBeforeApply).node(0));
    let answer = Client::to(&broker, 0).try_call(9, &produce_request("t", 0, plain(&["x"]))).await;
    assert!(answer.is_none());
    assert_eq!((broker.log_offsets("t", 0), broker.faults().hits(rule)), (Ok((0, 0)), 1));
    let again = Client::to(&broker, 0).produce("t", 0, plain(&["x"])).await;
    assert_eq!(again.error_code, ErrorCode::NONE, "once only");
}

#[tokio::test(start_paused = true)]
async fn a_request_dropped_after_it_applied_is_in_the_log() {
    let broker = broker();
    broker.faults().add(on_produce(Fault::DropAfterApply));
    let answer = Client::to(&broker, 0).try_call(9, &produce_request("t", 0, plain(&["x"]))).await;
    assert!(answer.is_none());
    assert_eq!(broker.log_offsets("t", 0), Ok((0, 1)));
}

#[tokio::test(start_paused = true)]
async fn a_reply_is_cut_after_so_many_bytes() {
    let broker = broker();
    broker.faults().add(on_produce(Fault::CutReply { after_bytes: 10 }).nth(2));
    let mut client = Client::to(&broker, 0);
    assert_eq!(client.produce("t", 0, plain(&["x"])).await.error_code, ErrorCode::NONE, "only the second");
    client.send(9, &produce_request("t", 0, plain(&["y"]))).await;
    assert_eq!(client.frame().await.map_err(|part| part.len()), Err(10));
    assert_eq!(broker.log_offsets("t", 0), Ok((0, 2)));
}

#[tokio::test(start_paused = true)]
async fn a_reply_is_damaged_or_misaddressed() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    broker.faults().add(on_produce(Fault::WrongCorrelationId));
    let sent = client.send(9, &produce_request("t", 0, plain(&["x"]))).await;
    let (received, _) = client.receive::<ProduceRequest>(9).await.expect("an answer");
    assert_ne!(received, sent);
    client.produce("t", 0, plain(&["y"])).await;
    let sound = client.fetch("t", 0, 0).await.records;
    broker.faults().add(Rule::new(Fault::FlipReplyByte { at: usize::MAX }).api(ApiKey::Fetch));
    client.send(11, &fetch_request("t", &[(0, 0)])).await;
    let (_, response) = client.receive::<FetchRequest>(11).await.expect("an answer");
    assert_ne!(response.responses[0].partitions[0].records, sound, "the last byte of the records is another");
}

#[tokio::test(start_paused = true)]
async fn errors_hit_the_partitions_they_name() {
    let broker = broker();
    broker.move_leader("t", 1, 0).expect("a known partition");
    let mut client = Client::to(&broker, 0);
    broker.faults().add(on_produce(Fault::Error(ErrorCode::KAFKA_STORAGE_ERROR)).topic("t").partition(1).times(2));
    let mut both = produce_request("t", 0, plain(&["x"]));
    let other = produce_request("t", 1, plain(&["x"])).topic_data.remove(0).partition_data.remove(0);
    both.topic_data[0].partition_data.push(other);
    let mut codes = Vec::new();
    for _ in 0..3 {
        let response = client.call(9, &both).await;
        codes.push(response.responses[0].partition_responses.iter().map(|p| p.error_code).collect::<Vec<_>>());
    }
    let (ok, bad) = (ErrorCode::NONE, ErrorCode::KAFKA_STORAGE_ERROR);
    assert_eq!(codes, [vec![ok, bad], vec![ok, bad], vec![ok, ok]]);
    assert_eq!((broker.log_offsets("t", 0), broker.log_offsets("t", 1)), (Ok((0, 3)), Ok((0, 1))));
}

#[tokio::test(start_paused = true)]
async fn an_error_after_applying_is_a_lie_about_the_log() {
    let broker = broker();
    broker.faults().add(on_produce(Fault::ErrorAfterApply(ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND)));
    let answer = Client::to(&broker, 0).produce("t", 0, plain(&["x"])).await;
    assert_eq!((answer.error_code, answer.base_offset), (ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND, 0));
    assert_eq!(broker.log_offsets("t", 0), Ok((0, 1)));
}

#[tokio::test(start_paused = true)]
async fn delay_and_throttle_take_their_time() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    let started = Instant::now();
    broker.faults().add(on_produce(Fault::Delay(Duration::from_secs(3))));
    client.produce("t", 0, plain(&["x"])).await;
    assert_eq!(started.elapsed(), Duration::from_secs(3));
    broker.faults().add(on_produce(Fault::Throttle(Duration::from_secs(10))));
    let response = client.call(9, &produce_request("t", 0, plain(&["y"]))).await;
    assert_eq!(
        (response.throttle_time_ms, started.elapsed()),
        (10_000, Duration::from_secs(3)),
        "the answer is prompt"
    );
    client.produce("t", 0, plain(&["z"])).await;
    assert_eq!(started.elapsed(), Duration::from_secs(13), "the connection was muted");
}

#[tokio::test(start_paused = true)]
async fn metadata_grows_stale_on_one_node_only() {
    let broker = broker();
    let rule = broker.faults().add(Rule::new(Fault::StaleMetadata).node(1).api(ApiKey::Metadata).always());
    broker.move_leader("t", 0, 1).expect("a known partition");
    let leader = async |node| {
        let response = Client::to(&broker, node).call(12, &metadata_request(&["t"])).await;
        let partition = &response.topics[0].partitions[0];
        (partition.leader_id, partition.leader_epoch)
    };
    assert_eq!((leader(0).await, leader(1).await), ((NodeId(1), 1), (NodeId(0), 0)));
    assert_eq!(broker.faults().remove(rule), 1);
    assert_eq!(leader(1).await, (NodeId(1), 1));
}

#[tokio::test(start_paused = true)]
async fn leaders_move_or_vanish_under_a_request() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    broker.faults().add(on_produce(Fault::MoveLeader { to: 1 }).topic("t").partition(0));
    let moved = only_partition(client.call(10, &produce_request("t", 0, plain(&["x"]))).await);
    assert_eq!((moved.error_code, moved.current_leader.leader_id), (ErrorCode::NOT_LEADER_OR_FOLLOWER, NodeId(1)));
    broker.faults().add(on_produce(Fault::Leaderless).topic("t").partition(0));
    let mut other = Client::to(&broker, 1);
    assert_eq!(other.produce("t", 0, plain(&["x"])).await.error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    assert_eq!(broker.leader("t", 0), Ok(None));
}

#[tokio::test(start_paused = true)]
async fn a_log_is_truncated_under_a_fetch() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    client.produce("t", 0, plain(&["a"])).await;
    client.produce("t", 0, plain(&["b"])).await;
    broker.faults().add(Rule::new(Fault::Truncate { to_offset: 1 }).api(ApiKey::Fetch).topic("t").partition(0));
    assert_eq!(values(&client.fetch("t", 0, 0).await), ["a"]);
    assert_eq!(client.fetch("t", 0, 2).await.error_code, ErrorCode::OFFSET_OUT_OF_RANGE);
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_moves_under_a_request() {
    let broker = broker();
    let home = broker.coordinator(CoordinatorType::Group, "g").expect("nodes run");
    broker.faults().add(Rule::new(Fault::MoveCoordinator { to: 1 - home }).key("g"));
    let request = FindCoordinatorRequest { key: "g".into(), ..Default::default() };
    assert_eq!(Client::to(&broker, 0).call(2, &request).await.node_id, NodeId(1 - home));
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_lookup_fails_as_told() {
    let broker = broker();
    broker
        .faults()
        .add(Rule::new(Fault::Error(ErrorCode::COORDINATOR_NOT_AVAILABLE)).api(ApiKey::FindCoordinator).always());
    let request = FindCoordinatorRequest { key: "g".into(), ..Default::default() };
    let mut client = Client::to(&broker, 0);
    assert_eq!(client.call(2, &request).await.error_code, ErrorCode::COORDINATOR_NOT_AVAILABLE);
    broker.faults().clear();
    assert_eq!(client.call(2, &request).await.error_code, ErrorCode::NONE);
}

#[tokio::test(start_paused = true)]
async fn a_topic_is_hidden_from_metadata() {
    let broker = broker();
    broker
        .faults()
        .add(Rule::new(Fault::Error(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)).api(ApiKey::Metadata).topic("t"));
    let mut client = Client::to(&broker, 0);
    let hidden = client.call(12, &metadata_request(&["t"])).await;
    assert_eq!(hidden.topics[0].error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let all = client.call(12, &MetadataRequest { topics: None, ..Default::default() }).await;
    assert_eq!(all.topics[0].error_code, ErrorCode::NONE);
}
