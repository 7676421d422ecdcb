//! So many records out and back, with every codec: each acknowledgement awaited, each record compared exactly.
//!
//! `roundtrip --bootstrap HOST:PORT --records 1000000`; `cargo xtask roundtrip` brings a real Kafka of one node.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use milena_admin::{Admin, NewTopic};
use milena_client::Client;
use milena_client::consumer::{Consumer, ConsumerEvent, Start};
use milena_client::producer::{Compression, Delivery, Producer, Record, RecordHeader};
use milena_tests::kafka::Outcome;

const PARTITIONS: i32 = 3;
const VALUE_BYTES: usize = 100;
const WINDOW: usize = 20_000;
const PATIENCE: Duration = Duration::from_secs(60);

const CODECS: [(&str, Compression); 5] = [
    ("none", Compression::None),
    ("gzip", Compression::Gzip(None)),
    ("snappy", Compression::Snappy),
    ("lz4", Compression::Lz4),
    ("zstd", Compression::Zstd(None)),
];

fn main() -> ExitCode {
    let outcome = arguments().and_then(|(bootstrap, records)| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(run(&bootstrap, records))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("roundtrip: {error}");
            ExitCode::from(1)
        }
    }
}

fn arguments() -> Outcome<(String, u64)> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    match given.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--bootstrap", bootstrap, "--records", records] => Ok(((*bootstrap).to_owned(), records.parse()?)),
        _ => Err("usage: roundtrip --bootstrap HOST:PORT --records N".into()),
    }
}

async fn run(bootstrap: &str, records: u64) -> Outcome {
    let client = Client::builder().bootstrap(bootstrap)?.client_id("roundtrip").build().await?;
    let admin = Admin::new(&client);
    for (name, codec) in CODECS {
        let topic = format!("roundtrip-{name}-{}", std::process::id());
        // The timestamps are years old: by default the broker would delete the records while they are compared.
        let new = NewTopic::new(&topic).partitions(PARTITIONS).config("retention.ms", "-1");
        admin.create_topic(new).await?;
        let started = Instant::now();
        let placed = produce(&client, &topic, codec, records).await?;
        let produced = started.elapsed();
        let started = Instant::now();
        compare(&client, &topic, &placed).await?;
        let consumed = started.elapsed();
        println!(
            "{name:>6}: {records} acknowledged in {:.1} s, {records} read back and equal in {:.1} s",
            produced.as_secs_f64(),
            consumed.as_secs_f64()
        );
        admin.delete_topic(&topic).await?;
    }
    let _ = client.close(Duration::from_secs(5)).await;
    Ok(())
}

/// The record of an index: key, value and, now and then, a header and no key. Text of low entropy beside numbers, so
/// that every codec has something to do.
fn value(index: u64, buffer: &mut Vec<u8>) {
    use std::io::Write as _;
    buffer.clear();
    let mixed = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // Writing to a vector can't fail.
    let _ =
        write!(buffer, "{index}:{mixed:016x}:departure of flight {} is delayed by {} minutes", index % 977, index % 61);
    buffer.resize(VALUE_BYTES, b'.');
}

fn key(index: u64) -> Option<[u8; 8]> {
    (index % 10 != 3).then(|| (index % 10_007).to_be_bytes())
}

fn has_header(index: u64) -> bool {
    index.is_multiple_of(7)
}

/// Sends all; for each partition the indices of its records in the order of their offsets.
async fn produce(client: &Client, topic: &str, codec: Compression, records: u64) -> Outcome<Vec<Vec<u64>>> {
    let producer = Producer::builder(client).compression(codec).build()?;
    let mut waiting: VecDeque<(u64, Delivery)> = VecDeque::with_capacity(WINDOW);
    let mut placed: Vec<Vec<(i64, u64)>> = vec![Vec::new(); usize::try_from(PARTITIONS)?];
    let mut buffer = Vec::with_capacity(VALUE_BYTES);
    for index in 0..records {
        if waiting.len() == WINDOW {
            settle(&mut waiting, &mut placed).await?;
        }
        value(index, &mut buffer);
        let key = key(index);
        let headers = [RecordHeader { key: "index", value: Some(b"seven") }];
        let record = Record {
            topic,
            partition: None,
            key: key.as_ref().map(<[u8; 8]>::as_slice),
            value: Some(&buffer),
            headers: if has_header(index) { &headers } else { &[] },
            timestamp: Some(1_700_000_000_000 + i64::try_from(index)?),
        };
        waiting.push_back((index, producer.send(record).await?));
    }
    while !waiting.is_empty() {
        settle(&mut waiting, &mut placed).await?;
    }
    let report = producer.close(PATIENCE).await;
    if report.possibly_written != 0 {
        return Err(format!("the producer did not close cleanly: {report:?}").into());
    }
    let mut ordered = Vec::new();
    for (partition, mut records) in placed.into_iter().enumerate() {
        records.sort_unstable();
        let dense = (0_i64..).zip(&records).all(|(expected, (offset, _))| *offset == expected);
        if !dense {
            return Err(format!("partition {partition}: the acknowledged offsets are not 0, 1, 2 …").into());
        }
        ordered.push(records.into_iter().map(|(_, index)| index).collect());
    }
    Ok(ordered)
}

async fn settle(waiting: &mut VecDeque<(u64, Delivery)>, placed: &mut [Vec<(i64, u64)>]) -> Outcome {
    let Some((index, delivery)) = waiting.pop_front() else { return Ok(()) };
    let written = delivery.await?;
    let offset = written.offset().ok_or("an acknowledgement without an offset")?;
    placed[usize::try_from(written.partition())?].push((offset, index));
    Ok(())
}

/// Reads all partitions to their ends and compares every field of every record.
async fn compare(client: &Client, topic: &str, placed: &[Vec<u64>]) -> Outcome {
    let consumer = Consumer::builder(client).build()?;
    consumer.assign((0..PARTITIONS).map(|partition| (topic, partition, Start::Beginning)))?;
    let total: usize = placed.iter().map(Vec::len).sum();
    let mut expected = Vec::with_capacity(VALUE_BYTES);
    let mut seen = 0;
    while seen < total {
        let event = tokio::time::timeout(PATIENCE, consumer.next()).await.map_err(|_| "no records for a minute")??;
        let ConsumerEvent::Records(set) = event else { continue };
        let partition = &placed[usize::try_from(set.partition())?];
        for record in set.iter() {
            let at = usize::try_from(record.offset)?;
            let index = *partition.get(at).ok_or_else(|| format!("nobody wrote offset {at}"))?;
            value(index, &mut expected);
            let header = record.headers.iter().map(|header| (header.key, header.value)).collect::<Vec<_>>();
            let wanted = if has_header(index) { vec![(&b"index"[..], Some(&b"seven"[..]))] } else { Vec::new() };
            let equal = record.key == key(index).as_ref().map(<[u8; 8]>::as_slice)
                && record.value == Some(&expected)
                && record.timestamp == 1_700_000_000_000 + i64::try_from(index)?
                && header == wanted;
            if !equal {
                return Err(format!("record {index} at {}-{at} came back changed: {record:?}", set.partition()).into());
            }
            seen += 1;
        }
    }
    consumer.close(Duration::from_secs(10)).await?;
    Ok(())
}
