//! confluent-kafka under load: the client written in Rust, not the binding to librdkafka. Why each setting is as it is:
//! the README of this workspace.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use confluent_kafka::common::serialization::{ByteArraySerializer, BytesDeserializer};
use confluent_kafka::common::{KafkaFuture, TopicPartition};
use confluent_kafka::consumer::{Consumer, ConsumerConfig, KafkaConsumer};
use confluent_kafka::producer::{KafkaProducer, Producer, ProducerConfig, ProducerRecord, RecordMetadata};
use load::{Arguments, Codec, Counter, Failure, Measured, Meter, Payload, Sender};

/// As the shared main runs it.
pub const CLIENT: load::Client = load::Client { name: "confluent-kafka", produce, consume };

/// How long a consumer waits for a record before the run is void.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone)]
struct Confluent {
    producer: Arc<KafkaProducer<Vec<u8>, Vec<u8>>>,
    topic: Arc<str>,
}

impl Sender for Confluent {
    type Delivery = KafkaFuture<RecordMetadata>;

    async fn send(&self, partition: i32, payload: Payload) -> Result<Self::Delivery, Failure> {
        // The inherent `send`, which takes slices and copies them once, into the batch.
        let record = ProducerRecord::with_partition_key(
            self.topic.to_string(),
            Some(partition),
            Some(payload.key),
            Some(payload.value),
        )?;
        Ok(self.producer.send(record, None).await?)
    }

    async fn settle(delivery: Self::Delivery) -> Result<(), Failure> {
        delivery.get().await?;
        Ok(())
    }
}

fn produce(arguments: &Arguments, counter: Option<&'static Counter>) -> Result<Measured, Failure> {
    load::block_on(arguments, async {
        let mut settings = HashMap::from([
            ("bootstrap.servers".to_owned(), arguments.bootstrap.clone()),
            ("acks".to_owned(), "all".to_owned()),
            ("enable.idempotence".to_owned(), "true".to_owned()),
            ("linger.ms".to_owned(), arguments.linger().as_millis().to_string()),
            ("batch.size".to_owned(), arguments.batch_bytes.to_string()),
            ("buffer.memory".to_owned(), (128 << 20).to_string()),
            ("compression.type".to_owned(), arguments.compression.name().to_owned()),
        ]);
        if arguments.compression == Codec::Zstd {
            settings.insert("compression.zstd.level".to_owned(), "3".to_owned());
        }
        let serializer = ByteArraySerializer::default;
        let producer = KafkaProducer::new(ProducerConfig::new(&settings)?, serializer(), serializer())?;
        let sender = Confluent { producer: Arc::new(producer), topic: arguments.topic.as_str().into() };
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
    let settings = HashMap::from([
        ("bootstrap.servers".to_owned(), arguments.bootstrap.clone()),
        ("group.protocol".to_owned(), "consumer".to_owned()),
        ("enable.auto.commit".to_owned(), "false".to_owned()),
        ("auto.offset.reset".to_owned(), "earliest".to_owned()),
        ("check.crcs".to_owned(), "true".to_owned()),
        ("max.poll.records".to_owned(), "10000".to_owned()),
    ]);
    let deserializer = BytesDeserializer::default;
    let mut consumer = KafkaConsumer::new(ConsumerConfig::new(&settings)?, deserializer(), deserializer())?;
    let partition = TopicPartition::new(arguments.topic.as_str(), 0);
    consumer.assign(vec![partition.clone()]).await?;
    consumer.seek_to_beginning(&[partition]).await?;
    let (mut received, mut bytes) = (0, 0);
    while received < records {
        let batch = consumer.poll(PATIENCE).await?;
        if batch.is_empty() {
            return Err("no record came for 30 s".into());
        }
        for record in (&batch).into_iter().take(records - received) {
            bytes += (record.key().map_or(0, |key| key.len()) + record.value().map_or(0, |value| value.len())) as u64;
            black_box(record);
            received += 1;
        }
    }
    let measured = meter.map(|meter| meter.received(received, bytes));
    consumer.close().await?;
    Ok(measured)
}
