//! `cargo xtask bench --linger`: what a producer makes of records that come at a steady rate on one partition, what it
//! costs to share it among many tasks, and how long records take from end to end beside an idle broker.

use std::process::Command;

use serde::Deserialize;

use super::answering::AnswerAtOnce;
use crate::embedded::EmbeddedBroker;
use crate::embedded::Profile;
use crate::host;
use crate::host::Outcome;

const RATES: [u64; 5] = [10, 1_000, 10_000, 50_000, 200_000];
const SECONDS: u64 = 5;
/// Tasks with a handle each, and the records of all of them in a second.
const TASKS: u64 = 1_000;
const RATE: u64 = 10_000;
const ROUNDS: usize = 3;

/// How much later than its acknowledgement a record may be received, µs.
const MOST_ABOVE: f64 = 2_000.0;

/// What tasks may do to batches, and cost, beside one task.
const LEAST_OF_A_BATCH: f64 = 0.9;
const MOST_TIMES: f64 = 1.15;

#[derive(Clone, Debug, Deserialize)]
struct Run {
    records: u64,
    requests_per_second: f64,
    records_per_batch: f64,
    /// none, gzip, snappy, lz4, zstd
    batches_by_codec: [u64; 5],
    ratio: f64,
    cpu_percent: f64,
    p50_us: f64,
    p99_us: f64,
}

#[derive(Clone, Debug, Deserialize)]
struct EndToEnd {
    p50_us: f64,
    p99_us: f64,
    ack_p50_us: f64,
    ack_p99_us: f64,
}

pub(super) fn run() -> Outcome {
    AnswerAtOnce::prepare()?;
    let broker = AnswerAtOnce::start(&[])?;
    println!("one task, one partition, 100 B, linger 5 ms, records in steps of 1 ms, {SECONDS} s each");
    println!(
        "{:>9} {:5} {:>11} {:>13} {:>6} {:>7} {:>7}   batches by codec, ratio",
        "records/s", "codec", "requests/s", "records/batch", "CPU %", "p50 µs", "p99 µs"
    );
    for rate in RATES {
        for codec in ["none", "auto"] {
            let run = ask(&broker, rate, 1, &["--compression", codec])?;
            let codecs = ["none", "gzip", "snappy", "lz4", "zstd"].iter().zip(run.batches_by_codec);
            let codecs =
                codecs.filter(|(_, batches)| *batches > 0).map(|(codec, batches)| format!("{codec} {batches}"));
            println!(
                "{rate:>9} {codec:5} {:>11.1} {:>13.1} {:>6.2} {:>7.0} {:>7.0}   {}, {:.2}",
                run.requests_per_second,
                run.records_per_batch,
                run.cpu_percent,
                run.p50_us,
                run.p99_us,
                codecs.collect::<Vec<_>>().join(", "),
                run.ratio,
            );
        }
    }
    end_to_end()?;
    handles(&broker)
}

/// A consumer that waits for an idle broker with a busy one beside would give its records half a second late.
fn end_to_end() -> Outcome {
    let nodes = ["--nodes=2", "--topic=end-to-end:2"].map(str::to_owned);
    let broker = EmbeddedBroker::start(Profile::Release, &nodes)?;
    let mut command = Command::new(host::target().join("release/end-to-end"));
    command.args(["--bootstrap", broker.bootstrap(), "--topic", "end-to-end", "--records", "5000"]);
    let run: EndToEnd = serde_json::from_str(&host::capture(&mut command)?)?;
    let above = run.p99_us - run.ack_p99_us;
    println!(
        "\n1000 records/s, embedded broker over TCP, one idle broker beside: from send to receipt p50 {:.0} µs, p99 {:.0} µs; \
         to acknowledgement p50 {:.0} µs, p99 {:.0} µs: p99 {above:.0} µs above it (at most {MOST_ABOVE:.0}: {})",
        run.p50_us,
        run.p99_us,
        run.ack_p50_us,
        run.ack_p99_us,
        if above <= MOST_ABOVE { "met" } else { "MISSED" },
    );
    Ok(())
}

fn handles(broker: &AnswerAtOnce) -> Outcome {
    println!("\n{RATE} records/s on one partition, medians of {ROUNDS}");
    println!("{:>9} {:>13} {:>6} {:>16} {:>8}", "tasks", "records/batch", "CPU %", "with empty sends", "sending");
    let mut figures = Vec::new();
    for tasks in [1, TASKS] {
        let (mut per_batch, mut busy, mut empty) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let run = ask(broker, RATE, tasks, &[])?;
            per_batch.push(run.records_per_batch);
            busy.push(run.cpu_percent);
            empty.push(ask(broker, RATE, tasks, &["--empty"])?.cpu_percent);
        }
        let (per_batch, busy, empty) = (median(per_batch), median(busy), median(empty));
        println!("{tasks:>9} {per_batch:>13.1} {busy:>6.2} {empty:>16.2} {:>8.2}", busy - empty);
        figures.push((per_batch, busy - empty));
    }
    let (batches, cpu) = (figures[1].0 / figures[0].0, figures[1].1 / figures[0].1);
    let verdict = |met: bool| if met { "met" } else { "MISSED" };
    println!(
        "records per batch {batches:.2} of one task's (at least {LEAST_OF_A_BATCH}: {}), CPU of sending {cpu:.2} times one \
         task's (at most {MOST_TIMES}: {})",
        verdict(batches >= LEAST_OF_A_BATCH),
        verdict(cpu <= MOST_TIMES),
    );
    Ok(())
}

fn ask(broker: &AnswerAtOnce, rate: u64, tasks: u64, more: &[&str]) -> Outcome<Run> {
    let mut pace = Command::new(host::target().join("release/pace"));
    pace.args(["--bootstrap", broker.bootstrap(), "--topic", "pace", "--rate", &rate.to_string()]);
    pace.args(["--tasks", &tasks.to_string(), "--seconds", &SECONDS.to_string()]).args(more);
    let run: Run = serde_json::from_str(&host::capture(&mut pace)?)?;
    let expected = if more.contains(&"--empty") { 0 } else { rate * SECONDS };
    if run.records != expected {
        return Err(format!("{} records were acknowledged, of {expected}", run.records).into());
    }
    Ok(run)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
