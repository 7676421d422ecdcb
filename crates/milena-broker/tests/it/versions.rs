//! Every version of every API that is served is decoded and answered in that version. Those of groups: `group_versions`.

use std::ops::RangeInclusive;

use milena_broker::Broker;
use milena_protocol::{
    ApiKey, ErrorCode, Request, StrBytes, Uuid,
    messages::{
        ApiVersionsRequest, CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
        DescribeClusterRequest, DescribeConfigsRequest, DescribeTopicPartitionsRequest, FetchRequest,
        FindCoordinatorRequest, IncrementalAlterConfigsRequest, InitProducerIdRequest, ListOffsetsRequest,
        ListPartitionReassignmentsRequest, MetadataRequest, OffsetForLeaderEpochRequest, ProduceRequest,
        create_partitions_request::CreatePartitionsTopic,
        create_topics_request::CreatableTopic,
        delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
        delete_topics_request::DeleteTopicState,
        describe_configs_request::DescribeConfigsResource,
        describe_topic_partitions_request::TopicRequest,
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
        offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic},
    },
};

use crate::client::{
    Client, fetch_request, metadata_request, only_fetched, only_partition, plain, produce_request, values,
};

/// The versions of an API that are offered, and that its messages have.
pub(crate) async fn offered<R: Request>(client: &mut Client) -> RangeInclusive<i16> {
    let software: StrBytes = "it".into();
    let ask = ApiVersionsRequest {
        client_software_name: software.clone(),
        client_software_version: software,
        ..Default::default()
    };
    let offered = client.call(3, &ask).await;
    let api: ApiKey = R::API_KEY;
    let range = offered.api_keys.iter().find(|key| key.api_key == i16::from(api)).expect("it is served");
    // Produce is claimed from version 0 and served from 3, as in Kafka.
    range.min_version.max(R::VERSIONS.min)..=range.max_version
}

/// Asks in every version offered; `request` makes the request for a version, `check` judges the answer.
async fn each<R: Request>(client: &mut Client, request: impl Fn(i16) -> R, check: impl Fn(i16, R::Response)) {
    for version in offered::<R>(client).await {
        check(version, client.call(version, &request(version)).await);
    }
}

#[tokio::test(start_paused = true)]
async fn every_version_of_the_data_apis() {
    let broker = Broker::builder().topic("t", 1).build();
    let mut client = Client::to(&broker, 0);
    let topic_id = client.call(12, &metadata_request(&["t"])).await.topics[0].topic_id;
    let produce = |version| {
        let mut request = produce_request(if version < 13 { "t" } else { "" }, 0, plain(&["x"]));
        request.topic_data[0].topic_id = if version < 13 { Uuid::ZERO } else { topic_id };
        request
    };
    each::<ProduceRequest>(&mut client, produce, |version, response| {
        let answer = only_partition(response);
        assert_eq!((answer.error_code, answer.base_offset), (ErrorCode::NONE, i64::from(version) - 3), "{version}");
    })
    .await;
    let fetch = |version| {
        let mut request = fetch_request(if version < 13 { "t" } else { "" }, &[(0, 0)]);
        request.topics[0].topic_id = if version < 13 { Uuid::ZERO } else { topic_id };
        request
    };
    each::<FetchRequest>(&mut client, fetch, |version, response| {
        let data = only_fetched(response);
        assert_eq!((values(&data).len(), data.high_watermark), (11, 11), "{version}");
    })
    .await;
    let list = |_| {
        let partition = ListOffsetsPartition { partition_index: 0, timestamp: -1, ..Default::default() };
        let topics = vec![ListOffsetsTopic { name: "t".into(), partitions: vec![partition] }];
        ListOffsetsRequest { topics, ..Default::default() }
    };
    each::<ListOffsetsRequest>(&mut client, list, |version, response| {
        assert_eq!(response.topics[0].partitions[0].offset, 11, "{version}");
    })
    .await;
    let epoch = |_| {
        let partition = OffsetForLeaderPartition { partition: 0, current_leader_epoch: 0, leader_epoch: 0 };
        let topics = vec![OffsetForLeaderTopic { topic: "t".into(), partitions: vec![partition] }];
        OffsetForLeaderEpochRequest { topics, ..Default::default() }
    };
    each::<OffsetForLeaderEpochRequest>(&mut client, epoch, |version, response| {
        assert_eq!(response.topics[0].partitions[0].end_offset, 11, "{version}");
    })
    .await;
    let identity =
        |_| InitProducerIdRequest { transactional_id: None, transaction_timeout_ms: 1000, ..Default::default() };
    each::<InitProducerIdRequest>(&mut client, identity, |version, response| {
        assert_eq!((response.error_code, response.producer_epoch), (ErrorCode::NONE, 0), "{version}");
    })
    .await;
    let delete = |_| {
        let partitions = vec![DeleteRecordsPartition { partition_index: 0, offset: 3 }];
        DeleteRecordsRequest { topics: vec![DeleteRecordsTopic { name: "t".into(), partitions }], timeout_ms: 1000 }
    };
    each::<DeleteRecordsRequest>(&mut client, delete, |version, response| {
        assert_eq!(response.topics[0].partitions[0].low_watermark, 3, "{version}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn every_version_of_the_cluster_apis() {
    let broker = Broker::builder().topic("t", 1).build();
    let mut client = Client::to(&broker, 0);
    let software = |_| ApiVersionsRequest {
        client_software_name: "it".into(),
        client_software_version: "1".into(),
        ..Default::default()
    };
    each::<ApiVersionsRequest>(&mut client, software, |version, response| {
        assert_eq!(response.error_code, ErrorCode::NONE, "{version}");
        assert!(response.api_keys.len() > 15, "{version}");
    })
    .await;
    let metadata =
        |version| MetadataRequest { allow_auto_topic_creation: version < 4, ..metadata_request(&["t", "none"]) };
    each::<MetadataRequest>(&mut client, metadata, |version, response| {
        assert_eq!((response.brokers.len(), response.topics.len()), (1, 2), "{version}");
        assert_eq!(response.topics[0].partitions[0].leader_id.0, 0, "{version}");
    })
    .await;
    let coordinator = |version| {
        if version < 4 {
            FindCoordinatorRequest { key: "g".into(), ..Default::default() }
        } else {
            FindCoordinatorRequest { coordinator_keys: vec!["g".into()], ..Default::default() }
        }
    };
    each::<FindCoordinatorRequest>(&mut client, coordinator, |version, response| {
        let port = response.coordinators.first().map_or(response.port, |found| found.port);
        assert_eq!(port, 9092, "{version}");
    })
    .await;
    each::<DescribeClusterRequest>(
        &mut client,
        |_| DescribeClusterRequest::default(),
        |version, response| {
            assert_eq!(response.brokers.len(), 1, "{version}");
        },
    )
    .await;
    let describe =
        |_| DescribeTopicPartitionsRequest { topics: vec![TopicRequest { name: "t".into() }], ..Default::default() };
    each::<DescribeTopicPartitionsRequest>(&mut client, describe, |version, response| {
        assert_eq!(response.topics[0].partitions.len(), 1, "{version}");
    })
    .await;
    let none = |_| ListPartitionReassignmentsRequest::default();
    each::<ListPartitionReassignmentsRequest>(&mut client, none, |version, response| {
        assert_eq!(response.error_code, ErrorCode::NONE, "{version}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn every_version_of_the_topic_apis() {
    let broker = Broker::builder().topic("t", 1).build();
    let mut client = Client::to(&broker, 0);
    let create = |version| {
        let name = format!("v{version}").into();
        let topic = CreatableTopic { name, num_partitions: 2, replication_factor: 1, ..Default::default() };
        CreateTopicsRequest { topics: vec![topic], timeout_ms: 1000, validate_only: false }
    };
    each::<CreateTopicsRequest>(&mut client, create, |version, response| {
        assert_eq!(response.topics[0].error_code, ErrorCode::NONE, "{version}");
        assert!(broker.log_offsets(&format!("v{version}"), 1).is_ok(), "{version}");
    })
    .await;
    broker.create_topic("v1", 1, 1).expect("a new topic");
    let delete = |version: i16| {
        let name = format!("v{version}");
        if version < 6 {
            DeleteTopicsRequest { topic_names: vec![name.into()], ..Default::default() }
        } else {
            let topics = vec![DeleteTopicState { name: Some(name.into()), topic_id: Uuid::ZERO }];
            DeleteTopicsRequest { topics, ..Default::default() }
        }
    };
    each::<DeleteTopicsRequest>(&mut client, delete, |version, response| {
        assert_eq!(response.responses[0].error_code, ErrorCode::NONE, "{version}");
        assert!(broker.log_offsets(&format!("v{version}"), 0).is_err(), "{version}");
    })
    .await;
    let grow = |version: i16| CreatePartitionsRequest {
        topics: vec![CreatePartitionsTopic { name: "t".into(), count: i32::from(version) + 2, assignments: None }],
        ..Default::default()
    };
    each::<CreatePartitionsRequest>(&mut client, grow, |version, response| {
        assert_eq!(response.results[0].error_code, ErrorCode::NONE, "{version}");
        assert!(broker.log_offsets("t", i32::from(version) + 1).is_ok(), "{version}");
    })
    .await;
    let describe = |_| {
        let resource =
            DescribeConfigsResource { resource_type: 2, resource_name: "t".into(), configuration_keys: None };
        DescribeConfigsRequest { resources: vec![resource], ..Default::default() }
    };
    each::<DescribeConfigsRequest>(&mut client, describe, |version, response| {
        assert!(response.results[0].configs.len() > 20, "{version}");
    })
    .await;
    let alter = |_| IncrementalAlterConfigsRequest::default();
    each::<IncrementalAlterConfigsRequest>(&mut client, alter, |version, response| {
        assert_eq!(response.responses.len(), 0, "{version}");
    })
    .await;
}
