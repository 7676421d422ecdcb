//! `pace`: what a producer makes of records that come at a steady rate. Prints one line of JSON. The broker is another
//! process.
#![forbid(unsafe_code)]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use cpu_time::ProcessTime;
use milena_benches::answer_at_once::record;
use milena_client::Client;
use milena_client::producer::{self, Compression, Producer, ProducerMetrics, Record};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// The runtime's timers have this grain: what falls due within it is sent together.
const GRAIN: Duration = Duration::from_millis(1);
/// One record in so many has its latency taken.
const SAMPLE_EVERY: u64 = 64;

/// Keys and values, made before anything is measured.
type Payloads = Vec<(Vec<u8>, Vec<u8>)>;
type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Codec {
    None,
    Auto,
}

#[derive(Parser)]
struct Arguments {
    /// The broker
    #[arg(short, long)]
    bootstrap: String,
    /// The topic, of which partition 0 is used
    #[arg(short, long)]
    topic: String,
    /// Records a second, of all tasks together
    #[arg(long)]
    rate: u64,
    /// Tasks that send, each with a clone of the producer
    #[arg(long, default_value_t = 1)]
    tasks: u64,
    /// Seconds that are measured, after one that is not
    #[arg(long)]
    seconds: u64,
    /// How batches are compressed
    #[arg(long, value_enum, default_value_t = Codec::None)]
    compression: Codec,
    /// The tasks do everything but send
    #[arg(long)]
    empty: bool,
}

#[tokio::main(flavor = "multi_thread")]
async fn main() -> Outcome {
    let arguments = Arc::new(Arguments::parse());
    let client = Client::builder().bootstrap(&arguments.bootstrap)?.build().await?;
    let compression = match arguments.compression {
        Codec::None => Compression::None,
        Codec::Auto => Compression::Auto,
    };
    let producer = Producer::builder(&client).compression(compression).build()?;
    producer.send(Record::to(&arguments.topic).partition(0).value("0")).await?.await?;
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    let payloads = Arc::new((0..10_000).map(|_| record(&mut seed, 100)).collect());
    load(&arguments, &producer, &payloads, 1).await?;
    let (before, cpu) = (producer.metrics(), ProcessTime::now());
    let mut latencies = load(&arguments, &producer, &payloads, arguments.seconds).await?;
    let cpu = cpu.elapsed().as_secs_f64() / arguments.seconds as f64;
    println!("{}", json(&arguments, before, producer.metrics(), cpu, &mut latencies));
    Ok(())
}

/// So many seconds of it; how long sampled records took to be acknowledged.
async fn load(
    arguments: &Arc<Arguments>,
    producer: &Producer,
    payloads: &Arc<Payloads>,
    seconds: u64,
) -> Outcome<Vec<Duration>> {
    let start = Instant::now() + 10 * GRAIN;
    let mut tasks = JoinSet::new();
    for number in 0..arguments.tasks {
        tasks.spawn(task(Arc::clone(arguments), producer.clone(), start, number, seconds, Arc::clone(payloads)));
    }
    let mut latencies = Vec::new();
    while let Some(done) = tasks.join_next().await {
        latencies.append(&mut done??);
    }
    producer.flush().await;
    Ok(latencies)
}

async fn task(
    arguments: Arc<Arguments>,
    producer: Producer,
    start: Instant,
    number: u64,
    seconds: u64,
    payloads: Arc<Payloads>,
) -> Outcome<Vec<Duration>> {
    // A record every so many nanoseconds; the tasks' turns are spread.
    let every = 1_000_000_000 * arguments.tasks / arguments.rate;
    let first = start + Duration::from_nanos(every / arguments.tasks * number);
    let records = seconds * 1_000_000_000 / every;
    let mut payloads = payloads.iter().cycle().skip(number as usize);
    let mut samples: JoinSet<Outcome<Duration>> = JoinSet::new();
    let mut sent = 0;
    while sent < records {
        sleep_until(first + Duration::from_nanos(every * sent)).await;
        let now = first.elapsed().as_nanos() as u64;
        while sent < records && every * sent <= now {
            let (key, value) = payloads.next().ok_or("a circle has no end")?;
            let record = Record::to(&arguments.topic).partition(0).key(key).value(value);
            sent += 1;
            if arguments.empty {
                std::hint::black_box(record);
                continue;
            }
            let (at, delivery) = (Instant::now(), producer.send(record).await?);
            if sent % SAMPLE_EVERY == 1 && arguments.tasks == 1 {
                samples.spawn(async move {
                    delivery.await?;
                    Ok(at.elapsed())
                });
            }
        }
    }
    let mut latencies = Vec::new();
    while let Some(sample) = samples.join_next().await {
        latencies.push(sample??);
    }
    Ok(latencies)
}

fn json(
    arguments: &Arguments,
    before: ProducerMetrics,
    after: ProducerMetrics,
    cpu: f64,
    latencies: &mut [Duration],
) -> String {
    latencies.sort_unstable();
    let percentile = |percent: usize| {
        let last = latencies.len().saturating_sub(1);
        latencies.get(last * percent / 100).map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
    };
    let records = after.records_acknowledged - before.records_acknowledged;
    let batches = after.batches - before.batches;
    let by_codec =
        producer::Codec::ALL.map(|codec| after.compression.batches(codec) - before.compression.batches(codec));
    let bytes = (after.bytes_raw - before.bytes_raw, after.bytes_compressed - before.bytes_compressed);
    format!(
        "{{\"records\":{records},\"requests_per_second\":{:.1},\"records_per_batch\":{:.1},\"batches_by_codec\":{by_codec:?},\
         \"ratio\":{:.2},\"cpu_percent\":{:.3},\"p50_us\":{:.0},\"p99_us\":{:.0}}}",
        (after.requests - before.requests) as f64 / arguments.seconds as f64,
        records as f64 / batches.max(1) as f64,
        bytes.0 as f64 / bytes.1.max(1) as f64,
        cpu * 100.0,
        percentile(50),
        percentile(99),
    )
}
