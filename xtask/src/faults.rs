//! `cargo xtask faults`: steady load on three real nodes while each is killed and restarted in turn. The load, the
//! faults and the judgement are the program `faults` of milena-tests; here it only gets its cluster.

use clap::Args;

use crate::host;
use crate::host::Outcome;
use crate::kafka::Lease;
use crate::kafka::Via;

#[derive(Args)]
pub(crate) struct Arguments {
    /// How long the load lasts
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// How the nodes run: auto, docker or maven
    #[arg(long, default_value = "auto")]
    via: Via,
    /// Build with debug assertions instead of for speed
    #[arg(long)]
    debug: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    on(&Lease::take(3, arguments.via)?, arguments.minutes, !arguments.debug)
}

/// Runs the load and the faults on a cluster of three nodes.
pub(crate) fn on(lease: &Lease, minutes: f64, release: bool) -> Outcome {
    let mut cargo = host::cargo();
    cargo.args(["run", "--quiet", "--package", "milena-tests", "--bin", "faults"]);
    if release {
        cargo.arg("--release");
    }
    cargo.args(["--", "--minutes", &minutes.to_string()]);
    lease.tell(&mut cargo, "MILENA_KAFKA_3")?;
    host::run(&mut cargo)
}
