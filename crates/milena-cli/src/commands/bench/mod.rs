//! `milena bench`: produce, consume or latency, with every acknowledgement awaited and counted.

mod consume;
mod latency;
mod payload;
mod produce;

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use milena_admin::{Admin, NewTopic};
use milena_broker::Broker;
use milena_client::Client;
use serde::Serialize;

use crate::args::{BenchArgs, BenchMode};
use crate::connect;
use crate::failure::{Failure, Trying as _};
use crate::stdout;
use crate::usage;

/// Records of `produce` and `consume` unless told otherwise.
const RECORDS: u64 = 1_000_000;
/// Records of `latency`, where each waits for the one before.
const ROUND_TRIPS: u64 = 10_000;

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    mode: &'static str,
    records: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    acked: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consumed: Option<u64>,
    seconds: f64,
    records_per_second: f64,
    cpu_us_per_record: f64,
    p50_us: u64,
    p99_us: u64,
    peak_rss_mib: f64,
}

impl Figures {
    /// For a person.
    fn to_text(&self) -> String {
        let done = self.acked.or(self.consumed).unwrap_or_default();
        let mut text = format!("{} {done} of {} records in {:.3} s\n", self.mode, self.records, self.seconds);
        let _ = writeln!(text, "  {:>14.0} records/s", self.records_per_second);
        let _ = writeln!(text, "  {:>14.3} µs CPU per record", self.cpu_us_per_record);
        let _ = writeln!(text, "  {:>14} µs p50, {} µs p99", self.p50_us, self.p99_us);
        let _ = writeln!(text, "  {:>14.1} MiB peak", self.peak_rss_mib);
        text
    }
}

/// One measured phase.
pub(crate) struct Measured {
    done: u64,
    wall: Duration,
    cpu: Duration,
    latency: Histogram<u64>,
}

/// A histogram of microseconds up to ten minutes.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are constants in order")
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(crate) async fn run(args: BenchArgs) -> Result<(), Failure> {
    // Kept alive to the end: dropping it stops the broker.
    let (bootstrap, embedded) = match &args.bootstrap {
        Some(bootstrap) => (bootstrap.clone(), None),
        None => {
            let broker = Broker::builder().build();
            let addresses = broker.listen("127.0.0.1:0").await.trying("cannot start an embedded broker")?;
            if std::io::stderr().is_terminal() {
                eprintln!("no -b given: an embedded broker in this process serves, and its CPU time is counted too");
            }
            (addresses.first().map(ToString::to_string).unwrap_or_default(), Some(broker))
        }
    };
    let client = connect::client(&bootstrap).await?;
    let outcome = match tokio::time::timeout(args.timeout, bench(&client, &args)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::Failed(format!("not done after {} s; see --timeout", args.timeout.as_secs()))),
    };
    connect::close(&client).await;
    if let Some(broker) = embedded {
        broker.shutdown().await;
    }
    outcome
}

async fn bench(client: &Client, args: &BenchArgs) -> Result<(), Failure> {
    let records = args.records.unwrap_or(match args.mode {
        BenchMode::Latency => ROUND_TRIPS,
        BenchMode::Produce | BenchMode::Consume => RECORDS,
    });
    let admin = Admin::new(client);
    let own_topic = args.topic.is_none();
    let topic = match &args.topic {
        Some(topic) => topic.clone(),
        None => make_topic(&admin, args.partitions).await?,
    };
    let measured = measure(client, args, &topic, records, own_topic).await;
    if own_topic && let Err(error) = admin.delete_topic(&topic).await {
        eprintln!("warning: topic {topic} is left behind: {error}");
    }
    tell(args, records, &measured?)
}

async fn measure(
    client: &Client,
    args: &BenchArgs,
    topic: &str,
    records: u64,
    own_topic: bool,
) -> Result<Measured, Failure> {
    match args.mode {
        BenchMode::Produce => produce::run(client, args, topic, records).await,
        BenchMode::Latency => latency::run(client, args, topic, records).await,
        BenchMode::Consume => {
            if own_topic {
                produce::run(client, args, topic, records).await?;
            }
            consume::run(client, topic, records).await
        }
    }
}

async fn make_topic(admin: &Admin, partitions: i32) -> Result<String, Failure> {
    let name = format!("milena-bench-{}", std::process::id());
    let new = NewTopic::new(&name).partitions(partitions);
    admin.create_topic(new).await.trying(format_args!("cannot create topic {name}"))?;
    Ok(name)
}

fn tell(args: &BenchArgs, records: u64, measured: &Measured) -> Result<(), Failure> {
    let seconds = measured.wall.as_secs_f64();
    let done = measured.done;
    let figures = Figures {
        mode: args.mode.name(),
        records,
        acked: (args.mode != BenchMode::Consume).then_some(done),
        consumed: (args.mode == BenchMode::Consume).then_some(done),
        seconds,
        records_per_second: done as f64 / seconds,
        cpu_us_per_record: measured.cpu.as_secs_f64() * 1e6 / done as f64,
        p50_us: measured.latency.value_at_quantile(0.50),
        p99_us: measured.latency.value_at_quantile(0.99),
        peak_rss_mib: usage::peak_rss_mib().unwrap_or(f64::NAN),
    };
    if args.json {
        return stdout::line(serde_json::to_string(&figures).expect("numbers and names always serialize"));
    }
    stdout::text(&figures.to_text())
}
