//! rskafka under load, with batches made by the caller: its other interface, which makes them itself, costs more than
//! twice as much. It has no idempotence. Why each setting is as it is: the README of this workspace.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use load::{Arguments, Codec, Counter, Failure, Measured, Meter, Mode, Payloads, SAMPLE_EVERY};
use rskafka::client::ClientBuilder;
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::record::Record;
use tokio::task::JoinSet;

/// As the shared main runs it.
pub const CLIENT: load::Client = load::Client { name: "rskafka", produce, consume };

/// What a record takes of a batch beside its key and value.
const RECORD_OVERHEAD: usize = 8;
/// Beside a key.
const KEY_BYTES: usize = 16;
/// Most of one fetch: what the other clients ask of a partition by default.
const FETCH_BYTES: i32 = 1 << 20;

/// A batch as it is filled.
#[derive(Default)]
struct Open {
    records: Vec<Record>,
    sampled: Vec<Instant>,
}

type Acknowledged = Result<(usize, Vec<Duration>), Failure>;

async fn partitions(arguments: &Arguments) -> Result<Vec<Arc<PartitionClient>>, Failure> {
    let client = ClientBuilder::new(vec![arguments.bootstrap.clone()]).build().await?;
    let mut partitions = Vec::new();
    for partition in 0..arguments.partitions {
        let topic = arguments.topic.as_str();
        let client = client.partition_client(topic, partition as i32, UnknownTopicHandling::Retry).await?;
        partitions.push(Arc::new(client));
    }
    Ok(partitions)
}

fn produce(arguments: &Arguments, counter: Option<&'static Counter>) -> Result<Measured, Failure> {
    load::block_on(arguments, async {
        let partitions = partitions(arguments).await?;
        let payloads = Payloads::write(arguments.size);
        if arguments.mode == Mode::Latency {
            one_at_a_time(&partitions[0], payloads, arguments.warm_up).await?;
            let meter = Meter::start(counter);
            let latencies = one_at_a_time(&partitions[0], payloads, arguments.records).await?;
            return Ok(meter.acknowledged(latencies.len(), latencies));
        }
        run(arguments, &partitions, payloads, arguments.warm_up).await?;
        let meter = Meter::start(counter);
        let (records, latencies) = run(arguments, &partitions, payloads, arguments.records).await?;
        Ok(meter.acknowledged(records, latencies))
    })
}

/// Every record's latency: a batch of one.
async fn one_at_a_time(
    partition: &PartitionClient,
    payloads: Payloads,
    records: usize,
) -> Result<Vec<Duration>, Failure> {
    let mut latencies = Vec::with_capacity(records);
    for payload in payloads.from_task(0).take(records) {
        let start = Instant::now();
        let (key, value) = (Some(payload.key.to_vec()), Some(payload.value.to_vec()));
        let record = Record { key, value, headers: BTreeMap::new(), timestamp: Utc::now() };
        partition.produce(vec![record], Compression::NoCompression).await?;
        latencies.push(start.elapsed());
    }
    Ok(latencies)
}

async fn run(
    arguments: &Arguments,
    partitions: &[Arc<PartitionClient>],
    payloads: Payloads,
    records: usize,
) -> Acknowledged {
    let mut tasks = JoinSet::new();
    for number in 0..arguments.tasks {
        let (arguments, partitions) = (arguments.clone(), partitions.to_vec());
        let share = arguments.share(records, number);
        tasks.spawn(async move { task(&arguments, &partitions, payloads, number, share).await });
    }
    let mut all = (0, Vec::new());
    while let Some(task) = tasks.join_next().await {
        add(&mut all, task??);
    }
    Ok(all)
}

fn add(all: &mut (usize, Vec<Duration>), mut more: (usize, Vec<Duration>)) {
    all.0 += more.0;
    all.1.append(&mut more.1);
}

async fn task(
    arguments: &Arguments,
    partitions: &[Arc<PartitionClient>],
    payloads: Payloads,
    number: usize,
    records: usize,
) -> Acknowledged {
    let codec = match arguments.compression {
        Codec::None => Compression::NoCompression,
        Codec::Lz4 => Compression::Lz4,
        Codec::Zstd => Compression::Zstd,
    };
    // The window holds the open batches and those in flight, at most five of a partition.
    let of_window = arguments.window() / (arguments.tasks * partitions.len() * 6);
    let full = (arguments.batch_bytes / (arguments.size + KEY_BYTES + RECORD_OVERHEAD)).min(of_window).max(1);
    let mut open: Vec<Open> = partitions.iter().map(|_| Open::default()).collect();
    let mut in_flight: JoinSet<Acknowledged> = JoinSet::new();
    let mut all = (0, Vec::new());
    let places = arguments.partitions_from(number).zip(payloads.from_task(number));
    for (record, (place, payload)) in (0..records).zip(places) {
        let place = place as usize;
        let batch = &mut open[place];
        if record % SAMPLE_EVERY == 0 {
            batch.sampled.push(Instant::now());
        }
        if batch.records.is_empty() {
            batch.records.reserve_exact(full);
        }
        // One clock read a batch.
        let timestamp = batch.records.first().map_or_else(Utc::now, |first| first.timestamp);
        batch.records.push(Record {
            key: Some(payload.key.to_vec()),
            value: Some(payload.value.to_vec()),
            headers: BTreeMap::new(),
            timestamp,
        });
        if batch.records.len() == full {
            while in_flight.len() >= 5 * partitions.len() {
                add(&mut all, in_flight.join_next().await.ok_or("nothing is in flight")???);
            }
            in_flight.spawn(send(Arc::clone(&partitions[place]), mem::take(batch), codec));
        }
    }
    for (batch, partition) in open.into_iter().zip(partitions) {
        in_flight.spawn(send(Arc::clone(partition), batch, codec));
    }
    while let Some(acknowledged) = in_flight.join_next().await {
        add(&mut all, acknowledged??);
    }
    Ok(all)
}

async fn send(partition: Arc<PartitionClient>, batch: Open, codec: Compression) -> Acknowledged {
    let offsets = partition.produce(batch.records, codec).await?;
    Ok((offsets.len(), batch.sampled.into_iter().map(|start| start.elapsed()).collect()))
}

fn consume(arguments: &Arguments, counter: Option<&'static Counter>) -> Result<Measured, Failure> {
    load::block_on(arguments, async {
        read(arguments, arguments.warm_up.min(arguments.records), None).await?;
        let meter = Meter::start(counter);
        read(arguments, arguments.records, Some(meter)).await?.ok_or_else(|| "nothing was measured".into())
    })
}

/// Reads so many records with a client of its own. One fetch at a time, and none ahead: it has no such thing.
async fn read(arguments: &Arguments, records: usize, meter: Option<Meter>) -> Result<Option<Measured>, Failure> {
    let partitions = partitions(arguments).await?;
    let (mut received, mut bytes, mut offset) = (0, 0, 0);
    while received < records {
        let (batch, _) = partitions[0].fetch_records(offset, 1..FETCH_BYTES, 500).await?;
        let last = batch.last().ok_or("a fetch brought nothing")?;
        offset = last.offset + 1;
        for record in batch.into_iter().take(records - received) {
            let length = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
            bytes += (length(&record.record.key) + length(&record.record.value)) as u64;
            black_box(record);
            received += 1;
        }
    }
    Ok(meter.map(|meter| meter.received(received, bytes)))
}
