//! The milena command line: `demo`, `broker`, `topics`, `groups`, `produce`, `consume`, `bench`.
//!
//! Results go to stdout, progress and logs to stderr. Exit code 0: done; 1: it failed; 2: wrong use.
//! The commands use the public API of `milena`, `milena-client` and `milena-admin` alone: what they can't do
//! elegantly, the API lacks.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod connect;
mod failure;
mod interrupt;
#[doc(hidden)]
pub mod jsonl;
mod stdout;
mod usage;

use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

/// Parses the arguments of this process, runs the command and says how it went.
#[must_use]
pub fn main() -> ExitCode {
    let cli = args::Cli::parse();
    start_logging(cli.verbose);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::from(1);
        }
    };
    let outcome = runtime.block_on(commands::run(cli));
    // A read of stdin that is under way can't be called off; it must not hold the process back.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Logs go to stderr: warnings by default, `-v` for more, or as `MILENA_LOG` says (`tracing` filter syntax).
fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("MILENA_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    // Without colours, on a terminal too: that feature of tracing-subscriber is not compiled in, and asking for it panics.
    // A line that can't be written is lost, and nothing else: by default whoever logs it would panic.
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false).init();
}
