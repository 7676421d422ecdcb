//! Heartbeat (12), versions 0–4: a member lives, and learns of a rebalance. As Kafka.

use milena_protocol::{
    VersionRange,
    messages::{HeartbeatRequest, HeartbeatResponse},
};

use super::{NoReply, RequestContext, Subject, group_access};
use crate::{fault::Touched, group::Caller};

pub(crate) const VERSIONS: VersionRange = VersionRange::new(0, 4);

impl Subject for HeartbeatRequest {
    fn touched(&self, _cx: &RequestContext<'_>) -> Touched {
        Touched { partitions: Vec::new(), key: Some(self.group_id.to_string()) }
    }
}

pub(crate) async fn handle(cx: &RequestContext<'_>, request: HeartbeatRequest) -> Result<HeartbeatResponse, NoReply> {
    let caller = Caller {
        member_id: &request.member_id,
        group_instance_id: request.group_instance_id.as_deref(),
        generation_id: request.generation_id,
    };
    let error_code = match group_access::check(cx, &request.group_id) {
        Err(error) => error,
        Ok(()) => cx.core.groups.heartbeat(&request.group_id, caller),
    };
    Ok(HeartbeatResponse { error_code, ..HeartbeatResponse::default() })
}
