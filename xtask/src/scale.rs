//! `cargo xtask scale`: one client, twelve nodes, and 1, 100 and 10,000 partitions of which one is busy. Nothing may grow with
//! the number of those that are idle. The nodes are in another process: CPU and memory are the client's alone.

use std::process::Command;

use clap::Args;
use serde::Deserialize;

use crate::embedded::EmbeddedBroker;
use crate::embedded::Profile;
use crate::host;
use crate::host::Outcome;

const NODES: u16 = 12;
const MOST_TOPICS: usize = 1_000;
const SIZES: [usize; 3] = [1, 100, 10_000];

/// Bytes that an idle partition may hold.
const MOST_BYTES: f64 = 300.0;
/// Of a core, in percent, while nothing is to be done.
const MOST_IDLE: f64 = 0.1;
/// CPU per record, beside that of one partition: what is above is no noise.
const MOST_TIMES: f64 = 1.25;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Seconds over which idle CPU is measured
    #[arg(long, default_value_t = 30)]
    idle: u64,
    /// Records to the busy partition
    #[arg(long, default_value_t = 1_000_000)]
    records: usize,
}

/// One run of the client, as it prints it.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Run {
    start_ms: f64,
    held: f64,
    buffers: f64,
    idle_percent: f64,
    cpu_us_per_record: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    host::run(host::cargo().args(["build", "--quiet", "--release", "--package", "milena-benches"]))?;
    println!(
        "{NODES} nodes in a process of their own, at most {MOST_TOPICS} topics; idle over {} s; one busy partition\n\
         {:8} {:>10} {:>9} {:>15} {:>15} {:>8} {:>11} {:>12}",
        arguments.idle,
        "",
        "partitions",
        "start ms",
        "held KiB",
        "B per idle one",
        "idle %",
        "µs a record",
        "times that of 1"
    );
    let mut missed = Vec::new();
    let mut alone: [Option<Run>; 2] = [None, None];
    for partitions in SIZES {
        let topics = partitions.min(MOST_TOPICS);
        let mut nodes = vec!["--nodes".to_owned(), NODES.to_string(), format!("--topic=warm:{NODES}")];
        nodes.extend((0..topics).map(|topic| format!("--topic=t{topic}:{}", partitions / topics)));
        let broker = EmbeddedBroker::start(Profile::Release, &nodes)?;
        for (mode, alone) in ["produce", "consume"].into_iter().zip(&mut alone) {
            let now = measure(arguments, broker.bootstrap(), mode, topics, partitions)?;
            let one = *alone.get_or_insert(now);
            missed.extend(show(mode, partitions, one, now));
        }
    }
    println!(
        "buffers that lie idle for the next batches are not held by partitions: they are bounded by buffer.memory"
    );
    if missed.is_empty() { Ok(()) } else { Err(format!("missed: {}", missed.join("; ")).into()) }
}

fn measure(arguments: &Arguments, bootstrap: &str, mode: &str, topics: usize, partitions: usize) -> Outcome<Run> {
    let mut scale = Command::new(host::target().join("release/scale"));
    scale.args([mode, "--bootstrap", bootstrap, "--topics", &topics.to_string()]);
    scale.args(["--partitions", &partitions.to_string(), "--idle", &arguments.idle.to_string()]);
    scale.args(["--records", &arguments.records.to_string()]);
    Ok(serde_json::from_str(&host::capture(&mut scale)?)?)
}

/// Prints a run, and says which budgets it misses.
fn show(mode: &str, partitions: usize, one: Run, now: Run) -> Vec<String> {
    let idle_ones = (partitions - 1) as f64;
    let bytes = (idle_ones > 0.0).then(|| ((now.held - now.buffers) - (one.held - one.buffers)) / idle_ones);
    let times = now.cpu_us_per_record / one.cpu_us_per_record;
    println!(
        "{mode:8} {partitions:>10} {:>9.1} {:>15} {:>15} {:>8.3} {:>11.3} {times:>12.2}",
        now.start_ms,
        format!("{:.0} + {:.0}", (now.held - now.buffers) / 1024.0, now.buffers / 1024.0),
        bytes.map_or_else(|| "–".to_owned(), |bytes| format!("{bytes:.0}")),
        now.idle_percent,
        now.cpu_us_per_record,
    );
    let mut missed = Vec::new();
    if let Some(bytes) = bytes.filter(|bytes| *bytes > MOST_BYTES) {
        missed.push(format!("{mode} holds {bytes:.0} B per idle partition of {partitions}, not {MOST_BYTES}"));
    }
    if now.idle_percent > MOST_IDLE {
        let idle = now.idle_percent;
        missed.push(format!("{mode} takes {idle:.3} % of a core with {partitions} idle, not {MOST_IDLE}"));
    }
    if times > MOST_TIMES {
        missed.push(format!("{mode} costs {times:.2} times the CPU per record with {partitions} partitions"));
    }
    missed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_that_are_missed_are_named() {
        let one = Run { start_ms: 1.0, held: 5_000.0, buffers: 1_000.0, idle_percent: 0.01, cpu_us_per_record: 0.2 };
        assert!(show("produce", 1, one, one).is_empty());
        let fine = Run { held: 4_000.0 + 99.0 * 299.0 + 9_000.0, buffers: 9_000.0, cpu_us_per_record: 0.24, ..one };
        assert!(show("produce", 100, one, fine).is_empty());
        let bad = Run { held: fine.held + 99.0 * 2.0, idle_percent: 0.11, cpu_us_per_record: 0.26, ..fine };
        assert_eq!(show("produce", 100, one, bad).len(), 3);
    }
}
