//! ListGroups (16), versions 0–5: the groups that this node coordinates, by state (KIP-518) and type (KIP-848) if asked.
//!
//! All groups here are classic ones.

use milena_protocol::{
    GroupId, StrBytes, VersionRange,
    messages::{ListGroupsRequest, ListGroupsResponse, list_groups_response::ListedGroup},
};

use super::{NoReply, RequestContext, Subject};
use crate::cluster::CoordinatorType;

pub(crate) const VERSIONS: VersionRange = VersionRange::new(0, 5);

/// From here on the answer tells the state.
const STATES: i16 = 4;
/// From here on it tells the type.
const TYPES: i16 = 5;

impl Subject for ListGroupsRequest {
    fn reply_size(response: &ListGroupsResponse) -> usize {
        64 + response.groups.len() * 96
    }
}

pub(crate) async fn handle(cx: &RequestContext<'_>, request: ListGroupsRequest) -> Result<ListGroupsResponse, NoReply> {
    let mut response = ListGroupsResponse::default();
    if let Some(injected) = cx.effects.error() {
        response.error_code = injected;
        return Ok(response);
    }
    let wanted = |filter: &[StrBytes], what: &str| {
        filter.is_empty() || filter.iter().any(|name| name.eq_ignore_ascii_case(what))
    };
    let mine = |id: &str| cx.core.cluster.check_coordinator(CoordinatorType::Group, id, cx.node).is_ok();
    let groups = cx.core.groups.list().into_iter().filter(|group| {
        mine(&group.id) && wanted(&request.states_filter, group.state) && wanted(&request.types_filter, "classic")
    });
    let listed = groups.map(|group| ListedGroup {
        group_id: GroupId::from(group.id),
        protocol_type: StrBytes::from(group.protocol_type),
        group_state: if cx.version >= STATES { StrBytes::from_static(group.state) } else { StrBytes::EMPTY },
        group_type: if cx.version >= TYPES { StrBytes::from_static("classic") } else { StrBytes::EMPTY },
    });
    response.groups = listed.collect();
    Ok(response)
}
