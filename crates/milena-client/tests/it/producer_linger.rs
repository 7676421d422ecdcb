//! Who waits for company, and who does not.

use std::time::Duration;

use milena_broker::Broker;
use milena_client::producer::{Producer, Record};
use tokio::time::{Instant, sleep_until};

use crate::producer_log::client;

/// The broker answers in no time, in which no linger can end: what time goes by was spent waiting.
#[tokio::test(start_paused = true)]
async fn task_that_awaits_each_record_hardly_ever_waits_for_company() {
    let broker = Broker::builder().topic("t", 1).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).linger(Duration::from_millis(200)).build().unwrap();
    producer.send(Record::to("t")).await.unwrap().await.unwrap();
    let (start, mut waited) = (Instant::now(), 0);
    for _ in 0..20_000 {
        let from = Instant::now();
        producer.send(Record::to("t").value("a value")).await.unwrap().await.unwrap();
        waited += u32::from(from.elapsed() > Duration::ZERO);
    }
    // A second's tokens are gone after 2,000, though the broker could be asked far more often.
    assert!((1..=14).contains(&waited), "{waited} of 20,000");
    assert!(start.elapsed() < Duration::from_millis(200), "one linger: {:?}", start.elapsed());
}

/// Sends 10 records a millisecond, so that each could have a request of its own. Returns how long each took.
async fn steadily(producer: &Producer, seconds: u32) -> Vec<Duration> {
    let start = Instant::now();
    let mut deliveries = Vec::new();
    for millisecond in 0..seconds * 1_000 {
        sleep_until(start + Duration::from_millis(1) * millisecond).await;
        for _ in 0..10 {
            let (delivery, sent) = (producer.send(Record::to("t").value("a value")).await.unwrap(), Instant::now());
            deliveries.push(tokio::spawn(async move {
                delivery.await.unwrap();
                sent.elapsed()
            }));
            settle().await;
        }
    }
    let mut took = Vec::new();
    for delivery in deliveries {
        took.push(delivery.await.unwrap());
    }
    took
}

/// Until what was sent is answered.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn steady_rate_costs_a_broker_as_many_requests_as_it_has_tokens_for() {
    let broker = Broker::builder().topic("t", 1).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).build().unwrap();
    let took = steadily(&producer, 4).await;
    // The burst, and those of each second; what has lingered for 5 ms needs none.
    let most = 2_000 + 4 * (2_000 + 200) + 10;
    let batches = producer.metrics().batches;
    assert!((most * 3 / 4..=most).contains(&batches), "{batches} batches, at most {most}, of {} records", took.len());
}

#[tokio::test(start_paused = true)]
async fn linger_bounds_the_wait_of_what_has_no_token() {
    let broker = Broker::builder().topic("t", 1).seed(1).build();
    let client = client(&broker).await;
    for linger in [10, 40].map(Duration::from_millis) {
        let producer = Producer::builder(&client).linger(linger).build().unwrap();
        let slowest = steadily(&producer, 1).await.into_iter().max().unwrap();
        assert!((linger..linger + Duration::from_millis(5)).contains(&slowest), "{slowest:?} with {linger:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn flush_ends_the_linger_of_what_has_no_token() {
    let broker = Broker::builder().topic("t", 1).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).linger(Duration::from_secs(20)).build().unwrap();
    producer.send(Record::to("t")).await.unwrap().await.unwrap();
    let start = Instant::now();
    // Until the burst of 2,000 requests is used up, and a record must wait for company.
    for number in 0..=2_500 {
        assert!(number < 2_500, "none lingers");
        drop(producer.send(Record::to("t").value("x")).await.unwrap());
        settle().await;
        if producer.metrics().records_acknowledged < number + 2 {
            break;
        }
    }
    producer.flush().await;
    assert!(start.elapsed() < Duration::from_millis(1), "not even a look later: {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_soon_fills_a_batch_waits_until_it_is_full() {
    let broker = Broker::builder().topic("t", 1).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).batch_size(100_000).build().unwrap();
    let (start, value) = (Instant::now(), [b'v'; 100]);
    let mut last = None;
    for millisecond in 0..200 {
        sleep_until(start + Duration::from_millis(1) * millisecond).await;
        for number in 0..1_000 {
            last = Some(producer.send(Record::to("t").value(&value)).await.unwrap());
            if number % 50 == 0 {
                settle().await;
            }
        }
    }
    let end = Instant::now();
    last.unwrap().await.unwrap();
    assert!(end.elapsed() <= Duration::from_millis(5), "the linger: {:?}", end.elapsed());
    let metrics = producer.metrics();
    let full = metrics.bytes_raw / 100_000;
    // There are tokens for 2,000.
    assert!(metrics.batches < full + 60, "{} batches, where {full} are full", metrics.batches);
}
