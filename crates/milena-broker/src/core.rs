//! What all nodes, connections and handlers of one broker share.

use std::{collections::BTreeMap, sync::Arc};

use milena_protocol::{ApiKey, NodeId, VersionRange};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::{
    clock::Clock, cluster::Cluster, fault::FaultTable, fetch_session::FetchSessions, group::Groups, lock::Lock,
    net::Endpoints, request_log::RequestLog,
};

/// Connections and listeners one node serves at once; also how it knows that all of them have ended.
const MAX_TASKS_PER_NODE: u32 = 4096;

/// The inside of a broker.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) cluster: Cluster,
    pub(crate) clock: Clock,
    pub(crate) endpoints: Endpoints,
    pub(crate) faults: FaultTable,
    pub(crate) requests: RequestLog,
    pub(crate) groups: Groups,
    /// Versions offered, where the builder narrowed them.
    pub(crate) version_limits: BTreeMap<i16, VersionRange>,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    /// Odd while the node runs, raised at each start and stop, so that a quick restart is not missed.
    generation: watch::Sender<u64>,
    tasks: Arc<Semaphore>,
    fetch_sessions: Lock<FetchSessions>,
}

/// A task's stay on a node: it must end when `stopped` says so.
#[derive(Debug)]
pub(crate) struct NodeRun {
    pub(crate) stopped: Stopped,
    _permit: OwnedSemaphorePermit,
}

/// Tells a task that its node has stopped.
#[derive(Debug)]
pub(crate) struct Stopped {
    generation: u64,
    changes: watch::Receiver<u64>,
}

impl Stopped {
    pub(crate) async fn wait(&mut self) {
        let mine = self.generation;
        // An error means that the broker is gone altogether.
        let _ = self.changes.wait_for(|&generation| generation != mine).await;
    }
}

impl Core {
    pub(crate) fn new(cluster: Cluster, clock: Clock, version_limits: BTreeMap<i16, VersionRange>) -> Self {
        let slots = usize::try_from(cluster.config.int("max.incremental.fetch.session.cache.slots")).unwrap_or(0);
        let node = |_: &NodeId| Node {
            generation: watch::Sender::new(1),
            tasks: Arc::new(Semaphore::new(MAX_TASKS_PER_NODE as usize)),
            fetch_sessions: Lock::new(FetchSessions::new(slots)),
        };
        let nodes = cluster.nodes.iter().map(node).collect();
        let groups = Groups::new(&cluster.config);
        Self {
            cluster,
            clock,
            endpoints: Endpoints::default(),
            faults: FaultTable::default(),
            requests: RequestLog::default(),
            groups,
            version_limits,
            nodes,
        }
    }

    fn node(&self, node: NodeId) -> Option<&Node> {
        usize::try_from(node.0).ok().and_then(|index| self.nodes.get(index))
    }

    /// Lets a task onto a node, if it runs and has room.
    pub(crate) fn enter(&self, node: NodeId) -> Option<NodeRun> {
        let node = self.node(node)?;
        let permit = Arc::clone(&node.tasks).try_acquire_owned().ok()?;
        let changes = node.generation.subscribe();
        let generation = *changes.borrow();
        let running = generation % 2 == 1;
        running.then_some(NodeRun { stopped: Stopped { generation, changes }, _permit: permit })
    }

    /// Stops a node: its tasks are told, its partitions elect other leaders, its fetch sessions are forgotten.
    /// Returns false if it wasn't running.
    pub(crate) fn begin_stop(&self, id: NodeId) -> bool {
        let Some(node) = self.node(id) else { return false };
        let stopped = node.generation.send_if_modified(|generation| {
            let running = *generation % 2 == 1;
            *generation += u64::from(running);
            running
        });
        if stopped {
            self.cluster.node_stopped(id);
            node.fetch_sessions.lock().clear();
        }
        stopped
    }

    /// Waits until the last task of a stopped node has ended.
    pub(crate) async fn wait_stopped(&self, id: NodeId) {
        if let Some(node) = self.node(id) {
            // Fails only on a closed semaphore, and nobody closes it.
            let _ = node.tasks.acquire_many(MAX_TASKS_PER_NODE).await;
        }
    }

    /// Lets a stopped node run again. Returns false if it was running, or there is none.
    pub(crate) fn start(&self, id: NodeId) -> bool {
        let Some(node) = self.node(id) else { return false };
        let started = node.generation.send_if_modified(|generation| {
            let stopped = *generation % 2 == 0;
            *generation += u64::from(stopped);
            stopped
        });
        if started {
            self.cluster.node_started(id);
        }
        started
    }

    /// Works on the fetch sessions of a node.
    pub(crate) fn with_fetch_sessions<T>(&self, id: NodeId, work: impl FnOnce(&mut FetchSessions) -> T) -> Option<T> {
        self.node(id).map(|node| work(&mut node.fetch_sessions.lock()))
    }

    /// The versions of `api` that this broker offers.
    pub(crate) fn versions_of(&self, api: ApiKey, served: VersionRange) -> Option<VersionRange> {
        match self.version_limits.get(&i16::from(api)) {
            Some(&limit) => served.intersect(limit),
            None => Some(served),
        }
    }
}
