//! `buffer.memory` that is used up: senders wait, or are told, and nothing is lost.

use std::time::Duration;

use milena_broker::{Broker, Fault, Rule};
use milena_client::producer::{Producer, ProducerConfig, Record, SendError};
use milena_protocol::ApiKey;

use crate::producer_log::{client, numbers};

/// Each produce request is answered so many ms late.
fn slow(millis: u64) -> Rule {
    Rule::new(Fault::Delay(Duration::from_millis(millis))).api(ApiKey::Produce).always()
}

#[tokio::test(start_paused = true)]
async fn full_memory_makes_senders_wait_and_loses_nothing() {
    let broker = Broker::builder().topic("t", 4).seed(3).build();
    let client = client(&broker).await;
    let memory = 64 * 1024;
    let mut config = ProducerConfig::default();
    config.buffer_memory = memory;
    config.batch_size = 4 * 1024;
    config.max_request_size = 16 * 1024;
    let producer = Producer::builder(&client).config(config).build().unwrap();
    broker.faults().add(slow(20));
    let tasks: Vec<_> = (0..20)
        .map(|task: u32| {
            let producer = producer.clone();
            tokio::spawn(async move {
                let mut deliveries = Vec::new();
                for number in 0..50 {
                    let value = format!("{:x>1500}", task * 1_000 + number);
                    let record = Record::to("t").partition(task as i32 % 4).value(&value);
                    deliveries.push(producer.send(record).await.unwrap());
                    assert!(producer.metrics().buffer_used <= memory as u64);
                }
                for delivery in deliveries {
                    delivery.await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    for partition in 0..4 {
        let stored = numbers(&client, "t", partition).await;
        assert_eq!(stored.len(), 250);
        for task in (partition as u32..20).step_by(4) {
            let own: Vec<_> = stored.iter().copied().filter(|number| number / 1_000 == task).collect();
            assert_eq!(own, (0..50).map(|number| task * 1_000 + number).collect::<Vec<_>>(), "order of task {task}");
        }
    }
    let metrics = producer.metrics();
    assert_eq!((metrics.buffer_used, metrics.waiting_for_buffer), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn full_memory_is_told_by_try_send_and_bounded_for_send() {
    let broker = Broker::builder().topic("t", 1).seed(3).build();
    let client = client(&broker).await;
    let mut config = ProducerConfig::default();
    config.buffer_memory = 16 * 1024;
    config.batch_size = 2 * 1024;
    config.max_request_size = 4 * 1024;
    config.max_block = Duration::from_secs(2);
    let producer = Producer::builder(&client).config(config).build().unwrap();
    producer.send(Record::to("t")).await.unwrap().await.unwrap();
    let rule = broker.faults().add(slow(10_000));
    let value = [b'1'; 1_500];
    let record = Record::to("t").value(&value);
    let mut taken = 0;
    let error = loop {
        match producer.try_send(record) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, SendError::BufferFull { limit: 16_384 }), "{error}");
    let start = tokio::time::Instant::now();
    let error = producer.send(record).await.unwrap_err();
    assert!(matches!(error, SendError::Blocked { .. }), "{error}");
    assert_eq!(start.elapsed().as_secs(), 2);
    broker.faults().remove(rule);
    assert!(producer.close(Duration::from_secs(600)).await.clean);
    assert_eq!(producer.metrics().records_acknowledged, taken + 1);
}
