//! How batches are compressed, told by what lies in the broker's log, and by the metrics that say why.

use milena_broker::Broker;
use milena_client::Client;
use milena_client::producer::{
    AutoCompression, BufferMemory, Codec, Compression, CompressionReason, Producer, Record, SizeTable, TopicConfig,
};

use crate::link::Link;
use crate::producer_log::{batches, client};

/// A batch of about so many bytes; `noise` can't be compressed.
async fn send_batch(producer: &Producer, topic: &str, bytes: usize, noise: bool) {
    let mut rng = fastrand::Rng::with_seed(bytes as u64);
    let mut deliveries = Vec::new();
    let mut number = 0;
    let mut left = bytes as i64;
    while left > 0 {
        let value = if noise {
            std::iter::repeat_with(|| rng.u8(..)).take(left.min(200) as usize).collect()
        } else {
            format!("{{\"number\":{number},\"name\":\"order placed\",\"amount\":{}}}", rng.u16(..)).into_bytes()
        };
        left -= value.len() as i64 + 8;
        number += 1;
        deliveries.push(producer.send(Record::to(topic).partition(0).value(&value)).await.unwrap());
    }
    producer.flush().await;
    for delivery in deliveries {
        delivery.await.unwrap();
    }
}

/// The codecs of a log's batches that hold at least as many bytes as the warm-up's don't.
async fn codecs(client: &Client, topic: &str) -> Vec<Codec> {
    let sent = batches(client, topic, 0).await;
    sent.into_iter().filter(|(records, _)| *records > 1).map(|(_, codec)| codec).collect()
}

/// What a policy makes of batches of these sizes, one after the other.
async fn chosen(compression: Compression, batches: &[(usize, bool)]) -> (Vec<Codec>, Producer) {
    let broker = Broker::builder().topic("t", 1).config("message.max.bytes", "2000000").seed(1).build();
    let client = client(&broker).await;
    let builder = Producer::builder(&client).compression(compression).batch_size(1024 * 1024);
    // One allowance is used by each first record; without any, all of a batch's records travel together.
    let producer = builder.linger(std::time::Duration::from_secs(1)).build().unwrap();
    for (bytes, noise) in batches {
        send_batch(&producer, "t", *bytes, *noise).await;
    }
    (codecs(&client, "t").await, producer)
}

#[tokio::test(start_paused = true)]
async fn policies_choose_by_what_a_batch_is() {
    use Codec::{Lz4, None, Snappy, Zstd};
    let batches = [(400, false), (5_000, false), (150_000, false)];
    for (policy, expected) in [
        (Compression::None, [None, None, None]),
        (Compression::Auto, [None, Zstd, Zstd]),
        (Compression::Throughput, [None, Lz4, Lz4]),
        (Compression::Ratio, [None, Zstd, Zstd]),
        (Compression::SizeTable, [None, Snappy, Zstd]),
        (Compression::SizeTableBy(SizeTable { small: 100, ..SizeTable::default() }), [Snappy, Snappy, Zstd]),
        (Compression::AutoBy(AutoCompression { min_batch: 6_000, ..AutoCompression::default() }), [None, None, Zstd]),
    ] {
        assert_eq!(chosen(policy, &batches).await.0, expected, "{policy:?}");
    }
    let noise = [(5_000, true), (150_000, true)];
    for policy in [Compression::Auto, Compression::Throughput, Compression::Ratio] {
        assert_eq!(chosen(policy, &noise).await.0, [None, None], "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn metrics_say_what_was_chosen_and_why() {
    let batches = [(300, false), (5_000, false), (20_000, false)];
    let (codecs, producer) = chosen(Compression::Auto, &batches).await;
    let metrics = producer.metrics();
    let used: Vec<_> = metrics.compression.iter().collect();
    assert_eq!(
        used.iter().map(|used| (used.codec, used.reason)).collect::<Vec<_>>(),
        [(Codec::None, CompressionReason::TooSmall), (Codec::Zstd, CompressionReason::Compressible)]
    );
    assert_eq!(used[1].batches as usize, codecs.iter().filter(|codec| **codec == Codec::Zstd).count());
    assert_eq!(metrics.compression.batches(Codec::Zstd), used[1].batches);
    assert!(used[1].bytes_out * 2 < used[1].bytes_in, "{used:?}");
    assert_eq!(used.iter().map(|used| used.bytes_in).sum::<u64>(), metrics.bytes_raw);
    assert_eq!(used.iter().map(|used| used.bytes_out).sum::<u64>(), metrics.bytes_compressed);
    let (_, producer) = chosen(Compression::Auto, &[(5_000, true)]).await;
    let reasons = producer.metrics();
    assert!(reasons.compression.iter().any(|used| used.reason == CompressionReason::Incompressible));
}

#[tokio::test(start_paused = true)]
async fn level_and_topic_show_in_the_bytes() {
    let broker = Broker::builder().topic("t", 1).topic("u", 1).topic("v", 1).seed(1).build();
    let client = client(&broker).await;
    let bytes = async |zstd_level: &str, topic: &str| {
        let builder = Producer::builder(&client).set("compression.type", "zstd").unwrap();
        let producer = builder
            .set("compression.zstd.level", zstd_level)
            .unwrap()
            .topic("u", TopicConfig::from_pairs([("compression.zstd.level", "19")]).unwrap())
            .topic("v", TopicConfig::new().compression(Compression::None))
            .build()
            .unwrap();
        send_batch(&producer, topic, 100_000, false).await;
        let metrics = producer.metrics();
        metrics.bytes_compressed as f64 / metrics.bytes_raw as f64
    };
    let (fast, slow) = (bytes("-20", "t").await, bytes("19", "t").await);
    assert!(slow < fast * 0.8, "{slow} and {fast}");
    assert!((bytes("-20", "u").await - slow).abs() < slow * 0.02, "the topic's level, not the producer's");
    assert_eq!(bytes("1", "v").await, 1.0);
}

#[tokio::test(start_paused = true)]
async fn batch_size_of_a_topic_is_that_of_its_batches() {
    let broker = Broker::builder().topic("t", 1).topic("u", 1).seed(1).build();
    let client = client(&broker).await;
    let small = TopicConfig::new().batch_size(2_000);
    let producer = Producer::builder(&client).topic("u", small).build().unwrap();
    for (topic, expected) in [("t", 1..=2), ("u", 25..=35)] {
        send_batch(&producer, topic, 50_000, true).await;
        let sent = batches(&client, topic, 0).await.len();
        assert!(expected.contains(&sent), "{topic}: {sent} batches");
    }
}

/// Kafka's documentation calls `max.request.size` a cap on a batch before compression too.
#[tokio::test(start_paused = true)]
async fn batch_is_no_larger_than_a_request_may_be() {
    let broker = Broker::builder().topic("t", 1).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).batch_size(1 << 20).set("max.request.size", "4096").unwrap();
    let producer = producer.build().unwrap();
    let value = [b'v'; 100];
    for _ in 0..1_000 {
        drop(producer.send(Record::to("t").value(&value)).await.unwrap());
    }
    producer.flush().await;
    // Behind a header of 61 B, 109 B each.
    let largest = batches(&client, "t", 0).await.into_iter().map(|(records, _)| records).max();
    assert_eq!(largest, Some((4_096 - 61) / 109));
}

/// A client in real time: batches are compressed on threads of their own.
async fn client_of_threads(broker: &Broker) -> Client {
    let builder = Client::builder().bootstrap(broker.bootstrap()).unwrap();
    builder.connector(std::sync::Arc::new(Link(broker.clone()))).build().await.unwrap()
}

/// Each waits until there is memory to compress it into, rather than to be sent as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_batch_is_compressed_however_many_partitions_fill_the_memory() {
    const PARTITIONS: i32 = 40;
    let broker = Broker::builder().topic("t", PARTITIONS).seed(1).build();
    let client = client_of_threads(&broker).await;
    let builder = Producer::builder(&client).compression(Compression::Zstd(Some(3)));
    let builder = builder.set("buffer.memory", "4194304").unwrap().batch_size(256 * 1024);
    let producer = builder.linger(std::time::Duration::from_millis(20)).build().unwrap();
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let producer = producer.clone();
            tokio::spawn(async move {
                let mut rng = fastrand::Rng::with_seed(task);
                for number in 0..1_000 {
                    let words = std::iter::repeat_with(|| format!("{:x},", rng.u32(..))).take(400);
                    let value: String = words.collect();
                    let record = Record::to("t").partition((number + task as i32) % PARTITIONS).value(&value);
                    drop(producer.send(record).await.unwrap());
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    producer.flush().await;
    let metrics = producer.metrics();
    assert_eq!((metrics.records_acknowledged, metrics.buffer_used), (4_000, 0));
    let used: Vec<_> = metrics.compression.iter().map(|used| (used.codec, used.reason)).collect();
    assert_eq!(used, [(Codec::Zstd, CompressionReason::Fixed)], "{:?}", metrics.compression);
}

/// As it is the broker would refuse it for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn record_that_fits_only_compressed_is_so_where_the_memory_is_full() {
    let broker = Broker::builder().topic("t", 1).config("message.max.bytes", "100000").seed(1).build();
    let client = client_of_threads(&broker).await;
    let builder = Producer::builder(&client).compression(Compression::Lz4).set("buffer.memory", "262144").unwrap();
    let producer = builder.set("max.request.size", "262144").unwrap().build().unwrap();
    // It fills the memory alone, and what it is compressed into is not there.
    let value = "x".repeat(250_000);
    producer.send(Record::to("t").value(&value)).await.unwrap().await.unwrap();
    assert_eq!(batches(&client, "t", 0).await, [(1, Codec::Lz4)]);
}

#[tokio::test(start_paused = true)]
async fn shared_memory_is_whole_again_when_no_producer_compresses_any_more() {
    let broker = Broker::builder().topic("t", 1).seed(1).build();
    let client = client(&broker).await;
    let memory = BufferMemory::new(1 << 20);
    let build = |compression| {
        Producer::builder(&client)
            .shared_memory(&memory)
            .batch_size(128 * 1024)
            .compression(compression)
            .build()
            .unwrap()
    };
    let plain = build(Compression::None);
    plain.send(Record::to("t").value("first")).await.unwrap().await.unwrap();
    let value = vec![b'x'; 100_000];
    let fits = async || {
        let fits = std::iter::from_fn(|| plain.try_send(Record::to("t").value(&value)).ok()).count();
        plain.flush().await;
        fits
    };
    // Of 128 KiB each.
    assert_eq!(fits().await, 8);
    let (closed, dropped) = (build(Compression::Lz4), build(Compression::Lz4));
    assert_eq!(fits().await, 6, "two are compressed into the rest");
    closed.close(std::time::Duration::ZERO).await;
    drop(dropped);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(fits().await, 8);
}
