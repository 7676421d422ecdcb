//! LeaveGroup (13), versions 0–5: members leave; from version 3 several at once, static ones by instance id. As Kafka.

use milena_protocol::{
    ErrorCode, VersionRange,
    messages::{LeaveGroupRequest, LeaveGroupResponse, leave_group_response::MemberResponse},
};

use super::{NoReply, RequestContext, Subject, group_access};
use crate::fault::Touched;

pub(crate) const VERSIONS: VersionRange = VersionRange::new(0, 5);

/// From here on the request carries a list.
const MANY: i16 = 3;

impl Subject for LeaveGroupRequest {
    fn touched(&self, _cx: &RequestContext<'_>) -> Touched {
        Touched { partitions: Vec::new(), key: Some(self.group_id.to_string()) }
    }

    fn reply_size(response: &LeaveGroupResponse) -> usize {
        64 + response.members.len() * 96
    }
}

pub(crate) async fn handle(cx: &RequestContext<'_>, request: LeaveGroupRequest) -> Result<LeaveGroupResponse, NoReply> {
    let mut response = LeaveGroupResponse::default();
    if let Err(error) = group_access::check(cx, &request.group_id) {
        response.error_code = error;
        return Ok(response);
    }
    let groups = &cx.core.groups;
    if cx.version < MANY {
        response.error_code = groups.leave(&request.group_id, &request.member_id, None);
        return Ok(response);
    }
    let leave = |member: milena_protocol::messages::leave_group_request::MemberIdentity| {
        let error_code = groups.leave(&request.group_id, &member.member_id, member.group_instance_id.as_deref());
        MemberResponse { member_id: member.member_id, group_instance_id: member.group_instance_id, error_code }
    };
    response.members = request.members.into_iter().map(leave).collect();
    response.error_code = ErrorCode::NONE;
    Ok(response)
}
