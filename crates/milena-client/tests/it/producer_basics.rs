//! Without anything going wrong: what is sent arrives, once, in order, as it was, and is answered for.

use std::time::Duration;

use milena_broker::{Broker, Fault, Rule};
use milena_client::producer::SendError;
use milena_client::producer::{Acks, Compression, Outcome, Partitioner, ProduceError, Producer, Record, RecordHeader};
use milena_protocol::ApiKey;

use crate::producer_log::{client, log, numbers};

const DEADLINE: Duration = Duration::from_secs(30);

fn produce_requests(broker: &Broker) -> u64 {
    let of_produce = |count: &&milena_broker::RequestCount| count.api == ApiKey::Produce;
    broker.requests().iter().filter(of_produce).map(|count| count.count).sum()
}

#[tokio::test(start_paused = true)]
async fn record_arrives_as_it_was_sent() {
    let broker = Broker::builder().topic("t", 1).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).build().unwrap();
    let headers = [RecordHeader { key: "h", value: Some(b"1") }, RecordHeader { key: "h", value: None }];
    let full = Record::to("t").key("k").value("v").headers(&headers).timestamp(1_234);
    let delivery = producer.send(full).await.unwrap();
    let first = delivery.await.unwrap();
    assert_eq!((first.topic(), first.partition(), first.offset(), first.timestamp()), ("t", 0, Some(0), 1_234));
    let second = producer.send(Record::to("t")).await.unwrap().await.unwrap();
    assert_eq!((second.offset(), second.timestamp() / 1_000), (Some(1), 1_700_000_000));

    let stored = log(&client, "t", 0).await;
    assert_eq!((stored[0].key.as_deref(), stored[0].value.as_deref()), (Some(&b"k"[..]), Some(&b"v"[..])));
    assert_eq!(stored[0].headers, [("h".to_owned(), Some(b"1".to_vec())), ("h".to_owned(), None)]);
    assert_eq!((stored[0].timestamp, stored[1].timestamp), (1_234, second.timestamp()));
    assert_eq!((&stored[1].key, &stored[1].value), (&None, &None));
    let report = producer.close(DEADLINE).await;
    assert!(report.clean, "{report:?}");
    assert_eq!(producer.metrics().records_acknowledged, 2);
}

#[tokio::test(start_paused = true)]
async fn every_codec_and_policy_carries_every_record_in_order() {
    let broker = Broker::builder().topic("t", 1).seed(1).build();
    let client = client(&broker).await;
    let mut sent = Vec::new();
    for compression in [
        Compression::None,
        Compression::Gzip(Some(3)),
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd(None),
        Compression::Auto,
        Compression::SizeTable,
    ] {
        let producer = Producer::builder(&client).compression(compression).batch_size(8 * 1024).build().unwrap();
        let mut deliveries = Vec::new();
        for _ in 0..2_000 {
            let value = format!("{:x>60}", sent.len());
            deliveries.push(producer.send(Record::to("t").value(&value)).await.unwrap());
            sent.push(sent.len() as u32);
        }
        for delivery in deliveries {
            delivery.await.unwrap();
        }
        let metrics = producer.metrics();
        assert!(compression == Compression::None || metrics.bytes_compressed < metrics.bytes_raw / 2, "{metrics:?}");
        assert!(producer.close(DEADLINE).await.clean);
        assert_eq!(producer.metrics().buffer_used, 0, "{compression:?}");
    }
    assert_eq!(numbers(&client, "t", 0).await, sent);
}

#[tokio::test(start_paused = true)]
async fn keys_and_named_partitions_go_where_they_belong() {
    let broker = Broker::builder().nodes(3).topic("t", 17).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).build().unwrap();
    // As Java's default partitioner places them among 17.
    for (key, partition) in [("", 11), ("a", 0), ("ab", 8), ("abc", 16), ("kafka", 14), ("foobar", 9)] {
        let metadata = producer.send(Record::to("t").key(key)).await.unwrap().await.unwrap();
        assert_eq!(metadata.partition(), partition, "{key:?}");
    }
    let named = producer.send(Record::to("t").key("a").partition(5)).await.unwrap().await.unwrap();
    assert_eq!(named.partition(), 5);
    let manual = Producer::builder(&client).partitioner(Partitioner::Manual).build().unwrap();
    assert!(matches!(manual.send(Record::to("t").key("a")).await, Err(SendError::NoPartition)));
}

#[tokio::test(start_paused = true)]
async fn mistakes_are_told_at_once_and_by_name() {
    let broker = Broker::builder().topic("t", 2).auto_create(false).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).build().unwrap();
    let error = producer.send(Record::to("no/slashes")).await.unwrap_err();
    assert!(matches!(&error, SendError::InvalidTopicName { topic, .. } if topic == "no/slashes"), "{error}");
    let error = producer.send(Record::to("absent")).await.unwrap_err();
    assert!(matches!(&error, SendError::Topic { topic, .. } if topic == "absent"), "{error}");
    let error = producer.send(Record::to("t").partition(2)).await.unwrap_err();
    assert!(matches!(error, SendError::UnknownPartition { partition: 2, partitions: 2, .. }), "{error}");
    let large = vec![0; 2_000_000];
    let error = producer.send(Record::to("t").value(&large)).await.unwrap_err();
    assert!(matches!(error, SendError::RecordTooLarge { bytes: 2_000_000.., limit: 1_048_576 }), "{error}");
    assert!(matches!(producer.try_send(Record::to("u")), Err(SendError::TopicNotReady { .. })));
    assert!(producer.close(DEADLINE).await.clean);
    assert!(matches!(producer.send(Record::to("t")).await, Err(SendError::Closed)));
    assert_eq!(producer.metrics().buffer_used, 0);
}

#[tokio::test(start_paused = true)]
async fn lone_record_does_not_linger_and_company_travels_together() {
    let broker = Broker::builder().topic("t", 1).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).linger(Duration::from_secs(3)).build().unwrap();
    producer.send(Record::to("t").value("warm")).await.unwrap().await.unwrap();
    let start = tokio::time::Instant::now();
    producer.send(Record::to("t").value("lone")).await.unwrap().await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(50), "{:?}", start.elapsed());
    let before = produce_requests(&broker);
    let mut deliveries = Vec::new();
    for _ in 0..1_000 {
        deliveries.push(producer.send(Record::to("t").value("many")).await.unwrap());
    }
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    assert_eq!(produce_requests(&broker) - before, 2, "the first alone, and all that came before its answer");
    assert!(start.elapsed() < Duration::from_millis(50), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn linger_cuts_no_batches_that_cannot_be_sent_yet() {
    let broker = Broker::builder().topic("t", 1).seed(1).build();
    let client = client(&broker).await;
    // One request is answered each 100 ms, and until the first is, no other is sent. A batch closed at every linger's end
    // would by then be one of many of a record or two, which go out one by one for ever after.
    broker.faults().add(Rule::new(Fault::Delay(Duration::from_millis(100))).api(ApiKey::Produce).always());
    let producer = Producer::builder(&client).linger(Duration::from_millis(5)).build().unwrap();
    let mut every = tokio::time::interval(Duration::from_millis(2));
    let mut deliveries = Vec::new();
    for number in 0..3_000 {
        every.tick().await;
        let value = number.to_string();
        let delivery = producer.send(Record::to("t").value(&value)).await.unwrap();
        let sent = tokio::time::Instant::now();
        deliveries.push(tokio::spawn(async move {
            delivery.await.unwrap();
            sent.elapsed()
        }));
    }
    let mut slowest = Duration::ZERO;
    for delivery in deliveries {
        slowest = slowest.max(delivery.await.unwrap());
    }
    // The five requests in flight before it, and its own.
    assert!(slowest <= Duration::from_millis(620), "{slowest:?}");
    assert_eq!(numbers(&client, "t", 0).await, (0..3_000).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn flush_sends_what_lingers_and_waits_for_it() {
    let broker = Broker::builder().topic("t", 4).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).linger(Duration::from_secs(20)).build().unwrap();
    producer.send(Record::to("t").partition(0).value("0")).await.unwrap().await.unwrap();
    let start = tokio::time::Instant::now();
    let mut deliveries = Vec::new();
    for number in 0..40 {
        let value = number.to_string();
        deliveries.push(producer.send(Record::to("t").partition(number % 4).value(&value)).await.unwrap());
    }
    producer.flush().await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(producer.metrics().records_acknowledged, 41);
    for delivery in deliveries {
        delivery.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn send_batch_answers_in_order_and_one_bad_record_fails_alone() {
    let broker = Broker::builder().topic("t", 3).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).build().unwrap();
    let values: Vec<_> = (0..30).map(|number: u32| number.to_string()).collect();
    let mut records: Vec<_> =
        values.iter().enumerate().map(|(at, value)| Record::to("t").partition(at as i32 % 3).value(value)).collect();
    records[7] = Record::to("bad name");
    let results = producer.send_batch(&records).await;
    assert_eq!(results.len(), 30);
    for (at, result) in results.iter().enumerate() {
        match result {
            Err(ProduceError::NotSent(SendError::InvalidTopicName { .. })) => assert_eq!(at, 7),
            other => assert_eq!(other.as_ref().unwrap().partition(), at as i32 % 3),
        }
    }
    assert_eq!(numbers(&client, "t", 0).await, (0..30).step_by(3).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn weaker_acks_resolve_as_they_promise() {
    let broker = Broker::builder().topic("t", 1).seed(1).build();
    let client = client(&broker).await;
    for (acks, offset) in [(Acks::Leader, Some(0)), (Acks::None, None)] {
        let producer = Producer::builder(&client).acks(acks).build().unwrap();
        let metadata = producer.send(Record::to("t").value("1")).await.unwrap().await.unwrap();
        assert_eq!(metadata.offset(), offset);
        assert!(producer.close(DEADLINE).await.clean);
    }
    assert_eq!(numbers(&client, "t", 0).await, [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn dropped_producer_still_sends_what_was_appended() {
    let broker = Broker::builder().topic("t", 1).seed(1).build();
    let reader = client(&broker).await;
    let writer = client(&broker).await;
    let producer = Producer::builder(&writer).linger(Duration::from_secs(10)).build().unwrap();
    for number in 0..500 {
        drop(producer.send(Record::to("t").value(&number.to_string())).await.unwrap());
    }
    drop(producer);
    drop(writer);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(numbers(&reader, "t", 0).await, (0..500).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn close_gives_up_in_time_and_says_what_is_certain() {
    let broker = Broker::builder().topic("t", 2).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).build().unwrap();
    producer.send(Record::to("t").partition(0).value("0")).await.unwrap().await.unwrap();
    broker.faults().add(
        milena_broker::Rule::new(milena_broker::Fault::Delay(Duration::from_secs(20))).api(ApiKey::Produce).always(),
    );
    let sent = producer.send(Record::to("t").partition(0).value("1")).await.unwrap();
    let behind = producer.send(Record::to("t").partition(0).value("2")).await.unwrap();
    let report = producer.close(Duration::from_secs(5)).await;
    assert!(!report.clean && report.elapsed < Duration::from_secs(6), "{report:?}");
    assert_eq!(report.possibly_written + report.failed, 2);
    assert_eq!(sent.await.unwrap_err().outcome(), Outcome::PossiblyWritten);
    assert!(matches!(behind.await.unwrap_err(), ProduceError::Closed { .. }));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(producer.metrics().buffer_used, 0, "nothing is held once the connection has answered");
}

#[tokio::test(start_paused = true)]
async fn closed_client_ends_its_producers_cleanly() {
    let broker = Broker::builder().topic("t", 1).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).linger(Duration::from_secs(5)).build().unwrap();
    producer.send(Record::to("t").value("0")).await.unwrap().await.unwrap();
    let report = client.close(Duration::from_secs(5)).await;
    assert!(report.clean, "{report:?}");
    assert_eq!(client.task_count(), 0);
    assert!(producer.send(Record::to("t").value("1")).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn many_partitions_share_one_request_per_broker() {
    let broker = Broker::builder().nodes(3).topic("t", 30).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).linger(Duration::from_millis(20)).build().unwrap();
    for partition in 0..30 {
        producer.send(Record::to("t").partition(partition).value("0")).await.unwrap().await.unwrap();
    }
    // One is in flight per broker when the others are appended.
    let before = produce_requests(&broker);
    let mut deliveries = Vec::new();
    for round in 0..10 {
        for partition in 0..30 {
            let value = round.to_string();
            deliveries.push(producer.send(Record::to("t").partition(partition).value(&value)).await.unwrap());
        }
    }
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    let requests = produce_requests(&broker) - before;
    assert!(requests <= 3 * 30, "{requests} requests for 300 records on 30 partitions of 3 brokers");
    for partition in 0..30 {
        let expected: Vec<_> = [0].into_iter().chain(0..10).collect();
        assert_eq!(numbers(&client, "t", partition).await, expected);
    }
}
