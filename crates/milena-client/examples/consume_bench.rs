//! What a record read costs this process: `consume_bench <bootstrap> <topic> [records] [borrowed|shared|owned]`.
//!
//! Reads partition 0 from its beginning, CRCs checked, read_committed. CPU is user and system time of this process
//! alone, from `/proc/self/stat`, so run the broker in another. The partition must hold that many records.

use std::hint::black_box;
use std::time::{Duration, Instant};

use milena_client::Client;
use milena_client::consumer::{Consumer, ConsumerEvent, Start};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let bootstrap = args.next().ok_or("give a bootstrap server")?;
    let topic = args.next().ok_or("give a topic")?;
    let records: usize = args.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let kind = args.next().unwrap_or_else(|| "borrowed".to_owned());

    let client = Client::builder().bootstrap(bootstrap)?.build().await?;
    read(&client, &topic, records.min(200_000), &kind).await?;
    let (cpu, start) = (cpu_time()?, Instant::now());
    let sets = read(&client, &topic, records, &kind).await?;
    let (cpu, wall) = (cpu_time()? - cpu, start.elapsed());
    println!(
        "{records} records {kind}, 1 tasks: {:.0} ns CPU per record, {:.0} records/s, {sets} sets",
        cpu.as_secs_f64() * 1e9 / records as f64,
        records as f64 / wall.as_secs_f64(),
    );
    Ok(())
}

async fn read(client: &Client, topic: &str, records: usize, kind: &str) -> Result<usize, Failure> {
    let consumer = Consumer::builder(client).build()?;
    consumer.assign([(topic, 0, Start::Beginning)])?;
    let (mut received, mut sets) = (0, 0);
    while received < records {
        let ConsumerEvent::Records(set) = consumer.next().await? else { continue };
        sets += 1;
        let shown = set.iter().take(records - received);
        received += set.len().min(records - received);
        match kind {
            "owned" => shown.for_each(|record| _ = black_box(record.to_owned())),
            "shared" => shown.for_each(|record| _ = black_box(record.to_shared())),
            _ => shown.for_each(|record| _ = black_box(&record)),
        }
    }
    consumer.close(Duration::from_secs(10)).await?;
    Ok(sets)
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
