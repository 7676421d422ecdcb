//! `cargo xtask kafka`: a real Kafka of one or several nodes on this machine, for tests, benches and fault runs.
//! What is here is the command line; `cluster` knows the clusters, `maven` and `docker` how their nodes run.

mod cluster;
mod docker;
mod lease;
mod maven;
mod probe;
mod properties;

use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use clap::Subcommand;

use self::cluster::Cluster;
pub(crate) use self::lease::Lease;
use crate::host::Outcome;

/// The release of the broker. `codegen` reads its schemas from the same one.
pub(crate) const KAFKA_VERSION: &str = "4.4.0";

/// The release of the command-line tools: the newest of this one artifact in the central repository.
pub(crate) const TOOLS_VERSION: &str = "4.3.1";

#[derive(Args)]
pub(crate) struct Arguments {
    /// The first node's port, which also names the cluster; node N listens on PORT + 10 × (N − 1)
    #[arg(long, global = true, default_value_t = 19092)]
    port: u16,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start a cluster, wait until it serves, and print its bootstrap line
    Up {
        /// Number of nodes, each broker and controller
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=9))]
        nodes: u16,
        /// How its nodes run: Docker where a daemon answers, else Java with jars from Maven
        #[arg(long, default_value = "auto")]
        via: Via,
        /// Seconds until we give up
        #[arg(long, default_value_t = 120)]
        wait: u64,
    },
    /// Stop a cluster and delete its data
    Down {
        /// Every cluster of this checkout
        #[arg(long)]
        all: bool,
    },
    /// Say which clusters run
    Status,
    /// Stop one node
    Kill {
        /// Which one, from 1
        #[arg(long)]
        node: u16,
        /// At once (SIGKILL), instead of an orderly stop
        #[arg(short = '9')]
        hard: bool,
    },
    /// Start a stopped node again on its own data, and wait until it serves
    Start {
        /// Which one, from 1
        #[arg(long)]
        node: u16,
        /// Don't wait: so many nodes are down that one alone can't serve
        #[arg(long)]
        no_wait: bool,
    },
    /// Freeze a node (SIGSTOP)
    Pause {
        /// Which one, from 1
        #[arg(long)]
        node: u16,
    },
    /// Wake a frozen node (SIGCONT)
    Resume {
        /// Which one, from 1
        #[arg(long)]
        node: u16,
    },
    /// Take the cluster down when our stdin ends
    #[command(hide = true)]
    Guard,
    /// Print the class path of Kafka's own command-line tools, fetching them if need be
    ToolsClassPath,
}

/// How a cluster's nodes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    Auto,
    Docker,
    Maven,
}

impl FromStr for Via {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "docker" => Ok(Self::Docker),
            "maven" => Ok(Self::Maven),
            _ => Err("say auto, docker or maven".into()),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let port = arguments.port;
    match arguments.action {
        Action::Up { nodes, via, wait } => {
            let cluster = Cluster::up(port, nodes, via, Duration::from_secs(wait))?;
            println!("{}", cluster.bootstrap());
        }
        Action::Down { all: true } => {
            for cluster in Cluster::all()? {
                cluster.down()?;
            }
        }
        Action::Down { all: false } => match Cluster::find(port)? {
            Some(cluster) => cluster.down()?,
            None => eprintln!("no cluster at port {port}"),
        },
        Action::Status => {
            let clusters = Cluster::all()?;
            for cluster in &clusters {
                println!("{cluster}");
            }
            if clusters.is_empty() {
                eprintln!("no cluster runs; start one with: cargo xtask kafka up");
            }
        }
        Action::Kill { node, hard } => Cluster::at(port)?.kill(node, hard)?,
        Action::Start { node, no_wait } => Cluster::at(port)?.start(node, !no_wait)?,
        Action::Pause { node } => Cluster::at(port)?.pause(node)?,
        Action::Resume { node } => Cluster::at(port)?.resume(node)?,
        Action::Guard => lease::guard(port)?,
        Action::ToolsClassPath => println!("{}", tools_class_path()?),
    }
    Ok(())
}

/// Whether a real Kafka can be started here, and how; the error says what is missing.
pub(crate) fn choose(via: Via) -> Outcome<Via> {
    match via {
        Via::Docker if docker::answers() => Ok(Via::Docker),
        Via::Docker => Err("no Docker daemon answers; start it, or use --via maven".into()),
        Via::Maven => maven::check().map(|()| Via::Maven),
        Via::Auto if docker::answers() => Ok(Via::Docker),
        Via::Auto => match maven::check() {
            Ok(()) => Ok(Via::Maven),
            Err(missing) => Err(format!("no Docker daemon answers, and {missing}").into()),
        },
    }
}

/// The class path of Kafka's own command-line tools.
pub(crate) fn tools_class_path() -> Outcome<String> {
    maven::check()?;
    maven::tools_class_path()
}
