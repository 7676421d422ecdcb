//! `scale produce` and `scale consume`: what one client costs that knows many partitions of which one is busy. Prints one
//! line of JSON. The brokers are other processes: CPU and memory are the client's alone.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use cpu_time::ProcessTime;
use milena_client::consumer::{Consumer, ConsumerEvent, RecordSet, Start};
use milena_client::producer::{Delivery, Producer, Record};
use milena_client::{Client, TopicPartition};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

/// Counts the bytes that are held. A record allocates next to nothing, so that its counting costs nothing.
#[global_allocator]
static HELD: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

/// Deliveries awaited at a time.
const WINDOW: usize = 20_000;
/// After so long a producer has given up what it held of the partitions it wrote to.
const SETTLED: Duration = Duration::from_secs(12);
/// A topic with a partition on each node, whose connections are none of what a partition holds.
const WARM: &str = "warm";
/// Nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(60);

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// A record to every partition, then many to one
    Produce,
    /// All that `produce` wrote
    Consume,
}

#[derive(Parser)]
struct Arguments {
    mode: Mode,
    /// The brokers
    #[arg(short, long)]
    bootstrap: String,
    /// Topics, called t0, t1 and so on
    #[arg(long)]
    topics: usize,
    /// Partitions of all topics together, as many of each
    #[arg(long)]
    partitions: usize,
    /// Seconds in which nothing is to be done
    #[arg(long)]
    idle: u64,
    /// Records to the busy partition
    #[arg(long)]
    records: usize,
}

/// What was measured.
struct Figures {
    start: Duration,
    /// Bytes held when all partitions are known and idle, beside those of a client that knows none; a producer is
    /// connected to all nodes by then.
    held: usize,
    /// Of them, buffers that wait for the next batches.
    buffers: u64,
    /// CPU over wall time.
    idle: f64,
    /// Microseconds of CPU.
    per_record: f64,
}

#[tokio::main(flavor = "multi_thread")]
async fn main() -> Outcome {
    let arguments = Arguments::parse();
    let figures = match arguments.mode {
        Mode::Produce => produce(&arguments).await?,
        Mode::Consume => consume(&arguments).await?,
    };
    let Figures { start, held, buffers, idle, per_record } = figures;
    println!(
        "{{\"start_ms\":{:.1},\"held\":{held},\"buffers\":{buffers},\"idle_percent\":{:.4},\"cpu_us_per_record\":{per_record:.4}}}",
        start.as_secs_f64() * 1e3,
        idle * 100.0,
    );
    Ok(())
}

fn held() -> usize {
    let stats = HELD.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}

impl Arguments {
    fn all(&self) -> impl Iterator<Item = (String, i32)> {
        let of_each = self.partitions / self.topics;
        (0..self.topics)
            .flat_map(move |topic| (0..of_each as i32).map(move |partition| (format!("t{topic}"), partition)))
    }

    /// CPU over wall time, with nothing to do.
    async fn idle(&self) -> f64 {
        // What is done once after work, is not done when idle.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (cpu, wall) = (ProcessTime::now(), Instant::now());
        tokio::time::sleep(Duration::from_secs(self.idle)).await;
        cpu.elapsed().as_secs_f64() / wall.elapsed().as_secs_f64()
    }
}

async fn client(arguments: &Arguments) -> Outcome<Client> {
    Ok(Client::builder().bootstrap(&arguments.bootstrap)?.build().await?)
}

async fn produce(arguments: &Arguments) -> Outcome<Figures> {
    let client = client(arguments).await?;
    let producer = Producer::builder(&client).batch_size(1_000_000).build()?;
    let connected = Instant::now();
    let nodes = client.partitions(WARM).await?.len();
    one_to_each(&producer, (0..nodes as i32).map(|partition| (WARM.to_owned(), partition))).await?;
    let connected = connected.elapsed();
    tokio::time::sleep(SETTLED).await;
    let before = held().saturating_sub(producer.metrics().buffer_idle as usize);
    let started = Instant::now();
    one_to_each(&producer, arguments.all()).await?;
    let start = connected + started.elapsed();
    let idle = arguments.idle().await;
    let (now, buffers) = (held(), producer.metrics().buffer_idle);
    burst(&producer, arguments.records / 5).await?;
    let cpu = ProcessTime::now();
    burst(&producer, arguments.records).await?;
    let per_record = cpu.elapsed().as_secs_f64() * 1e6 / arguments.records as f64;
    Ok(Figures { start, held: now.saturating_sub(before), buffers, idle, per_record })
}

async fn one_to_each(producer: &Producer, partitions: impl Iterator<Item = (String, i32)>) -> Outcome {
    let mut deliveries = Vec::new();
    for (topic, partition) in partitions {
        deliveries.push(producer.send(Record::to(&topic).partition(partition).value("0")).await?);
    }
    for delivery in deliveries {
        delivery.await?;
    }
    Ok(())
}

/// So many records to the busy partition, all acknowledged.
async fn burst(producer: &Producer, records: usize) -> Outcome {
    let (key, value) = ([b'k'; 16], [b'v'; 100]);
    let record = Record::to("t0").partition(0).key(&key).value(&value);
    let mut deliveries: VecDeque<Delivery> = VecDeque::with_capacity(WINDOW);
    for _ in 0..records {
        if deliveries.len() == WINDOW {
            for delivery in deliveries.drain(..WINDOW / 2) {
                delivery.await?;
            }
        }
        deliveries.push_back(producer.send(record).await?);
    }
    for delivery in deliveries {
        delivery.await?;
    }
    Ok(())
}

async fn consume(arguments: &Arguments) -> Outcome<Figures> {
    let client = client(arguments).await?;
    let before = held();
    let started = Instant::now();
    let consumer = Consumer::builder(&client).build()?;
    consumer.assign(arguments.all().map(|(topic, partition)| (topic, partition, Start::Beginning)))?;
    let (mut seen, mut busy, mut start) = (0, 0, None);
    // The first record of each, and of the busy one all others.
    let written = arguments.records + arguments.records / 5;
    while seen < arguments.partitions || busy < written {
        let set = records(&consumer).await?;
        let first = set.iter().next().is_some_and(|record| record.offset == 0);
        seen += usize::from(first);
        if is_busy(&set) {
            busy += set.len() - usize::from(first);
        }
        if seen == arguments.partitions && start.is_none() {
            start = Some(started.elapsed());
        }
    }
    let idle = arguments.idle().await;
    let held = held().saturating_sub(before);
    consumer.seek(&TopicPartition::new("t0", 0), Start::Beginning)?;
    let (cpu, mut again) = (ProcessTime::now(), 0);
    while again < written {
        let set = records(&consumer).await?;
        again += if is_busy(&set) { set.iter().map(black_box).count() } else { 0 };
    }
    let per_record = cpu.elapsed().as_secs_f64() * 1e6 / again as f64;
    let start = start.ok_or("not every partition was read")?;
    Ok(Figures { start, held, buffers: 0, idle, per_record })
}

fn is_busy(set: &RecordSet) -> bool {
    set.topic() == "t0" && set.partition() == 0
}

async fn records(consumer: &Consumer) -> Outcome<RecordSet> {
    loop {
        if let ConsumerEvent::Records(set) = tokio::time::timeout(PATIENCE, consumer.next()).await?? {
            return Ok(set);
        }
    }
}
