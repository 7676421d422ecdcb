//! What a record costs, counted where the machine does not matter: allocations, wake-ups, requests, bytes on the wire.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use milena_broker::Broker;
use milena_client::producer::{Producer, Record};

use crate::counted_link;
use crate::producer_log::client;

#[tokio::test(start_paused = true)]
async fn appending_a_record_allocates_next_to_nothing() {
    let broker = Broker::builder().topic("t", 1).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).batch_size(64 * 1024).build().unwrap();
    let value = [b'v'; 100];
    let record = Record::to("t").key("a key of 16 byte").value(&value);
    // Warm: the topic is resolved, buffers have their size.
    for _ in 0..20 {
        let deliveries: Vec<_> = (0..5_000).map(|_| producer.try_send(record)).collect();
        for delivery in deliveries {
            match delivery {
                Ok(delivery) => drop(delivery.await.unwrap()),
                Err(_) => drop(producer.send(record).await.unwrap().await.unwrap()),
            }
        }
    }
    const RECORDS: u64 = 20_000;
    let mut deliveries = Vec::with_capacity(RECORDS as usize);
    let appended = allocation_counter::measure(|| {
        for _ in 0..RECORDS {
            deliveries.push(producer.try_send(record).unwrap());
        }
    });
    for delivery in &mut deliveries {
        // The answers arrive between the measurements.
        poll_fn(|context| match std::pin::Pin::new(&mut *delivery).poll(context) {
            Poll::Ready(result) => {
                result.unwrap();
                Poll::Ready(())
            }
            Poll::Pending => Poll::Pending,
        })
        .await;
    }
    let per_record = appended.count_total as f64 / RECORDS as f64;
    assert!(per_record <= 0.01, "{per_record} allocations per record ({} in all)", appended.count_total);
}

/// A handle that goes from one topic to another and back finds each without an allocation.
#[tokio::test(start_paused = true)]
async fn handle_that_alternates_between_topics_allocates_next_to_nothing() {
    const RECORDS: u64 = 5_000;
    let broker = Broker::builder().topic("t", 1).topic("u", 1).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).batch_size(64 * 1024).build().unwrap();
    let value = [b'v'; 100];
    let records = ["t", "u"].map(|topic| Record::to(topic).key("a key of 16 byte").value(&value));
    let mut deliveries = Vec::with_capacity(2 * RECORDS as usize);
    let send_all = |deliveries: &mut Vec<_>| {
        for _ in 0..RECORDS {
            deliveries.extend(records.map(|record| producer.try_send(record).unwrap()));
        }
    };
    for record in records {
        producer.send(record).await.unwrap().await.unwrap();
    }
    for _ in 0..5 {
        send_all(&mut deliveries);
        producer.flush().await;
        deliveries.clear();
    }
    let appended = allocation_counter::measure(|| send_all(&mut deliveries));
    let per_record = appended.count_total as f64 / (2 * RECORDS) as f64;
    assert!(per_record <= 0.02, "{per_record} allocations per record ({} in all)", appended.count_total);
    producer.flush().await;
}

#[derive(Default)]
struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn batch_wakes_each_waiting_task_once() {
    let broker = Broker::builder().topic("t", 1).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).build().unwrap();
    producer.send(Record::to("t").value("0")).await.unwrap().await.unwrap();
    let batches = producer.metrics().batches;
    let tasks: Vec<_> = (0..4).map(|_| Arc::new(Woken::default())).collect();
    let mut deliveries: Vec<_> = Vec::new();
    for number in 0..400 {
        deliveries.push(Box::pin(producer.try_send(Record::to("t").value(&number.to_string())).unwrap()));
    }
    for (number, delivery) in deliveries.iter_mut().enumerate() {
        let waker = Waker::from(Arc::clone(&tasks[number / 100]));
        assert!(delivery.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    producer.flush().await;
    let batches = producer.metrics().batches - batches;
    assert_eq!(batches, 2, "the first record, and all the others");
    let woken: u64 = tasks.iter().map(|task| task.0.load(Ordering::SeqCst)).sum();
    assert!(woken <= 4 + 1, "{woken} wake-ups for 400 records of 4 tasks in 2 batches");
}

#[tokio::test(start_paused = true)]
async fn idle_producer_does_nothing() {
    let broker = Broker::builder().topic("t", 100).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).build().unwrap();
    for partition in 0..100 {
        producer.send(Record::to("t").partition(partition).value("0")).await.unwrap().await.unwrap();
    }
    // Past every deadline that was set while it worked.
    tokio::time::sleep(Duration::from_secs(300)).await;
    let requests = broker.requests().iter().map(|count| count.count).sum::<u64>();
    let parked = tokio::runtime::Handle::current().metrics().worker_park_count(0);
    tokio::time::sleep(Duration::from_secs(250)).await;
    let more = broker.requests().iter().map(|count| count.count).sum::<u64>() - requests;
    let turns = tokio::runtime::Handle::current().metrics().worker_park_count(0) - parked;
    assert!(more <= 2 && turns <= 50, "{more} requests and {turns} wake-ups in 250 idle seconds");
    assert_eq!(producer.metrics().buffer_used, 0);
}

/// Polls `future` to its end; says how often that was.
async fn polls<T>(future: impl Future<Output = T>) -> (T, u64) {
    let mut future = pin!(future);
    let mut polls = 0;
    let output = poll_fn(|context| {
        polls += 1;
        future.as_mut().poll(context)
    });
    (output.await, polls)
}

#[tokio::test(start_paused = true)]
async fn wave_is_one_write_per_broker() {
    const PARTITIONS: i32 = 12;
    let broker = Broker::builder().nodes(3).topic("t", PARTITIONS).seed(1).build();
    let (client, counts) = counted_link::client(&broker).await;
    let producer = Producer::builder(&client).build().unwrap();
    let value = [b'v'; 100];
    let send_all = async || {
        // Nothing is pumped between these: every partition of a broker is ready when the first of them is drained.
        let mut deliveries = Vec::new();
        for _ in 0..100 {
            for partition in 0..PARTITIONS {
                deliveries.push(producer.try_send(Record::to("t").partition(partition).value(&value)).unwrap());
            }
        }
        producer.flush().await;
        for delivery in deliveries {
            delivery.await.unwrap();
        }
    };
    for partition in 0..PARTITIONS {
        producer.send(Record::to("t").partition(partition).value("0")).await.unwrap().await.unwrap();
    }
    let (written, requests, batches) = (counts.writes(), producer.metrics().requests, producer.metrics().batches);
    send_all().await;
    let metrics = producer.metrics();
    let (writes, requests, batches) =
        (counts.writes() - written, metrics.requests - requests, metrics.batches - batches);
    assert_eq!(writes, requests, "a request is one write");
    // The first record of each partition goes at once, since nothing of it is in flight; the others in one wave a broker.
    assert_eq!(batches, 2 * PARTITIONS as u64);
    assert!(requests <= PARTITIONS as u64 + 3, "{requests} requests: the first records, and a wave for each broker");
}

#[tokio::test(start_paused = true)]
async fn payload_is_copied_once() {
    const RECORDS: usize = 7_500;
    let broker = Broker::builder().topic("t", 1).seed(1).build();
    let (client, counts) = counted_link::client(&broker).await;
    let producer = Producer::builder(&client).batch_size(1_000_000).build().unwrap();
    let value = [b'v'; 100];
    let record = Record::to("t").key("a key of 16 byte").value(&value);
    producer.send(record).await.unwrap().await.unwrap();
    // Warm: buffers have the size of a batch.
    for _ in 0..3 {
        let deliveries: Vec<_> = (0..4 * RECORDS).map(|_| producer.try_send(record).unwrap()).collect();
        producer.flush().await;
        drop(deliveries);
    }
    counts.swallow();
    // Busy: a full batch goes before the one that is looked at.
    let (batches, mut deliveries) = (producer.metrics().batches, Vec::with_capacity(4 * RECORDS));
    while producer.metrics().batches < batches + 3 {
        deliveries.push(producer.try_send(record).unwrap());
    }
    let written = counts.bytes();
    let mut flush = pin!(producer.flush());
    let sent = allocation_counter::measure(|| {
        for _ in 0..RECORDS {
            deliveries.push(producer.try_send(record).unwrap());
        }
        assert!(flush.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    });
    let written = counts.bytes() - written;
    assert!(written > 900_000, "{written} bytes were written: the whole batch goes out during the flush");
    // From the batch's buffer to the stream there is no other: what is allocated is the request around it.
    assert!(sent.bytes_total < 16 * 1024, "{sent:?} for {written} bytes written");
}

/// The whole way out and back, the broker's part included.
#[test]
fn send_batch_allocates_next_to_nothing_per_record_and_is_polled_once_a_batch() {
    const RECORDS: usize = 20_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let broker = Broker::builder().topic("t", 4).seed(1).build();
    let (client, counts) = runtime.block_on(counted_link::client(&broker));
    let producer = runtime.block_on(async { Producer::builder(&client).batch_size(256 * 1024).build().unwrap() });
    let value = [b'v'; 100];
    let record = |number: usize| Record::to("t").partition(number as i32 % 4).key("a key of 16 byte").value(&value);
    let records: Vec<_> = (0..RECORDS).map(record).collect();
    for _ in 0..3 {
        runtime.block_on(producer.send_batch(&records));
    }
    let (before, written, mut outcome) = (producer.metrics(), counts.writes(), (Vec::new(), 0));
    let sent = allocation_counter::measure(|| outcome = runtime.block_on(polls(producer.send_batch(&records))));
    let (results, polls) = outcome;
    assert!(results.iter().all(Result::is_ok) && results.len() == RECORDS);
    let per_record = sent.count_total as f64 / RECORDS as f64;
    assert!(per_record <= 0.05, "{per_record} allocations per record ({} in all)", sent.count_total);
    let batches = producer.metrics().batches - before.batches;
    assert!(polls <= batches + 1, "{polls} polls for {batches} batches");
    let (writes, requests) = (counts.writes() - written, producer.metrics().requests - before.requests);
    // A batch that is larger than the link's room is written in pieces, as to a socket.
    assert!(requests <= batches && writes <= 2 * requests, "{writes} writes, {requests} requests, {batches} batches");
}
