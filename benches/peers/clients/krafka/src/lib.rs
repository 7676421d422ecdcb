//! krafka under load. Why each setting is as it is: the README of this workspace.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use krafka::producer::{Acks, DeliveryHandle, Producer};
use krafka::{Compression, Kafka, Record};
use load::{Arguments, Codec, Counter, Failure, Measured, Meter, Payload, Sender};

/// As the shared main runs it.
pub const CLIENT: load::Client = load::Client { name: "krafka", produce, consume };

/// How long a consumer waits for a record before the run is void.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone)]
struct Krafka {
    producer: Arc<Producer>,
    topic: Arc<str>,
}

impl Sender for Krafka {
    type Delivery = DeliveryHandle;

    async fn send(&self, partition: i32, payload: Payload) -> Result<DeliveryHandle, Failure> {
        let record = Record::new(&*self.topic, Bytes::from_static(payload.value))
            .key(Bytes::from_static(payload.key))
            .partition(partition);
        Ok(self.producer.enqueue(record).await?)
    }

    async fn settle(delivery: DeliveryHandle) -> Result<(), Failure> {
        delivery.await.map(drop)?;
        Ok(())
    }
}

fn produce(arguments: &Arguments, counter: Option<&'static Counter>) -> Result<Measured, Failure> {
    load::block_on(arguments, async {
        let kafka = Kafka::builder(arguments.bootstrap.as_str()).connect().await?;
        let (compression, level) = match arguments.compression {
            Codec::None => (Compression::None, None),
            Codec::Lz4 => (Compression::Lz4, None),
            Codec::Zstd => (Compression::Zstd, Some(3)),
        };
        let producer = kafka
            .producer()
            .acks(Acks::All)
            .idempotent(true)
            .linger(arguments.linger())
            .batch_size(arguments.batch_bytes)
            .buffer_memory(128 << 20)
            .compression(compression)
            .compression_level(level)
            .build()
            .await?;
        let sender = Krafka { producer: Arc::new(producer), topic: arguments.topic.as_str().into() };
        let measured = load::produce(arguments, sender.clone(), counter).await?;
        sender.producer.close().await?;
        Ok(measured)
    })
}

fn consume(arguments: &Arguments, counter: Option<&'static Counter>) -> Result<Measured, Failure> {
    load::block_on(arguments, async {
        let kafka = Kafka::builder(arguments.bootstrap.as_str()).connect().await?;
        read(&kafka, arguments, arguments.warm_up.min(arguments.records), None).await?;
        let meter = Meter::start(counter);
        read(&kafka, arguments, arguments.records, Some(meter)).await?.ok_or_else(|| "nothing was measured".into())
    })
}

/// Reads so many records with a consumer of its own.
async fn read(
    kafka: &Kafka,
    arguments: &Arguments,
    records: usize,
    meter: Option<Meter>,
) -> Result<Option<Measured>, Failure> {
    let consumer = kafka
        .consumer_without_group()
        .enable_auto_commit(false)
        .fetch_max_bytes(100 << 20)
        .max_partition_fetch_bytes(10 << 20)
        .max_poll_records(10_000)
        .build()
        .await?;
    consumer.assign(&arguments.topic, vec![0]).await?;
    consumer.seek_to_beginning(&arguments.topic, 0).await?;
    let (mut received, mut bytes) = (0, 0);
    while received < records {
        let batch = consumer.poll(PATIENCE).await?;
        if batch.is_empty() {
            return Err("no record came for 30 s".into());
        }
        for record in batch.iter().take(records - received) {
            bytes += (record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len)) as u64;
            black_box(record);
            received += 1;
        }
    }
    let measured = meter.map(|meter| meter.received(received, bytes));
    consumer.close().await?;
    Ok(measured)
}
