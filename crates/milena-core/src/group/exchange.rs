//! What goes into the membership machine and what comes out of it: settings, requests, replies, events, errors.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use milena_protocol::ErrorCode;

use super::assignor::Assignor;
use crate::{consumer::TopicPartition, retry::Backoff};

/// What a member is configured with; Kafka's names.
#[derive(Clone, Debug)]
pub struct MembershipConfig {
    /// `group.instance.id`: a static member, which keeps its partitions through a restart.
    pub instance_id: Option<Arc<str>>,
    /// `partition.assignment.strategy`, best first.
    pub assignors: Vec<Assignor>,
    /// `session.timeout.ms`
    pub session_timeout: Duration,
    /// How long the application has to give partitions up; Java uses `max.poll.interval.ms`.
    pub rebalance_timeout: Duration,
    /// `heartbeat.interval.ms`
    pub heartbeat_interval: Duration,
    /// `max.poll.interval.ms`
    pub max_poll_interval: Duration,
    /// `client.rack`
    pub rack: Option<Arc<str>>,
    /// `retry.backoff.ms`, `retry.backoff.max.ms`
    pub backoff: Backoff,
}

/// A request to be sent to the coordinator (the first: to be found). Give `attempt` back with its reply.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupRequest {
    /// Which attempt this is.
    pub attempt: u64,
    /// What to send.
    pub kind: GroupRequestKind,
}

/// What to send.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupRequestKind {
    /// Look the coordinator up: [`Membership::handle_coordinator`](super::classic::Membership::handle_coordinator).
    FindCoordinator,
    /// JoinGroup, one protocol per assignor: [`Membership::handle_join`](super::classic::Membership::handle_join).
    Join {
        /// Empty before the coordinator has given one.
        member_id: Arc<str>,
        /// Names and subscriptions.
        protocols: Vec<(&'static str, Bytes)>,
        /// Why, for the broker's log (KIP-800).
        reason: String,
    },
    /// SyncGroup; assignments from the leader only: [`Membership::handle_sync`](super::classic::Membership::handle_sync).
    Sync {
        /// Our id.
        member_id: Arc<str>,
        /// The generation JoinGroup gave.
        generation: i32,
        /// The chosen protocol.
        protocol: &'static str,
        /// Member ids and their assignments.
        assignments: Vec<(Arc<str>, Bytes)>,
    },
    /// Heartbeat: [`Membership::handle_heartbeat`](super::classic::Membership::handle_heartbeat).
    Heartbeat {
        /// Our id.
        member_id: Arc<str>,
        /// Our generation.
        generation: i32,
    },
    /// LeaveGroup: [`Membership::handle_leave`](super::classic::Membership::handle_leave).
    Leave {
        /// Our id.
        member_id: Arc<str>,
        /// Why, for the broker's log (KIP-800).
        reason: &'static str,
    },
}

/// A JoinGroup response.
#[derive(Clone, Debug, Default)]
pub struct JoinReply {
    /// What went wrong, if anything.
    pub error: ErrorCode,
    /// The new generation.
    pub generation: i32,
    /// The chosen protocol.
    pub protocol: Option<Arc<str>>,
    /// The member that assigns.
    pub leader: Arc<str>,
    /// A leader that came back as a static member need not assign again.
    pub skip_assignment: bool,
    /// Our id.
    pub member_id: Arc<str>,
    /// For the leader: all members.
    pub members: Vec<JoinedMember>,
}

/// A member, as the leader hears of it.
#[derive(Clone, Debug)]
pub struct JoinedMember {
    /// The id the coordinator gave.
    pub member_id: Arc<str>,
    /// `group.instance.id`
    pub instance_id: Option<Arc<str>>,
    /// Its subscription, in its own bytes.
    pub metadata: Bytes,
}

/// What the owner has to act upon.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupEvent {
    /// The application is to give these up; call [`Membership::handle_revoked`](super::classic::Membership::handle_revoked) when it has.
    Revoke(Vec<TopicPartition>),
    /// These are gone already: others may hold them.
    Lost(Vec<TopicPartition>),
    /// A rebalance is over: these were added to what was kept.
    Assigned(Vec<TopicPartition>),
    /// We lead: call [`Membership::assign`](super::classic::Membership::assign) with these topics' partitions.
    NeedPartitions(BTreeSet<Arc<str>>),
    /// The membership ended for good.
    Failed(GroupError),
}

/// Why a membership ended for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// Another consumer uses the same `group.instance.id`.
    #[error("another consumer took over this group.instance.id, give each instance its own")]
    Fenced,
    /// The coordinator refused the group or the member.
    #[error("the coordinator refused the member with {0}, check the group id, its rights and the timeouts")]
    Refused(ErrorCode),
    /// The other members share no assignor with us.
    #[error("the group uses protocol {0:?}, which is not among our assignors; configure one that all members have")]
    UnknownProtocol(String),
}

/// A reply, or none because the connection ended or the time limit passed.
pub type Reply<T> = Result<T, NoReply>;

/// The connection ended or the time limit passed before a reply came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoReply;
