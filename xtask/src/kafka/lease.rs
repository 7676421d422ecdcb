//! A cluster for as long as a task runs. It goes with the task, however that ends: a guard process of its own holds the
//! other end of a pipe, and takes the cluster down when the pipe closes.

use std::env;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use super::Via;
use super::cluster::Cluster;
use crate::host;
use crate::host::Outcome;

/// How long a cluster may take to serve, on a machine that does other things too.
const START_TIME_LIMIT: Duration = Duration::from_secs(180);

/// A running cluster that is taken down when this is dropped.
pub(crate) struct Lease {
    cluster: Cluster,
    guard: Child,
    /// Let go after the guard has taken the cluster down.
    _ports: File,
}

impl Lease {
    /// Starts a cluster of `nodes` on ports that nobody uses.
    pub(crate) fn take(nodes: u16, via: Via) -> Outcome<Self> {
        let (cluster, ports) = Cluster::up_anywhere(nodes, via, START_TIME_LIMIT)?;
        // In a process group of its own, so that Ctrl-C ends us and not the guard.
        let guard = Command::new(env::current_exe()?)
            .args(["kafka", "--port", &cluster.port().to_string(), "guard"])
            .process_group(0)
            .stdin(Stdio::piped())
            .spawn();
        match guard {
            Ok(guard) => Ok(Self { cluster, guard, _ports: ports }),
            Err(error) => {
                cluster.down()?;
                Err(error.into())
            }
        }
    }

    /// The addresses by which clients find the cluster.
    pub(crate) fn bootstrap(&self) -> String {
        self.cluster.bootstrap()
    }

    /// Tells `command` where the cluster is, in `variable`, and how its nodes are stopped and started.
    pub(crate) fn tell(&self, command: &mut Command, variable: &str) -> Outcome {
        command.env(variable, self.bootstrap()).env("MILENA_XTASK", env::current_exe()?);
        command.env("CARGO_TARGET_DIR", host::target());
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        if let Err(error) = self.guard.wait() {
            eprintln!("xtask: the cluster at port {} may still run: {error}", self.cluster.port());
        }
    }
}

/// Waits until our stdin ends, then takes the cluster at `port` down.
pub(super) fn guard(port: u16) -> Outcome {
    io::copy(&mut io::stdin(), &mut io::sink())?;
    match Cluster::find(port)? {
        Some(cluster) => cluster.down(),
        None => Ok(()),
    }
}
