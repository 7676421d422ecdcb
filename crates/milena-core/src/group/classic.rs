//! Membership in a group by the classic protocol: Join, Sync, Heartbeat, Leave; eager and cooperative (KIP-429), static
//! members (KIP-345). One owner drives it: feed replies and the time, then drain requests and events.
//!
//! Holds no offsets and sends nothing. A reply carries the attempt of its request, so that one which arrives after the
//! coordinator was lost or the member fenced is a no-op.

mod sending;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use milena_protocol::ErrorCode;

pub use super::exchange::{
    GroupError, GroupEvent, GroupRequest, GroupRequestKind, JoinReply, JoinedMember, MembershipConfig, NoReply, Reply,
};
pub use super::state::MemberState;
use super::{
    assignor::{Assignor, GroupMember, TopicRacks},
    blobs,
};
use crate::consumer::TopicPartition;

#[derive(Debug)]
enum SyncStep {
    /// The leader waits for partitions of its members' topics.
    AwaitPartitions(Vec<GroupMember>),
    Ready(Vec<(Arc<str>, Bytes)>),
    Sent,
}

/// A member of a classic group.
#[derive(Debug)]
pub struct Membership {
    config: MembershipConfig,
    state: MemberState,
    attempt: u64,
    topics: BTreeSet<Arc<str>>,
    joined_topics: BTreeSet<Arc<str>>,
    member_id: Arc<str>,
    generation: i32,
    assignor: Option<Assignor>,
    leads: bool,
    group_topics: BTreeSet<Arc<str>>,
    owned: BTreeSet<TopicPartition>,
    revoking: BTreeSet<TopicPartition>,
    revoke_by: Option<Instant>,
    /// What the sticky assignor reports: the last assignment and its generation, kept through eager revocations.
    last_assignment: Option<(Vec<TopicPartition>, i32)>,
    sync: SyncStep,
    rejoin_reason: Option<&'static str>,
    coordinator_known: bool,
    finding: bool,
    heartbeat_sent: bool,
    next_heartbeat: Instant,
    session_deadline: Instant,
    last_poll: Instant,
    not_before: Option<Instant>,
    failures: u32,
    leave_to_send: Option<&'static str>,
    leave_sent: bool,
    events: VecDeque<GroupEvent>,
    rng: fastrand::Rng,
}

impl Membership {
    /// A member that joins as soon as it has topics.
    pub fn new(now: Instant, config: MembershipConfig, seed: u64) -> Self {
        Self {
            state: MemberState::Unjoined,
            attempt: 0,
            topics: BTreeSet::new(),
            joined_topics: BTreeSet::new(),
            member_id: Arc::from(""),
            generation: -1,
            assignor: None,
            leads: false,
            group_topics: BTreeSet::new(),
            owned: BTreeSet::new(),
            revoking: BTreeSet::new(),
            revoke_by: None,
            last_assignment: None,
            sync: SyncStep::Sent,
            rejoin_reason: None,
            coordinator_known: false,
            finding: false,
            heartbeat_sent: false,
            next_heartbeat: now,
            session_deadline: now,
            last_poll: now,
            not_before: None,
            failures: 0,
            leave_to_send: None,
            leave_sent: false,
            events: VecDeque::new(),
            rng: fastrand::Rng::with_seed(seed),
            config,
        }
    }

    /// Where the member stands.
    pub fn state(&self) -> MemberState {
        self.state
    }

    /// Our id and generation, to be sent with commits; `None` when there is no valid generation.
    pub fn generation(&self) -> Option<(Arc<str>, i32)> {
        (self.generation >= 0).then(|| (Arc::clone(&self.member_id), self.generation))
    }

    /// Whether a commit may be sent now. A member without a generation may not: the coordinator would take it for somebody
    /// who commits by hand.
    pub fn may_commit(&self) -> bool {
        self.state.may_commit() && (self.generation >= 0 || self.topics.is_empty())
    }

    /// Whether a commit that was sent under `generation` met a coordinator which is on its way to the next one, or there
    /// already: sent again under the next, it may be taken.
    pub fn is_superseded(&self, generation: i32) -> bool {
        generation != self.generation
            || matches!(self.state, MemberState::PreparingRebalance | MemberState::CompletingRebalance)
    }

    /// `group.instance.id`
    pub fn instance_id(&self) -> Option<&Arc<str>> {
        self.config.instance_id.as_ref()
    }

    /// Partitions held, those being revoked included.
    pub fn owned(&self) -> &BTreeSet<TopicPartition> {
        &self.owned
    }

    /// As leader: all topics of the group. A change of their partitions is for the leader to notice.
    pub fn group_topics(&self) -> Option<&BTreeSet<Arc<str>>> {
        self.leads.then_some(&self.group_topics)
    }

    /// Whether partitions are kept through a rebalance: when every assignor can, as in Java.
    pub fn is_cooperative(&self) -> bool {
        self.config.assignors.iter().all(|assignor| assignor.is_cooperative())
    }

    /// Sets the topics; a change starts a rebalance.
    pub fn subscribe(&mut self, now: Instant, topics: BTreeSet<Arc<str>>) {
        self.topics = topics;
        if self.state == MemberState::Stable && self.topics != self.joined_topics {
            self.begin_rebalance(now, "the subscription changed");
        }
    }

    /// Starts a rebalance when none is under way.
    pub fn request_rejoin(&mut self, now: Instant, reason: &'static str) {
        if self.state == MemberState::Stable {
            self.begin_rebalance(now, reason);
        }
    }

    /// The application polled (or was still waiting inside a poll) at `at`. Telling of the same poll twice is nothing new.
    pub fn handle_poll(&mut self, at: Instant) {
        if at <= self.last_poll {
            return;
        }
        self.last_poll = at;
        if self.state == MemberState::Stale && self.leave_to_send.is_none() {
            self.become_state(MemberState::Unjoined);
        }
    }

    /// The coordinator was found, or not.
    pub fn handle_coordinator(&mut self, now: Instant, attempt: u64, found: Reply<()>) {
        if attempt != self.attempt || !self.finding {
            return;
        }
        self.finding = false;
        match found {
            Ok(()) => {
                self.coordinator_known = true;
                self.not_before = None;
                self.session_deadline = now + self.config.session_timeout;
                // Whether we are still a member there is the first thing to learn.
                self.next_heartbeat = now;
            }
            Err(NoReply) => self.back_off(now),
        }
    }

    /// The connection to the coordinator ended, or somebody else learned that it moved.
    pub fn handle_coordinator_lost(&mut self, now: Instant) {
        if !self.coordinator_known {
            return;
        }
        self.coordinator_known = false;
        self.new_attempt();
        if matches!(self.state, MemberState::PreparingRebalance | MemberState::CompletingRebalance) {
            self.become_state(MemberState::Unjoined);
        }
        self.back_off(now);
    }

    /// JoinGroup was answered.
    pub fn handle_join(&mut self, now: Instant, attempt: u64, reply: Reply<JoinReply>) {
        if attempt != self.attempt || self.state != MemberState::PreparingRebalance {
            return;
        }
        let Ok(reply) = reply else { return self.handle_coordinator_lost(now) };
        match reply.error {
            ErrorCode::NONE => self.joined(now, reply),
            ErrorCode::MEMBER_ID_REQUIRED => {
                let had_one = !self.member_id.is_empty();
                self.member_id = reply.member_id;
                self.become_state(MemberState::Unjoined);
                if had_one {
                    self.back_off(now);
                }
            }
            error => self.handle_group_error(now, error),
        }
    }

    fn joined(&mut self, now: Instant, reply: JoinReply) {
        let Some(assignor) =
            self.config.assignors.iter().copied().find(|assignor| Some(assignor.name()) == reply.protocol.as_deref())
        else {
            let name = reply.protocol.map(|name| name.to_string()).unwrap_or_default();
            return self.fail(GroupError::UnknownProtocol(name));
        };
        self.assignor = Some(assignor);
        self.generation = reply.generation;
        self.leads = reply.leader == reply.member_id;
        self.member_id = reply.member_id;
        self.next_heartbeat = now + self.config.heartbeat_interval;
        self.session_deadline = now + self.config.session_timeout;
        self.become_state(MemberState::CompletingRebalance);
        if !self.leads {
            self.sync = SyncStep::Ready(Vec::new());
            return;
        }
        // A member whose subscription can't be read gets nothing; the others must not suffer for it.
        let members: Vec<GroupMember> = reply
            .members
            .into_iter()
            .map(|member| blobs::read_member(assignor, member.member_id, member.instance_id, &member.metadata))
            .collect();
        self.group_topics = members.iter().flat_map(|member| member.topics.iter().cloned()).collect();
        if reply.skip_assignment {
            self.sync = SyncStep::Ready(Vec::new());
        } else {
            self.sync = SyncStep::AwaitPartitions(members);
            self.events.push_back(GroupEvent::NeedPartitions(self.group_topics.clone()));
        }
    }

    /// As leader: spreads the group's partitions over its members.
    pub fn assign(&mut self, topics: &TopicRacks) {
        let (SyncStep::AwaitPartitions(members), Some(assignor)) = (&self.sync, self.assignor) else { return };
        let assignments = assignor
            .assign(topics, members)
            .into_iter()
            .zip(members)
            .map(|(partitions, member)| (Arc::clone(&member.member_id), blobs::write_assignment(&partitions)))
            .collect();
        self.sync = SyncStep::Ready(assignments);
    }

    /// SyncGroup was answered, with our assignment.
    pub fn handle_sync(&mut self, now: Instant, attempt: u64, reply: Reply<(ErrorCode, Bytes)>) {
        if attempt != self.attempt || self.state != MemberState::CompletingRebalance {
            return;
        }
        let Ok((error, assignment)) = reply else { return self.handle_coordinator_lost(now) };
        if error.is_error() {
            return self.handle_group_error(now, error);
        }
        match blobs::read_assignment(&assignment) {
            Ok(partitions) => self.adopt(now, partitions),
            // The leader sent what nobody can read: only another rebalance can help.
            Err(_) => {
                self.become_state(MemberState::Unjoined);
                self.back_off(now);
            }
        }
    }

    fn adopt(&mut self, now: Instant, partitions: Vec<TopicPartition>) {
        self.failures = 0;
        self.last_assignment = Some((partitions.clone(), self.generation));
        let assigned: BTreeSet<TopicPartition> = partitions.into_iter().collect();
        let added: Vec<TopicPartition> = assigned.difference(&self.owned).cloned().collect();
        let revoked: BTreeSet<TopicPartition> = self.owned.difference(&assigned).cloned().collect();
        self.owned.extend(added.iter().cloned());
        self.events.push_back(GroupEvent::Assigned(added));
        if !revoked.is_empty() {
            // Cooperative: give them up, then join again so that their next owner gets them.
            self.revoke(now, revoked, "partitions were revoked");
            return;
        }
        self.become_state(MemberState::Stable);
        if self.topics != self.joined_topics {
            self.begin_rebalance(now, "the subscription changed");
        }
    }

    /// Heartbeat was answered.
    pub fn handle_heartbeat(&mut self, now: Instant, attempt: u64, reply: Reply<ErrorCode>) {
        if attempt != self.attempt || !self.heartbeat_sent {
            return;
        }
        self.heartbeat_sent = false;
        if !self.state.heartbeats() {
            return;
        }
        match reply {
            Err(NoReply) => self.handle_coordinator_lost(now),
            Ok(ErrorCode::NONE) => {
                self.failures = 0;
                self.session_deadline = now + self.config.session_timeout;
            }
            Ok(ErrorCode::REBALANCE_IN_PROGRESS) => {
                self.session_deadline = now + self.config.session_timeout;
                if self.state == MemberState::Stable {
                    self.begin_rebalance(now, "the group rebalances");
                }
            }
            Ok(error) => self.handle_group_error(now, error),
        }
    }

    /// A commit sent under `generation` was answered with an error about the group. While JoinGroup is under way its
    /// answer says where we stand: that the generation is over is no news then.
    pub fn handle_commit_error(&mut self, now: Instant, generation: i32, error: ErrorCode) {
        if matches!(
            error,
            ErrorCode::NOT_COORDINATOR | ErrorCode::COORDINATOR_NOT_AVAILABLE | ErrorCode::REQUEST_TIMED_OUT
        ) {
            // JoinGroup would be sent again behind the one that the coordinator still holds, for another rebalance; it
            // learns by itself when the coordinator has moved.
            if self.state != MemberState::PreparingRebalance {
                self.handle_coordinator_lost(now);
            }
            return;
        }
        // Who commits by hand has no membership to lose.
        if generation < 0 || self.is_superseded(generation) || !self.state.may_commit() {
            return;
        }
        match error {
            ErrorCode::REBALANCE_IN_PROGRESS => self.request_rejoin(now, "the group rebalances"),
            ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::ILLEGAL_GENERATION | ErrorCode::FENCED_INSTANCE_ID => {
                self.handle_group_error(now, error);
            }
            _ => {}
        }
    }

    fn handle_group_error(&mut self, now: Instant, error: ErrorCode) {
        match error {
            ErrorCode::COORDINATOR_NOT_AVAILABLE | ErrorCode::NOT_COORDINATOR => self.handle_coordinator_lost(now),
            ErrorCode::COORDINATOR_LOAD_IN_PROGRESS => {
                if matches!(self.state, MemberState::PreparingRebalance | MemberState::CompletingRebalance) {
                    self.become_state(MemberState::Unjoined);
                }
                self.back_off(now);
            }
            ErrorCode::REBALANCE_IN_PROGRESS => {
                self.become_state(MemberState::Unjoined);
                self.join_again(now);
            }
            // The coordinator went on without us: what we held may have new owners.
            ErrorCode::ILLEGAL_GENERATION => {
                self.lose(MemberState::Unjoined);
                self.join_again(now);
            }
            ErrorCode::UNKNOWN_MEMBER_ID => {
                self.member_id = Arc::from("");
                self.lose(MemberState::Unjoined);
                self.join_again(now);
            }
            ErrorCode::FENCED_INSTANCE_ID => self.fail(GroupError::Fenced),
            error => self.fail(GroupError::Refused(error)),
        }
    }

    /// The application gave up what it was asked to.
    pub fn handle_revoked(&mut self) {
        if self.state == MemberState::Revoking {
            self.finish_revocation();
        }
    }

    fn finish_revocation(&mut self) {
        let revoked = std::mem::take(&mut self.revoking);
        self.owned.retain(|tp| !revoked.contains(tp));
        self.revoke_by = None;
        self.become_state(MemberState::Unjoined);
    }

    fn begin_rebalance(&mut self, now: Instant, reason: &'static str) {
        let revoked = if self.is_cooperative() {
            self.owned.iter().filter(|tp| !self.topics.contains(&tp.topic)).cloned().collect()
        } else {
            self.owned.clone()
        };
        if revoked.is_empty() {
            self.rejoin_reason = Some(reason);
            self.become_state(MemberState::Unjoined);
        } else {
            self.revoke(now, revoked, reason);
        }
    }

    fn revoke(&mut self, now: Instant, partitions: BTreeSet<TopicPartition>, reason: &'static str) {
        self.rejoin_reason = Some(reason);
        self.revoke_by = Some(now + self.config.rebalance_timeout);
        self.events.push_back(GroupEvent::Revoke(partitions.iter().cloned().collect()));
        self.revoking = partitions;
        self.become_state(MemberState::Revoking);
    }

    fn lose(&mut self, next: MemberState) {
        self.generation = -1;
        self.leads = false;
        self.revoking.clear();
        self.revoke_by = None;
        let owned = std::mem::take(&mut self.owned);
        if !owned.is_empty() {
            self.events.push_back(GroupEvent::Lost(owned.into_iter().collect()));
        }
        self.new_attempt();
        if self.state != next {
            self.become_state(next);
        }
    }

    fn fail(&mut self, error: GroupError) {
        self.lose(MemberState::Fatal);
        self.events.push_back(GroupEvent::Failed(error));
    }

    /// Leaves the group; a static member just stops, so that its partitions wait for its return (KIP-345).
    pub fn close(&mut self, now: Instant) {
        if matches!(self.state, MemberState::Leaving | MemberState::Left) {
            return;
        }
        let leave = self.config.instance_id.is_none()
            && !self.member_id.is_empty()
            && self.coordinator_known
            && !matches!(self.state, MemberState::Fatal);
        self.owned.clear();
        self.revoking.clear();
        self.revoke_by = None;
        self.new_attempt();
        self.not_before = None;
        self.last_poll = now;
        if leave {
            self.leave_to_send = Some("the consumer is being closed");
            self.become_state(MemberState::Leaving);
        } else {
            if !MemberState::may_become(self.state, MemberState::Left) {
                self.become_state(MemberState::Leaving);
            }
            self.become_state(MemberState::Left);
        }
        self.generation = -1;
    }

    /// LeaveGroup was answered, or not: either way we are gone.
    pub fn handle_leave(&mut self, attempt: u64) {
        if attempt != self.attempt || !self.leave_sent {
            return;
        }
        self.leave_sent = false;
        if self.state == MemberState::Leaving {
            self.become_state(MemberState::Left);
        }
    }

    /// The next event, if any.
    pub fn poll_event(&mut self) -> Option<GroupEvent> {
        self.events.pop_front()
    }

    fn become_state(&mut self, next: MemberState) {
        debug_assert!(self.state.may_become(next), "{:?} may not become {next:?}", self.state);
        self.state = next;
    }
}
