//! When things go wrong: nothing acknowledged is lost or doubled, the order holds, and outcomes are honest.

use std::time::Duration;

use milena_broker::{Broker, Fault, Rule};
use milena_client::producer::{Delivery, Outcome, ProduceError, Producer, Record};
use milena_client::{Client, ErrorClass};
use milena_protocol::{ApiKey, ErrorCode};

use crate::producer_log::{client, numbers};

const DEADLINE: Duration = Duration::from_secs(600);

/// Batches of a few records, so that five are soon in flight.
fn small_batches(client: &Client) -> Producer {
    Producer::builder(client).batch_size(400).linger(Duration::from_millis(5)).build().unwrap()
}

async fn send(producer: &Producer, partition: i32, number: u32) -> Delivery {
    let value = format!("{number:x>30}");
    producer.send(Record::to("t").partition(partition).value(&value)).await.unwrap()
}

/// Bounded: in virtual time a wait for ever would be one for this test too.
async fn soon(delivery: Delivery) -> Result<milena_client::producer::RecordMetadata, ProduceError> {
    tokio::time::timeout(DEADLINE, delivery).await.expect("an answer, of whatever kind")
}

fn produce(fault: Fault) -> Rule {
    Rule::new(fault).api(ApiKey::Produce)
}

/// Sends 100 records under `rules` and checks that all of them are in the log, once and in order.
async fn all_arrive(nodes: u16, rules: Vec<Rule>, about: &str) {
    let broker = Broker::builder().nodes(nodes).topic("t", 1).seed(3).build();
    let client = client(&broker).await;
    let producer = small_batches(&client);
    send(&producer, 0, 0).await.await.unwrap();
    let faults = broker.faults();
    let rules: Vec<_> = rules.into_iter().map(|rule| faults.add(rule)).collect();
    let mut deliveries = Vec::new();
    for number in 1..100 {
        deliveries.push(send(&producer, 0, number).await);
    }
    for (number, delivery) in deliveries.into_iter().enumerate() {
        let metadata = delivery.await.unwrap_or_else(|error| panic!("{about}: record {}: {error}", number + 1));
        assert_eq!(metadata.offset(), Some(number as i64 + 1), "{about}");
    }
    for rule in rules {
        assert!(faults.remove(rule) > 0, "{about}: the fault never struck");
    }
    assert_eq!(numbers(&client, "t", 0).await, (0..100).collect::<Vec<_>>(), "{about}");
    assert!(producer.close(DEADLINE).await.clean);
    assert_eq!(producer.metrics().buffer_used, 0, "{about}");
}

#[tokio::test(start_paused = true)]
async fn lost_answer_and_lost_request_write_everything_once() {
    for k in 1..=6 {
        for (fault, about) in [
            (Fault::DropAfterApply, "applied, then cut"),
            (Fault::DropBeforeApply, "cut before it was applied"),
            (Fault::CutReply { after_bytes: 7 }, "cut in the middle of the answer"),
            (Fault::WrongCorrelationId, "answered under another number"),
        ] {
            all_arrive(1, vec![produce(fault).nth(k)], &format!("{about}, request {k}")).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn error_on_any_of_five_in_flight_is_retried_in_order() {
    let before = [
        ErrorCode::NOT_LEADER_OR_FOLLOWER,
        ErrorCode::LEADER_NOT_AVAILABLE,
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode::NOT_ENOUGH_REPLICAS,
        ErrorCode::KAFKA_STORAGE_ERROR,
        ErrorCode::UNKNOWN_SERVER_ERROR,
        ErrorCode::CORRUPT_MESSAGE,
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
        ErrorCode::UNKNOWN_PRODUCER_ID,
    ];
    let after = [
        ErrorCode::NOT_LEADER_OR_FOLLOWER,
        ErrorCode::REQUEST_TIMED_OUT,
        ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        ErrorCode::KAFKA_STORAGE_ERROR,
    ];
    for k in 1..=5 {
        for code in before {
            all_arrive(1, vec![produce(Fault::Error(code)).nth(k)], &format!("{code} for request {k}")).await;
        }
        for code in after {
            let about = format!("{code} after request {k} was applied");
            all_arrive(1, vec![produce(Fault::ErrorAfterApply(code)).nth(k)], &about).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_losses_of_the_same_batches_write_everything_once() {
    for k in 1..=5 {
        let rules = vec![produce(Fault::DropAfterApply).nth(k), produce(Fault::DropAfterApply).nth(k + 5)];
        all_arrive(1, rules, &format!("requests {k} and {}", k + 5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn moving_leader_takes_the_order_along() {
    let broker = Broker::builder().nodes(3).topic("t", 2).seed(3).build();
    let client = client(&broker).await;
    let producer = small_batches(&client);
    let mut deliveries = Vec::new();
    for number in 0..600 {
        if number % 50 == 0 {
            let to = (broker.leader("t", 0).unwrap().unwrap() + 1) % 3;
            broker.move_leader("t", 0, to).unwrap();
        }
        if number % 20 == 0 {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        deliveries.push(send(&producer, number as i32 % 2, number).await);
    }
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    for partition in 0..2 {
        assert_eq!(numbers(&client, "t", partition).await, (partition as u32..600).step_by(2).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn broker_that_is_gone_for_a_while_costs_nothing_but_time() {
    let broker = Broker::builder().nodes(3).topic("t", 3).seed(3).build();
    let client = client(&broker).await;
    let producer = small_batches(&client);
    for partition in 0..3 {
        send(&producer, partition, 0).await.await.unwrap();
    }
    broker.stop_node(1).await.unwrap();
    let mut deliveries = Vec::new();
    for number in 1..90 {
        for partition in 0..3 {
            deliveries.push(send(&producer, partition, number).await);
        }
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    broker.start_node(1).await.unwrap();
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    for partition in 0..3 {
        assert_eq!(numbers(&client, "t", partition).await, (0..90).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn batch_that_the_broker_calls_too_large_is_split_and_sent_on() {
    let broker = Broker::builder().config("message.max.bytes", "500").topic("t", 1).seed(3).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).batch_size(8_000).linger(Duration::from_millis(5)).build().unwrap();
    let mut deliveries = Vec::new();
    for number in 0..400 {
        deliveries.push(send(&producer, 0, number).await);
    }
    for (number, delivery) in deliveries.into_iter().enumerate() {
        assert_eq!(delivery.await.unwrap().offset(), Some(number as i64));
    }
    let large = "x".repeat(1_000);
    let lone = producer.send(Record::to("t").value(&large)).await.unwrap();
    let behind = send(&producer, 0, 400).await;
    let error = lone.await.unwrap_err();
    assert_eq!(error.error_code(), Some(ErrorCode::MESSAGE_TOO_LARGE.0), "{error}");
    assert_eq!(error.outcome(), Outcome::Failed);
    assert_eq!(behind.await.unwrap().offset(), Some(400));
    assert_eq!(numbers(&client, "t", 0).await, (0..=400).collect::<Vec<_>>());
    assert_eq!(producer.metrics().epoch_bumps, 0, "a definite refusal leaves no gap");
}

/// Too large is no answer to whether an earlier attempt was written: the size is looked at before duplicates.
#[tokio::test(start_paused = true)]
async fn too_large_batch_is_split_only_if_no_earlier_attempt_can_have_been_written() {
    let not_leader = ErrorCode::NOT_LEADER_OR_FOLLOWER;
    for (before, splits) in [
        (Fault::Error(ErrorCode::NOT_ENOUGH_REPLICAS), true),
        (Fault::Error(ErrorCode::THROTTLING_QUOTA_EXCEEDED), true),
        // Refused before anything was appended, and deposed after that: the offset in the answer tells.
        (Fault::Error(not_leader), true),
        (Fault::ErrorAfterApply(not_leader), false),
        (Fault::Error(ErrorCode::KAFKA_STORAGE_ERROR), false),
        (Fault::DropBeforeApply, false),
    ] {
        let about = format!("{before:?}");
        let is_written = matches!(before, Fault::ErrorAfterApply(_));
        let broker = Broker::builder().topic("t", 1).seed(3).build();
        let client = client(&broker).await;
        let producer = Producer::builder(&client).build().unwrap();
        send(&producer, 0, 0).await.await.unwrap();
        broker.faults().add(produce(before).nth(2));
        broker.faults().add(produce(Fault::Error(ErrorCode::MESSAGE_TOO_LARGE)).nth(3));
        // Goes at once, and the others in one batch when it is answered.
        let first = producer.try_send(Record::to("t").value("1")).unwrap();
        let mut deliveries = Vec::new();
        for number in 2..=10 {
            deliveries.push(producer.try_send(Record::to("t").value(&number.to_string())).unwrap());
        }
        soon(first).await.unwrap();
        for delivery in deliveries {
            let outcome = soon(delivery).await.map_err(|error| error.outcome());
            assert_eq!(outcome.err(), (!splits).then_some(Outcome::PossiblyWritten), "{about}");
        }
        send(&producer, 0, 11).await.await.unwrap();
        let expected: Vec<_> = (0..=11).filter(|number| splits || is_written || [0, 1, 11].contains(number)).collect();
        assert_eq!(numbers(&client, "t", 0).await, expected, "{about}: each once, in order");
        assert_eq!(producer.metrics().epoch_bumps, u64::from(!splits), "{about}");
    }
}

#[tokio::test(start_paused = true)]
async fn unanswered_batch_is_possibly_written_and_the_partition_goes_on() {
    let broker = Broker::builder().topic("t", 1).seed(3).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client)
        .delivery_timeout(Duration::from_secs(10))
        .request_timeout(Duration::from_secs(9))
        .build()
        .unwrap();
    send(&producer, 0, 0).await.await.unwrap();
    let rule = broker.faults().add(produce(Fault::DropAfterApply).always());
    let start = tokio::time::Instant::now();
    let unanswered = send(&producer, 0, 1).await;
    let error = soon(unanswered).await.unwrap_err();
    assert!(matches!(error, ProduceError::DeliveryTimeout { outcome: Outcome::PossiblyWritten, .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(11), "{:?}", start.elapsed());
    broker.faults().remove(rule);
    let after = send(&producer, 0, 2).await;
    assert_eq!(after.await.unwrap().offset(), Some(2));
    assert_eq!(numbers(&client, "t", 0).await, [0, 1, 2], "it was written, once");
    let metrics = producer.metrics();
    assert_eq!((metrics.epoch_bumps, metrics.records_possibly_written, metrics.buffer_used), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn held_answer_keeps_the_buffer_until_it_comes() {
    let broker = Broker::builder().topic("t", 1).seed(3).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client)
        .delivery_timeout(Duration::from_secs(6))
        .request_timeout(Duration::from_secs(5))
        .build()
        .unwrap();
    send(&producer, 0, 0).await.await.unwrap();
    broker.faults().add(produce(Fault::Throttle(Duration::from_secs(30))).nth(1));
    broker.faults().add(produce(Fault::Delay(Duration::from_millis(4_900))).nth(2));
    send(&producer, 0, 1).await.await.unwrap();
    // The connection keeps the throttle: what comes now is not even written before its time is over.
    let late = send(&producer, 0, 2).await;
    let error = soon(late).await.unwrap_err();
    assert!(matches!(error, ProduceError::DeliveryTimeout { .. }), "{error}");
    assert!(producer.metrics().buffer_used > 0, "its request still holds it (CVE-2026-35554)");
    let after = send(&producer, 0, 3).await;
    drop(after);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(producer.metrics().buffer_used, 0);
}

#[tokio::test(start_paused = true)]
async fn never_sent_has_failed_for_certain() {
    let broker = Broker::builder().nodes(2).topic("t", 1).seed(3).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client)
        .delivery_timeout(Duration::from_secs(10))
        .request_timeout(Duration::from_secs(9))
        .build()
        .unwrap();
    send(&producer, 0, 0).await.await.unwrap();
    broker.remove_leader("t", 0).unwrap();
    client.refresh_metadata().await.unwrap();
    let delivery = send(&producer, 0, 1).await;
    let error = soon(delivery).await.unwrap_err();
    assert!(matches!(error, ProduceError::DeliveryTimeout { outcome: Outcome::Failed, .. }), "{error:?}");
    broker.move_leader("t", 0, 1).unwrap();
    send(&producer, 0, 2).await.await.unwrap();
    assert_eq!(numbers(&client, "t", 0).await, [0, 2]);
}

#[tokio::test(start_paused = true)]
async fn record_that_comes_late_to_a_partition_without_leader_has_its_own_time() {
    let broker = Broker::builder().topic("t", 1).seed(3).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client)
        .delivery_timeout(Duration::from_secs(10))
        .request_timeout(Duration::from_secs(2))
        .build()
        .unwrap();
    send(&producer, 0, 0).await.await.unwrap();
    broker.remove_leader("t", 0).unwrap();
    client.refresh_metadata().await.unwrap();
    let early = send(&producer, 0, 1).await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    let late = send(&producer, 0, 2).await;
    assert_eq!(soon(early).await.unwrap_err().outcome(), Outcome::Failed);
    broker.move_leader("t", 0, 0).unwrap();
    soon(late).await.expect("of its ten seconds one has passed");
    assert_eq!(numbers(&client, "t", 0).await, [0, 2]);
}

#[tokio::test(start_paused = true)]
async fn definite_refusal_is_told_and_costs_no_epoch() {
    let broker = Broker::builder().topic("t", 1).seed(3).build();
    let client = client(&broker).await;
    let producer = small_batches(&client);
    send(&producer, 0, 0).await.await.unwrap();
    broker.faults().add(produce(Fault::Error(ErrorCode::TOPIC_AUTHORIZATION_FAILED)).nth(1));
    let refused = send(&producer, 0, 1).await;
    let error = refused.await.unwrap_err();
    assert_eq!((error.error_code(), error.outcome()), (Some(29), Outcome::Failed));
    assert_eq!(send(&producer, 0, 2).await.await.unwrap().offset(), Some(1));
    assert_eq!(producer.metrics().epoch_bumps, 0);
}

#[tokio::test(start_paused = true)]
async fn leader_without_a_common_version_of_produce_fails_records_at_once_and_by_name() {
    let none = Broker::builder().versions(ApiKey::Produce, 99, 99);
    // Topics have no ids here, which is the only way in which the broker takes them.
    let other = Broker::builder().versions(ApiKey::Produce, 13, 13).versions(ApiKey::Metadata, 0, 9);
    for (builder, served, text) in [
        (
            none,
            None,
            "broker 0 at embedded-0:9092 serves no Produce, and this client speaks Produce in versions 3 to 13",
        ),
        (
            other,
            Some(13..=13),
            "serves Produce in versions 13 to 13, and this client speaks Produce in versions 3 to 12",
        ),
    ] {
        let broker = builder.topic("t", 1).seed(3).build();
        let client = client(&broker).await;
        let producer = small_batches(&client);
        let mut deliveries = Vec::new();
        for number in 0..50 {
            deliveries.push(send(&producer, 0, number).await);
        }
        let start = tokio::time::Instant::now();
        for delivery in deliveries {
            let error = soon(delivery).await.unwrap_err();
            assert!(
                matches!(&error, ProduceError::UnsupportedVersion { theirs, .. } if *theirs == served),
                "{error:?}"
            );
            assert_eq!((error.class(), error.outcome()), (ErrorClass::InvalidConfiguration, Outcome::Failed));
            assert!(error.to_string().contains(text), "{error}");
        }
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert!(producer.close(DEADLINE).await.clean);
        assert_eq!(producer.metrics().buffer_used, 0);
    }
}

/// A broker serves what it has received, though we have closed the connection since. A batch behind one given up must
/// not be sent again then: asked for under the old epoch it is refused as out of order, and while it travels again
/// under the new one the broker reads it from the old connection.
#[tokio::test(start_paused = true)]
async fn batch_behind_one_given_up_is_not_written_again_while_the_old_connection_is_read() {
    // The old connection is read before the next batch of the new epoch arrives, or after it.
    for read_after in [Duration::from_millis(10_900), Duration::from_secs(30)] {
        let broker = Broker::builder().topic("t", 1).seed(3).build();
        let client = client(&broker).await;
        let producer = Producer::builder(&client)
            .delivery_timeout(Duration::from_secs(9))
            .request_timeout(Duration::from_secs(5))
            .linger(Duration::ZERO)
            .build()
            .unwrap();
        send(&producer, 0, 0).await.await.unwrap();
        let faults = broker.faults();
        // The first attempt, with the batch behind it in the same connection; the second; whatever comes fourth.
        faults.add(produce(Fault::Delay(read_after)).nth(1));
        faults.add(produce(Fault::Delay(Duration::from_secs(100))).nth(2));
        faults.add(produce(Fault::Delay(Duration::from_secs(1))).nth(4));
        let start = tokio::time::Instant::now();
        let given_up = send(&producer, 0, 1).await;
        tokio::time::sleep_until(start + Duration::from_millis(4_900)).await;
        let behind = send(&producer, 0, 2).await;
        let error = soon(given_up).await.unwrap_err();
        assert!(matches!(error, ProduceError::DeliveryTimeout { outcome: Outcome::PossiblyWritten, .. }), "{error}");
        let next = send(&producer, 0, 3).await;
        let behind = soon(behind).await;
        soon(next).await.unwrap();
        tokio::time::sleep_until(start + Duration::from_secs(200)).await;
        let stored = numbers(&client, "t", 0).await;
        assert!(stored.is_sorted_by(|one, next| one < next), "once each, or not at all: {stored:?}");
        assert_eq!((stored.first(), stored.last()), (Some(&0), Some(&3)), "{read_after:?}");
        let error = behind.unwrap_err();
        assert!(matches!(error, ProduceError::Unsettled { .. }), "{error}");
        assert_eq!(error.outcome(), Outcome::PossiblyWritten);
        assert_eq!((producer.metrics().epoch_bumps, producer.metrics().buffer_used), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn tasks_of_dropped_producers_end_though_their_partition_has_no_leader() {
    let broker = Broker::builder().nodes(2).topic("t", 1).seed(3).build();
    let client = client(&broker).await;
    let limit = Duration::from_secs(10);
    let builder = Producer::builder(&client).delivery_timeout(limit).request_timeout(limit / 2);
    // Many, so that a connection more or less does not count.
    let producers: Vec<_> = (0..20).map(|_| builder.clone().build().unwrap()).collect();
    for producer in &producers {
        send(producer, 0, 0).await.await.unwrap();
    }
    broker.remove_leader("t", 0).unwrap();
    client.refresh_metadata().await.unwrap();
    let start = tokio::time::Instant::now();
    let mut deliveries = Vec::new();
    for producer in &producers {
        deliveries.push(send(producer, 0, 1).await);
    }
    let tasks = client.task_count();
    drop(producers);
    for delivery in deliveries {
        assert_eq!(soon(delivery).await.unwrap_err().outcome(), Outcome::Failed);
    }
    while client.task_count() > tasks - 15 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(start.elapsed() < limit * 2, "nothing is left to send, and the tasks wait for a leader");
    }
}

/// What the driver waits for may be in flight though it was given up and told: then its answer is the last event.
#[tokio::test(start_paused = true)]
async fn task_of_a_closed_producer_ends_with_the_last_answer() {
    let broker = Broker::builder().topic("t", 1).seed(3).build();
    let client = client(&broker).await;
    let producer = small_batches(&client);
    send(&producer, 0, 0).await.await.unwrap();
    broker.faults().add(produce(Fault::Delay(Duration::from_secs(20))));
    let start = tokio::time::Instant::now();
    let late = send(&producer, 0, 1).await;
    assert!(!producer.close(Duration::from_secs(1)).await.clean);
    assert_eq!(soon(late).await.unwrap_err().outcome(), Outcome::PossiblyWritten);
    let tasks = client.task_count();
    while client.task_count() >= tasks {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(start.elapsed() < Duration::from_secs(22), "the answer came, and the task sleeps on");
    }
    assert_eq!(producer.metrics().buffer_used, 0);
}

/// Random faults of all kinds for each seed, with honest bookkeeping at the end.
#[tokio::test(start_paused = true)]
async fn seeded_storm_of_faults_keeps_every_promise() {
    let seeds = std::env::var("MILENA_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(12);
    for seed in 0..seeds {
        storm(seed).await;
    }
}

async fn storm(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let broker = Broker::builder().nodes(3).topic("t", 3).seed(seed).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client)
        .batch_size(rng.usize(150..2_000))
        .linger(Duration::from_millis(rng.u64(0..20)))
        .delivery_timeout(Duration::from_secs(rng.u64(4..30)))
        .request_timeout(Duration::from_secs(3))
        .build()
        .unwrap();
    let mut sent: Vec<(i32, u32, Delivery)> = Vec::new();
    for number in 0..600 {
        if rng.u32(0..12) == 0 {
            let fault = match rng.u32(0..10) {
                0 => Fault::DropAfterApply,
                1 => Fault::DropBeforeApply,
                2 => Fault::CutReply { after_bytes: rng.usize(0..30) },
                3 => Fault::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER),
                4 => Fault::ErrorAfterApply(ErrorCode::REQUEST_TIMED_OUT),
                5 => Fault::Error(ErrorCode::NOT_ENOUGH_REPLICAS),
                // Beyond 3 s the connection is closed first, and the broker serves what it has received all the same.
                6 => Fault::Delay(Duration::from_millis(rng.u64(1..7_000))),
                7 => Fault::Error(ErrorCode::TOPIC_AUTHORIZATION_FAILED),
                8 => Fault::Throttle(Duration::from_millis(rng.u64(1..300))),
                _ => Fault::ErrorAfterApply(ErrorCode::NOT_LEADER_OR_FOLLOWER),
            };
            broker.faults().add(produce(fault).nth(rng.u64(1..4)));
        }
        if rng.u32(0..60) == 0 {
            broker.move_leader("t", rng.i32(0..3), rng.i32(0..3)).unwrap();
        }
        if rng.u32(0..5) == 0 {
            tokio::time::sleep(Duration::from_millis(rng.u64(0..40))).await;
        }
        let partition = rng.i32(0..3);
        sent.push((partition, number, send(&producer, partition, number).await));
    }
    broker.faults().clear();
    let mut outcomes = Vec::new();
    for (partition, number, delivery) in sent {
        outcomes.push((partition, number, delivery.await));
    }
    for partition in 0..3 {
        let stored = numbers(&client, "t", partition).await;
        let mut last = None;
        for (_, number, outcome) in outcomes.iter().filter(|(of, ..)| *of == partition) {
            let places: Vec<_> = stored.iter().enumerate().filter(|(_, stored)| *stored == number).collect();
            match outcome {
                Ok(metadata) => {
                    assert_eq!(places.len(), 1, "seed {seed}: {number} of {partition} was acknowledged: {places:?}");
                    assert!(metadata.offset().is_none_or(|offset| offset as usize == places[0].0), "seed {seed}");
                    assert!(last < Some(places[0].0), "seed {seed}: {number} of {partition} is out of order");
                    last = Some(places[0].0);
                }
                Err(error) if error.outcome() == Outcome::Failed => {
                    assert!(places.is_empty(), "seed {seed}: {number} of {partition} failed and is there: {error}");
                }
                Err(error) => assert!(places.len() <= 1, "seed {seed}: {number} twice: {error}"),
            }
        }
    }
    let report = producer.close(DEADLINE).await;
    assert!(report.clean, "seed {seed}: {report:?}");
    assert_eq!(producer.metrics().buffer_used, 0, "seed {seed}");
}

#[tokio::test(start_paused = true)]
async fn producer_goes_on_though_another_of_its_client_has_all_permits() {
    let broker = Broker::builder().topic("t", 6).seed(3).build();
    let client = client(&broker).await;
    let (busy, idle) = (small_batches(&client), small_batches(&client));
    soon(send(&busy, 0, 0).await).await.unwrap();
    soon(send(&idle, 5, 0).await).await.unwrap();
    broker.faults().add(produce(Fault::Delay(Duration::from_secs(5))));
    let mut deliveries = Vec::new();
    for partition in 0..5 {
        deliveries.push(send(&busy, partition, 1).await);
    }
    let start = tokio::time::Instant::now();
    soon(send(&idle, 5, 1).await).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(10), "it waits for a permit, not for an answer of its own");
    for delivery in deliveries {
        soon(delivery).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn throttled_producer_holds_its_requests_back_and_none_is_late() {
    let broker = Broker::builder().topic("t", 1).seed(3).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).request_timeout(Duration::from_secs(1)).build().unwrap();
    broker.faults().add(produce(Fault::Throttle(Duration::from_secs(3))));
    soon(send(&producer, 0, 0).await).await.unwrap();
    let start = tokio::time::Instant::now();
    soon(send(&producer, 0, 1).await).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(2), "the broker was silent: {:?}", start.elapsed());
    assert_eq!(producer.metrics().retries, 0, "a request that may not be sent is not late");
}

#[tokio::test(start_paused = true)]
async fn producer_that_awaits_no_answer_finds_the_new_leader_since_the_old_one_hangs_up() {
    use milena_client::producer::Acks;
    let broker = Broker::builder().nodes(2).topic("t", 1).seed(3).build();
    broker.move_leader("t", 0, 0).unwrap();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).acks(Acks::None).build().unwrap();
    send(&producer, 0, 0).await.await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    broker.move_leader("t", 0, 1).unwrap();
    // The broker hangs up when the records have long been written to the stream.
    broker.faults().add(produce(Fault::Delay(Duration::from_millis(2))).always());
    for number in 1..100 {
        send(&producer, 0, number).await.await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    producer.flush().await;
    let found = numbers(&client, "t", 0).await;
    // What the old leader refused is lost, as acks=0 allows: at most what was sent within the first pauses.
    let lost = 100 - found.len() as u32;
    assert!((1..=20).contains(&lost), "{lost} lost: {found:?}");
    assert_eq!(found[1..], (1 + lost..100).collect::<Vec<_>>(), "nothing is lost after that");
}
