//! FindCoordinator (10), versions 0–6: which node coordinates a group or a transactional id.
//!
//! As Kafka, but that the coordinator is the node the key's hash points to, there being no offsets topic whose partition
//! leaders it would be. Share-group keys are refused.

use milena_protocol::{
    ErrorCode, NodeId, StrBytes, VersionRange,
    messages::{FindCoordinatorRequest, FindCoordinatorResponse, find_coordinator_response::Coordinator},
};

use super::{NoReply, RequestContext, Subject};
use crate::{cluster::CoordinatorType, fault::Touched};

pub(crate) const VERSIONS: VersionRange = VersionRange::new(0, 6);

/// From here on one request asks for several keys.
const BATCHED: i16 = 4;

impl Subject for FindCoordinatorRequest {
    fn touched(&self, cx: &RequestContext<'_>) -> Touched {
        let key = if cx.version >= BATCHED { self.coordinator_keys.first() } else { Some(&self.key) };
        Touched { partitions: Vec::new(), key: key.map(|key| key.to_string()) }
    }
}

pub(crate) async fn handle(
    cx: &RequestContext<'_>,
    request: FindCoordinatorRequest,
) -> Result<FindCoordinatorResponse, NoReply> {
    let kind = request.key_type;
    if cx.version >= BATCHED {
        let coordinators = request.coordinator_keys.into_iter().map(|key| find(cx, kind, key)).collect();
        return Ok(FindCoordinatorResponse { coordinators, ..Default::default() });
    }
    let found = find(cx, kind, request.key);
    Ok(FindCoordinatorResponse {
        error_code: found.error_code,
        error_message: found.error_message,
        node_id: found.node_id,
        host: found.host,
        port: found.port,
        ..Default::default()
    })
}

fn find(cx: &RequestContext<'_>, kind: i8, key: StrBytes) -> Coordinator {
    let found = match (cx.effects.error(), kind) {
        (Some(code), _) => Err(code),
        (None, 0) => Ok(CoordinatorType::Group),
        (None, 1) => Ok(CoordinatorType::Transaction),
        (None, _) => Err(ErrorCode::INVALID_REQUEST),
    };
    let found =
        found.and_then(|kind| cx.core.cluster.coordinator(kind, &key).ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE));
    match found {
        Ok(node_id) => {
            let endpoint = cx.endpoint(node_id);
            let (host, port) = (endpoint.host.into(), i32::from(endpoint.port));
            // Kafka sends a message even where there is no error: an empty one, and before batching the name of none.
            let error_message = Some(StrBytes::from_static(if cx.version >= BATCHED { "" } else { "NONE" }));
            Coordinator { key, node_id, host, port, error_code: ErrorCode::NONE, error_message }
        }
        Err(error_code) => Coordinator {
            key,
            node_id: NodeId(-1),
            host: StrBytes::default(),
            port: -1,
            error_code,
            error_message: Some(error_code.to_string().into()),
        },
    }
}
