//! CreateTopics, DeleteTopics, CreatePartitions, DescribeConfigs, IncrementalAlterConfigs, ListPartitionReassignments.

use milena_broker::Broker;
use milena_protocol::{
    ErrorCode, NodeId,
    messages::{
        CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest,
        IncrementalAlterConfigsRequest, ListPartitionReassignmentsRequest,
        create_partitions_request::CreatePartitionsTopic,
        create_topics_request::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig},
        delete_topics_request::DeleteTopicState,
        describe_configs_request::DescribeConfigsResource,
        incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
    },
};

use crate::client::{Client, metadata_request, plain};

fn topic(name: &str, num_partitions: i32, replication_factor: i16) -> CreatableTopic {
    CreatableTopic { name: name.into(), num_partitions, replication_factor, ..Default::default() }
}

fn with_config(name: &str, value: Option<&str>) -> CreatableTopic {
    let config = CreatableTopicConfig { name: name.into(), value: value.map(Into::into) };
    CreatableTopic { configs: vec![config], ..topic("new", 1, 1) }
}

fn create(topics: Vec<CreatableTopic>) -> CreateTopicsRequest {
    CreateTopicsRequest { topics, timeout_ms: 1000, validate_only: false }
}

#[tokio::test(start_paused = true)]
async fn topics_are_created_as_asked() {
    let broker = Broker::builder().nodes(3).config("num.partitions", "5").build();
    let mut client = Client::to(&broker, 1);
    let response = client.call(7, &create(vec![topic("a", 2, 3), topic("b", -1, -1)])).await;
    let made: Vec<_> = response.topics.iter().map(|t| (t.error_code, t.num_partitions, t.replication_factor)).collect();
    assert_eq!(made, [(ErrorCode::NONE, 2, 3), (ErrorCode::NONE, 5, 1)]);
    let configs = response.topics[0].configs.as_ref().expect("configs from version 5 on");
    assert!(configs.iter().any(|config| &*config.name == "retention.ms"));
    let metadata = Client::to(&broker, 0).call(12, &metadata_request(&["a"])).await;
    assert_eq!(metadata.topics[0].topic_id, response.topics[0].topic_id);
    assert_eq!(metadata.topics[0].partitions.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_kafka_refuses_is_refused() {
    let broker = Broker::builder().topic("taken", 1).topic("a.b", 1).build();
    let mut client = Client::to(&broker, 0);
    let assigned = |partition_index, nodes: &[i32]| CreatableReplicaAssignment {
        partition_index,
        broker_ids: nodes.iter().copied().map(NodeId).collect(),
    };
    let manual = |assignments| CreatableTopic { assignments, ..topic("new", -1, -1) };
    for (asked, code) in [
        (topic("taken", 1, 1), ErrorCode::TOPIC_ALREADY_EXISTS),
        (topic("not legal", 1, 1), ErrorCode::INVALID_TOPIC_EXCEPTION),
        (topic("a_b", 1, 1), ErrorCode::INVALID_TOPIC_EXCEPTION),
        (topic("new", 0, 1), ErrorCode::INVALID_PARTITIONS),
        (topic("new", -2, 1), ErrorCode::INVALID_PARTITIONS),
        (topic("new", 10_001, 1), ErrorCode::POLICY_VIOLATION),
        (topic("new", 1, 2), ErrorCode::INVALID_REPLICATION_FACTOR),
        (topic("new", 1, 0), ErrorCode::INVALID_REPLICATION_FACTOR),
        (with_config("retention.ms", Some("soon")), ErrorCode::INVALID_CONFIG),
        (with_config("no.such.config", Some("1")), ErrorCode::INVALID_CONFIG),
        (with_config("retention.ms", None), ErrorCode::INVALID_CONFIG),
        (manual(vec![assigned(1, &[0])]), ErrorCode::INVALID_REPLICA_ASSIGNMENT),
        (manual(vec![assigned(0, &[7])]), ErrorCode::INVALID_REPLICA_ASSIGNMENT),
        (manual(vec![assigned(0, &[])]), ErrorCode::INVALID_REPLICA_ASSIGNMENT),
        (CreatableTopic { assignments: vec![assigned(0, &[0])], ..topic("new", 1, -1) }, ErrorCode::INVALID_REQUEST),
    ] {
        let response = client.call(7, &create(vec![asked.clone()])).await;
        assert_eq!(response.topics[0].error_code, code, "{asked:?}");
        assert!(response.topics[0].error_message.is_some());
    }
    let twice = client.call(7, &create(vec![topic("new", 1, 1), topic("new", 1, 1)])).await;
    assert_eq!((twice.topics.len(), twice.topics[0].error_code), (1, ErrorCode::INVALID_REQUEST));
    let dry = CreateTopicsRequest { validate_only: true, ..create(vec![topic("new", 1, 1)]) };
    assert_eq!(client.call(7, &dry).await.topics[0].error_code, ErrorCode::NONE);
    assert!(broker.log_offsets("new", 0).is_err(), "nothing of it was created");
    let placed = client.call(7, &create(vec![manual(vec![assigned(0, &[0]), assigned(1, &[0])])])).await;
    assert_eq!((placed.topics[0].error_code, placed.topics[0].num_partitions), (ErrorCode::NONE, 2));
}

#[tokio::test(start_paused = true)]
async fn topics_are_deleted_by_name_and_by_id() {
    let broker = Broker::builder().topic("a", 1).topic("b", 1).build();
    let mut client = Client::to(&broker, 0);
    let by_name = DeleteTopicsRequest { topic_names: vec!["a".into(), "none".into()], ..Default::default() };
    let response = client.call(3, &by_name).await;
    let codes: Vec<_> = response.responses.iter().map(|result| result.error_code).collect();
    assert_eq!(codes, [ErrorCode::NONE, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION]);
    let topic_id = client.call(12, &metadata_request(&["b"])).await.topics[0].topic_id;
    let by_id = DeleteTopicsRequest { topics: vec![DeleteTopicState { name: None, topic_id }], ..Default::default() };
    let deleted = client.call(6, &by_id).await;
    assert_eq!((deleted.responses[0].error_code, deleted.responses[0].name.as_deref()), (ErrorCode::NONE, Some("b")));
    assert_eq!(client.call(6, &by_id).await.responses[0].error_code, ErrorCode::UNKNOWN_TOPIC_ID);
    assert!(broker.log_offsets("b", 0).is_err());
}

/// Names are looked up, not compared each with each, which would take minutes here.
#[tokio::test(start_paused = true)]
async fn any_number_of_topics_may_be_deleted_at_once() {
    let broker = Broker::builder().topic("a", 1).build();
    let mut client = Client::to(&broker, 0);
    let mut topic_names: Vec<_> = (0..60_000).map(|name| format!("a-name-that-nobody-has-{name}").into()).collect();
    topic_names.extend(["a".into(), "twice".into(), "twice".into()]);
    let started = std::time::Instant::now();
    let response = client.call(3, &DeleteTopicsRequest { topic_names, ..Default::default() }).await;
    assert!(started.elapsed() < std::time::Duration::from_secs(20));
    let codes = |code| response.responses.iter().filter(move |result| result.error_code == code);
    assert_eq!(codes(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION).count(), 60_000);
    let twice: Vec<_> = codes(ErrorCode::INVALID_REQUEST).filter_map(|result| result.name.as_deref()).collect();
    assert_eq!((codes(ErrorCode::NONE).count(), twice), (1, vec!["twice"]));
}

#[tokio::test(start_paused = true)]
async fn partitions_are_only_ever_added() {
    let broker = Broker::builder().topic("t", 2).build();
    let mut client = Client::to(&broker, 0);
    client.produce("t", 1, plain(&["kept"])).await;
    let grow = |name: &str, count| CreatePartitionsRequest {
        topics: vec![CreatePartitionsTopic { name: name.into(), count, assignments: None }],
        ..Default::default()
    };
    for (name, count, code) in [
        ("t", 4, ErrorCode::NONE),
        ("t", 4, ErrorCode::INVALID_PARTITIONS),
        ("t", 1, ErrorCode::INVALID_PARTITIONS),
        ("none", 4, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
    ] {
        assert_eq!(client.call(1, &grow(name, count)).await.results[0].error_code, code, "{name} {count}");
    }
    assert_eq!(broker.log_offsets("t", 3), Ok((0, 0)));
    assert_eq!(broker.log_offsets("t", 1), Ok((0, 1)));
}

fn alteration(kind: i8, resource: &str, changes: &[(&str, i8, Option<&str>)]) -> IncrementalAlterConfigsRequest {
    let configs = changes.iter().map(|&(name, config_operation, value)| AlterableConfig {
        name: name.into(),
        config_operation,
        value: value.map(Into::into),
    });
    let resource =
        AlterConfigsResource { resource_type: kind, resource_name: resource.into(), configs: configs.collect() };
    IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false }
}

async fn value_of(client: &mut Client, name: &str) -> (String, i8) {
    let resource = DescribeConfigsResource {
        resource_type: 2,
        resource_name: "t".into(),
        configuration_keys: Some(vec![name.into()]),
    };
    let request = DescribeConfigsRequest { resources: vec![resource], include_synonyms: true, ..Default::default() };
    let result = client.call(4, &request).await.results.remove(0);
    assert_eq!(result.configs.len(), 1);
    let config = &result.configs[0];
    (config.value.as_deref().unwrap_or_default().to_owned(), config.config_source)
}

#[tokio::test(start_paused = true)]
async fn configs_are_set_deleted_appended_to_and_acted_upon() {
    let broker = Broker::builder().topic("t", 1).build();
    let mut client = Client::to(&broker, 0);
    assert_eq!(value_of(&mut client, "max.message.bytes").await, ("1048588".to_owned(), 5));
    let set = alteration(2, "t", &[("max.message.bytes", 0, Some("100")), ("cleanup.policy", 2, Some("compact"))]);
    assert_eq!(client.call(1, &set).await.responses[0].error_code, ErrorCode::NONE);
    assert_eq!(value_of(&mut client, "max.message.bytes").await, ("100".to_owned(), 1));
    assert_eq!(value_of(&mut client, "cleanup.policy").await.0, "delete,compact");
    let large = "x".repeat(100);
    assert_eq!(client.produce("t", 0, plain(&[&large])).await.error_code, ErrorCode::MESSAGE_TOO_LARGE);
    let undo = alteration(2, "t", &[("max.message.bytes", 1, None), ("cleanup.policy", 3, Some("delete"))]);
    assert_eq!(client.call(0, &undo).await.responses[0].error_code, ErrorCode::NONE);
    assert_eq!(value_of(&mut client, "max.message.bytes").await.1, 5);
    assert_eq!(value_of(&mut client, "cleanup.policy").await.0, "compact");
    for (changes, code) in [
        ([("retention.ms", 0, Some("soon"))], ErrorCode::INVALID_CONFIG),
        ([("no.such", 0, Some("1"))], ErrorCode::INVALID_CONFIG),
        ([("retention.ms", 2, Some("1"))], ErrorCode::INVALID_CONFIG),
        ([("retention.ms", 0, None)], ErrorCode::INVALID_REQUEST),
    ] {
        assert_eq!(client.call(1, &alteration(2, "t", &changes)).await.responses[0].error_code, code, "{changes:?}");
    }
    let nowhere = alteration(2, "none", &[("retention.ms", 0, Some("1"))]);
    assert_eq!(client.call(1, &nowhere).await.responses[0].error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
}

#[tokio::test(start_paused = true)]
async fn broker_configs_reach_topics_that_do_not_set_their_own() {
    let broker = Broker::builder().topic("t", 1).build();
    let mut client = Client::to(&broker, 0);
    let set = alteration(4, "0", &[("message.max.bytes", 0, Some("777"))]);
    assert_eq!(client.call(1, &set).await.responses[0].error_code, ErrorCode::NONE);
    assert_eq!(value_of(&mut client, "max.message.bytes").await, ("777".to_owned(), 4));
    let resource = DescribeConfigsResource { resource_type: 4, resource_name: "0".into(), configuration_keys: None };
    let request = DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
    let configs = client.call(1, &request).await.results.remove(0).configs;
    assert!(
        configs.iter().any(|config| &*config.name == "message.max.bytes" && config.value.as_deref() == Some("777"))
    );
}

#[tokio::test(start_paused = true)]
async fn no_reassignment_is_ever_going_on() {
    let broker = Broker::builder().topic("t", 1).build();
    let response = Client::to(&broker, 0).call(0, &ListPartitionReassignmentsRequest::default()).await;
    assert_eq!((response.error_code, response.topics.len()), (ErrorCode::NONE, 0));
}
