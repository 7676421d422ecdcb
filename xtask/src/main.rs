//! Tasks of the milena workspace, one file per command. Depends on no crate of the workspace, so that it builds first
//! and judges them from outside.

mod host;
mod kafka;

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
    /// Start, stop and disturb a real Kafka on this machine
    Kafka(kafka::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Kafka(arguments) => kafka::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}
