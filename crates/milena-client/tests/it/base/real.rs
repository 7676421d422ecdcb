//! A whole cluster, found, asked and left, embedded and real (see CONTRIBUTING.md).

use std::time::Duration;

use milena_client::RequestError;
use milena_client::raw::Target;
use milena_protocol::messages::DescribeClusterRequest;

use crate::cluster::{Cluster, on_every_cluster};

on_every_cluster!(a_cluster_is_found_asked_and_left);

async fn a_cluster_is_found_asked_and_left(cluster: Cluster) {
    let client = cluster.client().await;
    let metadata = client.metadata();
    assert!(!metadata.nodes.is_empty() && metadata.cluster_id.is_some());
    let described = client.raw().send(Target::Controller, DescribeClusterRequest::default()).await.expect("an answer");
    assert_eq!(Some(&*described.cluster_id), metadata.cluster_id.as_deref());
    let error = client.partitions("milena-no-such-topic").await.expect_err("there is none");
    assert!(matches!(error, RequestError::UnknownTopic { .. }), "{error:?}");
    let report = client.close(Duration::from_secs(10)).await;
    assert!(report.clean, "{report:?}");
    assert_eq!(client.task_count(), 0);
}
