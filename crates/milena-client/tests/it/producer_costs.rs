//! What a record costs, counted where the machine does not matter: allocations, wake-ups, requests, bytes on the wire.

use std::future::Future as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use milena_broker::Broker;
use milena_client::producer::{Producer, Record};

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
        std::future::poll_fn(|context| match std::pin::Pin::new(&mut *delivery).poll(context) {
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
