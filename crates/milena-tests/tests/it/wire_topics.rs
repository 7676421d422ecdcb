//! Topics and their partitions, request by request: the embedded broker answers as Kafka does.

use milena_protocol::ErrorCode;
use milena_protocol::TopicName;
use milena_protocol::messages::CreatePartitionsRequest;
use milena_protocol::messages::DeleteTopicsRequest;
use milena_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use milena_protocol::messages::delete_topics_request::DeleteTopicState;
use milena_tests::cluster::Cluster;
use milena_tests::on_every_cluster;
use milena_tests::wire::Wires;

on_every_cluster!(
    a_topic_is_created_once,
    names_and_numbers_are_checked,
    unknown_topics_are_not_created_by_asking,
    partitions_are_added_never_taken,
    a_deleted_topic_is_gone,
);

async fn a_topic_is_created_once(cluster: Cluster) {
    let mut wires = Wires::to(&cluster);
    let topic = cluster.unique("created");
    wires.create(&topic, 3, &[("retention.ms", "60000")]).await.unwrap();
    assert_eq!(wires.try_create(&topic, 3, 0, &[]).await.unwrap(), ErrorCode::TOPIC_ALREADY_EXISTS);

    let (described, nodes) = wires.describe(&topic).await.unwrap();
    assert_eq!(described.error_code, ErrorCode::NONE);
    assert!(!described.is_internal);
    assert_eq!(described.partitions.len(), 3);
    for partition in &described.partitions {
        assert!(nodes.contains_key(&partition.leader_id));
        assert!(partition.replica_nodes.contains(&partition.leader_id));
        assert_eq!(partition.leader_epoch, 0);
        assert_eq!(partition.offline_replicas, []);
    }
}

async fn names_and_numbers_are_checked(cluster: Cluster) {
    let mut wires = Wires::to(&cluster);
    let topic = cluster.unique("checked");
    let too_long = "x".repeat(250);
    for name in ["", ".", "..", "with space", "umlaut-ä", "slash/", &too_long] {
        let code = wires.try_create(name, 1, 0, &[]).await.unwrap();
        assert_eq!(code, ErrorCode::INVALID_TOPIC_EXCEPTION, "{name:?}");
    }
    for n_partitions in [0, -2] {
        let code = wires.try_create(&topic, n_partitions, 0, &[]).await.unwrap();
        assert_eq!(code, ErrorCode::INVALID_PARTITIONS, "{n_partitions} partitions");
    }
    let code = wires.try_create(&topic, 1, 9, &[]).await.unwrap();
    assert_eq!(code, ErrorCode::INVALID_REPLICATION_FACTOR, "nine replicas");
    for config in [("no.such.config", "1"), ("retention.ms", "soon"), ("cleanup.policy", "burn")] {
        let code = wires.try_create(&topic, 1, 0, &[config]).await.unwrap();
        assert_eq!(code, ErrorCode::INVALID_CONFIG, "{config:?}");
    }
    // Dot and underscore are the same in a metric's name.
    wires.create(&format!("{topic}.a_b"), 1, &[]).await.unwrap();
    let code = wires.try_create(&format!("{topic}_a.b"), 1, 0, &[]).await.unwrap();
    assert_eq!(code, ErrorCode::INVALID_TOPIC_EXCEPTION, "collides");
}

async fn unknown_topics_are_not_created_by_asking(cluster: Cluster) {
    let mut wires = Wires::to(&cluster);
    let topic = cluster.unique("unknown");
    for _ in 0..2 {
        let (described, _) = wires.describe(&topic).await.unwrap();
        assert_eq!(described.error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    }
    let (described, _) = wires.describe("not a name").await.unwrap();
    assert_eq!(described.error_code, ErrorCode::INVALID_TOPIC_EXCEPTION);
}

async fn partitions_are_added_never_taken(cluster: Cluster) {
    let mut wires = Wires::to(&cluster);
    let topic = cluster.unique("grown");
    wires.create(&topic, 2, &[]).await.unwrap();
    let unknown = cluster.unique("unknown");
    for (name, count, expected) in [
        (&topic, 4, ErrorCode::NONE),
        (&topic, 4, ErrorCode::INVALID_PARTITIONS),
        (&topic, 1, ErrorCode::INVALID_PARTITIONS),
        (&unknown, 4, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
    ] {
        let asked = CreatePartitionsTopic { name: TopicName::from(name.clone()), count, assignments: None };
        let request = CreatePartitionsRequest { topics: vec![asked], timeout_ms: 10_000, validate_only: false };
        let response = wires.any().await.unwrap().send(3, &request).await.unwrap();
        assert_eq!(response.results[0].error_code, expected, "{name} to {count}");
    }
    // Metadata follows the controller: it may be a moment behind.
    for _ in 0..100 {
        if wires.describe(&topic).await.unwrap().0.partitions.len() == 4 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the new partitions aren't seen");
}

async fn a_deleted_topic_is_gone(cluster: Cluster) {
    let mut wires = Wires::to(&cluster);
    let topic = cluster.unique("deleted");
    wires.create(&topic, 1, &[]).await.unwrap();
    let (before, _) = wires.describe(&topic).await.unwrap();
    for expected in [ErrorCode::NONE, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION] {
        let asked = DeleteTopicState { name: Some(TopicName::from(topic.clone())), ..Default::default() };
        let request = DeleteTopicsRequest { topics: vec![asked], timeout_ms: 10_000, ..Default::default() };
        let response = wires.any().await.unwrap().send(6, &request).await.unwrap();
        assert_eq!(response.responses[0].error_code, expected);
    }
    let mut code = ErrorCode::NONE;
    for _ in 0..100 {
        code = wires.describe(&topic).await.unwrap().0.error_code;
        if code == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    // The same name is another topic.
    wires.create(&topic, 1, &[]).await.unwrap();
    let (after, _) = wires.describe(&topic).await.unwrap();
    assert_ne!(after.topic_id, before.topic_id);
}
