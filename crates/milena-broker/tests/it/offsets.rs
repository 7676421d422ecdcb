//! ListOffsets, OffsetForLeaderEpoch, DeleteRecords.

use milena_broker::Broker;
use milena_protocol::{
    ErrorCode,
    compress::Compression,
    messages::{
        DeleteRecordsRequest, ListOffsetsRequest, OffsetForLeaderEpochRequest,
        delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
        offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic},
    },
};

use crate::client::{Client, Stamp, batch, plain, values};

fn list(timestamp: i64) -> ListOffsetsRequest {
    let partition = ListOffsetsPartition { partition_index: 0, timestamp, ..Default::default() };
    let topics = vec![ListOffsetsTopic { name: "t".into(), partitions: vec![partition] }];
    ListOffsetsRequest { topics, ..Default::default() }
}

async fn offset_at(client: &mut Client, version: i16, timestamp: i64) -> (ErrorCode, i64, i64) {
    let response = client.call(version, &list(timestamp)).await;
    let found = &response.topics[0].partitions[0];
    (found.error_code, found.offset, found.timestamp)
}

fn delete(partition_index: i32, offset: i64) -> DeleteRecordsRequest {
    let partitions = vec![DeleteRecordsPartition { partition_index, offset }];
    DeleteRecordsRequest { topics: vec![DeleteRecordsTopic { name: "t".into(), partitions }], timeout_ms: 1000 }
}

#[tokio::test(start_paused = true)]
async fn offsets_are_found_by_time_in_every_codec() {
    let broker = Broker::builder().topic("t", 1).build();
    let mut client = Client::to(&broker, 0);
    let ok = |offset, timestamp| (ErrorCode::NONE, offset, timestamp);
    assert_eq!(offset_at(&mut client, 7, -1).await, ok(0, -1));
    assert_eq!(offset_at(&mut client, 7, -3).await, ok(-1, -1), "an empty log has no largest timestamp");
    client.produce("t", 0, batch(&["a", "b", "c"], Compression::Zstd, None)).await;
    client.produce("t", 0, plain(&["d"])).await;
    assert_eq!(offset_at(&mut client, 1, -2).await, ok(0, -1));
    assert_eq!(offset_at(&mut client, 11, -1).await, ok(4, -1));
    assert_eq!(offset_at(&mut client, 5, 0).await, ok(0, 1000));
    assert_eq!(offset_at(&mut client, 5, 1001).await, ok(1, 1001), "within the compressed batch");
    assert_eq!(offset_at(&mut client, 5, 1003).await, ok(-1, -1), "later than all");
    assert_eq!(offset_at(&mut client, 7, -3).await, ok(2, 1002), "the largest timestamp");
    assert_eq!(offset_at(&mut client, 8, -4).await, ok(0, -1));
    assert_eq!(offset_at(&mut client, 9, -5).await, ok(-1, -1));
    assert_eq!(offset_at(&mut client, 6, -3).await.0, ErrorCode::UNSUPPORTED_VERSION);
}

#[tokio::test(start_paused = true)]
async fn the_latest_offset_depends_on_the_isolation() {
    let broker = Broker::builder().topic("t", 1).build();
    let mut client = Client::to(&broker, 0);
    client.produce("t", 0, plain(&["a"])).await;
    let stamp = Stamp { producer_id: 5, transactional: true, ..Default::default() };
    client.produce("t", 0, batch(&["open"], Compression::None, Some(stamp))).await;
    let committed = ListOffsetsRequest { isolation_level: 1, ..list(-1) };
    assert_eq!(client.call(5, &committed).await.topics[0].partitions[0].offset, 1);
    assert_eq!(offset_at(&mut client, 5, -1).await.1, 2);
}

#[tokio::test(start_paused = true)]
async fn records_are_deleted_up_to_an_offset() {
    let broker = Broker::builder().topic("t", 1).build();
    let mut client = Client::to(&broker, 0);
    for value in ["a", "b", "c"] {
        client.produce("t", 0, plain(&[value])).await;
    }
    let low = |response: milena_protocol::messages::DeleteRecordsResponse| {
        let partition = response.topics[0].partitions[0].clone();
        (partition.error_code, partition.low_watermark)
    };
    assert_eq!(low(client.call(1, &delete(0, 2)).await), (ErrorCode::NONE, 2));
    assert_eq!(offset_at(&mut client, 5, -2).await.1, 2);
    assert_eq!(client.fetch("t", 0, 0).await.error_code, ErrorCode::OFFSET_OUT_OF_RANGE);
    assert_eq!(values(&client.fetch("t", 0, 2).await), ["c"]);
    assert_eq!(low(client.call(2, &delete(0, 9)).await), (ErrorCode::OFFSET_OUT_OF_RANGE, -1));
    assert_eq!(low(client.call(2, &delete(0, -1)).await), (ErrorCode::NONE, 3), "-1 is the high watermark");
    assert_eq!(low(client.call(2, &delete(5, 0)).await).0, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
}

#[tokio::test(start_paused = true)]
async fn epochs_end_where_the_next_leader_began() {
    let broker = Broker::builder().nodes(2).topic("t", 1).build();
    Client::to(&broker, 0).produce("t", 0, plain(&["a", "b"])).await;
    broker.move_leader("t", 0, 1).expect("a known partition");
    let mut client = Client::to(&broker, 1);
    client.produce("t", 0, plain(&["c"])).await;
    let ask = |current_leader_epoch, leader_epoch| {
        let partition = OffsetForLeaderPartition { partition: 0, current_leader_epoch, leader_epoch };
        let topics = vec![OffsetForLeaderTopic { topic: "t".into(), partitions: vec![partition] }];
        OffsetForLeaderEpochRequest { topics, ..Default::default() }
    };
    for (version, request, expected) in [
        (4, ask(1, 0), (ErrorCode::NONE, 0, 2)),
        (2, ask(-1, 1), (ErrorCode::NONE, 1, 3)),
        (4, ask(1, 7), (ErrorCode::NONE, -1, -1)),
        (4, ask(0, 0), (ErrorCode::FENCED_LEADER_EPOCH, -1, -1)),
        (4, ask(2, 0), (ErrorCode::UNKNOWN_LEADER_EPOCH, -1, -1)),
    ] {
        let response = client.call(version, &request).await;
        let end = &response.topics[0].partitions[0];
        assert_eq!((end.error_code, end.leader_epoch, end.end_offset), expected, "{request:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn truncation_is_seen_by_epoch() {
    let broker = Broker::builder().topic("t", 1).build();
    let mut client = Client::to(&broker, 0);
    client.produce("t", 0, plain(&["a"])).await;
    client.produce("t", 0, plain(&["lost"])).await;
    broker.truncate("t", 0, 1).expect("a known partition");
    client.produce("t", 0, plain(&["b"])).await;
    assert_eq!(values(&client.fetch("t", 0, 0).await), ["a", "b"]);
    let mut request = crate::client::fetch_request("t", &[(0, 2)]);
    request.topics[0].partitions[0].last_fetched_epoch = 0;
    let data = crate::client::only_fetched(client.call(12, &request).await);
    assert_eq!((data.diverging_epoch.epoch, data.diverging_epoch.end_offset), (0, 1));
}
