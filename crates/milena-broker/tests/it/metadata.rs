//! Metadata, DescribeCluster, DescribeTopicPartitions, FindCoordinator.

use milena_broker::{Broker, BrokerError, CoordinatorType};
use milena_protocol::{
    ErrorCode, NodeId,
    messages::{
        DescribeClusterRequest, DescribeTopicPartitionsRequest, FindCoordinatorRequest, MetadataRequest,
        metadata_request::MetadataRequestTopic,
    },
};

use crate::client::{Client, metadata_request};

#[tokio::test(start_paused = true)]
async fn metadata_describes_nodes_topics_and_leaders() {
    let broker = Broker::builder().nodes(3).topic("t", 3).seed(1).build();
    let response = Client::to(&broker, 2).call(12, &metadata_request(&["t"])).await;
    let nodes: Vec<_> =
        response.brokers.iter().map(|node| (node.node_id.0, node.host.to_string(), node.port)).collect();
    let expected = |node| (node, format!("embedded-{node}"), 9092);
    assert_eq!(nodes, [expected(0), expected(1), expected(2)]);
    assert_eq!(response.cluster_id.as_deref(), Some(broker.cluster_id()));
    let topic = &response.topics[0];
    assert!(!topic.topic_id.is_zero());
    let leaders: Vec<_> = topic.partitions.iter().map(|partition| partition.leader_id.0).collect();
    assert_eq!(leaders, [0, 1, 2], "leaders go round");
    assert!(topic.partitions.iter().all(|p| p.replica_nodes.len() == 3 && p.isr_nodes.len() == 3));
}

#[tokio::test(start_paused = true)]
async fn a_missing_topic_is_created_if_both_sides_want_it() {
    let broker = Broker::builder().config("num.partitions", "4").build();
    let mut client = Client::to(&broker, 0);
    let wanted = MetadataRequest { allow_auto_topic_creation: true, ..metadata_request(&["new"]) };
    let first = client.call(12, &wanted).await;
    assert_eq!(
        first.topics[0].error_code,
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        "Kafka too answers before it creates"
    );
    let second = client.call(12, &wanted).await;
    assert_eq!((second.topics[0].error_code, second.topics[0].partitions.len()), (ErrorCode::NONE, 4));
    client.call(12, &metadata_request(&["unwanted"])).await;
    assert!(broker.log_offsets("unwanted", 0).is_err(), "the client did not want it");

    let strict = Broker::builder().auto_create(false).build();
    let mut client = Client::to(&strict, 0);
    for _ in 0..2 {
        assert_eq!(client.call(12, &wanted).await.topics[0].error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    }
}

#[tokio::test(start_paused = true)]
async fn illegal_and_unknown_topics_are_told_apart() {
    let broker = Broker::builder().topic("t", 1).build();
    let mut client = Client::to(&broker, 0);
    let create = MetadataRequest { allow_auto_topic_creation: true, ..metadata_request(&["not legal", "t"]) };
    let response = client.call(12, &create).await;
    let codes: Vec<_> = response.topics.iter().map(|topic| topic.error_code).collect();
    assert_eq!(codes, [ErrorCode::INVALID_TOPIC_EXCEPTION, ErrorCode::NONE]);
    let by_id = |topic_id| MetadataRequest {
        topics: Some(vec![MetadataRequestTopic { topic_id, name: None }]),
        ..metadata_request(&[])
    };
    let known = response.topics[1].topic_id;
    assert_eq!(client.call(12, &by_id(known)).await.topics[0].name.as_deref(), Some("t"));
    let unknown = client.call(12, &by_id(milena_protocol::Uuid::from_u128(9))).await;
    assert_eq!(unknown.topics[0].error_code, ErrorCode::UNKNOWN_TOPIC_ID);
}

#[tokio::test(start_paused = true)]
async fn null_means_all_topics_and_so_does_nothing_in_version_0() {
    let broker = Broker::builder().topic("a", 1).topic("b", 1).build();
    let mut client = Client::to(&broker, 0);
    let all = MetadataRequest { topics: None, ..Default::default() };
    let none = metadata_request(&[]);
    assert_eq!(client.call(1, &all).await.topics.len(), 2);
    assert_eq!(client.call(4, &none).await.topics.len(), 0);
    let none = MetadataRequest { allow_auto_topic_creation: true, ..none };
    assert_eq!(client.call(0, &none).await.topics.len(), 2);
    assert_eq!(client.call(1, &none).await.topics.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_partition_without_leader_says_so() {
    let broker = Broker::builder().nodes(2).topic("t", 1).build();
    broker.remove_leader("t", 0).expect("a known partition");
    let response = Client::to(&broker, 0).call(12, &metadata_request(&["t"])).await;
    let partition = &response.topics[0].partitions[0];
    assert_eq!((partition.error_code, partition.leader_id), (ErrorCode::LEADER_NOT_AVAILABLE, NodeId(-1)));
    assert_eq!(partition.leader_epoch, 1);
    assert_eq!(broker.leader("t", 1), Err(BrokerError::UnknownPartition { topic: "t".to_owned(), partition: 1 }));
}

#[tokio::test(start_paused = true)]
async fn the_cluster_is_described_with_its_operations() {
    let broker = Broker::builder().nodes(2).build();
    let mut client = Client::to(&broker, 0);
    broker.stop_node(1).await.expect("a known node");
    let plain = client.call(2, &DescribeClusterRequest::default()).await;
    assert_eq!((plain.brokers.len(), plain.controller_id), (1, NodeId(0)));
    let fenced = DescribeClusterRequest {
        include_fenced_brokers: true,
        include_cluster_authorized_operations: true,
        ..Default::default()
    };
    let all = client.call(2, &fenced).await;
    let states: Vec<_> = all.brokers.iter().map(|node| (node.broker_id.0, node.is_fenced)).collect();
    assert_eq!(states, [(0, false), (1, true)]);
    assert!(all.cluster_authorized_operations > 0);
    let controllers = DescribeClusterRequest { endpoint_type: 2, ..Default::default() };
    assert_eq!(client.call(1, &controllers).await.error_code, ErrorCode::MISMATCHED_ENDPOINT_TYPE);
}

#[tokio::test(start_paused = true)]
async fn topic_partitions_come_page_by_page() {
    let broker = Broker::builder().topic("a", 3).topic("b", 2).build();
    let mut client = Client::to(&broker, 0);
    let mut request = DescribeTopicPartitionsRequest { response_partition_limit: 2, ..Default::default() };
    let mut pages = Vec::new();
    loop {
        let page = client.call(0, &request).await;
        let topics = page.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| partition.partition_index);
            (topic.name.as_deref().unwrap_or_default().to_owned(), partitions.collect::<Vec<_>>())
        });
        pages.push(topics.collect::<Vec<_>>());
        let Some(cursor) = page.next_cursor else { break };
        request.cursor = Some(milena_protocol::messages::describe_topic_partitions_request::Cursor {
            topic_name: cursor.topic_name,
            partition_index: cursor.partition_index,
        });
    }
    let part = |name: &str, partitions: &[i32]| (name.to_owned(), partitions.to_vec());
    assert_eq!(pages, [vec![part("a", &[0, 1])], vec![part("a", &[2]), part("b", &[0])], vec![part("b", &[1])]]);
}

#[tokio::test(start_paused = true)]
async fn coordinators_are_found_by_key_and_can_be_moved() {
    let broker = Broker::builder().nodes(3).build();
    let mut client = Client::to(&broker, 0);
    let old = FindCoordinatorRequest { key: "g".into(), ..Default::default() };
    let batched = FindCoordinatorRequest { coordinator_keys: vec!["g".into(), "h".into()], ..Default::default() };
    let found = client.call(0, &old).await;
    assert_eq!(found.error_code, ErrorCode::NONE);
    assert_eq!(&*found.host, format!("embedded-{}", found.node_id));
    let both = client.call(6, &batched).await.coordinators;
    assert_eq!((both.len(), both[0].node_id, both[0].error_code), (2, found.node_id, ErrorCode::NONE));
    let elsewhere = (found.node_id.0 + 1) % 3;
    broker.move_coordinator(CoordinatorType::Group, "g", elsewhere).expect("a known node");
    assert_eq!(client.call(2, &old).await.node_id, NodeId(elsewhere));
    let share = FindCoordinatorRequest { key_type: 2, ..batched };
    assert_eq!(client.call(6, &share).await.coordinators[0].error_code, ErrorCode::INVALID_REQUEST);
}
