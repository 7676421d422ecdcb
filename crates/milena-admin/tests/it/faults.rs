//! Administration while the cluster changes under it.

use std::time::Duration;

use milena_admin::{Admin, NewTopic, OffsetSpec, RequestError, TopicPartition};
use milena_broker::{CoordinatorType, Fault, Rule};
use milena_protocol::{ApiKey, ErrorCode};

use crate::cluster::embedded;

#[tokio::test(start_paused = true)]
async fn a_controller_that_is_none_any_more_is_asked_again() {
    let (broker, client) = embedded(3).await;
    let rule = Rule::new(Fault::Error(ErrorCode::NOT_CONTROLLER)).api(ApiKey::CreateTopics).times(3);
    let rule = broker.faults().add(rule);
    Admin::new(&client).create_topic(NewTopic::new("orders").partitions(2)).await.expect("created in the end");
    assert_eq!(broker.faults().hits(rule), 3);
}

#[tokio::test(start_paused = true)]
async fn only_partitions_whose_leader_moved_are_asked_for_again() {
    let (broker, client) = embedded(3).await;
    broker.create_topic("orders", 3, 1).expect("a good name");
    let admin = Admin::new(&client);
    let asked = (0..3).map(|index| (TopicPartition::new("orders", index), OffsetSpec::Latest)).collect::<Vec<_>>();
    admin.list_offsets(&asked).await.expect("an answer");
    let leader = broker.leader("orders", 1).expect("a partition").expect("a leader");
    let other = client.metadata().nodes.iter().map(|node| node.id).find(|node| *node != leader).expect("three nodes");
    broker.move_leader("orders", 1, other).expect("a node");
    for (partition, listed) in admin.list_offsets(&asked).await.expect("an answer") {
        assert_eq!(listed.unwrap_or_else(|error| panic!("{partition}: {error}")).offset, Some(0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_moved_is_found_again() {
    let (broker, client) = embedded(3).await;
    let admin = Admin::new(&client);
    admin.list_group_offsets("g").await.expect("an answer");
    for node in client.metadata().nodes {
        broker.move_coordinator(CoordinatorType::Group, "g", node.id).expect("a node");
        assert_eq!(admin.list_group_offsets("g").await.expect("an answer"), []);
        admin.describe_groups(&["g"]).await.expect("an answer");
    }
}

#[tokio::test(start_paused = true)]
async fn one_partition_without_a_leader_spoils_no_other() {
    let (broker, client) = embedded(1).await;
    broker.create_topic("orders", 2, 1).expect("a good name");
    let admin = Admin::new(&client).with_timeout(Duration::from_secs(5));
    client.partitions("orders").await.expect("it exists");
    broker.remove_leader("orders", 1).expect("a partition");
    client.refresh_metadata().await.expect("an answer");
    let asked = (0..2).map(|index| (TopicPartition::new("orders", index), OffsetSpec::Latest)).collect::<Vec<_>>();
    let listed = admin.list_offsets(&asked).await.expect("an answer");
    assert_eq!(listed[0].1.as_ref().expect("it has a leader").offset, Some(0));
    let error = listed[1].1.as_ref().expect_err("nobody leads it");
    assert!(matches!(error, RequestError::NoLeader { partition: 1, .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn older_brokers_are_administered_too() {
    let broker = milena_broker::Broker::builder()
        .auto_create(false)
        .versions(ApiKey::DeleteTopics, 1, 5)
        .versions(ApiKey::OffsetFetch, 1, 7)
        .versions(ApiKey::FindCoordinator, 0, 3)
        .versions(ApiKey::CreateTopics, 2, 4)
        .build();
    let addresses = broker.listen("127.0.0.1:0").await.expect("a free port");
    tokio::time::resume();
    let builder = milena_client::Client::builder().bootstrap(addresses[0].to_string()).expect("an address");
    let client = builder.build().await.expect("the broker answers");
    let admin = Admin::new(&client);
    admin.create_topic(NewTopic::new("orders").partitions(1).replication_factor(1)).await.expect("created");
    let set = [(TopicPartition::new("orders", 0), milena_admin::GroupOffset::new(3))];
    admin.alter_group_offsets("g", &set).await.expect("an answer")[0].1.as_ref().expect("set");
    assert_eq!(admin.list_group_offsets("g").await.expect("an answer")[0].1.offset, 3);
    admin.delete_topic("orders").await.expect("deleted");
}
