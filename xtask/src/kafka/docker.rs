//! Nodes as containers of the image `apache/kafka`. A node's `server.properties` is mounted; its data lives in the
//! container, so that it survives a stop and goes with the container.

use std::path::Path;
use std::process::Command;

use super::KAFKA_VERSION;
use crate::host;
use crate::host::Outcome;

/// Where the image keeps a node's data.
pub(super) const DATA: &str = "/var/lib/kafka/data";

/// Whether a daemon answers.
pub(super) fn answers() -> bool {
    host::works("docker", &["version", "--format", "{{.Server.Version}}"])
}

/// The container of `node` in the cluster at `port`, also its name among its peers.
pub(super) fn container(port: u16, node: u16) -> String {
    format!("milena-kafka-{port}-{node}")
}

fn network(port: u16) -> String {
    format!("milena-kafka-{port}")
}

fn docker<const N: usize>(arguments: [&str; N]) -> Outcome<String> {
    host::capture(Command::new("docker").args(arguments))
}

/// Makes the network that the cluster's nodes share.
pub(super) fn create_network(port: u16) -> Outcome {
    docker(["network", "create", &network(port)]).map(drop)
}

/// Creates and starts a node; the image formats its data on the first start.
pub(super) fn create(port: u16, node: u16, published: u16, folder: &Path, cluster_id: &str) -> Outcome {
    let name = container(port, node);
    let publish = format!("127.0.0.1:{published}:{published}");
    let mount = format!("{}:/mnt/shared/config:ro", folder.display());
    let cluster_id = format!("CLUSTER_ID={cluster_id}");
    let image = format!("apache/kafka:{KAFKA_VERSION}");
    docker([
        "run",
        "--detach",
        "--name",
        &name,
        "--hostname",
        &name,
        "--network",
        &network(port),
        "--publish",
        &publish,
        "--volume",
        &mount,
        "--env",
        &cluster_id,
        "--env",
        "KAFKA_HEAP_OPTS=-Xms128m -Xmx512m",
        &image,
    ])
    .map(drop)
}

/// Starts a stopped node again.
pub(super) fn start(port: u16, node: u16) -> Outcome {
    docker(["start", &container(port, node)]).map(drop)
}

/// Whether the node's container runs.
pub(super) fn runs(port: u16, node: u16) -> bool {
    docker(["inspect", "--format", "{{.State.Running}}", &container(port, node)])
        .is_ok_and(|said| said.trim() == "true")
}

/// Sends `signal` to the node.
pub(super) fn signal(port: u16, node: u16, signal: &str) -> Outcome {
    docker(["kill", "--signal", signal, &container(port, node)]).map(drop)
}

/// Stops the node and waits until it has.
pub(super) fn stop(port: u16, node: u16, hard: bool) -> Outcome {
    if !runs(port, node) {
        return Ok(());
    }
    let seconds = if hard { "0" } else { "30" };
    docker(["stop", "--time", seconds, &container(port, node)]).map(drop)
}

/// Removes the node and its data.
pub(super) fn remove(port: u16, node: u16) -> Outcome {
    docker(["rm", "--force", "--volumes", &container(port, node)]).map(drop)
}

/// Removes the nodes' network.
pub(super) fn remove_network(port: u16) -> Outcome {
    docker(["network", "rm", &network(port)]).map(drop)
}

/// The end of what the node said.
pub(super) fn log(port: u16, node: u16) -> String {
    docker(["logs", "--tail", "20", &container(port, node)]).unwrap_or_default()
}
