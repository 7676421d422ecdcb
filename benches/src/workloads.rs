//! Pieces of work whose cost per record is wanted: what criterion times, and what `cargo xtask instructions` counts.
//!
//! Each is prepared apart from its work, and does as many records of work as it is told. All run on one thread, under a
//! paused clock where they need one, so that the same work is the same instructions.

use std::collections::VecDeque;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use milena_client::consumer::{Consumer, ConsumerEvent, Start};
use milena_client::producer::{Delivery, Producer, Record};
use milena_client::{Client, TimeSource};
use milena_core::producer::partitioner::murmur2;
use milena_protocol::compress::Compression;
use milena_protocol::record::{BatchEncoder, RecordBatch};
use tokio::runtime::Runtime;

use crate::answer_at_once::{Broker, Claims, record};
use crate::link::Link;

/// Does work on so many records.
pub type Work = Box<dyn FnMut(usize)>;

/// One piece of work.
pub struct Workload {
    /// As it is asked for.
    pub name: &'static str,
    /// Whether all of it is our own code, or that of crates that any compiler of Rust makes the same of.
    pub is_ours: bool,
    /// A natural amount of it; three times as much can be asked for too.
    pub records: usize,
    /// Readies it: nothing of this is part of the work.
    pub prepare: fn() -> Work,
}

const fn ours(name: &'static str, records: usize, prepare: fn() -> Work) -> Workload {
    Workload { name, is_ours: true, records, prepare }
}

const fn of_others(name: &'static str, records: usize, prepare: fn() -> Work) -> Workload {
    Workload { name, is_ours: false, records, prepare }
}

/// All of them. Records have keys of 16 bytes, and values of 100 where the name does not say 1 KB.
pub const WORKLOADS: [Workload; 24] = [
    // A record into a buffer, in the wire's format.
    ours("encode", 20_000, || encode(100)),
    ours("encode-1k", 5_000, || encode(1024)),
    // The same, and the batch closed: its CRC, or its compression too.
    ours("seal", 20_000, || seal(Compression::None, None)),
    ours("seal-snappy", 20_000, || seal(Compression::Snappy, None)),
    ours("seal-lz4", 20_000, || seal(Compression::Lz4, None)),
    of_others("seal-gzip", 20_000, || seal(Compression::Gzip, None)),
    of_others("seal-zstd-1", 20_000, || seal(Compression::Zstd, Some(1))),
    of_others("seal-zstd-3", 20_000, || seal(Compression::Zstd, Some(3))),
    // A batch's CRC, its records as slices of it, or with bytes of their own.
    ours("crc", 20_000, || decode(100, Compression::None, Decoding::Checked)),
    ours("decode-borrowed", 20_000, || decode(100, Compression::None, Decoding::Borrowed)),
    ours("decode-borrowed-1k", 5_000, || decode(1024, Compression::None, Decoding::Borrowed)),
    ours("decode-owned", 20_000, || decode(100, Compression::None, Decoding::Owned)),
    ours("decode-snappy", 20_000, || decode(100, Compression::Snappy, Decoding::Borrowed)),
    ours("decode-lz4", 20_000, || decode(100, Compression::Lz4, Decoding::Borrowed)),
    of_others("decode-gzip", 20_000, || decode(100, Compression::Gzip, Decoding::Borrowed)),
    of_others("decode-zstd", 20_000, || decode(100, Compression::Zstd, Decoding::Borrowed)),
    ours("murmur2", 20_000, hash),
    // `Producer::try_send` into a batch that is open and stays so.
    ours("append", 2_000, append),
    // From `Producer::send` to the acknowledgement awaited, on a link in the process; what the broker does per batch counts.
    ours("produce", 50_000, || produce(100, 1)),
    ours("produce-16-partitions", 50_000, || produce(100, 16)),
    ours("produce-1k", 10_000, || produce(1024, 1)),
    // From `Consumer::next`, likewise; the broker copies its log.
    ours("consume-borrowed", 100_000, || consume(100, false)),
    ours("consume-owned", 100_000, || consume(100, true)),
    ours("consume-borrowed-1k", 20_000, || consume(1024, false)),
];

/// Bytes of a batch where nothing else bounds it: what a producer without much to do makes of them.
const BATCH_BYTES: usize = 16 * 1024;
const TIMESTAMP: i64 = 1_700_000_000_000;

/// Distinct records, in a circle.
struct Payloads {
    records: Vec<(Vec<u8>, Vec<u8>)>,
    next: usize,
}

impl Payloads {
    fn of(value_bytes: usize) -> Self {
        let mut seed = 0x9e37_79b9_7f4a_7c15;
        let records = 1024 * 1024 / value_bytes;
        Self { records: (0..records).map(|_| record(&mut seed, value_bytes)).collect(), next: 0 }
    }

    fn next(&mut self) -> (&[u8], &[u8]) {
        self.next = if self.next + 1 == self.records.len() { 0 } else { self.next + 1 };
        let (key, value) = &self.records[self.next];
        (key, value)
    }
}

fn encode(value_bytes: usize) -> Work {
    let mut payloads = Payloads::of(value_bytes);
    let mut buffer = Vec::with_capacity(2 * BATCH_BYTES);
    Box::new(move |records| {
        let mut batch = BatchEncoder::new(std::mem::take(&mut buffer), TIMESTAMP);
        for _ in 0..records {
            let (key, value) = payloads.next();
            batch.append(TIMESTAMP, Some(key), Some(value), &[]).expect("a record of usual size");
            if batch.len() >= BATCH_BYTES {
                black_box(batch.records());
                let mut full = std::mem::replace(&mut batch, BatchEncoder::new(Vec::new(), TIMESTAMP)).into_buffer();
                full.clear();
                batch = BatchEncoder::new(full, TIMESTAMP);
            }
        }
        buffer = batch.into_buffer();
        buffer.clear();
    })
}

fn seal(codec: Compression, level: Option<i32>) -> Work {
    let mut payloads = Payloads::of(100);
    // One to encode into and one to compress into.
    let (mut buffer, mut output) = (Vec::with_capacity(2 * BATCH_BYTES), Vec::with_capacity(2 * BATCH_BYTES));
    Box::new(move |records| {
        let mut left = records;
        while left > 0 {
            let mut batch = BatchEncoder::new(std::mem::take(&mut buffer), TIMESTAMP);
            while left > 0 && batch.len() < BATCH_BYTES {
                let (key, value) = payloads.next();
                batch.append(TIMESTAMP, Some(key), Some(value), &[]).expect("a record of usual size");
                left -= 1;
            }
            let (sealed, free) = batch.seal_into(codec, level, std::mem::take(&mut output)).expect("in this build");
            black_box(sealed.header_bytes());
            (buffer, output) = (free, sealed.into_buffer().unwrap_or_default());
            if buffer.capacity() == 0 {
                std::mem::swap(&mut buffer, &mut output);
            }
            buffer.clear();
            output.clear();
        }
    })
}

#[derive(Clone, Copy)]
enum Decoding {
    Checked,
    Borrowed,
    Owned,
}

fn decode(value_bytes: usize, codec: Compression, decoding: Decoding) -> Work {
    let mut payloads = Payloads::of(value_bytes);
    let batches: Vec<Bytes> = (0..64)
        .map(|_| {
            let mut batch = BatchEncoder::new(Vec::new(), TIMESTAMP);
            while batch.len() < BATCH_BYTES {
                let (key, value) = payloads.next();
                batch.append(TIMESTAMP, Some(key), Some(value), &[]).expect("a record of usual size");
            }
            batch.seal(codec, None).expect("in this build").to_bytes()
        })
        .collect();
    let mut next = batches.into_iter().cycle();
    Box::new(move |records| {
        let mut decoded = 0;
        while decoded < records {
            let batch = RecordBatch::parse(next.next().expect("a circle")).expect("a whole batch");
            batch.verify_crc().expect("its CRC");
            if matches!(decoding, Decoding::Checked) {
                decoded += batch.record_count().unsigned_abs() as usize;
                continue;
            }
            let all = batch.records(1 << 26).expect("its records");
            for record in all.iter() {
                let record = record.expect("a record");
                match decoding {
                    Decoding::Owned => {
                        let own = |part: Option<&[u8]>| part.map(Bytes::copy_from_slice);
                        black_box((own(record.key), own(record.value)));
                    }
                    _ => _ = black_box(record),
                }
                decoded += 1;
            }
        }
    })
}

fn hash() -> Work {
    let mut payloads = Payloads::of(100);
    Box::new(move |records| {
        for _ in 0..records {
            black_box(murmur2(payloads.next().0));
        }
    })
}

/// A client on a link to a broker that answers at once, on one thread under a paused clock.
fn client(claims: Claims) -> (Runtime, Client) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.expect("a runtime of one thread");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 9092));
    let broker = Broker::new(address, claims);
    let client = runtime.block_on(async {
        let clock = TimeSource::virtual_from(UNIX_EPOCH + Duration::from_millis(TIMESTAMP.unsigned_abs()));
        let builder = Client::builder().bootstrap(address.to_string()).expect("an address");
        builder.connector(Arc::new(Link(broker))).clock(clock).seed(7).prefetch(8 * 1024 * 1024).build().await
    });
    (runtime, client.expect("the broker answers"))
}

fn claims(value_bytes: usize) -> Claims {
    Claims { partitions: 16, records: 1 << 40, value_bytes, batch_bytes: BATCH_BYTES, codec: Compression::None }
}

fn producer(runtime: &Runtime, client: &Client) -> Producer {
    let _inside = runtime.enter();
    Producer::builder(client).batch_size(1_000_000).build().expect("settings that agree")
}

fn append() -> Work {
    let (runtime, client) = client(claims(100));
    let producer = producer(&runtime, &client);
    let mut payloads = Payloads::of(100);
    // Buffers get their size.
    for _ in 0..4 {
        runtime.block_on(send(&producer, &mut payloads, 1, 8_000));
    }
    let mut deliveries = Vec::with_capacity(8_000);
    Box::new(move |records| {
        let _inside = runtime.enter();
        for _ in 0..records {
            let (key, value) = payloads.next();
            let record = Record::to("t").partition(0).key(key).value(value);
            deliveries.push(producer.try_send(record).expect("the buffer has room"));
        }
    })
}

fn produce(value_bytes: usize, partitions: usize) -> Work {
    let (runtime, client) = client(claims(value_bytes));
    let producer = producer(&runtime, &client);
    let mut payloads = Payloads::of(value_bytes);
    runtime.block_on(send(&producer, &mut payloads, partitions, 20_000));
    Box::new(move |records| runtime.block_on(send(&producer, &mut payloads, partitions, records)))
}

/// Sends, and awaits the older half of what is outstanding when it is two batches or so.
async fn send(producer: &Producer, payloads: &mut Payloads, partitions: usize, records: usize) {
    let window = 16_000;
    let mut deliveries: VecDeque<Delivery> = VecDeque::with_capacity(window);
    for (_, partition) in (0..records).zip((0..partitions as i32).cycle()) {
        if deliveries.len() == window {
            for delivery in deliveries.drain(..window / 2) {
                delivery.await.expect("it is acknowledged");
            }
        }
        let (key, value) = payloads.next();
        let record = Record::to("t").partition(partition).key(key).value(value);
        deliveries.push_back(producer.send(record).await.expect("it is appended"));
    }
    for delivery in deliveries {
        delivery.await.expect("it is acknowledged");
    }
}

fn consume(value_bytes: usize, owned: bool) -> Work {
    let (runtime, client) = client(claims(value_bytes));
    let consumer = {
        let _inside = runtime.enter();
        Consumer::builder(&client).build().expect("settings that agree")
    };
    consumer.assign([("t", 0, Start::Beginning)]).expect("a partition");
    runtime.block_on(read(&consumer, owned, 10_000));
    Box::new(move |records| runtime.block_on(read(&consumer, owned, records)))
}

async fn read(consumer: &Consumer, owned: bool, records: usize) {
    let mut received = 0;
    while received < records {
        let ConsumerEvent::Records(set) = consumer.next().await.expect("records") else { continue };
        received += set.len();
        for record in &set {
            if owned {
                black_box(record.to_owned());
            } else {
                black_box(record);
            }
        }
    }
}
