//! One partition: its log, who leads it, and who waits for it.
//!
//! All replicas share one log (replication is instant), so leadership decides only who answers. The state of a
//! partition is behind its own lock; validation and compression happen outside it.

use std::sync::{Arc, Weak};

use milena_protocol::{ErrorCode, NodeId};
use tokio::sync::Notify;

use crate::{lock::Lock, log::Log};

/// One partition of a topic.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) index: i32,
    state: Lock<PartitionState>,
    waiters: Lock<Vec<Weak<Notify>>>,
}

/// What the lock of a partition guards.
#[derive(Debug)]
pub(crate) struct PartitionState {
    pub(crate) log: Log,
    pub(crate) leader: Option<NodeId>,
    pub(crate) leader_epoch: i32,
    pub(crate) replicas: Vec<NodeId>,
    pub(crate) in_sync: Vec<NodeId>,
}

impl Partition {
    /// A partition led by the first of its replicas that is `alive`.
    pub(crate) fn new(index: i32, replicas: Vec<NodeId>, alive: impl Fn(NodeId) -> bool) -> Self {
        let in_sync: Vec<_> = replicas.iter().copied().filter(|&node| alive(node)).collect();
        let mut log = Log::default();
        log.begin_epoch(0);
        let leader = in_sync.first().copied();
        let state = PartitionState { log, leader, leader_epoch: 0, replicas, in_sync };
        Self { index, state: Lock::new(state), waiters: Lock::default() }
    }

    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, PartitionState> {
        self.state.lock()
    }

    /// From now on [`Partition::wake`] notifies `waiter`, for as long as it lives. Register before looking at the
    /// state, else a change in between is missed.
    pub(crate) fn register(&self, waiter: &Arc<Notify>) {
        let mut waiters = self.waiters.lock();
        waiters.retain(|known| known.strong_count() > 0);
        waiters.push(Arc::downgrade(waiter));
    }

    /// Tells everybody who waits that something changed. Call it without the state's lock.
    pub(crate) fn wake(&self) {
        self.waiters.lock().retain(|waiter| waiter.upgrade().inspect(|waiter| waiter.notify_one()).is_some());
    }
}

impl PartitionState {
    /// As [`Self::check_leader`], of a reader that may be served by a replica in sync, too (KIP-392).
    pub(crate) fn check_reader(&self, node: NodeId, client_epoch: i32) -> Result<(), ErrorCode> {
        match self.check_leader(node, client_epoch) {
            Err(ErrorCode::NOT_LEADER_OR_FOLLOWER) if self.leader.is_some() && self.in_sync.contains(&node) => Ok(()),
            checked => checked,
        }
    }

    /// Whether `node` may answer for this partition to a client that knows `client_epoch` (-1: does not say), KIP-320.
    pub(crate) fn check_leader(&self, node: NodeId, client_epoch: i32) -> Result<(), ErrorCode> {
        if self.replicas.contains(&node) && client_epoch >= 0 {
            if client_epoch < self.leader_epoch {
                return Err(ErrorCode::FENCED_LEADER_EPOCH);
            }
            if client_epoch > self.leader_epoch {
                return Err(ErrorCode::UNKNOWN_LEADER_EPOCH);
            }
        }
        if self.leader == Some(node) { Ok(()) } else { Err(ErrorCode::NOT_LEADER_OR_FOLLOWER) }
    }

    /// Makes `leader` the leader, or nobody, in a new epoch.
    pub(crate) fn elect(&mut self, leader: Option<NodeId>) {
        self.leader = leader;
        self.leader_epoch += 1;
        if let Some(leader) = leader {
            if !self.in_sync.contains(&leader) {
                self.in_sync.push(leader);
            }
            self.log.begin_epoch(self.leader_epoch);
        }
    }

    /// `node` went away: the next in-sync replica takes over; the last in-sync replica stays listed, as in Kafka.
    pub(crate) fn node_stopped(&mut self, node: NodeId) -> bool {
        if self.in_sync.len() > 1 {
            self.in_sync.retain(|&replica| replica != node);
        }
        if self.leader != Some(node) {
            return false;
        }
        let next = self.in_sync.iter().copied().find(|&replica| replica != node);
        self.elect(next);
        true
    }

    /// `node` is back: it is in sync at once, and leads if nobody does.
    pub(crate) fn node_started(&mut self, node: NodeId) -> bool {
        if !self.replicas.contains(&node) {
            return false;
        }
        if self.leader.is_none() && self.in_sync.contains(&node) {
            self.elect(Some(node));
            return true;
        }
        if !self.in_sync.contains(&node) {
            self.in_sync.push(node);
        }
        false
    }
}
