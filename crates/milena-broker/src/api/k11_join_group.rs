//! JoinGroup (11), versions 0–9: enters a group, or begins its next generation.
//!
//! As Kafka, static members (KIP-345), known member ids (KIP-394) and skipped assignments (KIP-814) included. Unlike
//! Kafka the initial rebalance delay is 0 unless configured: in a process nobody else is about to start.

use std::time::Duration;

use bytes::Bytes;
use milena_protocol::{
    StrBytes, VersionRange,
    messages::{JoinGroupRequest, JoinGroupResponse, join_group_response::JoinGroupResponseMember},
};

use super::{NoReply, RequestContext, Subject, group_access};
use crate::{
    fault::Touched,
    group::{
        classic::{Join, JoinReply},
        member::{MemberSpec, Protocol},
    },
};

pub(crate) const VERSIONS: VersionRange = VersionRange::new(0, 9);

/// From here on a dynamic member is given its id before it counts (KIP-394).
const KNOWN_MEMBER_ID: i16 = 4;
/// From here on the protocol's name may be absent.
const NULLABLE_PROTOCOL: i16 = 7;
/// From here on a leader can be told to skip the assignment (KIP-814).
const SKIPPED_ASSIGNMENT: i16 = 9;

impl Subject for JoinGroupRequest {
    fn touched(&self, _cx: &RequestContext<'_>) -> Touched {
        Touched { partitions: Vec::new(), key: Some(self.group_id.to_string()) }
    }

    fn reply_size(response: &JoinGroupResponse) -> usize {
        256 + response.members.iter().map(|member| 128 + member.metadata.len()).sum::<usize>()
    }
}

pub(crate) async fn handle(cx: &RequestContext<'_>, request: JoinGroupRequest) -> Result<JoinGroupResponse, NoReply> {
    let reply = match group_access::check(cx, &request.group_id) {
        Err(error) => JoinReply::error(error, &request.member_id),
        Ok(()) => {
            let id_suffix = cx.core.cluster.random_id();
            cx.core.groups.join(&request.group_id, join(cx, &request), &id_suffix).await
        }
    };
    let nullable = cx.version >= NULLABLE_PROTOCOL;
    let members = reply.members.into_iter().map(|(id, instance, metadata)| JoinGroupResponseMember {
        member_id: StrBytes::from(id),
        group_instance_id: instance.map(StrBytes::from),
        metadata,
    });
    Ok(JoinGroupResponse {
        error_code: reply.error_code,
        generation_id: reply.generation_id,
        protocol_type: reply.protocol_type.map(StrBytes::from),
        protocol_name: match reply.protocol_name {
            None if !nullable => Some(StrBytes::EMPTY),
            name => name.map(StrBytes::from),
        },
        leader: StrBytes::from(reply.leader),
        skip_assignment: reply.skip_assignment,
        member_id: StrBytes::from(reply.member_id),
        members: members.collect(),
        ..JoinGroupResponse::default()
    })
}

fn join(cx: &RequestContext<'_>, request: &JoinGroupRequest) -> Join {
    let millis = |ms: i32| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    let session_timeout = millis(request.session_timeout_ms);
    let protocols = request.protocols.iter();
    Join {
        member_id: request.member_id.to_string(),
        spec: MemberSpec {
            group_instance_id: request.group_instance_id.as_ref().map(ToString::to_string),
            client_id: cx.client_id.as_ref().map(ToString::to_string).unwrap_or_default(),
            client_host: format!("/{}", cx.link.peer),
            session_timeout,
            // Version 0 has one timeout for both.
            rebalance_timeout: if cx.version >= 1 { millis(request.rebalance_timeout_ms) } else { session_timeout },
            protocol_type: request.protocol_type.to_string(),
            protocols: protocols
                // Copied: the blob lives as long as its member, and must not hold on to the request's frame.
                .map(|protocol| Protocol {
                    name: protocol.name.to_string(),
                    metadata: Bytes::copy_from_slice(&protocol.metadata),
                })
                .collect(),
        },
        requires_known_member_id: cx.version >= KNOWN_MEMBER_ID,
        supports_skipping_assignment: cx.version >= SKIPPED_ASSIGNMENT,
    }
}
