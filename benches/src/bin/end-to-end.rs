//! `end-to-end`: a thousand records a second to partition 0, read by a consumer that also reads partition 1, whose broker has
//! nothing to say. Prints one line of JSON: from send to receipt, and beside it from send to acknowledgement.
#![forbid(unsafe_code)]

use std::error::Error;
use std::time::{Duration, Instant};

use clap::Parser;
use milena_client::Client;
use milena_client::consumer::{Consumer, ConsumerEvent, Start};
use milena_client::producer::{Producer, Record};
use tokio::task::JoinSet;

/// Between two records.
const EVERY: Duration = Duration::from_millis(1);
/// Records before the measuring.
const WARM_UP: usize = 1_000;

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Parser)]
struct Arguments {
    /// The brokers
    #[arg(short, long)]
    bootstrap: String,
    /// A new topic of two partitions, led by two brokers
    #[arg(short, long)]
    topic: String,
    /// Records that are measured
    #[arg(long)]
    records: usize,
}

#[tokio::main(flavor = "multi_thread")]
async fn main() -> Outcome {
    let arguments = Arguments::parse();
    let all = WARM_UP + arguments.records;
    let began = Instant::now();
    let client = Client::builder().bootstrap(&arguments.bootstrap)?.build().await?;
    let consumer = Consumer::builder(&client).build()?;
    consumer.assign([(&arguments.topic, 0, Start::Beginning), (&arguments.topic, 1, Start::Beginning)])?;
    let producer = Producer::builder(&client).build()?;

    let mut tasks: JoinSet<Outcome<Vec<Duration>>> = JoinSet::new();
    tasks.spawn(async move {
        let mut received = Vec::with_capacity(all);
        while received.len() < all {
            let ConsumerEvent::Records(set) = consumer.next().await? else { continue };
            for record in &set {
                let sent = record.value.and_then(|value| value.first_chunk().copied()).ok_or("not our record")?;
                received.push(began.elapsed().saturating_sub(Duration::from_nanos(u64::from_be_bytes(sent))));
            }
        }
        Ok(received)
    });
    let mut pace = tokio::time::interval(EVERY);
    let mut samples: JoinSet<Outcome<Duration>> = JoinSet::new();
    for _ in 0..all {
        pace.tick().await;
        let mut value = [b'v'; 100];
        let sent = began.elapsed();
        value[..8].copy_from_slice(&(sent.as_nanos() as u64).to_be_bytes());
        let delivery = producer.send(Record::to(&arguments.topic).partition(0).key("a key of 16 byte").value(&value));
        let delivery = delivery.await?;
        samples.spawn(async move {
            delivery.await?;
            Ok(began.elapsed() - sent)
        });
    }
    let mut acknowledged = Vec::with_capacity(all);
    while let Some(sample) = samples.join_next().await {
        acknowledged.push(sample??);
    }
    let received = tasks.join_next().await.ok_or("there is a consumer")???;
    let ([p50, p99], [ack_p50, ack_p99]) = (percentiles(received), percentiles(acknowledged));
    println!("{{\"p50_us\":{p50:.0},\"p99_us\":{p99:.0},\"ack_p50_us\":{ack_p50:.0},\"ack_p99_us\":{ack_p99:.0}}}");
    Ok(())
}

/// p50 and p99 of what comes after the warm-up, in microseconds.
fn percentiles(latencies: Vec<Duration>) -> [f64; 2] {
    let mut measured = latencies.into_iter().skip(WARM_UP).collect::<Vec<_>>();
    measured.sort_unstable();
    let last = measured.len() - 1;
    [50, 99].map(|percent| measured[last * percent / 100].as_secs_f64() * 1e6)
}
