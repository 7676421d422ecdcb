//! DescribeCluster (60), versions 0–2: the nodes and the controller.
//!
//! As Kafka for the brokers' endpoints; controllers have none of their own here. Stopped nodes are left out, unless a
//! client asks for fenced ones (KIP-1073).

use milena_protocol::{
    ErrorCode, NodeId, VersionRange,
    messages::{DescribeClusterRequest, DescribeClusterResponse, describe_cluster_response::DescribeClusterBroker},
};

use super::{NoReply, RequestContext, Subject, operations};

pub(crate) const VERSIONS: VersionRange = VersionRange::new(0, 2);

const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

impl Subject for DescribeClusterRequest {}

pub(crate) async fn handle(
    cx: &RequestContext<'_>,
    request: DescribeClusterRequest,
) -> Result<DescribeClusterResponse, NoReply> {
    let cluster = &cx.core.cluster;
    let error = match (cx.effects.error(), request.endpoint_type) {
        (Some(code), _) => Some((code, "A fault rule says so.".to_owned())),
        (None, BROKERS) => None,
        (None, CONTROLLERS) => Some((
            ErrorCode::MISMATCHED_ENDPOINT_TYPE,
            "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER"
                .to_owned(),
        )),
        (None, kind) => Some((ErrorCode::UNSUPPORTED_ENDPOINT_TYPE, format!("Unsupported endpoint type {kind}"))),
    };
    if let Some((error_code, message)) = error {
        return Ok(DescribeClusterResponse { error_code, error_message: Some(message.into()), ..Default::default() });
    }
    let running = cluster.running_nodes();
    let brokers = cluster.nodes.iter().filter(|node| request.include_fenced_brokers || running.contains(node));
    let brokers = brokers.map(|&broker_id| {
        let endpoint = cx.endpoint(broker_id);
        DescribeClusterBroker {
            broker_id,
            host: endpoint.host.into(),
            port: i32::from(endpoint.port),
            rack: cx.rack(broker_id),
            is_fenced: !running.contains(&broker_id),
        }
    });
    Ok(DescribeClusterResponse {
        cluster_id: cluster.id.clone().into(),
        controller_id: running.first().copied().unwrap_or(NodeId(-1)),
        brokers: brokers.collect(),
        cluster_authorized_operations: operations::of_cluster(request.include_cluster_authorized_operations),
        ..Default::default()
    })
}
