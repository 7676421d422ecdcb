//! `cargo xtask faults`: steady load on three real nodes while nodes are killed and restarted, leaders and the coordinator
//! move, and connections are cut. The load, the faults and the judgement are the program `faults` of milena-tests; here it
//! only gets its cluster.

use clap::Args;

use crate::host;
use crate::host::Outcome;
use crate::kafka::Lease;
use crate::kafka::Via;

/// How often each thing is to happen, and how long that may take.
#[derive(Args, Clone, Copy)]
pub(crate) struct Goals {
    /// Nodes killed (-9) and started again
    #[arg(long, default_value_t = 30)]
    kills: u64,
    /// Leaders of a partition moved
    #[arg(long, default_value_t = 200)]
    moves: u64,
    /// Times that the coordinator of the group moved
    #[arg(long, default_value_t = 20)]
    coordinator_moves: u64,
    /// Connections cut within a frame
    #[arg(long, default_value_t = 500)]
    cuts: u64,
    /// The most that all of this may take
    #[arg(long, default_value_t = 28.0)]
    minutes: f64,
}

impl Goals {
    /// Enough to see that the run itself works: each node is killed once.
    pub(crate) const SHORT: Self = Self { kills: 3, moves: 10, coordinator_moves: 1, cuts: 40, minutes: 6.0 };
}

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    goals: Goals,
    /// How the nodes run: maven, for only nodes that are processes have a listener behind our proxy
    #[arg(long, default_value = "maven")]
    via: Via,
    /// Build with debug assertions instead of for speed
    #[arg(long)]
    debug: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    on(&Lease::take(3, arguments.via)?, arguments.goals, !arguments.debug)
}

/// Runs the load and the faults on a cluster of three nodes.
pub(crate) fn on(lease: &Lease, goals: Goals, release: bool) -> Outcome {
    let mut cargo = host::cargo();
    cargo.args(["run", "--quiet", "--package", "milena-tests", "--bin", "faults"]);
    if release {
        cargo.arg("--release");
    }
    cargo.args(["--", "--kills", &goals.kills.to_string(), "--moves", &goals.moves.to_string()]);
    cargo.args(["--coordinator-moves", &goals.coordinator_moves.to_string(), "--cuts", &goals.cuts.to_string()]);
    cargo.args(["--minutes", &goals.minutes.to_string()]);
    lease.tell(&mut cargo, "MILENA_KAFKA_3")?;
    host::run(&mut cargo)
}
