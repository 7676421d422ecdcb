//! What batches may be like: large ones, which are read off the application's task, stamped ones, empty ones.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use milena_broker::{Fault, Rule};
use milena_client::consumer::{ConsumeError, Consumer, Start};
use milena_client::{Client, ErrorClass};
use milena_protocol::ApiKey;
use milena_protocol::compress::Compression;
use milena_protocol::record::BatchEncoder;
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::consumer_rig::{LIMIT, Rig, WALL, assert_quiet, read, records, tp, values, write};

/// A value of which every codec makes half, told by its number.
fn value(number: i64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number.cast_unsigned());
    (0..1000).map(|at| if at < 500 { random.u8(..) } else { 0 }).collect()
}

fn batch(values: std::ops::Range<i64>, compression: Compression) -> Bytes {
    let mut batch = BatchEncoder::new(Vec::new(), WALL);
    for number in values {
        batch.append(WALL, None, Some(&value(number)), &[]).expect("fits");
    }
    batch.seal(compression, None).expect("seals").to_bytes()
}

async fn fill(client: &Client, topic: &str, partition: i32) -> i64 {
    let mut next = 0;
    for (count, compression) in [
        (200, Compression::Zstd),
        (2, Compression::Lz4),
        (400, Compression::Gzip),
        (300, Compression::None),
        (1, Compression::None),
        (200, Compression::Lz4),
        (300, Compression::Snappy),
    ] {
        write(client, topic, partition, batch(next..next + count, compression), false).await;
        next += count;
    }
    next
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_batches_are_read_off_the_applications_task_whole_and_in_order() {
    let cluster = Cluster::embedded(1).await;
    let client = cluster.client().await;
    let topic = cluster.topic(&client, "large", 3).await;
    let mut each = 0;
    for partition in 0..3 {
        each = fill(&client, &topic, partition).await;
    }
    let consumer = Consumer::builder(&client).build().unwrap();
    consumer.assign((0..3).map(|partition| (&*topic, partition, Start::Beginning))).unwrap();
    let mut next = [0; 3];
    let mut is_sought = false;
    while next.iter().sum::<i64>() < 3 * each {
        let set = timeout(LIMIT, records(&consumer)).await.unwrap();
        let expected = &mut next[set.partition() as usize];
        for record in &set {
            assert_eq!((record.offset, record.value), (*expected, Some(&*value(*expected))));
            *expected += 1;
        }
        // Back into a large batch, once, while others may be under way.
        if !is_sought && next[1] > 500 {
            is_sought = true;
            consumer.seek(&tp(&topic, 1), Start::Offset(150)).unwrap();
            next[1] = 150;
        }
    }
    let metrics = consumer.metrics();
    assert!(metrics.batches_read_away >= 3 * 5, "five of seven are large: {metrics:?}");
    let small = Consumer::builder(&client).build().unwrap();
    for _ in 0..3 {
        write(&client, &topic, 0, batch(0..20, Compression::Zstd), false).await;
    }
    small.assign([(&*topic, 0, Start::Offset(each))]).unwrap();
    assert_eq!(timeout(LIMIT, records(&small)).await.unwrap().len(), 20);
    assert_eq!(small.metrics().batches_read_away, 0, "a thread is no help for these");
    // All that was lent to them is given back.
    drop((consumer, small));
    let wait = async {
        let probe = Consumer::builder(&client).build().unwrap();
        while probe.metrics().prefetch_used > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, wait).await.expect("nothing stays charged");
}

#[tokio::test(start_paused = true)]
async fn in_virtual_time_large_batches_are_read_in_place() {
    let rig = Rig::new(1, "t", 1).await;
    let all = fill(&rig.client, "t", 0).await;
    let consumer = rig.consumer().build().unwrap();
    consumer.assign([("t", 0, Start::Beginning)]).unwrap();
    let mut next = 0;
    while next < all {
        for record in &records(&consumer).await {
            assert_eq!((record.offset, record.value), (next, Some(&*value(next))));
            next += 1;
        }
    }
    assert_eq!(consumer.metrics().batches_read_away, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_of_a_large_batch_is_told_as_that_of_a_small_one() {
    let broker = milena_broker::Broker::builder().topic("t", 1).build();
    let address = broker.listen("127.0.0.1:0").await.unwrap()[0].to_string();
    let client = Client::builder().bootstrap(address).unwrap().build().await.unwrap();
    write(&client, "t", 0, batch(0..400, Compression::Lz4), false).await;
    let damage = broker.faults().add(Rule::new(Fault::FlipReplyByte { at: 100_000 }).api(ApiKey::Fetch).always());
    let consumer = Consumer::builder(&client).build().unwrap();
    consumer.assign([("t", 0, Start::Beginning)]).unwrap();
    let error = timeout(LIMIT, consumer.next()).await.unwrap().unwrap_err();
    assert!(matches!(&error, ConsumeError::Corrupt { offset: 0, .. }), "{error:?}");
    assert_eq!(error.class(), ErrorClass::ApplicationRecoverable);
    broker.faults().remove(damage);
    assert_eq!(timeout(LIMIT, records(&consumer)).await.unwrap().len(), 400);
    assert!(consumer.metrics().batches_read_away >= 4);
}

#[tokio::test(start_paused = true)]
async fn inflated_batch_beyond_its_limit_is_refused_before_it_takes_the_memory() {
    let rig = Rig::new(1, "t", 1).await;
    let mut bomb = BatchEncoder::new(Vec::new(), WALL);
    bomb.append(WALL, None, Some(&vec![0; 600 << 10]), &[]).expect("fits");
    write(&rig.client, "t", 0, bomb.seal(Compression::Zstd, None).expect("seals").to_bytes(), false).await;
    let mut config = rig.consumer().build().unwrap().config().clone();
    config.max_batch_bytes = 512 << 10;
    let consumer = rig.consumer().config(config.clone()).build().unwrap();
    consumer.assign([("t", 0, Start::Beginning)]).unwrap();
    let error = timeout(LIMIT, consumer.next()).await.unwrap().unwrap_err();
    assert!(matches!(&error, ConsumeError::Corrupt { offset: 0, .. }), "{error:?}");
    config.max_batch_bytes = 1 << 20;
    let consumer = rig.consumer().config(config).build().unwrap();
    consumer.assign([("t", 0, Start::Beginning)]).unwrap();
    assert_eq!(records(&consumer).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn broker_that_stamps_records_has_the_say_over_their_times() {
    let broker = Rig::broker(1).config("log.message.timestamp.type", "LogAppendTime").topic("t", 1);
    let rig = Rig::of(broker).await;
    tokio::time::advance(Duration::from_secs(7)).await;
    for compression in [Compression::None, Compression::Zstd] {
        rig.produce_batch("t", 0, 0..10, None, compression).await;
    }
    let consumer = rig.consumer().build().unwrap();
    consumer.assign([("t", 0, Start::Beginning)]).unwrap();
    for _ in 0..2 {
        for record in &records(&consumer).await {
            assert!((WALL + 7_000..WALL + 7_100).contains(&record.timestamp), "{}", record.timestamp);
        }
    }
}

/// A batch as a cleaner leaves it: fewer records than offsets, or none at all.
fn compacted(kept: &[i64], last_delta: i32) -> Bytes {
    let mut batch = BatchEncoder::new(Vec::new(), WALL);
    let slots = i64::from(last_delta) + 1;
    for offset in 0..slots {
        batch.append(WALL, Some(b"k"), Some(offset.to_string().as_bytes()), &[]).expect("fits");
    }
    let whole = batch.seal(Compression::None, None).expect("seals").to_bytes();
    // Records are told apart by their lengths, one zigzag byte each for ones as short as these.
    let (header, mut rest) = whole.split_at(61);
    let mut records = Vec::new();
    for offset in 0..slots {
        let length = usize::from(rest[0] >> 1) + 1;
        if kept.contains(&offset) {
            records.extend_from_slice(&rest[..length]);
        }
        rest = &rest[length..];
    }
    let mut bytes = BytesMut::from(header);
    bytes.extend_from_slice(&records);
    let length = i32::try_from(bytes.len() - 12).unwrap();
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[57..61].copy_from_slice(&i32::try_from(kept.len()).unwrap().to_be_bytes());
    // As a cleaner, too, has it: of what is left.
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.freeze()
}

#[tokio::test(start_paused = true)]
async fn compacted_and_empty_batches_are_read_over() {
    let rig = Rig::new(1, "t", 1).await;
    for batch in [
        compacted(&[0, 1, 2, 3, 4], 4),
        compacted(&[1, 3], 4),
        compacted(&[], 9),
        compacted(&[2], 2),
        compacted(&[], 4),
    ] {
        rig.broker.append_cleaned("t", 0, batch).unwrap();
    }
    let consumer = rig.consumer().build().unwrap();
    consumer.assign([("t", 0, Start::Beginning)]).unwrap();
    let mut seen = Vec::new();
    while seen.len() < 8 {
        seen.extend(records(&consumer).await.iter().map(|record| record.offset));
    }
    assert_eq!(seen, [0, 1, 2, 3, 4, 6, 8, 22]);
    assert_quiet(&consumer, Duration::from_secs(2)).await;
    assert_eq!(
        (consumer.position(&tp("t", 0)), consumer.lag(&tp("t", 0))),
        (Some(28), Some(0)),
        "empty ones count as read"
    );
    // Into a gap, and into what is empty: the next record that is there.
    for (from, first) in [(5, 6), (7, 8), (9, 22), (12, 22)] {
        consumer.seek(&tp("t", 0), Start::Offset(from)).unwrap();
        let set = records(&consumer).await;
        assert_eq!(set.iter().next().map(|record| record.offset), Some(first), "from {from}");
    }
    rig.produce("t", 0, 0..1).await;
    consumer.seek(&tp("t", 0), Start::Offset(24)).unwrap();
    assert_eq!(values(&records(&consumer).await), [0]);
    let again = rig.consumer().build().unwrap();
    again.assign([("t", 0, Start::Offset(28))]).unwrap();
    assert_eq!(read(&again, 1).await[&0], [0]);
}
