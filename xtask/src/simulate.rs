//! `cargo xtask simulate`: the whole client in virtual time, seed by seed. The work is the program `simulate` of
//! milena-tests; here it is only built for speed, and run.

use clap::Args;

use crate::host;
use crate::host::Outcome;

#[derive(Args)]
pub(crate) struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many at a time; as many as there are processors, unless given
    #[arg(long)]
    jobs: Option<usize>,
    /// End with the first broken promise
    #[arg(long)]
    stop: bool,
    /// This seed alone, telling everything that happens
    #[arg(long, conflicts_with_all = ["seeds", "from", "jobs", "stop"])]
    seed: Option<u64>,
    /// Run the seed twice, and say whether both did the same
    #[arg(long, requires = "seed")]
    twice: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let mut cargo = host::cargo();
    cargo.args(["run", "--quiet", "--release", "--package", "milena-tests", "--bin", "simulate", "--"]);
    match arguments.seed {
        Some(seed) => cargo.args(["--seed", &seed.to_string()]).args(arguments.twice.then_some("--twice")),
        None => cargo
            .args(["--seeds", &arguments.seeds.to_string(), "--from", &arguments.from.to_string()])
            .args(arguments.jobs.iter().flat_map(|jobs| ["--jobs".to_owned(), jobs.to_string()]))
            .args(arguments.stop.then_some("--stop")),
    };
    host::run(&mut cargo)
}
