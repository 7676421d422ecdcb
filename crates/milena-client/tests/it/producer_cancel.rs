//! Futures dropped at every point: before the append nothing is sent, after it everything is.

use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use milena_broker::{Broker, Fault, Rule};
use milena_client::producer::{Producer, ProducerConfig, Record};
use milena_protocol::ApiKey;

use crate::producer_log::{client, numbers};

/// Polls `send` of a first record, which has to wait for metadata, `polls` times with the runtime going on in between,
/// and drops it. Returns whether it had resolved.
async fn send_for(producer: &Producer, record: Record<'_>, polls: usize) -> bool {
    let mut send = pin!(producer.send(record));
    for _ in 0..polls {
        if let Poll::Ready(delivery) = send.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            drop(delivery.unwrap());
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

#[tokio::test(start_paused = true)]
async fn send_dropped_while_it_waits_for_metadata_sends_nothing() {
    let mut resolved = false;
    for polls in 0.. {
        let broker = Broker::builder().topic("t", 1).seed(1).build();
        let client = client(&broker).await;
        let producer = Producer::builder(&client).build().unwrap();
        resolved = send_for(&producer, Record::to("t").value("1"), polls).await;
        producer.send(Record::to("t").value("2")).await.unwrap().await.unwrap();
        producer.flush().await;
        let expected: &[u32] = if resolved { &[1, 2] } else { &[2] };
        assert_eq!(numbers(&client, "t", 0).await, expected, "after {polls} polls");
        if resolved {
            break;
        }
    }
    assert!(resolved);
}

#[tokio::test(start_paused = true)]
async fn send_dropped_while_it_waits_for_memory_gives_its_place_and_bytes_back() {
    let config = || {
        let mut config = ProducerConfig::default();
        config.buffer_memory = 8 * 1024;
        config.batch_size = 1024;
        config.max_request_size = 4 * 1024;
        config
    };
    let value = format!("{:x>900}", 7);
    for polls in 1..40 {
        let broker = Broker::builder().topic("t", 1).seed(1).build();
        let client = client(&broker).await;
        let producer = Producer::builder(&client).config(config()).build().unwrap();
        producer.send(Record::to("t").value("0")).await.unwrap().await.unwrap();
        broker.faults().add(Rule::new(Fault::Delay(Duration::from_millis(50))).api(ApiKey::Produce).always());
        let mut sent = 0;
        while producer.try_send(Record::to("t").value(&value)).is_ok() {
            sent += 1;
        }
        assert_eq!(producer.metrics().waiting_for_buffer, 0);
        let mut waiting = Box::pin(producer.send(Record::to("t").value(&value)));
        let mut resolved = false;
        for _ in 0..polls {
            if let Poll::Ready(delivery) = waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                drop(delivery.unwrap());
                resolved = true;
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(waiting);
        assert_eq!(producer.metrics().waiting_for_buffer, 0, "after {polls} polls");
        // Others get through, and nothing stays reserved.
        producer.send(Record::to("t").value("9")).await.unwrap().await.unwrap();
        producer.flush().await;
        assert_eq!(producer.metrics().buffer_used, 0, "after {polls} polls");
        let stored = numbers(&client, "t", 0).await;
        assert_eq!(stored.iter().filter(|number| **number == 7).count(), sent + usize::from(resolved));
        assert_eq!(stored.last(), Some(&9));
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_deliveries_and_flushes_withdraw_nothing() {
    let broker = Broker::builder().topic("t", 1).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).linger(Duration::from_secs(5)).build().unwrap();
    for number in 0..100 {
        let mut delivery = Box::pin(producer.send(Record::to("t").value(&number.to_string())).await.unwrap());
        if number % 2 == 0 {
            assert!(delivery.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        drop(delivery);
    }
    assert!(pin!(producer.flush()).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(numbers(&client, "t", 0).await, (0..100).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn dropped_flush_leaves_no_waker_behind() {
    struct Nobody;
    impl std::task::Wake for Nobody {
        fn wake(self: Arc<Self>) {}
    }
    let broker = Broker::builder().topic("t", 1).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).build().unwrap();
    let _delivery = producer.send(Record::to("t").value("1")).await.unwrap();
    let nobody = Arc::new(Nobody);
    let waker = Waker::from(Arc::clone(&nobody));
    for _ in 0..3 {
        assert!(pin!(producer.flush()).poll(&mut Context::from_waker(&waker)).is_pending());
    }
    assert_eq!(Arc::strong_count(&nobody), 2, "ours, and the waker's own");
}
