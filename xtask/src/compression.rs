//! `cargo xtask compression`: the table of what each codec and each automatic choice costs and brings, measured by a
//! program of `benches`, which also says whether the budget of `Auto` is kept.

use clap::Args;

use crate::host;
use crate::host::Outcome;

#[derive(Args)]
pub(crate) struct Arguments {
    /// How often each choice has its turn
    #[arg(long, default_value_t = 15)]
    rounds: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let mut cargo = host::cargo();
    cargo.args(["run", "--quiet", "--release", "--package", "milena-benches", "--bin", "compression", "--"]);
    host::run(cargo.args(["--rounds", &arguments.rounds.to_string()]))
}
