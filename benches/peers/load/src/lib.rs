//! What all clients share, so that only the client differs: the arguments, the payloads, the loop that sends and awaits,
//! and how CPU, memory and time are measured. Knows no client.
#![forbid(unsafe_code)]

mod arguments;
mod meter;
mod payload;
mod produce;
mod report;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
/// What a `counted` binary installs as its global allocator.
pub use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

pub use self::arguments::{Arguments, Codec, Mode, RuntimeKind, Variant};
pub use self::meter::{Measured, Meter};
pub use self::payload::{Payload, Payloads};
pub use self::produce::{SAMPLE_EVERY, Sender, produce};

/// Why a run is void.
pub type Failure = Box<dyn Error + Send + Sync>;
/// The allocator that counts.
pub type Counter = StatsAlloc<std::alloc::System>;

/// One client under load.
pub struct Client {
    /// As tables and charts call it.
    pub name: &'static str,
    /// Sends `arguments.records` after a warm-up, and awaits an acknowledgement for each: of many at a time, or of one.
    pub produce: fn(&Arguments, Option<&'static Counter>) -> Result<Measured, Failure>,
    /// Reads `arguments.records` from the beginning of partition 0, after a warm-up with a consumer of its own.
    pub consume: fn(&Arguments, Option<&'static Counter>) -> Result<Measured, Failure>,
}

/// Runs what the command line asks for, and prints one line of JSON. With a `counter`, allocations are counted too, and
/// the CPU time is void: the counter's atomics cost those most that allocate most.
pub fn main(client: &Client, counter: Option<&'static Counter>) -> ExitCode {
    let arguments = Arguments::parse();
    let run = match arguments.mode {
        Mode::Produce | Mode::Latency => client.produce,
        Mode::Consume => client.consume,
    };
    let line = run(&arguments, counter).and_then(|measured| report::line(client.name, &arguments, measured));
    match line {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{}: {failure}", client.name);
            let mut cause = failure.source();
            while let Some(error) = cause {
                eprintln!("  because {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

/// The runtime that the arguments ask for, with a client's future run on it to its end.
///
/// # Errors
/// The future's, and the runtime's.
pub fn block_on<T>(arguments: &Arguments, future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let mut builder = match arguments.runtime {
        RuntimeKind::Multi => tokio::runtime::Builder::new_multi_thread(),
        RuntimeKind::Current => tokio::runtime::Builder::new_current_thread(),
    };
    builder.enable_all().build()?.block_on(future)
}
