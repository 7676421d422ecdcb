//! How batches are compressed, told by what lies in the broker's log, and by the metrics that say why.

use milena_broker::Broker;
use milena_client::Client;
use milena_client::producer::{
    AutoCompression, Codec, Compression, CompressionReason, Producer, Record, SizeTable, TopicConfig,
};

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
