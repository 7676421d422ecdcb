//! `cargo xtask roundtrip`: so many records out and back on one real node with every codec, compared exactly. The work is
//! done by the program `roundtrip` of milena-tests; here it only gets its cluster.

use clap::Args;

use crate::host;
use crate::host::Outcome;
use crate::kafka::Lease;
use crate::kafka::Via;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Brokers to run on; without them a cluster is started for the run
    #[arg(short, long, value_name = "HOST:PORT,…")]
    bootstrap: Option<String>,
    /// Records for each codec
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let mut program = host::cargo();
    program.args(["run", "--quiet", "--release", "--package", "milena-tests", "--bin", "roundtrip", "--"]);
    let lease;
    let bootstrap = match &arguments.bootstrap {
        Some(bootstrap) => bootstrap.clone(),
        None => {
            lease = Lease::take(1, Via::Auto)?;
            lease.bootstrap()
        }
    };
    program.args(["--bootstrap", &bootstrap, "--records", &arguments.records.to_string()]);
    host::run(&mut program)
}
