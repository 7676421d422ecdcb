//! What all requests about a group have in common: an injected error, a legal id, the right node.

use milena_protocol::ErrorCode;

use super::RequestContext;
use crate::cluster::CoordinatorType;

/// `Ok` if this node may answer for the group; else what the client gets instead.
pub(super) fn check(cx: &RequestContext<'_>, group_id: &str) -> Result<(), ErrorCode> {
    if let Some(injected) = cx.effects.error_of_all() {
        return Err(injected);
    }
    if group_id.is_empty() {
        return Err(ErrorCode::INVALID_GROUP_ID);
    }
    cx.core.cluster.check_coordinator(CoordinatorType::Group, group_id, cx.node)
}
