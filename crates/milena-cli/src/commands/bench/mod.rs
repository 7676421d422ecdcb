//! `milena bench`: produce, consume or latency, with every acknowledgement awaited and counted.

mod consume;
mod latency;
mod payload;
mod produce;

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use milena_admin::{Admin, NewTopic};
use milena_broker::Broker;
use milena_client::Client;
use serde::Serialize;

use crate::args::{BenchArgs, BenchMode};
use crate::connect;
use crate::failure::{Failure, Trying as _};
use crate::interrupt::interrupted;
use crate::stdout;
use crate::usage;

/// Records of `produce` and `consume` unless told otherwise.
const RECORDS: u64 = 1_000_000;
/// Records of `latency`, where each waits for the one before.
const ROUND_TRIPS: u64 = 10_000;

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;

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
    /// Only Linux tells.
    peak_rss_mib: Option<f64>,
}

impl Figures {
    /// For a person.
    fn to_text(&self) -> String {
        let done = self.acked.or(self.consumed).unwrap_or_default();
        let mut text = format!("{} {done} of {} records in {:.3} s\n", self.mode, self.records, self.seconds);
        let _ = writeln!(text, "  {:>14.0} records/s", self.records_per_second);
        let _ = writeln!(text, "  {:>14.3} µs CPU per record", self.cpu_us_per_record);
        let _ = writeln!(text, "  {:>14} µs p50, {} µs p99", self.p50_us, self.p99_us);
        if let Some(peak) = self.peak_rss_mib {
            let _ = writeln!(text, "  {peak:>14.1} MiB peak");
        }
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
    let (bootstrap, embedded) = match &args.bootstrap.servers {
        Some(servers) => {
            connect::say_where(&format!("Kafka at {servers}"));
            (servers.clone(), None)
        }
        None => {
            let broker = Broker::builder().build();
            let addresses = broker.listen("127.0.0.1:0").await.trying("cannot start an embedded broker")?;
            connect::say_where("an embedded broker in this process, whose CPU time is counted too");
            (addresses.first().map(ToString::to_string).unwrap_or_default(), Some(broker))
        }
    };
    let outcome = bench(&bootstrap, &args).await;
    if let Some(broker) = embedded {
        broker.shutdown().await;
    }
    outcome
}

/// Measures, and deletes the topic that it made for that: also when it failed, took too long or was interrupted.
async fn bench(bootstrap: &str, args: &BenchArgs) -> Result<(), Failure> {
    let records = args.records.unwrap_or(match args.mode {
        BenchMode::Latency => ROUND_TRIPS,
        BenchMode::Produce | BenchMode::Consume => RECORDS,
    });
    let own_topic = args.topic.is_none().then(unused_name);
    let client = connect::client(bootstrap).await?;
    let measured = tokio::select! {
        measured = measure(&client, args, own_topic.as_deref(), records) => measured,
        () = tokio::time::sleep(args.timeout) => {
            Err(Failure::Failed(format!("not done after {} s; see --timeout", args.timeout.as_secs())))
        }
        interrupted = interrupted() => Err(match interrupted {
            Ok(()) => Failure::Failed("interrupted before it was done".to_owned()),
            Err(error) => Failure::of("cannot wait for a signal", &error),
        }),
    };
    connect::close(&client).await;
    if let Some(topic) = &own_topic {
        connect::clean_up(bootstrap, &format!("topic {topic}"), async |admin| match admin.delete_topic(topic).await {
            // It did not get so far as to make it.
            Err(error) if error.error_code() == Some(UNKNOWN_TOPIC_OR_PARTITION) => Ok(()),
            deleted => deleted,
        })
        .await;
    }
    tell(args, records, &measured?)
}

async fn measure(
    client: &Client,
    args: &BenchArgs,
    own_topic: Option<&str>,
    records: u64,
) -> Result<Measured, Failure> {
    if let Some(topic) = own_topic {
        let new = NewTopic::new(topic).partitions(args.partitions);
        Admin::new(client).create_topic(new).await.trying(format_args!("cannot create topic {topic}"))?;
    }
    let topic = own_topic.or(args.topic.as_deref()).unwrap_or_default();
    match args.mode {
        BenchMode::Produce => produce::run(client, args, topic, records).await,
        BenchMode::Latency => latency::run(client, args, topic, records).await,
        BenchMode::Consume => {
            if own_topic.is_some() {
                produce::run(client, args, topic, records).await?;
            }
            consume::run(client, topic, records).await
        }
    }
}

/// A name that no other run has: the topic may be deleted whatever became of its creation.
fn unused_name() -> String {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("milena-bench-{}-{}", std::process::id(), since_1970.as_millis())
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
        peak_rss_mib: usage::peak_rss_mib(),
    };
    if args.json {
        return stdout::line(serde_json::to_string(&figures).expect("numbers and names always serialize"));
    }
    stdout::text(&figures.to_text())
}
