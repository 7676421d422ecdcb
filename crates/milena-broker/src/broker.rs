//! The handle to a broker: how to reach it, stop and start its nodes, and reach into its cluster.

use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use milena_protocol::{ErrorCode, NodeId};
use tokio::{
    io::DuplexStream,
    net::{TcpListener, lookup_host},
    runtime::Handle,
};

use crate::{
    builder::BrokerBuilder,
    cluster::{CoordinatorType, NewTopic, PartitionState},
    core::Core,
    fault::Faults,
    log,
    net::{Link, MEMORY_PORT, Via, listen, memory_host, serve},
    request_log::RequestCount,
};

/// Bytes in flight in each direction of an in-memory link.
const LINK_BUFFER: usize = 256 * 1024;

/// An embedded broker of one or more nodes. Clones are the same broker; when the last is dropped, its nodes stop.
#[derive(Debug, Clone)]
pub struct Broker {
    running: Arc<Running>,
}

/// Stops the nodes when the last handle is gone.
#[derive(Debug)]
struct Running {
    core: Arc<Core>,
}

impl Drop for Running {
    fn drop(&mut self) {
        for &node in &self.core.cluster.nodes {
            self.core.begin_stop(node);
        }
    }
}

/// Why something can't be done to a broker's cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// There is no such node.
    #[error("no node {0}: nodes are numbered from 0")]
    UnknownNode(i32),
    /// There is no such topic or partition.
    #[error("no partition {topic}-{partition}: create the topic first")]
    UnknownPartition {
        /// The topic's name.
        topic: String,
        /// The partition's index.
        partition: i32,
    },
    /// Kafka's rules forbid it.
    #[error("{code}: {message}")]
    Refused {
        /// The code that a client would get.
        code: i16,
        /// The message that a client would get.
        message: String,
    },
}

impl Broker {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { running: Arc::new(Running { core }) }
    }

    /// Settings of a new broker.
    #[must_use]
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::default()
    }

    fn core(&self) -> &Arc<Core> {
        &self.running.core
    }

    fn node(&self, node: i32) -> Result<NodeId, BrokerError> {
        let known = self.core().cluster.nodes.contains(&NodeId(node));
        known.then_some(NodeId(node)).ok_or(BrokerError::UnknownNode(node))
    }

    /// The bootstrap servers for [`Broker::connect`]: `embedded-0:9092,embedded-1:9092`, and so on.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        let nodes = self.core().cluster.nodes.iter();
        nodes.map(|&node| format!("{}:{MEMORY_PORT}", memory_host(node))).collect::<Vec<_>>().join(",")
    }

    /// The id of the cluster.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.core().cluster.id
    }

    /// Opens an in-memory link to the node that goes by this host and port. Works under a paused clock.
    ///
    /// # Errors
    /// `NotFound` if no node goes by that name, `ConnectionRefused` if the node is stopped, `NotConnected` outside of a
    /// tokio runtime.
    pub fn connect(&self, host: &str, port: u16) -> io::Result<DuplexStream> {
        let core = self.core();
        let node = core.cluster.nodes.iter().copied().find(|&node| memory_host(node) == host && port == MEMORY_PORT);
        let node = node.ok_or_else(|| {
            let message = format!("no embedded node is called {host}:{port}: the nodes are {}", self.bootstrap());
            io::Error::new(io::ErrorKind::NotFound, message)
        })?;
        let runtime = Handle::try_current().map_err(|error| io::Error::new(io::ErrorKind::NotConnected, error))?;
        let run = core.enter(node).ok_or_else(|| {
            io::Error::new(io::ErrorKind::ConnectionRefused, format!("{host}:{port} is stopped, or has no room"))
        })?;
        let (ours, theirs) = tokio::io::duplex(LINK_BUFFER);
        let link = Link { node, via: Via::Memory, peer: "embedded".to_owned() };
        runtime.spawn(serve(Arc::clone(core), link, ours, run));
        Ok(theirs)
    }

    /// Listens on TCP: one address per node, in their order. With port 0 the system picks the ports; with another one
    /// the nodes take that port and the next ones. Clients that come this way are told these addresses.
    ///
    /// The caller's runtime accepts and serves them, as [`Broker::start_node`]'s does for a node that it starts: it has
    /// to outlive the clients. An in-memory link, by contrast, is served by the runtime of whoever opened it.
    ///
    /// # Errors
    /// What resolving or binding the address gave.
    pub async fn listen(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        let core = self.core();
        let first = lookup_host(address).await?.next().ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("{address} resolves to no address: use HOST:PORT"))
        })?;
        let mut sockets = Vec::new();
        for (index, &node) in (0u16..).zip(&core.cluster.nodes) {
            let port = match first.port() {
                0 => 0,
                port => port.checked_add(index).ok_or_else(|| {
                    io::Error::new(io::ErrorKind::InvalidInput, format!("{address}: no ports left for node {node}"))
                })?,
            };
            sockets.push((node, TcpListener::bind((first.ip(), port)).await?));
        }
        let addresses = sockets.iter().map(|(_, socket)| socket.local_addr()).collect::<io::Result<Vec<_>>>()?;
        let listener = core.endpoints.add(addresses.clone());
        for (node, socket) in sockets {
            // A stopped node binds its address when it starts.
            if let Some(run) = core.enter(node) {
                listen(core, node, listener, socket, run);
            }
        }
        Ok(addresses)
    }

    /// The rules by which requests go wrong.
    #[must_use]
    pub fn faults(&self) -> Faults {
        Faults::new(Arc::clone(self.core()))
    }

    /// What was asked so far, by node, API and version.
    #[must_use]
    pub fn requests(&self) -> Vec<RequestCount> {
        self.core().requests.counts()
    }

    /// Forgets what was asked so far.
    pub fn clear_requests(&self) {
        self.core().requests.clear();
    }

    /// Stops a node: its connections end, nobody can connect, its partitions elect other leaders. Its logs are kept.
    /// Resolves when its last connection has ended.
    ///
    /// # Errors
    /// [`BrokerError::UnknownNode`].
    pub async fn stop_node(&self, node: i32) -> Result<(), BrokerError> {
        let node = self.node(node)?;
        self.core().begin_stop(node);
        self.core().wait_stopped(node).await;
        Ok(())
    }

    /// Starts a stopped node again, on the same addresses.
    ///
    /// # Errors
    /// `NotFound` if there is no such node; else what binding its TCP addresses gave.
    pub async fn start_node(&self, node: i32) -> io::Result<()> {
        let node = self.node(node).map_err(|error| io::Error::new(io::ErrorKind::NotFound, error))?;
        let core = self.core();
        if core.cluster.is_running(node) {
            return Ok(());
        }
        let mut sockets = Vec::new();
        for (listener, address) in core.endpoints.addresses_of(node) {
            sockets.push((listener, TcpListener::bind(address).await?));
        }
        core.start(node);
        for (listener, socket) in sockets {
            if let Some(run) = core.enter(node) {
                listen(core, node, listener, socket, run);
            }
        }
        Ok(())
    }

    /// Creates a topic; -1 takes the broker's default.
    ///
    /// # Errors
    /// [`BrokerError::Refused`], as CreateTopics would.
    pub fn create_topic(&self, name: &str, partitions: i32, replication_factor: i16) -> Result<(), BrokerError> {
        let new = NewTopic { name: name.into(), partitions, replication_factor, ..Default::default() };
        let created = self.core().cluster.create_topic(&new, false);
        created.map(|_| ()).map_err(|refusal| BrokerError::Refused { code: refusal.code.0, message: refusal.message })
    }

    /// Deletes a topic. Returns false if there is none of this name.
    pub fn delete_topic(&self, name: &str) -> bool {
        self.core().groups.forget_topic(name);
        self.core().cluster.delete_topic(name).is_some()
    }

    /// Makes `node` the leader of a partition, in a new epoch.
    ///
    /// # Errors
    /// [`BrokerError::UnknownNode`] or [`BrokerError::UnknownPartition`].
    pub fn move_leader(&self, topic: &str, partition: i32, node: i32) -> Result<(), BrokerError> {
        let node = self.node(node)?;
        let moved = self.core().cluster.move_leader(topic, partition, Some(node));
        moved.map_err(|_| unknown_partition(topic, partition))
    }

    /// Takes a partition's leader away, in a new epoch.
    ///
    /// # Errors
    /// [`BrokerError::UnknownPartition`].
    pub fn remove_leader(&self, topic: &str, partition: i32) -> Result<(), BrokerError> {
        let moved = self.core().cluster.move_leader(topic, partition, None);
        moved.map_err(|_| unknown_partition(topic, partition))
    }

    /// The node that leads a partition, if any.
    ///
    /// # Errors
    /// [`BrokerError::UnknownPartition`].
    pub fn leader(&self, topic: &str, partition: i32) -> Result<Option<i32>, BrokerError> {
        self.with_partition(topic, partition, |state| state.leader.map(|node| node.0))
    }

    /// Makes `node` the coordinator of a group or transactional id.
    ///
    /// # Errors
    /// [`BrokerError::UnknownNode`].
    pub fn move_coordinator(&self, kind: CoordinatorType, key: &str, node: i32) -> Result<(), BrokerError> {
        let node = self.node(node)?;
        self.core().cluster.move_coordinator(kind, key, node);
        Ok(())
    }

    /// The node that coordinates a group or transactional id; none if all nodes are stopped.
    #[must_use]
    pub fn coordinator(&self, kind: CoordinatorType, key: &str) -> Option<i32> {
        self.core().cluster.coordinator(kind, key).map(|node| node.0)
    }

    /// Throws a member out of its group, as if its session had ended. Returns false if there is no such member.
    pub fn evict_member(&self, group_id: &str, member_id: &str) -> bool {
        self.core().groups.evict(group_id, member_id)
    }

    /// The ids of the members of a group, in the order of their joining.
    #[must_use]
    pub fn members(&self, group_id: &str) -> Vec<String> {
        let group = self.core().groups.describe(group_id);
        group.map_or_else(Vec::new, |group| group.members.into_iter().map(|member| member.id).collect())
    }

    /// The offset that a group has committed for a partition.
    #[must_use]
    pub fn committed(&self, group_id: &str, topic: &str, partition: i32) -> Option<i64> {
        self.core().groups.committed(group_id, topic, partition).map(|committed| committed.offset)
    }

    /// The log start offset and the log end offset of a partition.
    ///
    /// # Errors
    /// [`BrokerError::UnknownPartition`].
    pub fn log_offsets(&self, topic: &str, partition: i32) -> Result<(i64, i64), BrokerError> {
        self.with_partition(topic, partition, |state| (state.log.start_offset(), state.log.end_offset()))
    }

    /// Cuts a partition's log back to `offset` (or the batch boundary below) and begins a new leader epoch, as an
    /// unclean election does: acknowledged records are lost.
    ///
    /// # Errors
    /// [`BrokerError::UnknownPartition`].
    pub fn truncate(&self, topic: &str, partition: i32, offset: i64) -> Result<(), BrokerError> {
        self.with_partition(topic, partition, |state| {
            state.log.truncate_to(offset);
            let leader = state.leader;
            state.elect(leader);
        })?;
        self.wake(topic, partition);
        Ok(())
    }

    /// Appends a batch as a log's cleaner may leave it: with fewer records than offsets, or none, which no producer may
    /// write. Returns its first offset.
    ///
    /// # Errors
    /// [`BrokerError::UnknownPartition`], or [`BrokerError::Refused`] if it is no batch.
    pub fn append_cleaned(&self, topic: &str, partition: i32, batch: Bytes) -> Result<i64, BrokerError> {
        let refused = |code: ErrorCode| BrokerError::Refused { code: code.0, message: code.to_string() };
        let batch = log::cleaned(batch)
            .map_err(|error| BrokerError::Refused { code: ErrorCode::CORRUPT_MESSAGE.0, message: error.to_string() })?;
        let appended = self.with_partition(topic, partition, |state| {
            let epoch = state.leader_epoch;
            state.log.append(batch, epoch, None)
        })?;
        self.wake(topic, partition);
        appended.map(|appended| appended.base_offset).map_err(refused)
    }

    /// Ends a producer's transaction on a partition with a marker, as a transaction coordinator would. Returns the
    /// marker's offset.
    ///
    /// # Errors
    /// [`BrokerError::UnknownPartition`], or [`BrokerError::Refused`] if the epoch is fenced.
    pub fn end_transaction(
        &self,
        topic: &str,
        partition: i32,
        producer_id: i64,
        producer_epoch: i16,
        committed: bool,
    ) -> Result<i64, BrokerError> {
        let now = self.core().clock.wall_ms();
        let offset = self.with_partition(topic, partition, |state| {
            let epoch = state.leader_epoch;
            state.log.append_marker(producer_id, producer_epoch, committed, epoch, now)
        })?;
        self.wake(topic, partition);
        offset.map_err(|code: ErrorCode| BrokerError::Refused { code: code.0, message: code.to_string() })
    }

    /// Stops all nodes and waits until their last task has ended. The broker can't be used afterwards.
    pub async fn shutdown(&self) {
        let core = self.core();
        for &node in &core.cluster.nodes {
            core.begin_stop(node);
        }
        for &node in &core.cluster.nodes {
            core.wait_stopped(node).await;
        }
    }

    fn with_partition<T>(
        &self,
        topic: &str,
        index: i32,
        work: impl FnOnce(&mut PartitionState) -> T,
    ) -> Result<T, BrokerError> {
        let partition = self.core().cluster.partition(topic, index).map_err(|_| unknown_partition(topic, index))?;
        let mut state = partition.lock();
        Ok(work(&mut state))
    }

    fn wake(&self, topic: &str, index: i32) {
        if let Ok(partition) = self.core().cluster.partition(topic, index) {
            partition.wake();
        }
    }
}

fn unknown_partition(topic: &str, partition: i32) -> BrokerError {
    BrokerError::UnknownPartition { topic: topic.to_owned(), partition }
}
