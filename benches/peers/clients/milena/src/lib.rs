//! milena under load. Its settings are its defaults but for the batch size; why is in the README of this workspace.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use load::{Arguments, Codec, Counter, Failure, Measured, Meter, Payload, Sender, Variant};
use milena_client::Client;
use milena_client::consumer::{Consumer, ConsumerEvent, OwnedRecord, Start};
use milena_client::producer::{Compression, Delivery, Producer, Record};

/// As the shared main runs it.
pub const CLIENT: load::Client = load::Client { name: "milena", produce, consume };

#[derive(Clone)]
struct Milena {
    producer: Producer,
    topic: Arc<str>,
}

impl Sender for Milena {
    type Delivery = Delivery;

    async fn send(&self, partition: i32, payload: Payload) -> Result<Delivery, Failure> {
        let record = Record::to(&self.topic).partition(partition).key(payload.key).value(payload.value);
        Ok(self.producer.send(record).await?)
    }

    async fn settle(delivery: Delivery) -> Result<(), Failure> {
        delivery.await?;
        Ok(())
    }
}

fn produce(arguments: &Arguments, counter: Option<&'static Counter>) -> Result<Measured, Failure> {
    load::block_on(arguments, async {
        let client = Client::builder().bootstrap(&arguments.bootstrap)?.build().await?;
        let compression = match arguments.compression {
            Codec::None => Compression::None,
            Codec::Lz4 => Compression::Lz4,
            Codec::Zstd => Compression::Zstd(Some(3)),
        };
        // Idempotent, acks=all, 5 in flight and a linger of 5 ms are its defaults.
        let producer = Producer::builder(&client).compression(compression).batch_size(arguments.batch_bytes).build()?;
        let sender = Milena { producer: producer.clone(), topic: arguments.topic.as_str().into() };
        let measured = load::produce(arguments, sender, counter).await?;
        let report = producer.close(Duration::from_secs(10)).await;
        if !report.clean {
            return Err("the producer could not close in 10 s".into());
        }
        Ok(measured)
    })
}

fn consume(arguments: &Arguments, counter: Option<&'static Counter>) -> Result<Measured, Failure> {
    load::block_on(arguments, async {
        let client = Client::builder().bootstrap(&arguments.bootstrap)?.build().await?;
        read(&client, arguments, arguments.warm_up.min(arguments.records), None).await?;
        let meter = Meter::start(counter);
        read(&client, arguments, arguments.records, Some(meter)).await?.ok_or_else(|| "nothing was measured".into())
    })
}

/// Reads so many records with a consumer of its own. Checks CRCs and reads committed records only, as by default.
async fn read(
    client: &Client,
    arguments: &Arguments,
    records: usize,
    meter: Option<Meter>,
) -> Result<Option<Measured>, Failure> {
    let consumer = Consumer::builder(client).build()?;
    consumer.assign([(&arguments.topic, 0, Start::Beginning)])?;
    let (mut received, mut bytes) = (0, 0);
    while received < records {
        let ConsumerEvent::Records(set) = consumer.next().await? else { continue };
        match arguments.variant {
            Variant::Borrowed => {
                for record in set.iter().take(records - received) {
                    bytes += (record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len)) as u64;
                    black_box(&record);
                    received += 1;
                }
            }
            Variant::Owned => {
                for record in set.iter().take(records - received) {
                    let record: OwnedRecord = record.to_owned();
                    bytes += (record.key().map_or(0, <[u8]>::len) + record.value().map_or(0, <[u8]>::len)) as u64;
                    black_box(record);
                    received += 1;
                }
            }
            Variant::Sliced => {
                for record in set.iter().take(records - received) {
                    let (key, value) =
                        (record.key.map(|key| set.slice(key)), record.value.map(|value| set.slice(value)));
                    bytes += (key.as_ref().map_or(0, Bytes::len) + value.as_ref().map_or(0, Bytes::len)) as u64;
                    black_box((key, value));
                    received += 1;
                }
            }
        }
    }
    let measured = meter.map(|meter| meter.received(received, bytes));
    consumer.close(Duration::from_secs(10)).await?;
    Ok(measured)
}
