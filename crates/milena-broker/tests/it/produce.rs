//! Produce, InitProducerId.

use bytes::{Bytes, BytesMut};
use milena_broker::{Broker, Fault, Rule};
use milena_protocol::{
    ApiKey, ErrorCode, NodeId,
    compress::Compression,
    messages::{InitProducerIdRequest, MetadataRequest},
    record::RecordBatches,
};

use crate::client::{Client, Stamp, batch, metadata_request, only_partition, plain, produce_request, records, values};

fn broker() -> Broker {
    Broker::builder().topic("t", 2).seed(1).wall_clock(10_000).build()
}

#[tokio::test(start_paused = true)]
async fn every_codec_comes_back_as_it_was_sent() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    let text = "a value that repeats itself, itself, itself, itself, itself, itself";
    let codecs = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    for (offset, codec) in (0i64..).step_by(2).zip(codecs) {
        let sent = batch(&[text, text], codec, None);
        let produced = client.produce("t", 0, sent.clone()).await;
        assert_eq!((produced.error_code, produced.base_offset), (ErrorCode::NONE, offset), "{codec}");
        let fetched = client.fetch("t", 0, offset).await;
        assert_eq!(records(&fetched), [(offset, text.to_owned()), (offset + 1, text.to_owned())], "{codec}");
        let stored = fetched.records.expect("records");
        assert_eq!(stored[16..], sent[16..], "{codec}: kept verbatim behind offset and epoch");
    }
}

#[tokio::test(start_paused = true)]
async fn duplicates_are_answered_with_their_first_offset_and_gaps_refused() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    let numbered = |sequence| {
        let stamp = Stamp { producer_id: 5, epoch: 0, sequence, transactional: false };
        batch(&["a", "b"], Compression::None, Some(stamp))
    };
    let mut outcomes = Vec::new();
    for sequence in [0, 2, 2, 6, 4, 0] {
        let produced = client.produce("t", 0, numbered(sequence)).await;
        outcomes.push((produced.error_code, produced.base_offset, produced.log_append_time_ms));
    }
    let gap = (ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, -1, -1);
    let new = |offset| (ErrorCode::NONE, offset, -1);
    // Kafka tells a duplicate's largest timestamp.
    let twin = |offset| (ErrorCode::NONE, offset, 1001);
    assert_eq!(outcomes, [new(0), new(2), twin(2), gap, new(4), twin(0)]);
    let ok = |offset| (ErrorCode::NONE, offset);
    assert_eq!(broker.log_offsets("t", 0), Ok((0, 6)), "duplicates wrote nothing");
    let stamp = Stamp { producer_id: 5, epoch: 1, sequence: 0, transactional: false };
    let next_epoch = client.produce("t", 0, batch(&["c"], Compression::None, Some(stamp))).await;
    assert_eq!((next_epoch.error_code, next_epoch.base_offset), ok(6));
    let fenced = client.produce("t", 0, numbered(6)).await;
    assert_eq!(fenced.error_code, ErrorCode::INVALID_PRODUCER_EPOCH);
}

#[tokio::test(start_paused = true)]
async fn what_a_partition_refuses_leaves_the_others_alone() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    let mut damaged = BytesMut::from(&plain(&["x"])[..]);
    damaged[65] ^= 1;
    let mut request = produce_request("t", 0, damaged.freeze());
    let mut others = produce_request("t", 1, plain(&["good"])).topic_data.remove(0).partition_data;
    others.extend(produce_request("t", 9, plain(&["nowhere"])).topic_data.remove(0).partition_data);
    request.topic_data[0].partition_data.extend(others);
    let response = client.call(9, &request).await;
    let codes: Vec<_> = response.responses[0].partition_responses.iter().map(|p| (p.index, p.error_code)).collect();
    let expected = [(0, ErrorCode::CORRUPT_MESSAGE), (1, ErrorCode::NONE), (9, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)];
    assert_eq!(codes, expected);
    assert_eq!(broker.log_offsets("t", 0), Ok((0, 0)));
    assert_eq!(values(&client.fetch("t", 1, 0).await), ["good"]);
}

#[tokio::test(start_paused = true)]
async fn limits_and_rules_of_a_request_are_enforced() {
    let broker = Broker::builder().topic("t", 1).config("message.max.bytes", "200").wall_clock(10_000).build();
    let mut client = Client::to(&broker, 0);
    let large = "x".repeat(300);
    assert_eq!(client.produce("t", 0, plain(&[&large])).await.error_code, ErrorCode::MESSAGE_TOO_LARGE);
    assert_eq!(client.produce("t", 0, Bytes::new()).await.error_code, ErrorCode::INVALID_RECORD);
    let acks = milena_protocol::messages::ProduceRequest { acks: 2, ..produce_request("t", 0, plain(&["x"])) };
    assert_eq!(only_partition(client.call(9, &acks).await).error_code, ErrorCode::INVALID_REQUIRED_ACKS);
    let zstd = produce_request("t", 0, batch(&["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"; 3], Compression::Zstd, None));
    let refused = only_partition(client.call(6, &zstd).await);
    assert_eq!(refused.error_code, ErrorCode::UNSUPPORTED_COMPRESSION_TYPE);
    assert_eq!(broker.log_offsets("t", 0), Ok((0, 0)));
}

#[tokio::test(start_paused = true)]
async fn acks_0_is_not_answered_and_its_failure_closes_the_connection() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    let unacked = |partition| {
        let request = produce_request("t", partition, plain(&["silent"]));
        milena_protocol::messages::ProduceRequest { acks: 0, ..request }
    };
    client.send(9, &unacked(0)).await;
    assert_eq!(values(&client.fetch("t", 0, 0).await), ["silent"], "the next answer is the fetch's");
    client.send(9, &unacked(7)).await;
    assert_eq!(client.frame().await, Err(Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn the_wrong_node_says_who_leads() {
    let broker = Broker::builder().nodes(2).topic("t", 1).build();
    broker.move_leader("t", 0, 1).expect("a known partition");
    let mut client = Client::to(&broker, 0);
    let response = client.call(10, &produce_request("t", 0, plain(&["x"]))).await;
    let endpoint = response.node_endpoints.first().expect("KIP-951").clone();
    assert_eq!((endpoint.node_id, &*endpoint.host, endpoint.port), (NodeId(1), "embedded-1", 9092));
    let refused = only_partition(response);
    assert_eq!(refused.error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    assert_eq!((refused.current_leader.leader_id, refused.current_leader.leader_epoch), (NodeId(1), 1));
    let older = only_partition(client.call(9, &produce_request("t", 0, plain(&["x"]))).await);
    assert_eq!(older.current_leader.leader_id, NodeId(-1));
}

#[tokio::test(start_paused = true)]
async fn too_few_replicas_in_sync_refuse_acks_all_only() {
    let broker = Broker::builder().nodes(2).config("min.insync.replicas", "2").topic("t", 1).build();
    broker.stop_node(1).await.expect("a known node");
    let mut client = Client::to(&broker, 0);
    assert_eq!(client.produce("t", 0, plain(&["x"])).await.error_code, ErrorCode::NOT_ENOUGH_REPLICAS);
    let leader_only = milena_protocol::messages::ProduceRequest { acks: 1, ..produce_request("t", 0, plain(&["x"])) };
    assert_eq!(only_partition(client.call(9, &leader_only).await).error_code, ErrorCode::NONE);
    broker.start_node(1).await.expect("it starts");
    assert_eq!(client.produce("t", 0, plain(&["y"])).await.base_offset, 1);
}

#[tokio::test(start_paused = true)]
async fn log_append_time_is_the_brokers_clock() {
    let broker = Broker::builder()
        .topic("t", 1)
        .config("log.message.timestamp.type", "LogAppendTime")
        .wall_clock(1_000_000)
        .build();
    tokio::time::advance(std::time::Duration::from_secs(5)).await;
    let mut client = Client::to(&broker, 0);
    let produced = client.produce("t", 0, plain(&["x"])).await;
    assert_eq!(produced.log_append_time_ms, 1_005_000);
    let fetched = client.fetch("t", 0, 0).await.records.expect("records");
    let batch = RecordBatches::new(fetched).next().expect("one batch").expect("a whole batch");
    batch.verify_crc().expect("the CRC covers the new timestamp");
    assert_eq!(batch.max_timestamp(), 1_005_000);
}

#[tokio::test(start_paused = true)]
async fn timestamps_from_the_future_are_refused() {
    let broker = Broker::builder().topic("t", 1).wall_clock(-4_000_000).build();
    let mut client = Client::to(&broker, 0);
    // More than an hour ahead, which is `message.timestamp.after.max.ms`.
    assert_eq!(client.produce("t", 0, plain(&["x"])).await.error_code, ErrorCode::INVALID_TIMESTAMP);
}

#[tokio::test(start_paused = true)]
async fn version_13_names_topics_by_id() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    let metadata = client.call(12, &metadata_request(&["t"])).await;
    let topic_id = metadata.topics[0].topic_id;
    let mut request = produce_request("", 0, plain(&["x"]));
    request.topic_data[0].topic_id = topic_id;
    assert_eq!(only_partition(client.call(13, &request).await).error_code, ErrorCode::NONE);
    broker.delete_topic("t");
    broker.create_topic("t", 1, 1).expect("a new topic of that name");
    let stale = only_partition(client.call(13, &request).await);
    assert_eq!(stale.error_code, ErrorCode::UNKNOWN_TOPIC_ID, "the new topic has another id");
    let all = client.call(12, &MetadataRequest { topics: None, ..Default::default() }).await;
    assert_ne!(all.topics[0].topic_id, topic_id);
}

#[tokio::test(start_paused = true)]
async fn producer_ids_are_never_given_twice() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    let anonymous =
        InitProducerIdRequest { transactional_id: None, transaction_timeout_ms: 1000, ..Default::default() };
    let first = client.call(4, &anonymous).await;
    let second = client.call(0, &anonymous).await;
    assert_eq!((first.error_code, first.producer_epoch), (ErrorCode::NONE, 0));
    assert_ne!(first.producer_id, second.producer_id);
    let named = InitProducerIdRequest { transactional_id: Some("txn".into()), ..anonymous };
    let one = client.call(4, &named).await;
    let two = client.call(4, &named).await;
    assert_eq!((one.producer_id, one.producer_epoch + 1), (two.producer_id, two.producer_epoch));
    let stale = InitProducerIdRequest { producer_id: one.producer_id, producer_epoch: one.producer_epoch, ..named };
    assert_eq!(client.call(4, &stale).await.error_code, ErrorCode::PRODUCER_FENCED);
}

#[tokio::test(start_paused = true)]
async fn forgotten_producers_may_go_on_at_any_sequence() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    let numbered = |sequence| {
        let stamp = Stamp { producer_id: 5, epoch: 0, sequence, transactional: false };
        batch(&["a"], Compression::None, Some(stamp))
    };
    client.produce("t", 0, numbered(0)).await;
    broker.faults().add(Rule::new(Fault::ForgetProducers).api(ApiKey::Produce).topic("t").partition(0));
    assert_eq!(client.produce("t", 0, numbered(9)).await.error_code, ErrorCode::NONE);
}
