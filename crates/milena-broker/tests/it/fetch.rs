//! Fetch: long polls, limits, isolation, epochs. Sessions have their own file.

use std::time::Duration;

use milena_broker::Broker;
use milena_protocol::{
    ErrorCode, NodeId, ProducerId,
    compress::Compression,
    messages::{FetchRequest, MetadataRequest, fetch_response::AbortedTransaction},
};
use tokio::time::Instant;

use crate::client::{Client, Stamp, batch, fetch_request, metadata_request, only_fetched, plain, records, values};

fn long_poll(offset: i64, min_bytes: i32, max_wait_ms: i32) -> FetchRequest {
    FetchRequest { min_bytes, max_wait_ms, ..fetch_request("t", &[(0, offset)]) }
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_is_woken_by_an_append() {
    let broker = Broker::builder().topic("t", 1).build();
    let mut reader = Client::to(&broker, 0);
    let started = Instant::now();
    reader.send(12, &long_poll(0, 1, 30_000)).await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    Client::to(&broker, 0).produce("t", 0, plain(&["x"])).await;
    let (_, response) = reader.receive::<FetchRequest>(12).await.expect("an answer");
    assert_eq!(started.elapsed(), Duration::from_secs(7), "at once, not at the end of the wait");
    assert_eq!(values(&only_fetched(response)), ["x"]);
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_ends_empty_when_its_time_is_over() {
    let broker = Broker::builder().topic("t", 1).build();
    let mut reader = Client::to(&broker, 0);
    let started = Instant::now();
    let data = only_fetched(reader.call(12, &long_poll(0, 1, 5_000)).await);
    assert_eq!((started.elapsed(), values(&data).len()), (Duration::from_secs(5), 0));
    assert_eq!((data.error_code, data.high_watermark), (ErrorCode::NONE, 0));
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_waits_for_its_minimum_of_bytes() {
    let broker = Broker::builder().topic("t", 1).build();
    let (mut reader, mut writer) = (Client::to(&broker, 0), Client::to(&broker, 0));
    let one = plain(&["0123456789"]);
    let started = Instant::now();
    reader.send(12, &long_poll(0, one.len() as i32 + 1, 30_000)).await;
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        writer.produce("t", 0, one.clone()).await;
    }
    let (_, response) = reader.receive::<FetchRequest>(12).await.expect("an answer");
    assert_eq!(started.elapsed(), Duration::from_secs(6), "the first batch was not enough");
    assert_eq!(values(&only_fetched(response)).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_ends_when_the_leader_moves_or_the_topic_goes() {
    let broker = Broker::builder().nodes(2).topic("t", 1).build();
    let mut reader = Client::to(&broker, 0);
    let started = Instant::now();
    let mut poll = long_poll(0, 1, 30_000);
    poll.topics[0].partitions[0].current_leader_epoch = 0;
    reader.send(12, &poll).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    broker.move_leader("t", 0, 1).expect("a known partition");
    let (_, response) = reader.receive::<FetchRequest>(12).await.expect("an answer");
    let moved = only_fetched(response);
    assert_eq!(moved.error_code, ErrorCode::FENCED_LEADER_EPOCH);
    assert_eq!((moved.current_leader.leader_id, moved.current_leader.leader_epoch), (NodeId(1), 1));
    let mut reader = Client::to(&broker, 1);
    reader.send(12, &long_poll(0, 1, 30_000)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    broker.delete_topic("t");
    let (_, response) = reader.receive::<FetchRequest>(12).await.expect("an answer");
    assert_eq!(only_fetched(response).error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(started.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_parked_fetch_holds_back_only_its_own_connection() {
    let broker = Broker::builder().topic("t", 1).build();
    let (mut parked, mut free) = (Client::to(&broker, 0), Client::to(&broker, 0));
    let started = Instant::now();
    let fetch = parked.send(12, &long_poll(0, 1, 4_000)).await;
    let behind = parked.send(12, &metadata_request(&["t"])).await;
    free.call(12, &metadata_request(&["t"])).await;
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(parked.receive::<FetchRequest>(12).await.expect("an answer").0, fetch);
    assert_eq!(parked.receive::<MetadataRequest>(12).await.expect("an answer").0, behind);
    assert_eq!(started.elapsed(), Duration::from_secs(4));
}

#[tokio::test(start_paused = true)]
async fn limits_cut_but_one_batch_always_comes() {
    let broker = Broker::builder().topic("t", 2).build();
    let mut client = Client::to(&broker, 0);
    let one = plain(&["0123456789"]);
    for partition in [0, 0, 1] {
        client.produce("t", partition, one.clone()).await;
    }
    let mut tiny = fetch_request("t", &[(0, 0), (1, 0)]);
    tiny.max_bytes = 1;
    let response = client.call(12, &tiny).await;
    let read: Vec<_> = response.responses[0].partitions.iter().map(|data| records(data).len()).collect();
    assert_eq!(read, [1, 0], "the first batch of the first partition, and no more");

    let mut cut = fetch_request("t", &[(0, 0)]);
    cut.topics[0].partitions[0].partition_max_bytes = one.len() as i32 + 20;
    let data = only_fetched(client.call(12, &cut).await);
    assert_eq!(data.records.as_ref().map(bytes::Bytes::len), Some(one.len() + 20), "cut within the second batch");
    assert_eq!(records(&data).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_offset_outside_of_the_log_is_out_of_range() {
    let broker = Broker::builder().topic("t", 1).build();
    let mut client = Client::to(&broker, 0);
    client.produce("t", 0, plain(&["a", "b"])).await;
    for (offset, code) in [
        (0, ErrorCode::NONE),
        (2, ErrorCode::NONE),
        (3, ErrorCode::OFFSET_OUT_OF_RANGE),
        (-1, ErrorCode::OFFSET_OUT_OF_RANGE),
    ] {
        assert_eq!(client.fetch("t", 0, offset).await.error_code, code, "{offset}");
    }
}

#[tokio::test(start_paused = true)]
async fn read_committed_stops_at_the_open_transaction_and_lists_the_aborted() {
    let broker = Broker::builder().topic("t", 1).build();
    let mut client = Client::to(&broker, 0);
    let stamp = Stamp { producer_id: 5, epoch: 0, sequence: 0, transactional: true };
    client.produce("t", 0, plain(&["before"])).await;
    client.produce("t", 0, batch(&["open"], Compression::None, Some(stamp))).await;
    client.produce("t", 0, plain(&["after"])).await;
    let committed = FetchRequest { isolation_level: 1, ..fetch_request("t", &[(0, 0)]) };
    let data = only_fetched(client.call(12, &committed).await);
    assert_eq!(values(&data), ["before"]);
    assert_eq!((data.high_watermark, data.last_stable_offset), (3, 1));
    broker.end_transaction("t", 0, 5, 0, false).expect("not fenced");
    let data = only_fetched(client.call(12, &committed).await);
    assert_eq!(data.last_stable_offset, 4);
    let aborted = AbortedTransaction { producer_id: ProducerId(5), first_offset: 1 };
    assert_eq!(data.aborted_transactions, Some(vec![aborted]));
    assert_eq!(only_fetched(client.call(12, &fetch_request("t", &[(0, 0)])).await).aborted_transactions, None);
}

#[tokio::test(start_paused = true)]
async fn leader_epochs_fence_and_a_diverging_log_is_told() {
    let broker = Broker::builder().nodes(2).topic("t", 1).build();
    Client::to(&broker, 0).produce("t", 0, plain(&["a", "b"])).await;
    broker.move_leader("t", 0, 1).expect("a known partition");
    let mut client = Client::to(&broker, 1);
    client.produce("t", 0, plain(&["c"])).await;
    let with_epoch = |current, last_fetched, offset| {
        let mut request = fetch_request("t", &[(0, offset)]);
        request.topics[0].partitions[0].current_leader_epoch = current;
        request.topics[0].partitions[0].last_fetched_epoch = last_fetched;
        request
    };
    let fenced = with_epoch(0, -1, 0);
    let unknown = with_epoch(2, -1, 0);
    let same = with_epoch(1, 0, 2);
    let diverged = with_epoch(1, 0, 3);
    assert_eq!(only_fetched(client.call(12, &fenced).await).error_code, ErrorCode::FENCED_LEADER_EPOCH);
    assert_eq!(only_fetched(client.call(12, &unknown).await).error_code, ErrorCode::UNKNOWN_LEADER_EPOCH);
    assert_eq!(values(&only_fetched(client.call(12, &same).await)), ["c"]);
    let data = only_fetched(client.call(12, &diverged).await);
    assert_eq!((data.diverging_epoch.epoch, data.diverging_epoch.end_offset), (0, 2), "epoch 0 ended at offset 2");
    assert_eq!(values(&data).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn topic_ids_replace_names_from_version_13() {
    let broker = Broker::builder().topic("t", 1).build();
    let mut client = Client::to(&broker, 0);
    client.produce("t", 0, plain(&["x"])).await;
    let topic_id = client.call(12, &metadata_request(&["t"])).await.topics[0].topic_id;
    let mut request = fetch_request("", &[(0, 0)]);
    request.topics[0].topic_id = topic_id;
    let response = client.call(13, &request).await;
    assert_eq!(response.responses[0].topic_id, topic_id);
    assert_eq!(values(&only_fetched(response)), ["x"]);
    request.topics[0].topic_id = milena_protocol::Uuid::from_u128(1);
    assert_eq!(only_fetched(client.call(13, &request).await).error_code, ErrorCode::UNKNOWN_TOPIC_ID);
}

#[tokio::test(start_paused = true)]
async fn replica_in_the_clients_rack_is_named_by_the_leader_and_serves() {
    let selector = "org.apache.kafka.common.replica.RackAwareReplicaSelector";
    let builder = Broker::builder().nodes(2).topic("t", 1).racks(["a", "b"]).config("replica.selector.class", selector);
    let broker = builder.build();
    broker.move_leader("t", 0, 0).expect("a known partition");
    let mut client = Client::to(&broker, 0);
    client.produce("t", 0, plain(&["one"])).await;
    let fetch = |rack: &str| FetchRequest { rack_id: rack.into(), ..long_poll(0, 1, 30_000) };
    for (version, rack, preferred) in [(12, "b", 1), (12, "a", -1), (12, "c", -1), (12, "", -1), (10, "b", -1)] {
        let rack = if version < 11 { "" } else { rack };
        let fetched = only_fetched(client.call(version, &fetch(rack)).await);
        assert_eq!(fetched.preferred_read_replica, NodeId(preferred), "{version} {rack}");
        assert_eq!(fetched.records.is_some_and(|records| !records.is_empty()), preferred < 0, "{version} {rack}");
    }
    let mut near = Client::to(&broker, 1);
    assert!(!only_fetched(near.call(12, &fetch("b")).await).records.expect("some").is_empty());
    assert_eq!(only_fetched(near.call(10, &fetch("")).await).error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER);
}
