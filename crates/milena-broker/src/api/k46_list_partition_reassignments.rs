//! ListPartitionReassignments (46), version 0: always answers that none is going on, as replicas move at once here.

use milena_protocol::{
    VersionRange,
    messages::{ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse},
};

use super::{NoReply, RequestContext, Subject};

pub(crate) const VERSIONS: VersionRange = VersionRange::new(0, 0);

impl Subject for ListPartitionReassignmentsRequest {}

pub(crate) async fn handle(
    cx: &RequestContext<'_>,
    _request: ListPartitionReassignmentsRequest,
) -> Result<ListPartitionReassignmentsResponse, NoReply> {
    let error_code = cx.effects.error().unwrap_or_default();
    Ok(ListPartitionReassignmentsResponse { error_code, error_message: None, ..Default::default() })
}
