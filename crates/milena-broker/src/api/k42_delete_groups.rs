//! DeleteGroups (42), versions 0–3: deletes groups without members, with their offsets. As Kafka.

use milena_protocol::{
    VersionRange,
    messages::{DeleteGroupsRequest, DeleteGroupsResponse, delete_groups_response::DeletableGroupResult},
};

use super::{NoReply, RequestContext, Subject, group_access};
use crate::fault::Touched;

pub(crate) const VERSIONS: VersionRange = VersionRange::new(0, 3);

impl Subject for DeleteGroupsRequest {
    fn touched(&self, _cx: &RequestContext<'_>) -> Touched {
        Touched { partitions: Vec::new(), key: self.groups_names.first().map(ToString::to_string) }
    }
}

pub(crate) async fn handle(
    cx: &RequestContext<'_>,
    request: DeleteGroupsRequest,
) -> Result<DeleteGroupsResponse, NoReply> {
    let delete = |group_id: milena_protocol::GroupId| {
        let error_code = match group_access::check(cx, &group_id) {
            Err(error) => error,
            Ok(()) => cx.core.groups.delete(&group_id),
        };
        DeletableGroupResult { group_id, error_code, ..DeletableGroupResult::default() }
    };
    let results = request.groups_names.into_iter().map(delete).collect();
    Ok(DeleteGroupsResponse { results, ..DeleteGroupsResponse::default() })
}
