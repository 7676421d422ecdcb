//! The clusters of this checkout: each is named by its first port and kept in a folder of that name, with a state file
//! and a folder per node. Starts, stops and disturbs nodes without caring whether they are processes or containers.

use std::fmt;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde::Deserialize;
use serde::Serialize;

use super::Via;
use super::docker;
use super::maven;
use super::probe::Probe;
use super::properties;
use super::properties::Addresses;
use crate::host;
use crate::host::Outcome;

/// The distance between two nodes' ports. The controller listens on the one after its broker's; behind that are the one for
/// clients that come by a proxy, and the proxy's own.
const PORTS_PER_NODE: u16 = 10;

/// How long one node may take to serve again.
const RESTART_TIME_LIMIT: Duration = Duration::from_secs(120);

/// A cluster that was started and not yet taken down.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Cluster {
    port: u16,
    nodes: u16,
    in_docker: bool,
}

impl Cluster {
    fn folder_of(port: u16) -> PathBuf {
        host::target().join("kafka").join(port.to_string())
    }

    fn folder(&self) -> PathBuf {
        Self::folder_of(self.port)
    }

    fn node_folder(&self, node: u16) -> PathBuf {
        self.folder().join(format!("node-{node}"))
    }

    fn all_nodes(&self) -> impl Iterator<Item = u16> + use<> {
        1..=self.nodes
    }

    fn port_of(&self, node: u16) -> u16 {
        self.port + PORTS_PER_NODE * (node - 1)
    }

    /// The addresses by which clients find the cluster.
    pub(crate) fn bootstrap(&self) -> String {
        self.all_nodes().map(|node| format!("127.0.0.1:{}", self.port_of(node))).collect::<Vec<_>>().join(",")
    }

    /// The first port, which names the cluster.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Every cluster that has a folder, running or not.
    pub(crate) fn all() -> Outcome<Vec<Self>> {
        let folder = host::target().join("kafka");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut clusters = Vec::new();
        for entry in entries {
            let Some(port) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            clusters.extend(Self::find(port)?);
        }
        clusters.sort_by_key(|cluster| cluster.port);
        Ok(clusters)
    }

    /// The cluster at `port`, if one was started there.
    pub(crate) fn find(port: u16) -> Outcome<Option<Self>> {
        match fs::read(Self::folder_of(port).join("cluster.json")) {
            Ok(state) => Ok(Some(serde_json::from_slice(&state)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The cluster at `port`, which must have been started.
    pub(crate) fn at(port: u16) -> Outcome<Self> {
        Self::find(port)?.ok_or_else(|| format!("no cluster at port {port}; see: cargo xtask kafka status").into())
    }

    /// Starts a cluster and waits until it serves. One that runs already is left as it is; its dead nodes are started.
    pub(crate) fn up(port: u16, nodes: u16, via: Via, time_limit: Duration) -> Outcome<Self> {
        let deadline = Instant::now() + time_limit;
        if let Some(cluster) = Self::find(port)? {
            if cluster.nodes != nodes {
                let has = cluster.nodes;
                return Err(format!(
                    "the cluster at port {port} has {has} node(s); take it down first (cargo xtask kafka down --port \
                     {port}) or choose another --port"
                )
                .into());
            }
            for node in cluster.all_nodes().filter(|&node| !cluster.runs(node)) {
                cluster.start_process(node)?;
            }
            cluster.wait_until_serving(deadline)?;
            return Ok(cluster);
        }

        let cluster = Self { port, nodes, in_docker: super::choose(via)? == Via::Docker };
        cluster.check_ports()?;
        let begun = cluster.create().and_then(|()| cluster.wait_until_serving(deadline));
        if let Err(failure) = begun {
            let log = cluster.log();
            cluster.down()?;
            return Err(format!("{failure}\n{log}").into());
        }
        Ok(cluster)
    }

    /// Starts a cluster on ports that nobody uses, for a test run that must not meet another: not even one of another
    /// checkout that looks for ports at the same time, which the returned lock keeps away for as long as it is held.
    pub(crate) fn up_anywhere(nodes: u16, via: Via, time_limit: Duration) -> Outcome<(Self, fs::File)> {
        const FIRST: u16 = 20_092;
        const STEP: u16 = 100;
        for port in (FIRST..32_000).step_by(STEP.into()) {
            let candidate = Self { port, nodes, in_docker: false };
            let Some(lock) = lock_port(port)? else { continue };
            if Self::folder_of(port).exists() || candidate.check_ports().is_err() {
                continue;
            }
            return Ok((Self::up(port, nodes, via, time_limit)?, lock));
        }
        Err(format!("no free ports for {nodes} node(s) between {FIRST} and 32000").into())
    }

    /// Binding tells at once and by name what a broker would say in its log after seconds.
    fn check_ports(&self) -> Outcome {
        for node in self.all_nodes() {
            for port in self.port_of(node)..self.port_of(node) + 4 {
                TcpListener::bind((Ipv4Addr::LOCALHOST, port))
                    .map_err(|error| format!("port {port} can't be used ({error}); choose another with --port"))?;
            }
        }
        Ok(())
    }

    fn create(&self) -> Outcome {
        fs::create_dir_all(self.folder())?;
        fs::write(self.folder().join("cluster.json"), serde_json::to_vec(self)?)?;
        for node in self.all_nodes() {
            let folder = self.node_folder(node);
            fs::create_dir_all(&folder)?;
            let data = if self.in_docker { docker::DATA.into() } else { folder.join("data").display().to_string() };
            let text = properties::server(node, self.nodes, &self.addresses(node), &data);
            fs::write(folder.join("server.properties"), text)?;
        }
        if self.in_docker {
            // Any 16 bytes in this form will do: each cluster has a network of its own.
            let cluster_id = "bWlsZW5hLXRlc3Qta2Fma2";
            docker::create_network(self.port)?;
            for node in self.all_nodes() {
                docker::create(self.port, node, self.port_of(node), &self.node_folder(node), cluster_id)?;
            }
            return Ok(());
        }
        let cluster_id = maven::random_cluster_id()?;
        for node in self.all_nodes() {
            maven::format(&self.node_folder(node), &cluster_id)?;
            maven::start(&self.node_folder(node))?;
        }
        Ok(())
    }

    fn addresses(&self, node: u16) -> Addresses {
        let port = self.port_of(node);
        let voters = |address: &dyn Fn(u16) -> String| {
            self.all_nodes().map(|peer| format!("{peer}@{}", address(peer))).collect::<Vec<_>>().join(",")
        };
        if self.in_docker {
            let own = docker::container(self.port, node);
            Addresses {
                listeners: format!("PLAINTEXT://:{port},INTERNAL://:9094"),
                advertised_listeners: format!("PLAINTEXT://127.0.0.1:{port},INTERNAL://{own}:9094"),
                controller_listener: "CONTROLLER://:9095".into(),
                inter_broker: "INTERNAL",
                voters: voters(&|peer| format!("{}:9095", docker::container(self.port, peer))),
            }
        } else {
            Addresses {
                // Who comes by the second one is told to come back by a proxy, on the port after it.
                listeners: format!("PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{}", port + 2),
                advertised_listeners: format!("PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{}", port + 3),
                controller_listener: format!("CONTROLLER://127.0.0.1:{}", port + 1),
                inter_broker: "PLAINTEXT",
                voters: voters(&|peer| format!("127.0.0.1:{}", self.port_of(peer) + 1)),
            }
        }
    }

    fn start_process(&self, node: u16) -> Outcome {
        if self.in_docker { docker::start(self.port, node) } else { maven::start(&self.node_folder(node)) }
    }

    fn runs(&self, node: u16) -> bool {
        if self.in_docker { docker::runs(self.port, node) } else { maven::process(&self.node_folder(node)).is_some() }
    }

    /// Waits until every node answers and knows every other; then makes an acknowledged record mean two copies.
    fn wait_until_serving(&self, deadline: Instant) -> Outcome {
        for node in self.all_nodes() {
            self.wait_for(node, self.nodes.into(), deadline)?;
        }
        // A dynamic default, since a cluster with eligible leader replicas (KIP-966) doesn't take it from the file.
        if self.nodes > 1 {
            Probe::connect(self.address(1))?.set_cluster_default("min.insync.replicas", "2")?;
        }
        Ok(())
    }

    fn address(&self, node: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port_of(node)).into()
    }

    /// Waits until `node` answers, and knows itself and as many nodes as `n_nodes` to be alive.
    fn wait_for(&self, node: u16, n_nodes: usize, deadline: Instant) -> Outcome {
        let serves = || -> io::Result<bool> {
            let mut probe = Probe::connect(self.address(node))?;
            probe.api_versions()?;
            let alive = probe.brokers()?;
            Ok(alive.contains(&i32::from(node)) && alive.len() >= n_nodes)
        };
        let mut last = String::new();
        while Instant::now() < deadline {
            match serves() {
                Ok(true) => return Ok(()),
                Ok(false) => last = "the nodes don't know each other yet".into(),
                Err(error) => last = error.to_string(),
            }
            if !self.runs(node) {
                return Err(format!("node {node} ended while it started").into());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Err(format!("node {node} doesn't serve within the time limit: {last}").into())
    }

    fn log(&self) -> String {
        let mut text = String::new();
        for node in self.all_nodes() {
            let said = if self.in_docker {
                docker::log(self.port, node)
            } else {
                fs::read_to_string(self.node_folder(node).join("server.log")).unwrap_or_default()
            };
            text.push_str(&format!("node {node} said last:\n{}\n", host::last_lines(&said, 20)));
        }
        text
    }

    /// Stops every node and deletes what they kept.
    pub(crate) fn down(&self) -> Outcome {
        for node in self.all_nodes() {
            if self.in_docker {
                docker::remove(self.port, node)?;
            } else {
                // Their data goes with them, so an orderly stop has nothing to save.
                maven::stop(&self.node_folder(node), true)?;
            }
        }
        if self.in_docker {
            docker::remove_network(self.port)?;
        }
        fs::remove_dir_all(self.folder())?;
        Ok(())
    }

    fn check(&self, node: u16) -> Outcome {
        if self.all_nodes().any(|own| own == node) {
            return Ok(());
        }
        Err(format!("the cluster at port {} has nodes 1 to {}, not {node}", self.port, self.nodes).into())
    }

    /// Stops `node`, at once or in order.
    pub(crate) fn kill(&self, node: u16, hard: bool) -> Outcome {
        self.check(node)?;
        if !self.runs(node) {
            return Err(format!("node {node} doesn't run").into());
        }
        if self.in_docker { docker::stop(self.port, node, hard) } else { maven::stop(&self.node_folder(node), hard) }
    }

    /// Starts `node` again on its own data. With `wait`, until it serves beside every other node that runs; without,
    /// since a node that starts into a cluster without a quorum serves only once others have followed it.
    pub(crate) fn start(&self, node: u16, wait: bool) -> Outcome {
        self.check(node)?;
        if !self.runs(node) {
            self.start_process(node)?;
        }
        if wait { self.wait_for(node, self.n_running(), Instant::now() + RESTART_TIME_LIMIT) } else { Ok(()) }
    }

    fn n_running(&self) -> usize {
        self.all_nodes().filter(|&node| self.runs(node)).count()
    }

    /// Freezes `node`.
    pub(crate) fn pause(&self, node: u16) -> Outcome {
        self.signal(node, "STOP")
    }

    /// Wakes `node`.
    pub(crate) fn resume(&self, node: u16) -> Outcome {
        self.signal(node, "CONT")
    }

    fn signal(&self, node: u16, signal: &str) -> Outcome {
        self.check(node)?;
        if self.in_docker {
            docker::signal(self.port, node, signal)
        } else {
            maven::signal(&self.node_folder(node), signal)
        }
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n_running = self.n_running();
        let via = if self.in_docker { "docker" } else { "maven" };
        write!(formatter, "{}  {n_running} of {} node(s) running, via {via}", self.bootstrap(), self.nodes)
    }
}

/// The right to start a cluster at `port`, unless another run has it.
fn lock_port(port: u16) -> Outcome<Option<fs::File>> {
    let folder = host::cache().join("ports");
    fs::create_dir_all(&folder)?;
    let file = fs::File::create(folder.join(port.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error.into()),
    }
}
