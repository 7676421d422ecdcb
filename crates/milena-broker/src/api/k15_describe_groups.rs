//! DescribeGroups (15), versions 0–6: state, members and assignments. As Kafka, without authorization.

use milena_protocol::{
    ErrorCode, GroupId, StrBytes, VersionRange,
    messages::{
        DescribeGroupsRequest, DescribeGroupsResponse,
        describe_groups_response::{DescribedGroup, DescribedGroupMember},
    },
};

use super::{NoReply, RequestContext, Subject, group_access, operations};
use crate::fault::Touched;

pub(crate) const VERSIONS: VersionRange = VersionRange::new(0, 6);

/// From here on an unknown group is an error (KIP-1043); before, it is one that is dead.
const NOT_FOUND: i16 = 6;

impl Subject for DescribeGroupsRequest {
    fn touched(&self, _cx: &RequestContext<'_>) -> Touched {
        Touched { partitions: Vec::new(), key: self.groups.first().map(ToString::to_string) }
    }
}

pub(crate) async fn handle(
    cx: &RequestContext<'_>,
    request: DescribeGroupsRequest,
) -> Result<DescribeGroupsResponse, NoReply> {
    let asked = request.include_authorized_operations;
    let groups = request.groups.into_iter().map(|group_id| describe(cx, group_id, asked)).collect();
    Ok(DescribeGroupsResponse { groups, ..DescribeGroupsResponse::default() })
}

fn describe(cx: &RequestContext<'_>, group_id: GroupId, operations_asked: bool) -> DescribedGroup {
    let mut described =
        DescribedGroup { authorized_operations: operations::of_group(operations_asked), ..DescribedGroup::default() };
    if let Err(error) = group_access::check(cx, &group_id) {
        described.error_code = error;
    } else if let Some(group) = cx.core.groups.describe(&group_id) {
        described.group_state = StrBytes::from_static(group.state);
        described.protocol_type = StrBytes::from(group.protocol_type);
        described.protocol_data = StrBytes::from(group.protocol);
        let members = group.members.into_iter().map(|member| DescribedGroupMember {
            member_id: StrBytes::from(member.id),
            group_instance_id: member.group_instance_id.map(StrBytes::from),
            client_id: StrBytes::from(member.client_id),
            client_host: StrBytes::from(member.client_host),
            member_metadata: member.metadata,
            member_assignment: member.assignment,
        });
        described.members = members.collect();
    } else {
        described.group_state = StrBytes::from_static("Dead");
        if cx.version >= NOT_FOUND {
            described.error_code = ErrorCode::GROUP_ID_NOT_FOUND;
            described.error_message = Some(StrBytes::from(format!("Group {} not found.", &*group_id)));
        }
    }
    described.group_id = group_id;
    described
}
