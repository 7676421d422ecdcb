use std::time::Duration;

use milena_broker::Broker;
use milena_core::producer::completion::Completion;

use super::*;
use crate::producer::delivery::{Appended, Delivery};
use crate::producer::{Outcome, Producer, Record};
use crate::test_link::client_of;

/// A producer with a first record written, its partition, and a batch of one record on its way to be compressed.
async fn errand() -> (Producer, Errand, Delivery) {
    let broker = Broker::builder().topic("t", 1).build();
    let client = client_of(broker).build().await.unwrap();
    let producer = Producer::builder(&client).compression(crate::producer::Compression::Lz4).build().unwrap();
    producer.send(Record::to("t").value("first")).await.unwrap().await.unwrap();
    let shared = &producer.handle.shared;
    let partition = Arc::clone(&shared.topic("t").unwrap().partitions().present()[0]);
    let charge = shared.buffers.budget().try_reserve(4_096).unwrap();
    let completion = Completion::new("t".into(), 0);
    let mut open = OpenBatch::new(&shared.buffers, charge, completion, shared.client.clock.now(), 0);
    let index = open.append(usize::MAX, 0, None, Some(&[b'x'; 1_000]), &[]).unwrap().expect("room");
    let delivery = Delivery::new(Appended { completion: Arc::clone(open.completion()), index }, 0);
    let choice = CompressionChoice::fixed(Compression::Lz4, None);
    let errand = Errand::new(shared, &partition, open, choice);
    partition.lock().unwrap().closing.push_back(errand.placeholder());
    (producer, errand, delivery)
}

/// A record behind the batch, whose linger has ended: nobody sends it but when the batch is back.
async fn behind(producer: &Producer) -> Delivery {
    let delivery = producer.send(Record::to("t").value("behind")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    delivery
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), what).await.expect("an answer, and soon")
}

/// The batch's record has failed, the one behind it is written, and no byte is kept.
async fn is_made_good(producer: Producer, delivery: Delivery, behind: Delivery) {
    let error = soon(delivery).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Failed, "{error}");
    assert_eq!(soon(behind).await.unwrap().offset(), Some(1));
    assert!(producer.close(Duration::from_secs(10)).await.clean);
    assert_eq!(producer.metrics().buffer_used, 0);
}

#[tokio::test(start_paused = true)]
async fn compressed_batch_goes_ahead_of_what_was_closed_later() {
    let (producer, errand, delivery) = errand().await;
    let behind = behind(&producer).await;
    errand.start(seal);
    assert_eq!(soon(delivery).await.unwrap().offset(), Some(1));
    assert_eq!(soon(behind).await.unwrap().offset(), Some(2));
}

#[tokio::test(start_paused = true)]
async fn compression_that_panics_fails_its_batch_alone() {
    let (producer, errand, delivery) = errand().await;
    let behind = behind(&producer).await;
    errand.start(|_, _, _, _| panic!("on purpose"));
    is_made_good(producer, delivery, behind).await;
}

#[tokio::test(start_paused = true)]
async fn compression_that_never_starts_fails_its_batch_alone() {
    let (producer, errand, delivery) = errand().await;
    let behind = behind(&producer).await;
    drop(errand);
    is_made_good(producer, delivery, behind).await;
}

#[tokio::test(start_paused = true)]
async fn compression_that_the_closing_client_refuses_is_answered_for() {
    let (producer, errand, delivery) = errand().await;
    producer.client().inner().tasks.close();
    errand.start(seal);
    let error = soon(delivery).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Failed, "{error}");
    assert_eq!(producer.metrics().buffer_used, 0);
}

#[tokio::test(start_paused = true)]
async fn compression_that_ends_after_the_close_is_answered_for() {
    let (producer, errand, delivery) = errand().await;
    assert!(!producer.close(Duration::ZERO).await.clean);
    errand.start(seal);
    let error = soon(delivery).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Failed, "{error}");
    assert_eq!(producer.metrics().buffer_used, 0);
}

/// What stands first among the closed batches once one of about so many bytes was closed.
async fn closed(bytes: usize, compression: crate::producer::Compression) -> &'static str {
    let broker = Broker::builder().topic("t", 1).build();
    let client = client_of(broker).build().await.unwrap();
    let producer = Producer::builder(&client).compression(compression).batch_size(1 << 20).build().unwrap();
    producer.send(Record::to("t").value("first")).await.unwrap().await.unwrap();
    // The first of these is sent alone, at once. From here on nothing runs beside this until it waits.
    let value = [b'x'; 1_000];
    let deliveries: Vec<_> =
        (0..=bytes / 1_000).map(|_| producer.try_send(Record::to("t").value(&value)).unwrap()).collect();
    drop(producer.handle.shared.start_flush());
    let shared = &producer.handle.shared;
    let partition = Arc::clone(&shared.topic("t").unwrap().partitions().present()[0]);
    let place = match partition.lock().unwrap().closing.front() {
        Some(Closing::Away { .. }) => "away",
        Some(_) => "closed",
        None => "sealed",
    };
    for delivery in deliveries {
        soon(delivery).await.unwrap();
    }
    place
}

#[tokio::test]
async fn only_a_large_batch_is_compressed_elsewhere_and_one_that_stays_as_it_is_never() {
    use crate::producer::Compression::{Lz4, None};
    assert_eq!(closed(200_000, Lz4).await, "away");
    assert_eq!(closed(60_000, Lz4).await, "sealed");
    assert_eq!(closed(200_000, None).await, "sealed");
}

#[tokio::test(start_paused = true)]
async fn batch_compressed_in_vain_is_told_and_is_the_last() {
    let broker = Broker::builder().topic("t", 1).build();
    let client = client_of(broker).build().await.unwrap();
    let producer = Producer::builder(&client).compression(crate::producer::Compression::Auto).build().unwrap();
    // Only the middle, which is what is probed, is worth it.
    let mut rng = fastrand::Rng::with_seed(1);
    let value: Vec<_> = (0..100_000).map(|at| if (48_000..52_000).contains(&at) { b'x' } else { rng.u8(..) }).collect();
    for _ in 0..3 {
        producer.send(Record::to("t").value(&value)).await.unwrap().await.unwrap();
    }
    let metrics = producer.metrics();
    let used: Vec<_> = metrics.compression.iter().map(|used| (used.codec, used.reason, used.batches)).collect();
    assert_eq!(
        used,
        [
            (Compression::None, CompressionReason::Incompressible, 2),
            (Compression::None, CompressionReason::NotSmaller, 1)
        ]
    );
    assert_eq!(metrics.bytes_compressed, metrics.bytes_raw);
}

#[tokio::test(start_paused = true)]
async fn auto_takes_the_quick_codec_while_compressing_takes_too_much_of_a_core() {
    let broker = Broker::builder().topic("t", 1).build();
    let client = client_of(broker).build().await.unwrap();
    let producer = Producer::builder(&client).compression(crate::producer::Compression::Auto).build().unwrap();
    let shared = &producer.handle.shared;
    let value = "an event like any other, ".repeat(40);
    let mut codecs = Vec::new();
    for percent in [0, 90, 40, 10, 60] {
        // A second of which compressing takes so much.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = shared.client.clock.now();
        lock(&shared.effort).worked(now - Duration::from_millis(10) * percent, now);
        let before = producer.metrics();
        producer.send(Record::to("t").value(&value)).await.unwrap().await.unwrap();
        let after = producer.metrics();
        let codec = [Compression::Lz4, Compression::Zstd]
            .into_iter()
            .find(|codec| after.compression.batches(*codec) > before.compression.batches(*codec));
        codecs.push(codec.expect("it was compressed"));
    }
    use Compression::{Lz4, Zstd};
    assert_eq!(codecs, [Zstd, Lz4, Lz4, Zstd, Zstd]);
    assert!(producer.metrics().compression.iter().any(|used| used.reason == CompressionReason::CpuBound));
}
