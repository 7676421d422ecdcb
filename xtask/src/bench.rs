//! `cargo xtask bench`: `milena bench` in each of its modes and codecs on one real node, as one table. With `--peers` it
//! is `peers`: milena beside clients written by others; with `--linger` it is `pace`: milena at a steady rate.

mod answering;
mod pace;
mod peers;

use clap::Args;
use serde_json::Value;

use crate::host;
use crate::host::Outcome;
use crate::kafka::Lease;
use crate::kafka::Via;

/// Which runs, by mode and codec. Latency is a matter of round trips, not of codecs.
const RUNS: [(&str, &str); 11] = [
    ("produce", "none"),
    ("produce", "gzip"),
    ("produce", "snappy"),
    ("produce", "lz4"),
    ("produce", "zstd"),
    ("consume", "none"),
    ("consume", "gzip"),
    ("consume", "snappy"),
    ("consume", "lz4"),
    ("consume", "zstd"),
    ("latency", "none"),
];

#[derive(Args)]
pub(crate) struct Arguments {
    /// Brokers to run on; without them a cluster is started for the run
    #[arg(short, long, value_name = "HOST:PORT,…", conflicts_with = "peers")]
    bootstrap: Option<String>,
    /// Records of each run; a tenth of them for latency, a quarter where a peer's have 1 KB
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// Bytes of a record's value
    #[arg(long, default_value_t = 100, conflicts_with = "peers")]
    size: u64,
    /// What a producer makes of records at a steady rate, and of a thousand tasks
    #[arg(long, conflicts_with_all = ["peers", "bootstrap"])]
    linger: bool,
    #[command(flatten)]
    peers: peers::Arguments,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    if arguments.peers.peers {
        return peers::run(&arguments.peers, arguments.records);
    }
    if arguments.linger {
        return pace::run();
    }
    host::run(host::cargo().args(["build", "--quiet", "--release", "--package", "milena-cli"]))?;
    let lease;
    let bootstrap = match &arguments.bootstrap {
        Some(bootstrap) => bootstrap.clone(),
        None => {
            lease = Lease::take(1, Via::Auto)?;
            lease.bootstrap()
        }
    };
    println!("mode     codec    records     records/s  CPU µs/record   p50 µs   p99 µs  peak RSS MiB");
    for (mode, codec) in RUNS {
        let n_records = if mode == "latency" { arguments.records / 10 } else { arguments.records };
        let mut milena = std::process::Command::new(host::target().join("release/milena"));
        milena.args(["bench", mode, "-b", &bootstrap, "--json", "--compression", codec]);
        milena.args(["--records", &n_records.to_string(), "--size", &arguments.size.to_string()]);
        let result: Value = serde_json::from_str(&host::capture(&mut milena)?)?;
        let figure = |name: &str| result[name].as_f64().unwrap_or(f64::NAN);
        println!(
            "{mode:8} {codec:7} {n_records:>8} {:>13.0} {:>14.3} {:>8.0} {:>8.0} {:>13.1}",
            figure("records_per_second"),
            figure("cpu_us_per_record"),
            figure("p50_us"),
            figure("p99_us"),
            figure("peak_rss_mib"),
        );
    }
    Ok(())
}
