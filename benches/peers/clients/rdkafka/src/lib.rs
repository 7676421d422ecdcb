//! librdkafka under load, by rdkafka's cheapest interfaces: the producer whose deliveries are a callback, and the consumer
//! that is polled. Why each setting is as it is: the README of this workspace.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use load::{Arguments, Codec, Counter, Failure, Measured, Meter, Mode, Payloads, SAMPLE_EVERY};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, Offset, TopicPartitionList};

/// As the shared main runs it.
pub const CLIENT: load::Client = load::Client { name: "librdkafka", produce, consume };

/// How long a sender waits for room. At a million records a second the window is worth some tens of milliseconds, so
/// that looking once in one costs nothing and starves nobody.
const PAUSE: Duration = Duration::from_millis(1);
/// How long a consumer waits for a record before the run is void.
const PATIENCE: Duration = Duration::from_secs(30);

/// What deliveries tell. A record's opaque number is 0, or the place of its sample, from 1.
struct Deliveries {
    acknowledged: AtomicUsize,
    failed: AtomicUsize,
    start: Instant,
    /// Nanoseconds since `start`: when each sampled record was acknowledged.
    samples: Vec<AtomicUsize>,
    /// Who waits for a single delivery.
    waiting: SyncSender<()>,
}

#[derive(Clone)]
struct Context(Arc<Deliveries>);

impl ClientContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, sample: usize) {
        if let Some(place) = sample.checked_sub(1) {
            self.0.samples[place].store(self.0.start.elapsed().as_nanos() as usize, Ordering::Relaxed);
        }
        let count = if result.is_ok() { &self.0.acknowledged } else { &self.0.failed };
        count.fetch_add(1, Ordering::Release);
        // Nobody waits, where many are on their way.
        let _ = self.0.waiting.try_send(());
    }
}

fn produce(arguments: &Arguments, counter: Option<&'static Counter>) -> Result<Measured, Failure> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &arguments.bootstrap)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", arguments.linger().as_millis().to_string())
        .set("batch.size", arguments.batch_bytes.to_string())
        .set("compression.type", arguments.compression.name())
        .set("queue.buffering.max.messages", "1000000");
    if arguments.compression == Codec::Zstd {
        config.set("compression.level", "3");
    }
    let samples = (arguments.records.max(arguments.warm_up) / SAMPLE_EVERY + 1) * (arguments.tasks + 1);
    let (waiting, delivered) = sync_channel(1);
    let deliveries = Arc::new(Deliveries {
        waiting,
        acknowledged: AtomicUsize::new(0),
        failed: AtomicUsize::new(0),
        start: Instant::now(),
        samples: (0..samples).map(|_| AtomicUsize::new(0)).collect(),
    });
    let producer: ThreadedProducer<Context> = config.create_with_context(Context(Arc::clone(&deliveries)))?;
    let payloads = Payloads::write(arguments.size);
    if arguments.mode == Mode::Latency {
        one_at_a_time(arguments, &producer, &delivered, payloads, arguments.warm_up)?;
        let meter = Meter::start(counter);
        let latencies = one_at_a_time(arguments, &producer, &delivered, payloads, arguments.records)?;
        if deliveries.failed.load(Ordering::Acquire) > 0 {
            return Err("a delivery failed".into());
        }
        return Ok(meter.acknowledged(latencies.len(), latencies));
    }
    run(arguments, &producer, &deliveries, payloads, arguments.warm_up)?;
    let meter = Meter::start(counter);
    let (records, latencies) = run(arguments, &producer, &deliveries, payloads, arguments.records)?;
    let measured = meter.acknowledged(records, latencies);
    producer.flush(Duration::from_secs(10))?;
    Ok(measured)
}

/// Every record's latency.
fn one_at_a_time(
    arguments: &Arguments,
    producer: &ThreadedProducer<Context>,
    delivered: &Receiver<()>,
    payloads: Payloads,
    records: usize,
) -> Result<Vec<Duration>, Failure> {
    let mut latencies = Vec::with_capacity(records);
    for payload in payloads.from_task(0).take(records) {
        let start = Instant::now();
        let message = BaseRecord::with_opaque_to(&arguments.topic, 0).partition(0);
        producer.send(message.key(payload.key).payload(payload.value)).map_err(|(error, _)| error)?;
        delivered.recv_timeout(PATIENCE)?;
        latencies.push(start.elapsed());
    }
    Ok(latencies)
}

/// Sends from so many threads, and returns when all is acknowledged.
fn run(
    arguments: &Arguments,
    producer: &ThreadedProducer<Context>,
    deliveries: &Deliveries,
    payloads: Payloads,
    records: usize,
) -> Result<(usize, Vec<Duration>), Failure> {
    let before = deliveries.acknowledged.load(Ordering::Acquire);
    let sent = AtomicUsize::new(before);
    let sent_at = thread::scope(|scope| {
        let senders: Vec<_> = (0..arguments.tasks)
            .map(|number| {
                let sent = &sent;
                scope.spawn(move || send(arguments, producer, deliveries, payloads, sent, number, records))
            })
            .collect();
        let mut sent_at = Vec::new();
        for sender in senders {
            sent_at.append(&mut sender.join().map_err(|_| "a sender panicked")??);
        }
        Ok::<_, Failure>(sent_at)
    })?;
    while deliveries.acknowledged.load(Ordering::Acquire) < before + records {
        if deliveries.failed.load(Ordering::Acquire) > 0 {
            return Err("a delivery failed".into());
        }
        thread::sleep(PAUSE);
    }
    let acknowledged_at = |place: usize| Duration::from_nanos(deliveries.samples[place].load(Ordering::Relaxed) as u64);
    let latencies = sent_at.into_iter().map(|(place, at)| acknowledged_at(place).saturating_sub(at)).collect();
    Ok((deliveries.acknowledged.load(Ordering::Acquire) - before, latencies))
}

/// One thread's share; when each sampled record was sent, by its place.
fn send(
    arguments: &Arguments,
    producer: &ThreadedProducer<Context>,
    deliveries: &Deliveries,
    payloads: Payloads,
    sent: &AtomicUsize,
    number: usize,
    records: usize,
) -> Result<Vec<(usize, Duration)>, Failure> {
    let window = arguments.window();
    let first_sample = number * (records / SAMPLE_EVERY + 1);
    let mut sent_at = Vec::new();
    let places = arguments.partitions_from(number).zip(payloads.from_task(number));
    for (record, (partition, payload)) in (0..arguments.share(records, number)).zip(places) {
        if record % 64 == 0 {
            sent.fetch_add(64, Ordering::Relaxed);
            while sent.load(Ordering::Relaxed).saturating_sub(deliveries.acknowledged.load(Ordering::Acquire)) > window
            {
                if deliveries.failed.load(Ordering::Acquire) > 0 {
                    return Err("a delivery failed".into());
                }
                thread::sleep(PAUSE);
            }
        }
        let mut sample = 0;
        if record % SAMPLE_EVERY == 0 {
            let place = first_sample + sent_at.len();
            sent_at.push((place, deliveries.start.elapsed()));
            sample = place + 1;
        }
        let mut message = BaseRecord::with_opaque_to(&arguments.topic, sample)
            .partition(partition)
            .key(payload.key)
            .payload(payload.value);
        while let Err((error, refused)) = producer.send(message) {
            if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                return Err(error.into());
            }
            message = refused;
            thread::sleep(PAUSE);
        }
    }
    Ok(sent_at)
}

fn consume(arguments: &Arguments, counter: Option<&'static Counter>) -> Result<Measured, Failure> {
    read(arguments, arguments.warm_up.min(arguments.records), None)?;
    let meter = Meter::start(counter);
    read(arguments, arguments.records, Some(meter))?.ok_or_else(|| "nothing was measured".into())
}

/// Reads so many records with a consumer of its own.
fn read(arguments: &Arguments, records: usize, meter: Option<Meter>) -> Result<Option<Measured>, Failure> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &arguments.bootstrap)
        .set("group.id", "peers")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("check.crcs", "true")
        .set("fetch.queue.backoff.ms", "5")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(&arguments.topic, 0, Offset::Beginning)?;
    consumer.assign(&assignment)?;
    let (mut received, mut bytes) = (0, 0);
    while received < records {
        let message = consumer.poll(PATIENCE).ok_or("no record came for 30 s")??;
        bytes += (message.key_len() + message.payload_len()) as u64;
        black_box((message.key(), message.payload()));
        received += 1;
    }
    Ok(meter.map(|meter| meter.received(received, bytes)))
}
