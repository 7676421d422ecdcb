//! The same against a real Kafka, when `MILENA_KAFKA_1` names one (see CONTRIBUTING.md).

use std::time::Duration;

use milena_client::raw::Target;
use milena_client::{Client, RequestError};
use milena_protocol::messages::DescribeClusterRequest;

async fn kafka() -> Option<Client> {
    let Ok(servers) = std::env::var("MILENA_KAFKA_1") else {
        eprintln!("NOT TESTED on a real Kafka: MILENA_KAFKA_1 is not set");
        return None;
    };
    let builder = Client::builder().bootstrap(servers).expect("addresses");
    Some(builder.build().await.expect("Kafka answers"))
}

#[tokio::test]
async fn a_real_cluster_is_found_asked_and_left() {
    let Some(client) = kafka().await else { return };
    let cluster = client.metadata();
    assert!(!cluster.nodes.is_empty() && cluster.cluster_id.is_some());
    let described = client.raw().send(Target::Controller, DescribeClusterRequest::default()).await.expect("an answer");
    assert_eq!(Some(&*described.cluster_id), cluster.cluster_id.as_deref());
    let error = client.partitions("milena-no-such-topic").await.expect_err("there is none");
    assert!(matches!(error, RequestError::UnknownTopic { .. }), "{error:?}");
    let report = client.close(Duration::from_secs(10)).await;
    assert!(report.clean, "{report:?}");
    assert_eq!(client.task_count(), 0);
}
