//! kacrab under load. Why each setting is as it is: the README of this workspace.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kacrab::common::TopicPartition;
use kacrab::consumer::Consumer;
use kacrab::producer::{Producer, ProducerRecord, SendFuture};
use load::{Arguments, Codec, Counter, Failure, Measured, Meter, Payload, Sender};

/// As the shared main runs it.
pub const CLIENT: load::Client = load::Client { name: "kacrab", produce, consume };

/// How long a consumer waits for a record before the run is void.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone)]
struct Kacrab {
    producer: Arc<Producer>,
    topic: Arc<str>,
}

impl Sender for Kacrab {
    type Delivery = SendFuture;

    async fn send(&self, partition: i32, payload: Payload) -> Result<SendFuture, Failure> {
        let record = ProducerRecord::new(Arc::clone(&self.topic), partition)
            .key(Bytes::from_static(payload.key))
            .value(Bytes::from_static(payload.value));
        Ok(self.producer.send(record)?)
    }

    async fn settle(delivery: SendFuture) -> Result<(), Failure> {
        delivery.await?;
        Ok(())
    }
}

fn produce(arguments: &Arguments, counter: Option<&'static Counter>) -> Result<Measured, Failure> {
    load::block_on(arguments, async {
        let mut builder = Producer::builder()
            .set("bootstrap.servers", arguments.bootstrap.as_str())
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", arguments.linger().as_millis().to_string())
            .set("batch.size", arguments.batch_bytes.to_string())
            .set("buffer.memory", (128 << 20).to_string())
            .set("compression.type", arguments.compression.name());
        if arguments.compression == Codec::Zstd {
            builder = builder.set("compression.zstd.level", "3");
        }
        let sender = Kacrab { producer: Arc::new(builder.build().await?), topic: arguments.topic.as_str().into() };
        let measured = load::produce(arguments, sender.clone(), counter).await?;
        sender.producer.flush().await?;
        Ok(measured)
    })
}

fn consume(arguments: &Arguments, counter: Option<&'static Counter>) -> Result<Measured, Failure> {
    load::block_on(arguments, async {
        read(arguments, arguments.warm_up.min(arguments.records), None).await?;
        let meter = Meter::start(counter);
        read(arguments, arguments.records, Some(meter)).await?.ok_or_else(|| "nothing was measured".into())
    })
}

/// Reads so many records with a consumer of its own.
async fn read(arguments: &Arguments, records: usize, meter: Option<Meter>) -> Result<Option<Measured>, Failure> {
    let mut consumer = Consumer::from_map([
        ("bootstrap.servers", arguments.bootstrap.as_str()),
        ("enable.auto.commit", "false"),
        ("auto.offset.reset", "earliest"),
        ("check.crcs", "true"),
        ("max.poll.records", "10000"),
    ])
    .await?;
    let partition = TopicPartition::new(arguments.topic.as_str(), 0);
    consumer.assign([partition.clone()])?;
    consumer.seek(&partition, 0)?;
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
    consumer.close().await;
    Ok(measured)
}
