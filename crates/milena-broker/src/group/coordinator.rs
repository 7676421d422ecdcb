//! All classic groups of the cluster, their parked answers and their timers.
//!
//! [`Group`] decides; this file only keeps the way back of each parked answer and calls the group when its time has
//! come. Groups belong to the cluster, not to a node: which node may be asked is for the API handlers to check.
//!
//! **Nothing runs by itself here.** Whoever waits for a group's answer keeps its time, and whoever looks at a group first
//! lets it catch up, limit by limit, each at its own instant. A task that kept the time would belong to the runtime of
//! the caller that happened to start it, and no session would end any more once that one is gone or rests; one broker may
//! well be shared by the runtimes of several tests.

use std::{collections::BTreeMap, sync::MutexGuard, time::Duration};

use bytes::Bytes;
use milena_protocol::ErrorCode;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    classic::{Group, GroupConfig, GroupReply, GroupState, Join, JoinReply, Sync, SyncReply},
    member::Ticket,
    offsets::CommittedOffset,
};
use crate::{cluster::config::BrokerConfig, lock::Lock};

/// A group as DescribeGroups tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupDescription {
    pub(crate) state: &'static str,
    pub(crate) protocol_type: String,
    pub(crate) protocol: String,
    pub(crate) members: Vec<MemberDescription>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberDescription {
    pub(crate) id: String,
    pub(crate) group_instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) metadata: Bytes,
    pub(crate) assignment: Bytes,
}

/// A group as ListGroups tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupListing {
    pub(crate) id: String,
    pub(crate) protocol_type: String,
    pub(crate) state: &'static str,
}

/// What names a member that commits or sends a heartbeat.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller<'a> {
    pub(crate) member_id: &'a str,
    pub(crate) group_instance_id: Option<&'a str>,
    /// Below 0: a consumer by assignment.
    pub(crate) generation_id: i32,
}

/// The groups of one broker.
#[derive(Debug)]
pub(crate) struct Groups {
    config: GroupConfig,
    state: Lock<State>,
    /// A time limit may have moved nearer: those who wait look again.
    timers_moved: Notify,
}

#[derive(Debug, Default)]
struct State {
    groups: BTreeMap<String, Group>,
    parked: BTreeMap<Ticket, oneshot::Sender<GroupReply>>,
    next_ticket: u64,
}

impl State {
    fn park(&mut self) -> (Ticket, oneshot::Receiver<GroupReply>) {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let (sender, receiver) = oneshot::channel();
        self.parked.insert(ticket, sender);
        (ticket, receiver)
    }

    /// Sends what the group has ready. An asker that has gone away is no error.
    fn deliver(&mut self, group_id: &str) {
        let Some(group) = self.groups.get_mut(group_id) else { return };
        while let Some((ticket, reply)) = group.poll_reply() {
            if let Some(sender) = self.parked.remove(&ticket) {
                let _ = sender.send(reply);
            }
        }
    }

    fn next_timeout(&self, group_id: &str) -> Option<Instant> {
        self.groups.get(group_id)?.next_timeout()
    }

    /// Lets every time limit of the group come that is over, each at the instant it was due.
    fn catch_up(&mut self, group_id: &str, now: Instant) {
        while let Some(due) = self.next_timeout(group_id).filter(|due| *due <= now) {
            if let Some(group) = self.groups.get_mut(group_id) {
                group.handle_timeout(due);
            }
            self.deliver(group_id);
        }
    }
}

impl Groups {
    pub(crate) fn new(config: &BrokerConfig) -> Self {
        let millis = |key| Duration::from_millis(u64::try_from(config.int(key)).unwrap_or(0));
        let config = GroupConfig {
            initial_rebalance_delay: millis("group.initial.rebalance.delay.ms"),
            min_session_timeout: millis("group.min.session.timeout.ms"),
            max_session_timeout: millis("group.max.session.timeout.ms"),
            max_size: usize::try_from(config.int("group.max.size")).unwrap_or(usize::MAX),
            max_offset_metadata_bytes: usize::try_from(config.int("offset.metadata.max.bytes")).unwrap_or(0),
        };
        Self { config, state: Lock::default(), timers_moved: Notify::new() }
    }

    /// The state, with this group as it is by now.
    fn at_present(&self, group_id: &str) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        state.catch_up(group_id, Instant::now());
        state
    }

    /// Answers when the join phase is over, or at once with an error. `id_suffix` makes a new member's id unique.
    pub(crate) async fn join(&self, group_id: &str, join: Join, id_suffix: &str) -> JoinReply {
        let member_id = join.member_id.clone();
        let receiver = {
            let mut state = self.at_present(group_id);
            if !join.member_id.is_empty() && !state.groups.contains_key(group_id) {
                return JoinReply::error(ErrorCode::UNKNOWN_MEMBER_ID, &member_id);
            }
            let (ticket, receiver) = state.park();
            let prefix = join.spec.group_instance_id.as_deref().unwrap_or(&join.spec.client_id);
            let new_id = format!("{prefix}-{id_suffix}");
            let group = state.groups.entry(group_id.to_owned()).or_insert_with(|| Group::new(self.config));
            group.handle_join(Instant::now(), ticket, join, new_id);
            state.deliver(group_id);
            receiver
        };
        self.timers_moved.notify_waiters();
        match self.answer(group_id, receiver).await {
            Some(GroupReply::Join(reply)) => reply,
            Some(GroupReply::Sync(_)) | None => JoinReply::error(ErrorCode::NOT_COORDINATOR, &member_id),
        }
    }

    /// Answers when the leader's assignment is there, or at once with an error.
    pub(crate) async fn sync(&self, group_id: &str, sync: Sync) -> SyncReply {
        let receiver = {
            let mut state = self.at_present(group_id);
            let (ticket, receiver) = state.park();
            let Some(group) = state.groups.get_mut(group_id) else {
                state.parked.remove(&ticket);
                return SyncReply::error(ErrorCode::UNKNOWN_MEMBER_ID);
            };
            group.handle_sync(Instant::now(), ticket, sync);
            state.deliver(group_id);
            receiver
        };
        self.timers_moved.notify_waiters();
        match self.answer(group_id, receiver).await {
            Some(GroupReply::Sync(reply)) => reply,
            Some(GroupReply::Join(_)) | None => SyncReply::error(ErrorCode::NOT_COORDINATOR),
        }
    }

    /// Waits for a parked answer, and meanwhile keeps the group's time. `None` if the group has forgotten the asker.
    async fn answer(&self, group_id: &str, mut receiver: oneshot::Receiver<GroupReply>) -> Option<GroupReply> {
        loop {
            let moved = self.timers_moved.notified();
            tokio::pin!(moved);
            // Enrolled before the look: what moves between the two still wakes us.
            moved.as_mut().enable();
            let next = self.at_present(group_id).next_timeout(group_id);
            let due = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                reply = &mut receiver => return reply.ok(),
                () = due => {}
                () = moved => {}
            }
        }
    }

    pub(crate) fn heartbeat(&self, group_id: &str, caller: Caller<'_>) -> ErrorCode {
        self.with(group_id, |group, now| {
            group.handle_heartbeat(now, caller.member_id, caller.group_instance_id, caller.generation_id)
        })
        .unwrap_or(ErrorCode::UNKNOWN_MEMBER_ID)
    }

    pub(crate) fn leave(&self, group_id: &str, member_id: &str, group_instance_id: Option<&str>) -> ErrorCode {
        self.with(group_id, |group, now| group.handle_leave(now, member_id, group_instance_id))
            .unwrap_or(ErrorCode::UNKNOWN_MEMBER_ID)
    }

    /// May offsets be committed? The first commit of a consumer by assignment makes the group.
    pub(crate) fn check_commit(&self, group_id: &str, caller: Caller<'_>) -> Result<(), ErrorCode> {
        if caller.generation_id < 0 {
            let mut state = self.state.lock();
            state.groups.entry(group_id.to_owned()).or_insert_with(|| Group::new(self.config));
        }
        self.with(group_id, |group, now| {
            group.check_commit(now, caller.member_id, caller.group_instance_id, caller.generation_id)
        })
        .unwrap_or(Err(ErrorCode::ILLEGAL_GENERATION))
    }

    /// Stores one offset; [`Self::check_commit`] comes first.
    pub(crate) fn commit(&self, group_id: &str, topic: &str, partition: i32, committed: CommittedOffset) -> ErrorCode {
        if committed.metadata.len() > self.config.max_offset_metadata_bytes {
            return ErrorCode::OFFSET_METADATA_TOO_LARGE;
        }
        self.with(group_id, |group, _| group.offsets.commit(topic, partition, committed))
            .map_or(ErrorCode::GROUP_ID_NOT_FOUND, |()| ErrorCode::NONE)
    }

    pub(crate) fn committed(&self, group_id: &str, topic: &str, partition: i32) -> Option<CommittedOffset> {
        self.state.lock().groups.get(group_id)?.offsets.fetch(topic, partition).cloned()
    }

    /// Every committed offset of the group, by topic and partition.
    pub(crate) fn all_committed(&self, group_id: &str) -> Vec<(String, i32, CommittedOffset)> {
        let state = self.state.lock();
        state.groups.get(group_id).map_or_else(Vec::new, |group| {
            let offsets = group.offsets.iter();
            offsets.map(|(topic, partition, committed)| (topic.to_owned(), partition, committed.clone())).collect()
        })
    }

    /// Removes a committed offset.
    pub(crate) fn delete_offset(&self, group_id: &str, topic: &str, partition: i32) {
        self.with(group_id, |group, _| group.offsets.delete(topic, partition));
    }

    /// A topic is gone, and with it what groups had committed for it.
    pub(crate) fn forget_topic(&self, topic: &str) {
        for group in self.state.lock().groups.values_mut() {
            group.offsets.delete_topic(topic);
        }
    }

    pub(crate) fn list(&self) -> Vec<GroupListing> {
        let mut state = self.state.lock();
        let (ids, now): (Vec<String>, _) = (state.groups.keys().cloned().collect(), Instant::now());
        ids.iter().for_each(|id| state.catch_up(id, now));
        let listing = |(id, group): (&String, &Group)| GroupListing {
            id: id.clone(),
            protocol_type: group.protocol_type().to_owned(),
            state: group.state().name(),
        };
        state.groups.iter().map(listing).collect()
    }

    pub(crate) fn describe(&self, group_id: &str) -> Option<GroupDescription> {
        let state = self.at_present(group_id);
        let group = state.groups.get(group_id)?;
        // As Kafka: subscriptions are told only while they are agreed on.
        let stable = group.state() == GroupState::Stable;
        let protocol = if stable { group.protocol().to_owned() } else { String::new() };
        let members = group
            .members()
            .map(|member| MemberDescription {
                id: member.id.clone(),
                group_instance_id: member.spec.group_instance_id.clone(),
                client_id: member.spec.client_id.clone(),
                client_host: member.spec.client_host.clone(),
                metadata: if stable { member.metadata_for(&protocol) } else { Bytes::new() },
                assignment: member.assignment.clone(),
            })
            .collect();
        let protocol_type = group.protocol_type().to_owned();
        Some(GroupDescription { state: group.state().name(), protocol_type, protocol, members })
    }

    pub(crate) fn delete(&self, group_id: &str) -> ErrorCode {
        let mut state = self.at_present(group_id);
        match state.groups.get(group_id).map(Group::state) {
            None => ErrorCode::GROUP_ID_NOT_FOUND,
            Some(GroupState::Empty) => {
                state.groups.remove(group_id);
                ErrorCode::NONE
            }
            Some(_) => ErrorCode::NON_EMPTY_GROUP,
        }
    }

    /// Throws a member out as if its session had ended; for tests.
    pub(crate) fn evict(&self, group_id: &str, member_id: &str) -> bool {
        self.with(group_id, |group, now| group.evict(now, member_id)).unwrap_or(false)
    }

    fn with<T>(&self, group_id: &str, act: impl FnOnce(&mut Group, Instant) -> T) -> Option<T> {
        let result = {
            let mut state = self.at_present(group_id);
            let group = state.groups.get_mut(group_id)?;
            let result = act(group, Instant::now());
            state.deliver(group_id);
            result
        };
        self.timers_moved.notify_waiters();
        Some(result)
    }
}
