//! What a record costs this process: `produce_bench <bootstrap> <topic> [records] [tasks] [value bytes] [codec] [spread|keys|own-keys]`.
//!
//! Every acknowledgement is awaited. CPU is user and system time of this process alone, from `/proc/self/stat`, so run
//! the broker in another. The topic must exist; records go to partition 0, or to the task's own with `spread`; with `keys`
//! to partition 0 with the order of keys, each task going through the same 1,024 of them from another place; with
//! `own-keys` likewise, 256 of its own.

use std::time::{Duration, Instant};

use milena_client::Client;
use milena_client::producer::{Compression, Ordering, Producer, Record};

const WARM_UP: usize = 200_000;
const WINDOW: usize = 50_000;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let bootstrap = args.next().ok_or("give a bootstrap server")?;
    let topic = args.next().ok_or("give a topic")?;
    let records: usize = args.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let tasks: usize = args.next().map_or(Ok(1), |text| text.parse())?;
    let bytes: usize = args.next().map_or(Ok(100), |text| text.parse())?;
    let compression = match args.next().as_deref() {
        None | Some("none") => Compression::None,
        Some("lz4") => Compression::Lz4,
        Some("zstd") => Compression::Zstd(None),
        Some("auto") => Compression::Auto,
        Some(other) => return Err(format!("no codec is called {other}").into()),
    };
    let way = args.next().unwrap_or_default();
    let ordering = if way.ends_with("keys") { Ordering::Key } else { Ordering::Partition };

    let client = Client::builder().bootstrap(bootstrap)?.build().await?;
    let producer = Producer::builder(&client).compression(compression).batch_size(1_000_000);
    let producer = producer.ordering(ordering).build()?;
    run(&producer, &topic, WARM_UP.min(records), 1, bytes, &way).await?;
    let (cpu, start, before) = (cpu_time()?, Instant::now(), producer.metrics());
    run(&producer, &topic, records, tasks, bytes, &way).await?;
    let (cpu, wall, after) = (cpu_time()? - cpu, start.elapsed(), producer.metrics());
    let report = producer.close(Duration::from_secs(10)).await;

    println!(
        "{records} records of {bytes} B, {tasks} tasks: {:.0} ns CPU per record, {:.0} records/s, {} requests, {} records acknowledged, clean {}, {} spreads",
        cpu.as_secs_f64() * 1e9 / records as f64,
        records as f64 / wall.as_secs_f64(),
        after.requests - before.requests,
        after.records_acknowledged - before.records_acknowledged,
        report.clean,
        after.spreads,
    );
    Ok(())
}

async fn run(
    producer: &Producer,
    topic: &str,
    records: usize,
    tasks: usize,
    bytes: usize,
    way: &str,
) -> Result<(), Failure> {
    let tasks: Vec<_> = (0..tasks)
        .map(|task| {
            let (producer, topic) = (producer.clone(), topic.to_owned());
            let partition = if way == "spread" { task as i32 } else { 0 };
            let keys: Vec<_> = match way {
                "keys" => (0..1_024).map(|key| format!("key {:012}", (key + task * 256) % 1_024)).collect(),
                "own-keys" => (0..256).map(|key| format!("key {:012}", key + task * 256)).collect(),
                _ => vec!["a key of 16 byte".to_owned()],
            };
            tokio::spawn(async move {
                let value = vec![b'v'; bytes];
                let record = Record::to(&topic).partition(partition).value(&value);
                let mut deliveries = std::collections::VecDeque::with_capacity(WINDOW);
                for (_, key) in (0..records / tasks).zip(keys.iter().cycle()) {
                    if deliveries.len() == WINDOW {
                        // The oldest half: nearly all of it is answered by the time the first is.
                        for delivery in deliveries.drain(..WINDOW / 2) {
                            let delivery: milena_client::producer::Delivery = delivery;
                            delivery.await?;
                        }
                    }
                    deliveries.push_back(producer.send(record.key(key)).await?);
                }
                for delivery in deliveries {
                    delivery.await?;
                }
                Ok::<_, Failure>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(())
}

/// User and system time of this process.
fn cpu_time() -> Result<Duration, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit(')').next().ok_or("no process name")?;
    let fields: Vec<_> = after_name.split_whitespace().collect();
    // Fields 14 and 15 of proc(5), in ticks of 10 ms; the first two are cut off above.
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}
