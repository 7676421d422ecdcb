//! A real Kafka that `cargo xtask` started for us: where it is, and how its nodes are stopped, started and frozen.
//! Starts no cluster itself and speaks no protocol; what a test does with the cluster goes through a client.
//!
//! `cargo xtask test` sets the variables read here and runs the tests of the modules `one_node` and `three_nodes`,
//! which are `#[ignore]`d otherwise.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::Stdio;

use tokio::process::Command;

/// What the helpers of this crate give back: a failure is a sentence for whoever reads the test's output.
pub type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// A running cluster.
#[derive(Clone, Debug)]
pub struct Kafka {
    bootstrap: String,
    n_nodes: u16,
}

/// How a node is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// In order: it hands over its partitions first.
    Orderly,
    /// At once, by SIGKILL.
    Hard,
}

impl Kafka {
    /// The cluster of one node in `MILENA_KAFKA_1`.
    ///
    /// # Errors
    /// The variable isn't set: the test was run by hand instead of by `cargo xtask test`.
    pub fn one_node() -> Outcome<Self> {
        Self::from_env("MILENA_KAFKA_1", 1)
    }

    /// The cluster of three nodes in `MILENA_KAFKA_3`.
    ///
    /// # Errors
    /// The variable isn't set: the test was run by hand instead of by `cargo xtask test`.
    pub fn three_nodes() -> Outcome<Self> {
        Self::from_env("MILENA_KAFKA_3", 3)
    }

    fn from_env(variable: &str, n_nodes: u16) -> Outcome<Self> {
        match env::var(variable) {
            Ok(bootstrap) => Ok(Self { bootstrap, n_nodes }),
            Err(_) => Err(format!(
                "{variable} isn't set: run `cargo xtask test`, or `cargo xtask kafka up --nodes {n_nodes}` and set it to \
                 the line that prints"
            )
            .into()),
        }
    }

    /// The addresses of all nodes, `host:port,…`.
    #[must_use]
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// For each node: where its proxy is to listen, which is what it tells clients that come by it, and where that passes
    /// them on to. Only nodes that are processes have such a listener.
    ///
    /// # Errors
    /// The bootstrap line isn't one of `cargo xtask kafka up`.
    pub fn proxied(&self) -> Outcome<Vec<(SocketAddr, SocketAddr)>> {
        let beside = |address: &str| {
            let node: SocketAddr = address.parse()?;
            let at = |distance| SocketAddr::new(node.ip(), node.port() + distance);
            Ok((at(3), at(2)))
        };
        self.bootstrap.split(',').map(beside).collect()
    }

    /// How many nodes the cluster has, their ids being 1 to this.
    #[must_use]
    pub fn n_nodes(&self) -> u16 {
        self.n_nodes
    }

    /// Stops `node` and waits until its process is gone.
    ///
    /// # Errors
    /// It doesn't run, or `MILENA_XTASK` isn't set.
    pub async fn stop(&self, node: u16, how: Stop) -> Outcome {
        let node = node.to_string();
        match how {
            Stop::Orderly => self.xtask(&["kill", "--node", &node]).await,
            Stop::Hard => self.xtask(&["kill", "--node", &node, "-9"]).await,
        }
    }

    /// Starts `node` again on its own data and waits until it serves.
    ///
    /// # Errors
    /// It doesn't serve in time, or `MILENA_XTASK` isn't set.
    pub async fn start(&self, node: u16) -> Outcome {
        self.xtask(&["start", "--node", &node.to_string()]).await
    }

    /// Freezes `node`: its connections stay open and silent.
    ///
    /// # Errors
    /// It doesn't run, or `MILENA_XTASK` isn't set.
    pub async fn pause(&self, node: u16) -> Outcome {
        self.xtask(&["pause", "--node", &node.to_string()]).await
    }

    /// Wakes a frozen `node`.
    ///
    /// # Errors
    /// It doesn't run, or `MILENA_XTASK` isn't set.
    pub async fn resume(&self, node: u16) -> Outcome {
        self.xtask(&["resume", "--node", &node.to_string()]).await
    }

    async fn xtask(&self, arguments: &[&str]) -> Outcome {
        let program: OsString = env::var_os("MILENA_XTASK")
            .ok_or("MILENA_XTASK isn't set to the xtask binary, by which nodes are stopped and started")?;
        let output = Command::new(program)
            .args(["kafka", "--port", self.first_port()?])
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("kafka {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
    }

    /// The first node's port, which names the cluster.
    fn first_port(&self) -> Outcome<&str> {
        let first = self.bootstrap.split(',').next().unwrap_or_default();
        let (_, port) = first.rsplit_once(':').ok_or_else(|| format!("{first:?} isn't host:port"))?;
        Ok(port)
    }
}
