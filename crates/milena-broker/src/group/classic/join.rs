//! The join phase of a classic group: who may join, who is waited for, when the next generation begins.

use std::collections::BTreeSet;

use bytes::Bytes;
use milena_protocol::ErrorCode;
use tokio::time::{Duration, Instant};

use super::{Group, GroupReply, GroupState, InitialWait, Join, JoinReply, SyncReply};
use crate::group::member::{Member, MemberSpec, Ticket};

/// When only absent static members are left, the join phase is tried again this much later, or later still: their own
/// rebalance timeout may be 0.
const SHORTEST_POSTPONEMENT: Duration = Duration::from_secs(1);

impl Group {
    /// `new_id` is the id the member gets if it has none.
    pub(crate) fn handle_join(&mut self, now: Instant, ticket: Ticket, join: Join, new_id: String) {
        let member_id = join.member_id.clone();
        if let Err(error) = self.try_join(now, ticket, join, new_id) {
            self.replies.push_back((ticket, GroupReply::Join(JoinReply::error(error, &member_id))));
        }
        self.maybe_complete_join(now);
    }

    fn try_join(&mut self, now: Instant, ticket: Ticket, join: Join, new_id: String) -> Result<(), ErrorCode> {
        let session = join.spec.session_timeout;
        if session < self.config.min_session_timeout || session > self.config.max_session_timeout {
            return Err(ErrorCode::INVALID_SESSION_TIMEOUT);
        }
        if !self.accepts_protocols(&join) {
            return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        let known = self.members.contains_key(&join.member_id) || self.pending.contains_key(&join.member_id);
        if !known && self.members.len() + self.pending.len() >= self.config.max_size {
            return Err(ErrorCode::GROUP_MAX_SIZE_REACHED);
        }
        match (join.member_id.is_empty(), join.spec.group_instance_id.clone()) {
            (true, None) if join.requires_known_member_id => {
                self.pending.insert(new_id.clone(), now + session);
                let reply = JoinReply::error(ErrorCode::MEMBER_ID_REQUIRED, &new_id);
                self.replies.push_back((ticket, GroupReply::Join(reply)));
                Ok(())
            }
            (true, None) => {
                self.add_member(now, ticket, new_id, join.spec);
                Ok(())
            }
            (true, Some(instance)) => {
                match self.statics.get(&instance).cloned() {
                    Some(old_id) => self.replace_static_member(now, ticket, &old_id, new_id, join),
                    None => self.add_member(now, ticket, new_id, join.spec),
                }
                Ok(())
            }
            (false, instance) => {
                self.check_static(&join.member_id, instance.as_deref())?;
                if self.pending.remove(&join.member_id).is_some() {
                    self.add_member(now, ticket, join.member_id, join.spec);
                    return Ok(());
                }
                if !self.members.contains_key(&join.member_id) {
                    return Err(ErrorCode::UNKNOWN_MEMBER_ID);
                }
                self.rejoin(now, ticket, join);
                Ok(())
            }
        }
    }

    /// A group with members takes a newcomer only if it offers a protocol that all of them know.
    fn accepts_protocols(&self, join: &Join) -> bool {
        if join.spec.protocols.is_empty() || join.spec.protocol_type.is_empty() {
            return false;
        }
        let others = self.members.values().filter(|member| {
            member.id != join.member_id
                && (join.spec.group_instance_id.is_none()
                    || member.spec.group_instance_id != join.spec.group_instance_id)
        });
        let Some(common) = common_protocols(others) else { return true };
        self.protocol_type.as_deref().is_none_or(|held| held == join.spec.protocol_type)
            && join.spec.protocols.iter().any(|offered| common.contains(&*offered.name))
    }

    /// An instance id belongs to one member id; whoever comes with another has been replaced (KIP-345).
    pub(super) fn check_static(&self, member_id: &str, instance: Option<&str>) -> Result<(), ErrorCode> {
        let Some(instance) = instance else { return Ok(()) };
        match self.statics.get(instance) {
            None => Err(ErrorCode::UNKNOWN_MEMBER_ID),
            Some(owner) if owner != member_id => Err(ErrorCode::FENCED_INSTANCE_ID),
            Some(_) => Ok(()),
        }
    }

    fn add_member(&mut self, now: Instant, ticket: Ticket, id: String, spec: MemberSpec) {
        if self.members.is_empty() {
            self.protocol_type = Some(spec.protocol_type.clone());
        }
        if let Some(instance) = &spec.group_instance_id {
            self.statics.insert(instance.clone(), id.clone());
        }
        let mut member = Member::new(now, id.clone(), spec);
        member.joining = Some(ticket);
        self.leader.get_or_insert_with(|| id.clone());
        self.order.push(id.clone());
        self.members.insert(id, member);
        if let Some(wait) = &mut self.initial_wait {
            wait.newcomers = true;
        }
        self.prepare_rebalance(now);
    }

    fn replace_static_member(&mut self, now: Instant, ticket: Ticket, old_id: &str, new_id: String, join: Join) {
        let mut member = self.members.remove(old_id).expect("statics names members only");
        // Whoever still waits under the old id has lost its place.
        let fenced = ErrorCode::FENCED_INSTANCE_ID;
        if let Some(ticket) = member.joining.take() {
            self.replies.push_back((ticket, GroupReply::Join(JoinReply::error(fenced, old_id))));
        }
        if let Some(ticket) = member.syncing.take() {
            self.replies.push_back((ticket, GroupReply::Sync(SyncReply::error(fenced))));
        }
        member.id.clone_from(&new_id);
        member.spec = join.spec;
        member.touch(now);
        if let Some(place) = self.order.iter_mut().find(|id| *id == old_id) {
            place.clone_from(&new_id);
        }
        let was_leader = self.leader.as_deref() == Some(old_id);
        if was_leader {
            self.leader = Some(new_id.clone());
        }
        if let Some(instance) = &member.spec.group_instance_id {
            self.statics.insert(instance.clone(), new_id.clone());
        }
        self.members.insert(new_id.clone(), member);
        if self.state == GroupState::Stable && self.elect_protocol() == self.protocol {
            // It takes over the assignment of its predecessor: no rebalance, even with another subscription, as long as
            // the group's protocol stays. An old leader client that can't be told to skip the assignment is told that
            // another one leads, and then just asks for its own.
            let mut reply = self.join_reply(&new_id);
            if was_leader && join.supports_skipping_assignment {
                reply.skip_assignment = true;
            } else if was_leader {
                old_id.clone_into(&mut reply.leader);
                reply.members.clear();
            }
            self.replies.push_back((ticket, GroupReply::Join(reply)));
            return;
        }
        if let Some(member) = self.members.get_mut(&new_id) {
            member.joining = Some(ticket);
        }
        self.prepare_rebalance(now);
    }

    fn rejoin(&mut self, now: Instant, ticket: Ticket, join: Join) {
        let id = join.member_id;
        let is_leader = self.leader.as_deref() == Some(id.as_str());
        let member = self.members.get_mut(&id).expect("the caller looked");
        let changed = member.spec.protocols != join.spec.protocols;
        member.spec = join.spec;
        member.touch(now);
        let answer_now = match self.state {
            GroupState::PreparingRebalance | GroupState::Empty => false,
            // Its answer was lost: it gets the same again.
            GroupState::CompletingRebalance => !changed,
            GroupState::Stable => !changed && !is_leader,
        };
        if answer_now {
            let reply = self.join_reply(&id);
            self.replies.push_back((ticket, GroupReply::Join(reply)));
            return;
        }
        // A second JoinGroup of the same member replaces the first, as on a new connection.
        if let Some(earlier) = member.joining.replace(ticket) {
            let reply = JoinReply::error(ErrorCode::REBALANCE_IN_PROGRESS, &id);
            self.replies.push_back((earlier, GroupReply::Join(reply)));
        }
        self.prepare_rebalance(now);
    }

    pub(super) fn prepare_rebalance(&mut self, now: Instant) {
        if self.state == GroupState::PreparingRebalance {
            return;
        }
        for member in self.members.values_mut() {
            if let Some(ticket) = member.syncing.take() {
                let reply = SyncReply::error(ErrorCode::REBALANCE_IN_PROGRESS);
                self.replies.push_back((ticket, GroupReply::Sync(reply)));
                member.touch(now);
            }
            member.synced = false;
            if self.state == GroupState::CompletingRebalance {
                member.assignment = Bytes::new();
            }
        }
        let was_empty = self.state == GroupState::Empty;
        self.state = GroupState::PreparingRebalance;
        self.sync_ends = None;
        let longest = self.longest_rebalance_timeout();
        let delay = self.config.initial_rebalance_delay;
        if was_empty && !delay.is_zero() {
            self.join_ends = None;
            let at_most = now + longest.max(delay);
            self.initial_wait = Some(InitialWait { until: now + delay, at_most, newcomers: false });
        } else {
            self.join_ends = Some(now + longest);
        }
    }

    fn longest_rebalance_timeout(&self) -> Duration {
        self.members.values().map(|member| member.spec.rebalance_timeout).max().unwrap_or_default()
    }

    pub(super) fn maybe_complete_join(&mut self, now: Instant) {
        if self.state != GroupState::PreparingRebalance {
            return;
        }
        let is_over = match &mut self.initial_wait {
            Some(wait) if now < wait.until => false,
            Some(wait) if wait.newcomers && now < wait.at_most => {
                wait.newcomers = false;
                wait.until = (now + self.config.initial_rebalance_delay).min(wait.at_most);
                false
            }
            // Nobody is waited for any longer, not even those that were given an id.
            Some(_) => true,
            None => {
                let everybody = self.pending.is_empty() && self.members.values().all(|member| member.joining.is_some());
                everybody || self.join_ends.is_some_and(|end| now >= end)
            }
        };
        if is_over {
            self.complete_join(now);
        }
    }

    fn complete_join(&mut self, now: Instant) {
        // Dynamic members that did not come back are out; static ones keep their place until their session ends.
        let missing: Vec<String> = self
            .members
            .values()
            .filter(|member| member.joining.is_none() && !member.is_static())
            .map(|member| member.id.clone())
            .collect();
        for id in missing {
            self.forget(&id);
        }
        self.join_ends = None;
        self.initial_wait = None;
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        if self.members.is_empty() {
            self.become_empty();
            return;
        }
        let leader_came =
            self.leader.as_ref().and_then(|id| self.members.get(id)).is_some_and(|leader| leader.joining.is_some());
        if !leader_came {
            let joined = self.order.iter().find(|id| self.members.get(*id).is_some_and(|m| m.joining.is_some()));
            match joined {
                Some(id) => self.leader = Some(id.clone()),
                None => {
                    // Only absent static members are left: wait once more, as Kafka does.
                    self.generation -= 1;
                    self.join_ends = Some(now + self.longest_rebalance_timeout().max(SHORTEST_POSTPONEMENT));
                    return;
                }
            }
        }
        self.protocol = self.elect_protocol();
        self.state = GroupState::CompletingRebalance;
        self.sync_ends = Some(now + self.longest_rebalance_timeout());
        for id in self.order.clone() {
            let reply = self.join_reply(&id);
            let Some(member) = self.members.get_mut(&id) else { continue };
            member.synced = false;
            if let Some(ticket) = member.joining.take() {
                member.touch(now);
                self.replies.push_back((ticket, GroupReply::Join(reply)));
            }
        }
    }

    /// Each member votes for the first of its protocols that all members know; the most votes win.
    fn elect_protocol(&self) -> Option<String> {
        let common = common_protocols(self.members.values())?;
        let mut votes: Vec<(&str, usize)> = Vec::new();
        for member in self.members() {
            let mut offered = member.spec.protocols.iter().map(|offered| offered.name.as_str());
            let Some(name) = offered.find(|name| common.contains(name)) else { continue };
            match votes.iter_mut().find(|(counted, _)| *counted == name) {
                Some((_, count)) => *count += 1,
                None => votes.push((name, 1)),
            }
        }
        let most = votes.iter().map(|(_, count)| *count).max()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| name.to_owned())
    }

    fn join_reply(&self, id: &str) -> JoinReply {
        let protocol = self.protocol().to_owned();
        let is_leader = self.leader.as_deref() == Some(id);
        let members = if is_leader {
            self.members()
                .map(|member| {
                    (member.id.clone(), member.spec.group_instance_id.clone(), member.metadata_for(&protocol))
                })
                .collect()
        } else {
            Vec::new()
        };
        JoinReply {
            error_code: ErrorCode::NONE,
            generation_id: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: Some(protocol),
            leader: self.leader.clone().unwrap_or_default(),
            skip_assignment: false,
            member_id: id.to_owned(),
            members,
        }
    }
}

/// The protocols that all these members offer; `None` of nobody. By sets, since a member may offer any number.
fn common_protocols<'a>(mut members: impl Iterator<Item = &'a Member>) -> Option<BTreeSet<&'a str>> {
    let offered = |member: &'a Member| member.spec.protocols.iter().map(|offered| offered.name.as_str());
    let mut common: BTreeSet<_> = offered(members.next()?).collect();
    for member in members {
        common = offered(member).filter(|name| common.contains(name)).collect();
    }
    Some(common)
}
