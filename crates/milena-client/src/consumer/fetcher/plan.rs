//! What one fetcher asks for next, and how much of it the budget lets it bring. Only what changed is looked at: a fetch of
//! ten thousand idle partitions is planned like one of none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use milena_core::consumer::TopicPartition;
use milena_core::consumer::fetch_session::FetchTarget;
use milena_core::consumer::positions::{Position, Slot};
use milena_core::consumer::prefetch::{Account, Charge, Wish};
use milena_core::metadata::ClusterSnapshot;
use milena_protocol::Uuid;

use super::Kind;
use crate::consumer::hand_over::Buffer;
use crate::consumer::pauses::Turn;
use crate::consumer::shared::{Shared, State};

/// What one fetch asks for.
pub(super) struct Asked {
    pub(super) node: i32,
    pub(super) kind: Kind,
    /// Partitions that it names.
    pub(super) send: Vec<(TopicPartition, FetchTarget)>,
    /// What the session is to forget, by the topic id it knows it under.
    pub(super) forget: Vec<(TopicPartition, Uuid)>,
    /// Aside: versions to tell whether an answer still counts. Those of a session are kept with the positions.
    pub(super) versions: BTreeMap<TopicPartition, u64>,
    /// Whether the ids of all topics are known, also of those that are not named.
    pub(super) have_ids: bool,
    /// Whether a replica that is nearer may be named for all of them.
    pub(super) may_follow: bool,
}

pub(super) enum Plan {
    Fetch(Asked, Charge),
    /// Nothing to do before that, or before something changes.
    Wait(Until),
    /// Nothing of ours is read from the broker.
    Leave,
}

/// What a fetcher waits for, beside a change of what may be fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Until {
    pub(super) time: Option<Instant>,
    /// Something may be fetched, and there is no room for it. Others are not woken when there is more: each answer makes
    /// some, and would wake the fetchers of all brokers.
    pub(super) room: bool,
}

impl Until {
    fn at(&mut self, time: Instant) {
        self.time = Some(self.time.map_or(time, |known| known.min(time)));
    }

    pub(super) fn or(mut self, other: Self) -> Self {
        if let Some(time) = other.time {
            self.at(time);
        }
        Self { room: self.room || other.room, ..self }
    }
}

/// Whether a partition that changed is to be fetched.
enum Verdict {
    Now(FetchTarget, u64),
    /// Then, or now along with one whose pause is over.
    Along(Instant, FetchTarget, u64),
    Later(Instant),
    /// As much of it is here as may be.
    Full,
    No,
}

impl Shared {
    /// What to fetch next from `node`, entered as asked. Its fetcher leaves when nothing is read there. With `names_all`,
    /// the session is opened, and has to be told of everything.
    pub(super) fn plan(&self, node: i32, kind: Kind, names_all: bool) -> Plan {
        let now = self.client.clock.now();
        let snapshot = self.client.metadata.snapshot();
        let mut guard = self.state();
        let state = &mut *guard;
        if kind == Kind::Session && (state.closed || !state.positions.is_read(node)) {
            state.fetching.remove(&node);
            state.positions.drop_node(node);
            return Plan::Leave;
        }
        let mut until = Until::default();
        let Some(account) = state.fetching.get(&node) else { return Plan::Wait(until) };
        if kind == Kind::Session && state.positions.is_parked(node) {
            return Plan::Wait(until);
        }
        let held = state.positions.fetchable(node).max(1);
        let share = (self.client.prefetch.budget.share() / held).max(self.config.max_partition_fetch_bytes);
        let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
        let (mut along, mut is_due) = (Vec::new(), false);
        let mut members = state.positions.members(node);
        for (slot, partition, position) in state.positions.changed(node) {
            let is_member = position.is_member();
            match self.judge_partition(state, &snapshot, node, kind, (now, share), partition, position) {
                Verdict::Now(target, version) => {
                    members += usize::from(!is_member);
                    is_due |= state.paused.turn(partition, now) == Turn::Due;
                    wanted.push((slot, partition.clone(), target, version));
                }
                Verdict::Along(at, target, version) => {
                    along.push((at, is_member, (slot, partition.clone(), target, version)));
                }
                verdict => {
                    match verdict {
                        Verdict::Later(at) => until.at(at),
                        Verdict::Full => until.room = true,
                        Verdict::Now(..) | Verdict::Along(..) | Verdict::No => {}
                    }
                    members -= usize::from(is_member);
                    unwanted.push(slot);
                }
            }
        }
        for (at, is_member, fetch) in along {
            if is_due {
                members += usize::from(!is_member);
                wanted.push(fetch);
            } else {
                until.at(at);
                members -= usize::from(is_member);
                unwanted.push(fetch.0);
            }
        }
        let count = if kind == Kind::Session { members } else { wanted.len() };
        let charge = (count > 0).then(|| self.reserve(state, account, kind, count)).flatten();
        let Some(charge) = charge else {
            until.room |= count > 0;
            return Plan::Wait(until);
        };
        let asked = if kind == Kind::Session {
            state.plan_session(self, node, now, names_all, wanted, unwanted)
        } else {
            let may_follow = |partition| state.positions.get(partition).is_some_and(|held| held.may_follow(now));
            let may_follow = wanted.iter().all(|(_, partition, ..)| may_follow(partition));
            let have_ids = wanted.iter().all(|(_, _, target, _)| !target.topic_id.is_zero());
            let versions: BTreeMap<_, _> =
                wanted.iter().map(|(_, partition, _, version)| (partition.clone(), *version)).collect();
            state.asked.extend(versions.iter().map(|(partition, version)| (partition.clone(), (node, *version))));
            let send = in_order(wanted.into_iter().map(|(_, partition, target, _)| (partition, target)).collect());
            Asked { node, kind, send, forget: Vec::new(), versions, have_ids, may_follow }
        };
        Plan::Fetch(asked, charge)
    }

    #[expect(clippy::too_many_arguments, reason = "all that decides about one partition, once")]
    fn judge_partition(
        &self,
        state: &State,
        snapshot: &ClusterSnapshot,
        node: i32,
        kind: Kind,
        (now, share): (Instant, usize),
        partition: &TopicPartition,
        position: &Position,
    ) -> Verdict {
        // What another node was asked, which led the partition then, may never be answered.
        let under_way = state.asked.get(partition) == Some(&(node, position.version))
            || kind != Kind::Session && state.positions.is_parked(node) && position.is_in_session();
        let full = state.buffers.get(partition).map_or(0, Buffer::bytes) >= share;
        let quiet = state.quiet.get(partition) == Some(&(node, position.version));
        let other_kind = match kind {
            Kind::Session => false,
            Kind::Quick => quiet,
            Kind::Parked => !quiet,
        };
        if !position.is_fetchable() || under_way || other_kind {
            return Verdict::No;
        }
        if full {
            return Verdict::Full;
        }
        let turn = state.paused.turn(partition, now);
        if let Turn::Later(at) = turn {
            return Verdict::Later(at);
        }
        let topic_id = snapshot.topic(&partition.topic).map_or(Uuid::ZERO, |topic| topic.id);
        match self.target(node, position, topic_id) {
            Some(target) => match turn {
                Turn::Soon(at) => Verdict::Along(at, target, position.version),
                Turn::Free | Turn::Due | Turn::Later(_) => Verdict::Now(target, position.version),
            },
            None => Verdict::No,
        }
    }

    fn target(&self, node: i32, position: &Position, topic_id: Uuid) -> Option<FetchTarget> {
        let (next, (leader, leader_epoch)) = (position.fetch_offset()?, position.leader?);
        // Of its own log's past a replica may know less than the leader: only that is asked whether the logs part.
        let last_fetched_epoch = if leader == node { next.epoch } else { -1 };
        let max_bytes = i32::try_from(self.config.max_partition_fetch_bytes).unwrap_or(i32::MAX);
        Some(FetchTarget { topic_id, offset: next.offset, leader_epoch, last_fetched_epoch, max_bytes })
    }

    fn reserve(&self, state: &State, account: &Account, kind: Kind, partitions: usize) -> Option<Charge> {
        let least = self.config.max_partition_fetch_bytes.min(self.config.fetch_max_bytes);
        let most = self.config.max_partition_fetch_bytes.saturating_mul(partitions).min(self.config.fetch_max_bytes);
        // A parked poll holds its reservation: one part of the share is left for what is fetched aside.
        let slices = if kind == Kind::Session { 2 } else { 4 };
        account.reserve(Wish { most, least, slices }, || state.parked_bytes(account))
    }
}

/// As requests have them: the partitions of one topic together.
fn in_order(mut send: Vec<(TopicPartition, FetchTarget)>) -> Vec<(TopicPartition, FetchTarget)> {
    send.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    send
}

impl State {
    /// Brings the session of `node` up to what is wanted of it.
    fn plan_session(
        &mut self,
        shared: &Shared,
        node: i32,
        now: Instant,
        names_all: bool,
        wanted: Vec<(Slot, TopicPartition, FetchTarget, u64)>,
        unwanted: Vec<Slot>,
    ) -> Asked {
        for slot in unwanted {
            self.positions.leave_session(slot);
        }
        for (slot, partition, target, _) in &wanted {
            self.positions.enter_session(*slot, target.topic_id);
            self.quiet.remove(partition);
        }
        let mut forget = self.positions.take_gone(node);
        let send = if names_all {
            forget.clear();
            let all = self.positions.session(node);
            all.filter_map(|(partition, position, topic_id)| {
                Some((partition.clone(), shared.target(node, position, topic_id)?))
            })
            .collect()
        } else {
            in_order(wanted.into_iter().map(|(_, partition, target, _)| (partition, target)).collect())
        };
        self.positions.set_parked(node, true);
        let (have_ids, may_follow) = (self.positions.have_ids(node), self.positions.may_follow(node, now));
        Asked { node, kind: Kind::Session, send, forget, versions: BTreeMap::new(), have_ids, may_follow }
    }

    /// The request is over, whatever came of it.
    pub(super) fn forget_asked(&mut self, asked: &Asked) {
        if asked.kind == Kind::Session {
            self.positions.set_parked(asked.node, false);
        }
        for (partition, version) in &asked.versions {
            if self.asked.get(partition) == Some(&(asked.node, *version)) {
                self.asked.remove(partition);
            }
        }
    }

    /// The version that the fetch asked for the partition by.
    pub(super) fn asked_version(&self, asked: &Asked, partition: &TopicPartition) -> Option<u64> {
        match asked.kind {
            Kind::Session => self.positions.asked_version(asked.node, partition),
            Kind::Quick | Kind::Parked => asked.versions.get(partition).copied(),
        }
    }

    /// Bytes of this fetcher's answers that hold records of paused partitions: nobody makes room by reading them.
    fn parked_bytes(&self, account: &Account) -> usize {
        let is_paused = |partition| self.positions.get(partition).is_some_and(|position| position.paused);
        let paused: Vec<&Buffer> =
            self.buffers.iter().filter(|(partition, _)| is_paused(partition)).map(|(_, buffer)| buffer).collect();
        // An answer holds records of many partitions, and is counted once.
        let charges: BTreeMap<*const Charge, usize> = paused
            .iter()
            .flat_map(|buffer| buffer.charges())
            .filter(|charge| account.made(charge))
            .map(|charge| (Arc::as_ptr(charge), charge.bytes()))
            .collect();
        charges.values().sum::<usize>() + paused.iter().map(|buffer| buffer.inflated_bytes()).sum::<usize>()
    }
}
