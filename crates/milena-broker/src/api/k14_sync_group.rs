//! SyncGroup (14), versions 0–5: brings the leader's assignment and waits for one's own. As Kafka.

use milena_protocol::{
    StrBytes, VersionRange,
    messages::{SyncGroupRequest, SyncGroupResponse},
};

use super::{NoReply, RequestContext, Subject, group_access};
use crate::{
    fault::Touched,
    group::classic::{Sync, SyncReply},
};

pub(crate) const VERSIONS: VersionRange = VersionRange::new(0, 5);

impl Subject for SyncGroupRequest {
    fn touched(&self, _cx: &RequestContext<'_>) -> Touched {
        Touched { partitions: Vec::new(), key: Some(self.group_id.to_string()) }
    }

    fn reply_size(response: &SyncGroupResponse) -> usize {
        128 + response.assignment.len()
    }
}

pub(crate) async fn handle(cx: &RequestContext<'_>, request: SyncGroupRequest) -> Result<SyncGroupResponse, NoReply> {
    let reply = match group_access::check(cx, &request.group_id) {
        Err(error) => SyncReply::error(error),
        Ok(()) => {
            let assignments = request.assignments.into_iter();
            let sync = Sync {
                member_id: request.member_id.to_string(),
                group_instance_id: request.group_instance_id.map(|id| id.to_string()),
                generation_id: request.generation_id,
                protocol_type: request.protocol_type.map(|name| name.to_string()),
                protocol_name: request.protocol_name.map(|name| name.to_string()),
                // The blob outlives its frame: copied, so that the frame can go.
                assignments: assignments
                    .map(|entry| (entry.member_id.to_string(), bytes::Bytes::copy_from_slice(&entry.assignment)))
                    .collect(),
            };
            cx.core.groups.sync(&request.group_id, sync).await
        }
    };
    Ok(SyncGroupResponse {
        error_code: reply.error_code,
        protocol_type: reply.protocol_type.map(StrBytes::from),
        protocol_name: reply.protocol_name.map(StrBytes::from),
        assignment: reply.assignment,
        ..SyncGroupResponse::default()
    })
}
