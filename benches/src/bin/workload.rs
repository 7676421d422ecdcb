//! `workload NAME RECORDS` does one piece of work, for a tool that counts from outside; `workload --list` names those whose
//! cost is ours, each with an amount that is enough.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use milena_benches::workloads::WORKLOADS;

#[derive(Parser)]
struct Arguments {
    /// Name those whose cost is ours, and an amount for each
    #[arg(long)]
    list: bool,
    /// Which piece of work
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// How many records of it
    #[arg(required_unless_present = "list")]
    records: Option<usize>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for workload in WORKLOADS.iter().filter(|workload| workload.is_ours) {
            println!("{} {}", workload.name, workload.records);
        }
    }
    let (Some(name), Some(records)) = (arguments.name, arguments.records) else { return ExitCode::SUCCESS };
    let Some(workload) = WORKLOADS.iter().find(|workload| workload.name == name) else {
        eprintln!("workload: there is no {name}: --list names them");
        return ExitCode::FAILURE;
    };
    (workload.prepare)()(records);
    ExitCode::SUCCESS
}
