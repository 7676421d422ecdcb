//! What a member sends, and when: requests as its state asks for them, heartbeats and time limits, waits between attempts.
//! What answers do to it is in `classic`.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;

use super::{GroupEvent, GroupRequest, GroupRequestKind, MemberState, Membership, SyncStep};
use crate::group::{assignor::Assignor, blobs};

impl Membership {
    /// The next request to send, if any.
    pub fn poll_request(&mut self, now: Instant) -> Option<GroupRequest> {
        self.expire(now);
        if let Some(reason) = self.leave_to_send.take() {
            self.leave_sent = true;
            let member_id = std::mem::replace(&mut self.member_id, Arc::from(""));
            return Some(self.request(GroupRequestKind::Leave { member_id, reason }));
        }
        if !self.is_active() {
            return None;
        }
        if self.not_before.is_some_and(|at| now < at) {
            return None;
        }
        self.not_before = None;
        if !self.coordinator_known {
            if self.finding {
                return None;
            }
            self.finding = true;
            return Some(self.request(GroupRequestKind::FindCoordinator));
        }
        match self.state {
            MemberState::Unjoined => {
                self.become_state(MemberState::PreparingRebalance);
                self.new_attempt();
                self.joined_topics = self.topics.clone();
                let kind = GroupRequestKind::Join {
                    member_id: Arc::clone(&self.member_id),
                    protocols: self.protocols(),
                    reason: self.rejoin_reason.take().unwrap_or("the member joins").to_owned(),
                };
                Some(self.request(kind))
            }
            MemberState::CompletingRebalance if matches!(self.sync, SyncStep::Ready(_)) => {
                let SyncStep::Ready(assignments) = std::mem::replace(&mut self.sync, SyncStep::Sent) else {
                    return None;
                };
                let protocol = self.assignor.map_or("", Assignor::name);
                let (member_id, generation) = (Arc::clone(&self.member_id), self.generation);
                Some(self.request(GroupRequestKind::Sync { member_id, generation, protocol, assignments }))
            }
            state if state.heartbeats() && !self.heartbeat_sent && now >= self.next_heartbeat => {
                self.heartbeat_sent = true;
                self.next_heartbeat = now + self.config.heartbeat_interval;
                let (member_id, generation) = (Arc::clone(&self.member_id), self.generation);
                Some(self.request(GroupRequestKind::Heartbeat { member_id, generation }))
            }
            _ => None,
        }
    }

    fn protocols(&self) -> Vec<(&'static str, Bytes)> {
        let subscription = blobs::OwnSubscription {
            topics: &self.topics,
            owned: &self.owned,
            generation: self.generation,
            last_assignment: self.last_assignment.as_ref(),
            rack: self.config.rack.as_deref(),
        };
        self.config.assignors.iter().map(|assignor| (assignor.name(), subscription.write(*assignor))).collect()
    }

    /// Time limits that passed by `now`.
    fn expire(&mut self, now: Instant) {
        if matches!(self.state, MemberState::Leaving | MemberState::Left | MemberState::Fatal | MemberState::Stale) {
            return;
        }
        if self.revoke_by.is_some_and(|at| now >= at) {
            // The guard is still out there; whatever it commits from here on is refused.
            let late = self.revoking.iter().cloned().collect();
            self.events.push_back(GroupEvent::Lost(late));
            self.finish_revocation();
        }
        if self.is_member() && now >= self.last_poll + self.config.max_poll_interval {
            let leave = self.config.instance_id.is_none() && self.coordinator_known && !self.member_id.is_empty();
            self.lose(MemberState::Stale);
            self.leave_to_send = leave.then_some("the application did not poll within max.poll.interval");
        }
        if self.state.heartbeats() && self.coordinator_known && now >= self.session_deadline {
            self.handle_coordinator_lost(now);
        }
    }

    /// Whether it has anything to do by itself: not while it is out of the group, nor before it wants to be in.
    fn is_active(&self) -> bool {
        match self.state {
            MemberState::Stale | MemberState::Leaving | MemberState::Left | MemberState::Fatal => false,
            MemberState::Unjoined => !self.topics.is_empty() || self.generation >= 0,
            _ => true,
        }
    }

    fn is_member(&self) -> bool {
        self.generation >= 0 || !self.member_id.is_empty()
    }

    /// When [`Self::poll_request`] will have something to do by time alone.
    pub fn next_timeout(&self) -> Option<Instant> {
        if matches!(self.state, MemberState::Leaving | MemberState::Left | MemberState::Fatal | MemberState::Stale) {
            return None;
        }
        let next = self.not_before.map_or(self.next_heartbeat, |at| at.max(self.next_heartbeat));
        let heartbeat = (self.state.heartbeats() && !self.heartbeat_sent && self.coordinator_known).then_some(next);
        let session = (self.state.heartbeats() && self.coordinator_known).then_some(self.session_deadline);
        let poll = self.is_member().then(|| self.last_poll + self.config.max_poll_interval);
        let attempt = self.not_before.filter(|_| self.is_active());
        [heartbeat, session, poll, self.revoke_by, attempt].into_iter().flatten().min()
    }

    pub(super) fn back_off(&mut self, now: Instant) {
        self.not_before = Some(now + self.config.backoff.delay(self.failures, &mut self.rng));
        self.failures = self.failures.saturating_add(1);
    }

    /// A refusal that the next join mends: at once the first time, so that a rebalance isn't held up. A coordinator that
    /// refuses again and again must not be flooded.
    pub(super) fn join_again(&mut self, now: Instant) {
        if self.failures == 0 {
            self.failures = 1;
        } else {
            self.back_off(now);
        }
    }

    /// Replies to what was sent before are void from here on.
    pub(super) fn new_attempt(&mut self) {
        self.attempt += 1;
        self.heartbeat_sent = false;
        self.finding = false;
        self.leave_sent = false;
    }

    fn request(&self, kind: GroupRequestKind) -> GroupRequest {
        GroupRequest { attempt: self.attempt, kind }
    }
}
