//! A topic deleted and created anew under its name: another log, which the same producer writes on to.

use std::time::Duration;

use milena_broker::{Broker, BrokerBuilder, Fault, Rule};
use milena_client::producer::{Delivery, Outcome, Producer, Record, SendError};
use milena_protocol::{ApiKey, ErrorCode};
use tokio::time::{Instant, timeout};

use crate::producer_log::{client, numbers};

/// How long the producer may take to find the new topic.
const SOON: Duration = Duration::from_secs(10);

async fn send(producer: &Producer, partition: i32, number: u32) -> Delivery {
    let value = format!("{number:x>30}");
    producer.send(Record::to("t").partition(partition).value(&value)).await.unwrap()
}

/// Batches of a few records, so that five are soon in flight.
async fn producer(broker: &Broker) -> Producer {
    Producer::builder(&client(broker).await).batch_size(200).linger(Duration::from_millis(5)).build().unwrap()
}

async fn all_acknowledged(deliveries: Vec<Delivery>) {
    for (number, delivery) in deliveries.into_iter().enumerate() {
        let answer = timeout(SOON, delivery).await.unwrap_or_else(|_| panic!("delivery {number} hangs"));
        answer.unwrap_or_else(|error| panic!("delivery {number}: {error}"));
    }
}

/// Writes, recreates the topic where its leader is another one, of a lower epoch, and writes on.
async fn goes_on_in_the_new_topic(builder: BrokerBuilder) {
    let broker = builder.nodes(3).auto_create(false).topic("t", 1).seed(3).build();
    let producer = producer(&broker).await;
    let first = broker.leader("t", 0).unwrap().unwrap();
    for step in 1..=4 {
        all_acknowledged(vec![send(&producer, 0, step).await]).await;
        broker.move_leader("t", 0, (first + step as i32) % 3).unwrap();
    }
    all_acknowledged(vec![send(&producer, 0, 5).await]).await;
    let old = broker.leader("t", 0).unwrap();

    assert!(broker.delete_topic("t"));
    let mut deliveries = Vec::new();
    for number in 100..150 {
        deliveries.push(send(&producer, 0, number).await);
    }
    // They reach a broker that has no such topic.
    tokio::time::sleep(Duration::from_millis(50)).await;
    broker.create_topic("t", 1, 1).unwrap();
    if broker.leader("t", 0).unwrap() == old {
        // The first election of the new log, then, and still far below those of the old one.
        broker.move_leader("t", 0, (old.unwrap() + 1) % 3).unwrap();
    }
    for number in 150..200 {
        deliveries.push(send(&producer, 0, number).await);
    }
    let start = Instant::now();
    all_acknowledged(deliveries).await;
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_eq!(numbers(producer.client(), "t", 0).await, (100..200).collect::<Vec<_>>());
    assert!(producer.close(SOON).await.clean);
    assert_eq!(producer.metrics().buffer_used, 0);
}

#[tokio::test(start_paused = true)]
async fn producer_goes_on_in_the_new_topic_though_its_leader_epoch_is_lower() {
    goes_on_in_the_new_topic(Broker::builder()).await;
}

#[tokio::test(start_paused = true)]
async fn producer_goes_on_in_the_new_topic_of_brokers_that_know_no_topic_ids() {
    let old = Broker::builder().versions(ApiKey::Metadata, 0, 8).versions(ApiKey::Produce, 3, 8);
    goes_on_in_the_new_topic(old.versions(ApiKey::Fetch, 4, 12)).await;
}

#[tokio::test(start_paused = true)]
async fn new_log_gets_one_batch_first_though_leader_and_epoch_are_as_before() {
    let broker = Broker::builder().auto_create(false).topic("t", 1).seed(3).build();
    let producer = producer(&broker).await;
    for number in 0..20 {
        all_acknowledged(vec![send(&producer, 0, number).await]).await;
    }
    assert!(broker.delete_topic("t"));
    broker.create_topic("t", 1, 1).unwrap();
    producer.client().refresh_metadata().await.unwrap();
    // Of five batches in flight the new log would take the second for its first.
    broker.faults().add(Rule::new(Fault::Error(ErrorCode::NOT_ENOUGH_REPLICAS)).api(ApiKey::Produce));
    let mut deliveries = Vec::new();
    for number in 100..200 {
        deliveries.push(send(&producer, 0, number).await);
    }
    all_acknowledged(deliveries).await;
    assert_eq!(numbers(producer.client(), "t", 0).await, (100..200).collect::<Vec<_>>());
    assert_eq!(producer.metrics().epoch_bumps, 0, "the order never was in danger");
}

#[tokio::test(start_paused = true)]
async fn partitions_that_the_new_topic_lacks_fail_what_waits_for_them_and_take_nothing_more() {
    let broker = Broker::builder().nodes(2).auto_create(false).topic("t", 3).seed(3).build();
    let client = client(&broker).await;
    let limit = Duration::from_secs(20);
    let producer = Producer::builder(&client).delivery_timeout(limit).request_timeout(limit / 2).build().unwrap();
    for partition in 0..3 {
        all_acknowledged(vec![send(&producer, partition, 0).await]).await;
    }
    assert!(broker.delete_topic("t"));
    let kept = send(&producer, 0, 1).await;
    let gone = send(&producer, 2, 1).await;
    broker.create_topic("t", 1, 1).unwrap();
    all_acknowledged(vec![kept]).await;
    let error = producer.send(Record::to("t").partition(2).value("2")).await.unwrap_err();
    assert!(matches!(error, SendError::UnknownPartition { partition: 2, partitions: 1, .. }), "{error}");
    for number in 2..30 {
        let value = number.to_string();
        let delivery = producer.send(Record::to("t").key(&value).value(&value)).await.unwrap();
        all_acknowledged(vec![delivery]).await;
    }
    // It is still waited for, and answered for.
    let start = Instant::now();
    timeout(limit * 2, producer.flush()).await.unwrap();
    assert!(start.elapsed() > limit / 2, "{:?}", start.elapsed());
    let error = gone.await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Failed, "{error}");
    assert_eq!(numbers(&client, "t", 0).await, (1..30).collect::<Vec<_>>());

    // More again: what had been there before is there again.
    assert!(broker.delete_topic("t"));
    broker.create_topic("t", 3, 1).unwrap();
    client.refresh_metadata().await.unwrap();
    for partition in 0..3 {
        all_acknowledged(vec![send(&producer, partition, 50).await]).await;
        assert_eq!(numbers(&client, "t", partition).await, [50]);
    }
    assert!(producer.close(SOON).await.clean);
    assert_eq!(producer.metrics().buffer_used, 0);
}
