//! One classic consumer group (JoinGroup, SyncGroup, Heartbeat, LeaveGroup), as Kafka's coordinator treats it.
//!
//! A state machine without tasks: requests come in with the time and a [`Ticket`] for their answer, answers come out of
//! [`Group::poll_reply`], and [`Group::next_timeout`] says when [`Group::handle_timeout`] wants to be called.
//! Differences from Kafka: nothing is written to a log, and a group does not expire.

mod join;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use milena_protocol::ErrorCode;
use tokio::time::Instant;

use super::{
    member::{Member, MemberSpec, Ticket},
    offsets::Offsets,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupState {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
}

impl GroupState {
    /// Kafka's name for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// The broker's settings for groups; Kafka's keys and, but for the initial delay, its defaults.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupConfig {
    /// `group.initial.rebalance.delay.ms`. Kafka waits 3 s; a broker for tests has nobody to wait for.
    pub(crate) initial_rebalance_delay: Duration,
    /// `group.min.session.timeout.ms`
    pub(crate) min_session_timeout: Duration,
    /// `group.max.session.timeout.ms`
    pub(crate) max_session_timeout: Duration,
    /// `group.max.size`
    pub(crate) max_size: usize,
    /// `offset.metadata.max.bytes`
    pub(crate) max_offset_metadata_bytes: usize,
}

/// A JoinGroup request.
#[derive(Debug, Clone)]
pub(crate) struct Join {
    pub(crate) member_id: String,
    pub(crate) spec: MemberSpec,
    /// From version 4 a dynamic member is first given an id, so that a lost answer leaves no ghost (KIP-394).
    pub(crate) requires_known_member_id: bool,
    /// From version 9 a static leader that comes back is told not to compute an assignment (KIP-814).
    pub(crate) supports_skipping_assignment: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JoinReply {
    pub(crate) error_code: ErrorCode,
    pub(crate) generation_id: i32,
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol_name: Option<String>,
    pub(crate) leader: String,
    pub(crate) skip_assignment: bool,
    pub(crate) member_id: String,
    /// Member id, instance id, subscription: for the leader alone.
    pub(crate) members: Vec<(String, Option<String>, Bytes)>,
}

impl JoinReply {
    pub(crate) fn error(error_code: ErrorCode, member_id: &str) -> Self {
        Self {
            error_code,
            generation_id: -1,
            protocol_type: None,
            protocol_name: None,
            leader: String::new(),
            skip_assignment: false,
            member_id: member_id.to_owned(),
            members: Vec::new(),
        }
    }
}

/// A SyncGroup request.
#[derive(Debug, Clone)]
pub(crate) struct Sync {
    pub(crate) member_id: String,
    pub(crate) group_instance_id: Option<String>,
    pub(crate) generation_id: i32,
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol_name: Option<String>,
    pub(crate) assignments: Vec<(String, Bytes)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyncReply {
    pub(crate) error_code: ErrorCode,
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol_name: Option<String>,
    pub(crate) assignment: Bytes,
}

impl SyncReply {
    pub(crate) fn error(error_code: ErrorCode) -> Self {
        Self { error_code, protocol_type: None, protocol_name: None, assignment: Bytes::new() }
    }
}

/// An answer that was parked and is due now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GroupReply {
    Join(JoinReply),
    Sync(SyncReply),
}

/// How long the first join phase of an empty group waits for more members (`group.initial.rebalance.delay.ms`, KIP-134).
#[derive(Debug)]
struct InitialWait {
    until: Instant,
    /// It is extended for newcomers, but not beyond this.
    at_most: Instant,
    /// Somebody joined since it was begun or extended.
    newcomers: bool,
}

#[derive(Debug)]
pub(crate) struct Group {
    config: GroupConfig,
    state: GroupState,
    generation: i32,
    protocol_type: Option<String>,
    protocol: Option<String>,
    leader: Option<String>,
    members: BTreeMap<String, Member>,
    /// Order of joining, which decides the leader.
    order: Vec<String>,
    /// Instance id → member id.
    statics: BTreeMap<String, String>,
    /// Ids given out by MEMBER_ID_REQUIRED and not yet used, with the time they lapse.
    pending: BTreeMap<String, Instant>,
    /// When the join phase ends although members are missing.
    join_ends: Option<Instant>,
    /// While set, the join phase goes on even with everybody there, and ends when this does.
    initial_wait: Option<InitialWait>,
    /// When members that have not sent SyncGroup are thrown out.
    sync_ends: Option<Instant>,
    replies: VecDeque<(Ticket, GroupReply)>,
    pub(crate) offsets: Offsets,
}

impl Group {
    pub(crate) fn new(config: GroupConfig) -> Self {
        Self {
            config,
            state: GroupState::Empty,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            order: Vec::new(),
            statics: BTreeMap::new(),
            pending: BTreeMap::new(),
            join_ends: None,
            initial_wait: None,
            sync_ends: None,
            replies: VecDeque::new(),
            offsets: Offsets::default(),
        }
    }

    pub(crate) fn state(&self) -> GroupState {
        self.state
    }

    pub(crate) fn protocol_type(&self) -> &str {
        self.protocol_type.as_deref().unwrap_or_default()
    }

    pub(crate) fn protocol(&self) -> &str {
        self.protocol.as_deref().unwrap_or_default()
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.order.iter().filter_map(|id| self.members.get(id))
    }

    /// Answers that are due; call after every `handle_*`.
    pub(crate) fn poll_reply(&mut self) -> Option<(Ticket, GroupReply)> {
        self.replies.pop_front()
    }

    pub(crate) fn handle_sync(&mut self, now: Instant, ticket: Ticket, sync: Sync) {
        if let Err(error) = self.try_sync(now, ticket, sync) {
            self.replies.push_back((ticket, GroupReply::Sync(SyncReply::error(error))));
        }
    }

    fn try_sync(&mut self, now: Instant, ticket: Ticket, sync: Sync) -> Result<(), ErrorCode> {
        self.check_member(&sync.member_id, sync.group_instance_id.as_deref(), sync.generation_id)?;
        let differs = |asked: &Option<String>, held: &Option<String>| asked.is_some() && asked != held;
        if differs(&sync.protocol_type, &self.protocol_type) || differs(&sync.protocol_name, &self.protocol) {
            return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        match self.state {
            GroupState::Empty => Err(ErrorCode::UNKNOWN_MEMBER_ID),
            GroupState::PreparingRebalance => Err(ErrorCode::REBALANCE_IN_PROGRESS),
            GroupState::Stable => {
                let reply = self.sync_reply(&sync.member_id);
                if let Some(member) = self.members.get_mut(&sync.member_id) {
                    member.touch(now);
                    member.synced = true;
                }
                self.end_sync_when_all_have();
                self.replies.push_back((ticket, GroupReply::Sync(reply)));
                Ok(())
            }
            GroupState::CompletingRebalance => {
                if let Some(member) = self.members.get_mut(&sync.member_id) {
                    member.touch(now);
                    member.synced = true;
                    if let Some(earlier) = member.syncing.replace(ticket) {
                        let reply = SyncReply::error(ErrorCode::REBALANCE_IN_PROGRESS);
                        self.replies.push_back((earlier, GroupReply::Sync(reply)));
                    }
                }
                if self.leader.as_deref() == Some(sync.member_id.as_str()) {
                    self.become_stable(now, sync.assignments);
                }
                Ok(())
            }
        }
    }

    fn become_stable(&mut self, now: Instant, assignments: Vec<(String, Bytes)>) {
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
        }
        for (id, assignment) in assignments {
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = assignment;
            }
        }
        self.state = GroupState::Stable;
        for id in self.order.clone() {
            let reply = self.sync_reply(&id);
            let Some(member) = self.members.get_mut(&id) else { continue };
            if let Some(ticket) = member.syncing.take() {
                member.touch(now);
                self.replies.push_back((ticket, GroupReply::Sync(reply)));
            }
        }
        self.end_sync_when_all_have();
    }

    fn end_sync_when_all_have(&mut self) {
        if self.members.values().all(|member| member.synced) {
            self.sync_ends = None;
        }
    }

    fn sync_reply(&self, id: &str) -> SyncReply {
        SyncReply {
            error_code: ErrorCode::NONE,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol.clone(),
            assignment: self.members.get(id).map(|member| member.assignment.clone()).unwrap_or_default(),
        }
    }

    fn check_member(&self, id: &str, instance: Option<&str>, generation: i32) -> Result<(), ErrorCode> {
        self.check_static(id, instance)?;
        if !self.members.contains_key(id) {
            return Err(ErrorCode::UNKNOWN_MEMBER_ID);
        }
        if generation != self.generation {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        Ok(())
    }

    pub(crate) fn handle_heartbeat(
        &mut self,
        now: Instant,
        member_id: &str,
        instance: Option<&str>,
        generation: i32,
    ) -> ErrorCode {
        if let Err(error) = self.check_member(member_id, instance, generation) {
            return error;
        }
        if let Some(member) = self.members.get_mut(member_id) {
            member.touch(now);
        }
        match self.state {
            GroupState::Empty => ErrorCode::UNKNOWN_MEMBER_ID,
            GroupState::PreparingRebalance => ErrorCode::REBALANCE_IN_PROGRESS,
            GroupState::CompletingRebalance | GroupState::Stable => ErrorCode::NONE,
        }
    }

    pub(crate) fn handle_leave(&mut self, now: Instant, member_id: &str, instance: Option<&str>) -> ErrorCode {
        if self.pending.remove(member_id).is_some() {
            self.maybe_complete_join(now);
            return ErrorCode::NONE;
        }
        // An administrator may name a static member by its instance id alone.
        let id = match instance {
            Some(instance) if member_id.is_empty() => match self.statics.get(instance) {
                Some(owner) => owner.clone(),
                None => return ErrorCode::UNKNOWN_MEMBER_ID,
            },
            instance => {
                if let Err(error) = self.check_static(member_id, instance) {
                    return error;
                }
                member_id.to_owned()
            }
        };
        if !self.members.contains_key(&id) {
            return ErrorCode::UNKNOWN_MEMBER_ID;
        }
        self.remove(now, &id);
        ErrorCode::NONE
    }

    /// May this member commit offsets? `generation` below 0: a consumer by assignment, welcome while nobody is a member.
    pub(crate) fn check_commit(
        &mut self,
        now: Instant,
        member_id: &str,
        instance: Option<&str>,
        generation: i32,
    ) -> Result<(), ErrorCode> {
        if generation < 0 && self.members.is_empty() {
            return Ok(());
        }
        self.check_member(member_id, instance, generation)?;
        if let Some(member) = self.members.get_mut(member_id) {
            member.touch(now);
        }
        match self.state {
            GroupState::Empty => Err(ErrorCode::UNKNOWN_MEMBER_ID),
            GroupState::CompletingRebalance => Err(ErrorCode::REBALANCE_IN_PROGRESS),
            GroupState::PreparingRebalance | GroupState::Stable => Ok(()),
        }
    }

    fn remove(&mut self, now: Instant, id: &str) {
        self.forget(id);
        match self.state {
            GroupState::Stable | GroupState::CompletingRebalance if self.members.is_empty() => {
                self.generation = self.generation.checked_add(1).unwrap_or(1);
                self.become_empty();
            }
            GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(now),
            GroupState::PreparingRebalance | GroupState::Empty => {}
        }
        self.maybe_complete_join(now);
    }

    fn become_empty(&mut self) {
        self.state = GroupState::Empty;
        self.protocol = None;
        self.leader = None;
        self.join_ends = None;
        self.initial_wait = None;
        self.sync_ends = None;
    }

    fn forget(&mut self, id: &str) {
        let Some(member) = self.members.remove(id) else { return };
        self.order.retain(|held| held != id);
        if let Some(instance) = &member.spec.group_instance_id {
            self.statics.remove(instance);
        }
        if self.leader.as_deref() == Some(id) {
            self.leader = self.order.first().cloned();
        }
        let error = ErrorCode::UNKNOWN_MEMBER_ID;
        if let Some(ticket) = member.joining {
            self.replies.push_back((ticket, GroupReply::Join(JoinReply::error(error, id))));
        }
        if let Some(ticket) = member.syncing {
            self.replies.push_back((ticket, GroupReply::Sync(SyncReply::error(error))));
        }
    }

    /// Throws a member out, as if its session had ended: a fault that tests ask for.
    pub(crate) fn evict(&mut self, now: Instant, member_id: &str) -> bool {
        let known = self.members.contains_key(member_id);
        if known {
            self.remove(now, member_id);
        }
        known
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let sessions = self.members.values().filter(|member| !member.is_waiting()).map(|member| member.session_ends);
        let phases = [self.join_ends, self.initial_wait.as_ref().map(|wait| wait.until), self.sync_ends];
        sessions.chain(self.pending.values().copied()).chain(phases.into_iter().flatten()).min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.pending.retain(|_, lapses| *lapses > now);
        let silent: Vec<String> = self
            .members
            .values()
            .filter(|member| !member.is_waiting() && member.session_ends <= now)
            .map(|member| member.id.clone())
            .collect();
        for id in silent {
            self.remove(now, &id);
        }
        if self.sync_ends.is_some_and(|end| end <= now) {
            self.sync_ends = None;
            let late: Vec<String> =
                self.members.values().filter(|member| !member.synced).map(|member| member.id.clone()).collect();
            for id in late {
                self.remove(now, &id);
            }
        }
        self.maybe_complete_join(now);
    }
}
