//! What the membership machine asks, as Kafka's messages, and their answers as the machine reads them.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use milena_core::group::classic::{GroupRequestKind, JoinReply, JoinedMember, NoReply, Reply};
use milena_net::{Connection, Purpose};
use milena_protocol::ErrorCode;
use milena_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use milena_protocol::messages::leave_group_request::MemberIdentity;
use milena_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use milena_protocol::messages::{HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest};

use super::offsets::ask_coordinator;
use super::shared::Shared;
use crate::client::coordinators::CoordinatorKind;
use crate::error::RequestError;

const PROTOCOL_TYPE: &str = "consumer";

/// An answer for the machine.
#[derive(Debug)]
pub(super) enum GroupReply {
    Coordinator(Reply<()>),
    Join(Reply<JoinReply>),
    Sync(Reply<(ErrorCode, Bytes)>),
    Heartbeat(Reply<ErrorCode>),
    Leave,
}

/// Sends one request of the machine and waits for its answer.
pub(super) async fn ask(shared: &Shared, kind: GroupRequestKind) -> GroupReply {
    let client = &shared.client;
    let group = shared.config.group.as_deref().unwrap_or_default();
    let instance = shared.config.instance_id.as_deref();
    let limit = client.config.request_timeout;
    // Members of one group in one client must not wait for one another's connection.
    let own = Purpose::Own(shared.connections.membership);
    let connected = OnceLock::new();
    let remember = |connection: &Connection| {
        shared.remember(connection);
        // It is asked for one connection.
        let _ = connected.set(client.clock.now());
    };
    match kind {
        GroupRequestKind::FindCoordinator => {
            let begun = client.clock.now();
            let found = client.coordinators.find(client, CoordinatorKind::Group, group).await;
            // Who it is says not yet that it answers.
            GroupReply::Coordinator(found.map(drop).map_err(|error| shared.no_reply("FindCoordinator", begun, &error)))
        }
        GroupRequestKind::Join { member_id, protocols, reason } => {
            let rebalance = shared.config.max_poll_interval;
            let build = |version: i16| JoinGroupRequest {
                group_id: group.into(),
                session_timeout_ms: millis(shared.config.session_timeout),
                rebalance_timeout_ms: if version >= 1 { millis(rebalance) } else { -1 },
                member_id: (&*member_id).into(),
                group_instance_id: instance.filter(|_| version >= 5).map(Into::into),
                protocol_type: PROTOCOL_TYPE.into(),
                protocols: protocols
                    .into_iter()
                    .map(|(name, metadata)| JoinGroupRequestProtocol { name: name.into(), metadata })
                    .collect(),
                reason: (version >= 8).then(|| (&*reason).into()),
            };
            // The coordinator answers when all members have joined, at the latest at their rebalance time limit.
            let answer = ask_coordinator(client, group, own, remember, 9, rebalance + limit, build).await;
            let answer = shared.judge_held("JoinGroup", connected.get(), answer, |answer| answer.error_code);
            GroupReply::Join(answer.map(|answer| {
                JoinReply {
                    error: answer.error_code,
                    generation: answer.generation_id,
                    protocol: answer.protocol_name.as_deref().map(Arc::from),
                    leader: Arc::from(&*answer.leader),
                    skip_assignment: answer.skip_assignment,
                    member_id: Arc::from(&*answer.member_id),
                    members: answer
                        .members
                        .into_iter()
                        .map(|member| JoinedMember {
                            member_id: Arc::from(&*member.member_id),
                            instance_id: member.group_instance_id.as_deref().map(Arc::from),
                            metadata: member.metadata,
                        })
                        .collect(),
                }
            }))
        }
        GroupRequestKind::Sync { member_id, generation, protocol, assignments } => {
            let build = |version: i16| SyncGroupRequest {
                group_id: group.into(),
                generation_id: generation,
                member_id: (&*member_id).into(),
                group_instance_id: instance.filter(|_| version >= 3).map(Into::into),
                protocol_type: (version >= 5).then(|| PROTOCOL_TYPE.into()),
                protocol_name: (version >= 5).then(|| protocol.into()),
                assignments: assignments
                    .into_iter()
                    .map(|(member_id, assignment)| SyncGroupRequestAssignment {
                        member_id: (&*member_id).into(),
                        assignment,
                    })
                    .collect(),
            };
            let wait = shared.config.max_poll_interval + limit;
            let answer = ask_coordinator(client, group, own, remember, 5, wait, build).await;
            let answer = shared.judge_held("SyncGroup", connected.get(), answer, |answer| answer.error_code);
            GroupReply::Sync(answer.map(|answer| (answer.error_code, answer.assignment)))
        }
        GroupRequestKind::Heartbeat { member_id, generation } => {
            let build = |version: i16| HeartbeatRequest {
                group_id: group.into(),
                generation_id: generation,
                member_id: (&*member_id).into(),
                group_instance_id: instance.filter(|_| version >= 3).map(Into::into),
            };
            let limit = limit.min(shared.config.session_timeout);
            let begun = client.clock.now();
            let answer = ask_coordinator(client, group, Purpose::Coordination, |_| (), 4, limit, build).await;
            let answer = shared.judge("Heartbeat", begun, answer, |answer| answer.error_code);
            GroupReply::Heartbeat(answer.map(|answer| answer.error_code))
        }
        GroupRequestKind::Leave { member_id, reason } => {
            let build = |version: i16| {
                let mut request = LeaveGroupRequest { group_id: group.into(), ..LeaveGroupRequest::default() };
                if version >= 3 {
                    let reason = (version >= 5).then(|| reason.into());
                    let member_id = (&*member_id).into();
                    request.members = vec![MemberIdentity { member_id, reason, ..MemberIdentity::default() }];
                } else {
                    request.member_id = (&*member_id).into();
                }
                request
            };
            if let Err(error) = ask_coordinator(client, group, Purpose::Coordination, |_| (), 5, limit, build).await {
                tracing::debug!(%error, "no answer to LeaveGroup");
            }
            GroupReply::Leave
        }
    }
}

impl Shared {
    /// As [`judge`](Self::judge), of joins and syncs: they are held back by the coordinator for as long as the others take.
    /// If they fail, it is since then that it can't be used; and it was there until then if it held them back for longer
    /// than any other answer may take, unless that was for ever.
    fn judge_held<R>(
        &self,
        api: &'static str,
        connected: Option<&Instant>,
        answer: Result<R, RequestError>,
        code: impl Fn(&R) -> ErrorCode,
    ) -> Result<R, NoReply> {
        let now = self.client.clock.now();
        let held = connected.map_or(Duration::ZERO, |connected| now.saturating_duration_since(*connected));
        if held >= self.client.config.request_timeout && !matches!(answer, Err(RequestError::TimedOut { .. })) {
            self.answered(&self.coordinator());
        }
        self.judge(api, now, answer, code)
    }

    /// Remembers whether the coordinator could be used, by an attempt that began at `since`.
    fn judge<R>(
        &self,
        api: &'static str,
        since: Instant,
        answer: Result<R, RequestError>,
        code: impl Fn(&R) -> ErrorCode,
    ) -> Result<R, NoReply> {
        match &answer {
            Ok(answered) if is_about_coordinator(code(answered)) => {
                self.failed(self.coordinator(), since, &RequestError::broker(api, code(answered), None));
            }
            Ok(_) => self.answered(&self.coordinator()),
            Err(_) => {}
        }
        answer.map_err(|error| self.no_reply(api, since, &error))
    }

    fn no_reply(&self, api: &'static str, since: Instant, error: &RequestError) -> NoReply {
        tracing::debug!(api, %error, "no answer from the group coordinator");
        self.failed(self.coordinator(), since, error);
        NoReply
    }
}

/// It is not the coordinator, or not yet.
pub(super) fn is_about_coordinator(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::COORDINATOR_NOT_AVAILABLE | ErrorCode::NOT_COORDINATOR | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS
    )
}

fn millis(duration: std::time::Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
