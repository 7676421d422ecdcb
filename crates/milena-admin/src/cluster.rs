//! The cluster itself.

use milena_client::RequestError;
use milena_client::raw::Target;
use milena_protocol::messages::DescribeClusterRequest;

use crate::Admin;
use crate::topics::check;

/// A cluster and its brokers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterDescription {
    /// The cluster's id.
    pub cluster_id: String,
    /// Node id of the broker to which requests for the controller go, if one is known.
    pub controller: Option<i32>,
    /// By rising node id.
    pub nodes: Vec<NodeDescription>,
}

/// A broker.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeDescription {
    /// Its node id.
    pub id: i32,
    /// Where it says that it listens.
    pub host: String,
    /// Where it says that it listens.
    pub port: i32,
    /// Its rack.
    pub rack: Option<String>,
}

impl Admin {
    /// The cluster's id, its controller and its brokers.
    ///
    /// # Errors
    /// When the cluster could not be asked.
    pub async fn describe_cluster(&self) -> Result<ClusterDescription, RequestError> {
        let request = DescribeClusterRequest::default();
        let response = self.raw.send_checked(Target::Any, request, |response| response.error_code).await?;
        let subject = || "describing the cluster".to_owned();
        check(subject, response.error_code, response.error_message.as_deref())?;
        let nodes = response.brokers.into_iter().map(|broker| NodeDescription {
            id: broker.broker_id.0,
            host: broker.host.to_string(),
            port: broker.port,
            rack: broker.rack.map(|rack| rack.to_string()),
        });
        let mut nodes = nodes.collect::<Vec<_>>();
        nodes.sort_by_key(|node| node.id);
        Ok(ClusterDescription {
            cluster_id: response.cluster_id.to_string(),
            controller: Some(response.controller_id.0).filter(|node| *node >= 0),
            nodes,
        })
    }
}
