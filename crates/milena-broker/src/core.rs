//! What all nodes, connections and handlers of one broker share.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use milena_protocol::{ApiKey, NodeId, VersionRange};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

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
    generation: Arc<Generation>,
    tasks: Arc<Semaphore>,
    fetch_sessions: Lock<FetchSessions>,
}

/// A task's stay on a node: it must end when `stopped` says so.
#[derive(Debug)]
pub(crate) struct NodeRun {
    pub(crate) stopped: Stopped,
    _permit: OwnedSemaphorePermit,
}

/// Odd while a node runs, raised at each start and stop, so that a quick restart is not missed. No `watch`: that wakes
/// its waiters in an order of chance that can't be seeded, and a simulation is to repeat itself.
#[derive(Debug)]
struct Generation {
    number: AtomicU64,
    changed: Notify,
}

impl Generation {
    /// Raises the generation if that is what makes it odd, or not. Returns false if it was so already.
    fn turn(&self, running: bool) -> bool {
        let turned =
            self.number.fetch_update(SeqCst, SeqCst, |number| ((number % 2 == 1) != running).then_some(number + 1));
        if turned.is_ok() {
            self.changed.notify_waiters();
        }
        turned.is_ok()
    }
}

/// Tells a task that its node has stopped.
#[derive(Debug)]
pub(crate) struct Stopped {
    mine: u64,
    generation: Arc<Generation>,
}

impl Stopped {
    pub(crate) async fn wait(&mut self) {
        loop {
            // Before the look, so that no change falls in between.
            let changed = self.generation.changed.notified();
            if self.generation.number.load(SeqCst) != self.mine {
                return;
            }
            changed.await;
        }
    }
}

impl Core {
    pub(crate) fn new(cluster: Cluster, clock: Clock, version_limits: BTreeMap<i16, VersionRange>) -> Self {
        let slots = usize::try_from(cluster.config.int("max.incremental.fetch.session.cache.slots")).unwrap_or(0);
        let node = |_: &NodeId| Node {
            generation: Arc::new(Generation { number: AtomicU64::new(1), changed: Notify::new() }),
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
        let (generation, mine) = (Arc::clone(&node.generation), node.generation.number.load(SeqCst));
        let running = mine % 2 == 1;
        running.then_some(NodeRun { stopped: Stopped { mine, generation }, _permit: permit })
    }

    /// Stops a node: its tasks are told, its partitions elect other leaders, its fetch sessions are forgotten.
    /// Returns false if it wasn't running.
    pub(crate) fn begin_stop(&self, id: NodeId) -> bool {
        let Some(node) = self.node(id) else { return false };
        let stopped = node.generation.turn(false);
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
        let started = node.generation.turn(true);
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
