//! Tasks of the milena workspace, one file per command. Depends on no crate of the workspace, so that it builds first
//! and judges them from outside.

mod bench;
mod codegen;
mod compression;
mod defects;
mod embedded;
mod faults;
mod foreign;
mod fuzz;
mod host;
mod instructions;
mod kafka;
mod lint;
mod roundtrip;
mod scale;
mod simulate;
mod suite;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;

/// Builds, checks and proves the milena workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Judge the sources without running them: format, tidy, clippy, documentation
    Lint,
    /// Run every test, on the embedded broker and on real Kafka
    Test(test::Arguments),
    /// Write milena-protocol's messages from Kafka's schemas
    Codegen(codegen::Arguments),
    /// Check what ARCHITECTURE.md states as absences
    Tidy,
    /// Start, stop and disturb a real Kafka on this machine
    Kafka(kafka::Arguments),
    /// Steady load on three real nodes while each is killed and restarted in turn
    Faults(faults::Arguments),
    /// The whole client in virtual time, with mishaps, a run for each seed
    Simulate(simulate::Arguments),
    /// Search for inputs that break what reads untrusted bytes
    Fuzz {
        /// How long each target runs
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Put planted defects into a copy of the sources, and see the named test of each fail
    Defects(defects::Arguments),
    /// Clients written by others against our embedded broker
    Foreign(foreign::Arguments),
    /// A million records out and back on one real node, with every codec, compared exactly
    Roundtrip(roundtrip::Arguments),
    /// Count what a record costs in instructions, and hold it against the limits (needs valgrind)
    Instructions(instructions::Arguments),
    /// One client on 1, 100 and 10,000 partitions of which one is busy: start, memory, CPU
    Scale(scale::Arguments),
    /// Measure producing and consuming on one real node
    Bench(bench::Arguments),
    /// Measure what each codec and each automatic choice costs and brings
    Compression(compression::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Lint => lint::run(),
        Command::Test(arguments) => test::run(&arguments),
        Command::Codegen(arguments) => codegen::run(&arguments).map_err(Into::into),
        Command::Tidy => tidy::run(),
        Command::Kafka(arguments) => kafka::run(&arguments),
        Command::Faults(arguments) => faults::run(&arguments),
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::Fuzz { seconds } => fuzz::run(seconds).map_err(Into::into),
        Command::Defects(arguments) => defects::run(&arguments),
        Command::Foreign(arguments) => foreign::run(&arguments),
        Command::Roundtrip(arguments) => roundtrip::run(&arguments),
        Command::Instructions(arguments) => instructions::run(&arguments),
        Command::Scale(arguments) => scale::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Compression(arguments) => compression::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}
