//! What one fetcher asks for next, and how much of it the budget lets it bring.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use milena_core::consumer::TopicPartition;
use milena_core::consumer::fetch_session::FetchTarget;
use milena_core::consumer::prefetch::{Account, Charge, Wish};
use milena_protocol::Uuid;

use super::Kind;
use crate::consumer::hand_over::Buffer;
use crate::consumer::shared::{Shared, State};

/// What one fetch asks for: versions to tell whether an answer still counts.
pub(super) struct Asked {
    pub(super) targets: BTreeMap<TopicPartition, FetchTarget>,
    pub(super) versions: BTreeMap<TopicPartition, u64>,
    /// Whether a replica that is nearer may be named for all of them.
    pub(super) may_follow: bool,
}

impl Asked {
    /// Names of topics by the ids that they were asked for under.
    pub(super) fn names(&self) -> BTreeMap<[u8; 16], Arc<str>> {
        let name = |(partition, target): (&TopicPartition, &FetchTarget)| {
            (*target.topic_id.as_bytes(), Arc::clone(&partition.topic))
        };
        self.targets.iter().map(name).collect()
    }
}

pub(super) enum Plan {
    Fetch(Asked, Charge),
    /// Nothing to do before then, or before something changes.
    Wait(Option<Instant>),
    /// Nothing of ours is read from the broker.
    Leave,
}

impl Shared {
    /// What to fetch next from `node`, entered as asked. Its fetcher leaves when nothing is read there.
    pub(super) fn plan(&self, node: i32, kind: Kind) -> Plan {
        let now = self.client.clock.now();
        let snapshot = self.client.metadata.snapshot();
        let mut guard = self.state();
        let state = &mut *guard;
        let leads = state.positions.iter().any(|(_, position)| position.read_from() == Some(node));
        if kind == Kind::Session && (state.closed || !leads) {
            state.fetching.remove(&node);
            return Plan::Leave;
        }
        let Some(account) = state.fetching.get(&node) else { return Plan::Wait(None) };
        let held = state.positions.fetchable(node).count().max(1);
        let share = (self.client.prefetch.budget.share() / held).max(self.config.max_partition_fetch_bytes);
        let mut asked = Asked { targets: BTreeMap::new(), versions: BTreeMap::new(), may_follow: true };
        let mut later: Option<Instant> = None;
        for (partition, position) in state.positions.fetchable(node) {
            let under_way = state.asked.get(partition) == Some(&position.version);
            let full = state.buffers.get(partition).map_or(0, Buffer::bytes) >= share;
            let quiet = state.quiet.get(partition) == Some(&position.version);
            let other_kind = match kind {
                Kind::Session => false,
                Kind::Quick => quiet,
                Kind::Parked => !quiet,
            };
            if under_way || full || other_kind {
                continue;
            }
            if let Some(at) = state.not_before.get(partition).copied().filter(|at| now < *at) {
                later = Some(later.map_or(at, |known| known.min(at)));
                continue;
            }
            let (Some(next), Some((leader, leader_epoch))) = (position.fetch_offset(), position.leader) else {
                continue;
            };
            // Of its own log's past a replica may know less than the leader: only that is asked whether the logs part.
            let last_fetched_epoch = if leader == node { next.epoch } else { -1 };
            asked.may_follow &= position.may_follow(now);
            let topic_id = snapshot.topic(&partition.topic).map_or(Uuid::ZERO, |topic| topic.id);
            let max_bytes = i32::try_from(self.config.max_partition_fetch_bytes).unwrap_or(i32::MAX);
            let target = FetchTarget { topic_id, offset: next.offset, leader_epoch, last_fetched_epoch, max_bytes };
            asked.targets.insert(partition.clone(), target);
            asked.versions.insert(partition.clone(), position.version);
        }
        if asked.targets.is_empty() {
            return Plan::Wait(later);
        }
        let Some(charge) = self.reserve(state, account, kind, asked.targets.len()) else { return Plan::Wait(later) };
        if kind == Kind::Session {
            state.quiet.retain(|partition, _| !asked.versions.contains_key(partition));
        }
        state.asked.extend(asked.versions.iter().map(|(partition, version)| (partition.clone(), *version)));
        Plan::Fetch(asked, charge)
    }

    fn reserve(&self, state: &State, account: &Account, kind: Kind, partitions: usize) -> Option<Charge> {
        let least = self.config.max_partition_fetch_bytes.min(self.config.fetch_max_bytes);
        let most = self.config.max_partition_fetch_bytes.saturating_mul(partitions).min(self.config.fetch_max_bytes);
        // A parked poll holds its reservation: one part of the share is left for what is fetched aside.
        let slices = if kind == Kind::Session { 2 } else { 4 };
        account.reserve(Wish { most, least, slices, parked: state.parked_bytes(account) })
    }
}

impl State {
    pub(super) fn forget_asked(&mut self, asked: &Asked) {
        for (partition, version) in &asked.versions {
            if self.asked.get(partition) == Some(version) {
                self.asked.remove(partition);
            }
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
