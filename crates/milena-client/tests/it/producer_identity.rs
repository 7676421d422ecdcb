//! What a producer lacks that can't send: an id, a leader, a connection. It is asked for until it is there, and named by
//! records that fail for want of it.

use std::error::Error as _;
use std::time::Duration;

use milena_broker::{Broker, Fault, Rule};
use milena_client::producer::{Acks, Delivery, Hindrance, Outcome, ProduceError, Producer, Record, RecordMetadata};
use milena_client::{Client, ErrorClass, RequestError};
use milena_protocol::{ApiKey, ErrorCode};
use tokio::time::{Instant, timeout};

use crate::base::links::{Links, Route};
use crate::producer_log::{client, numbers};

async fn send(producer: &Producer, partition: i32, number: u32) -> Delivery {
    let value = format!("{number:x>30}");
    producer.send(Record::to("t").partition(partition).value(&value)).await.unwrap()
}

/// Bounded: in virtual time a wait for ever would be one for this test too.
async fn soon(delivery: Delivery) -> Result<RecordMetadata, ProduceError> {
    timeout(Duration::from_secs(600), delivery).await.expect("an answer, of whatever kind")
}

#[tokio::test(start_paused = true)]
async fn producer_id_is_asked_for_until_there_is_one() {
    let broker = Broker::builder().topic("t", 1).seed(3).build();
    let init = |fault| Rule::new(fault).api(ApiKey::InitProducerId);
    broker.faults().add(init(Fault::Error(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS)).nth(1));
    broker.faults().add(init(Fault::DropBeforeApply).nth(2));
    let client = client(&broker).await;
    let producer = Producer::builder(&client).build().unwrap();
    assert_eq!(send(&producer, 0, 0).await.await.unwrap().offset(), Some(0));
}

#[tokio::test(start_paused = true)]
async fn producer_id_that_is_refused_for_good_fails_records_at_once_and_by_name() {
    let broker = Broker::builder().topic("t", 2).seed(3).build();
    let rule = Rule::new(Fault::Error(ErrorCode::CLUSTER_AUTHORIZATION_FAILED)).api(ApiKey::InitProducerId);
    let rule = broker.faults().add(rule.always());
    let client = client(&broker).await;
    let producer = Producer::builder(&client).build().unwrap();
    for partition in [0, 0, 1, 0] {
        let start = Instant::now();
        let error = soon(send(&producer, partition, 1).await).await.unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert!(matches!(&error, ProduceError::NoProducerId { code: Some(31), .. }), "{error:?}");
        assert_eq!((error.error_code(), error.outcome()), (Some(31), Outcome::Failed), "{error}");
        assert_eq!(error.class(), ErrorClass::InvalidConfiguration);
        assert_eq!(
            error.to_string(),
            format!(
                "t-{partition}: idempotence needs a producer id, and there is none: producer id from \
                 embedded-0:9092: the broker answered CLUSTER_AUTHORIZATION_FAILED (31)"
            )
        );
    }
    // Whoever has got the right meanwhile needs no new producer.
    broker.faults().remove(rule);
    soon(send(&producer, 0, 2).await).await.unwrap();
    assert_eq!(numbers(&client, "t", 0).await, [2]);
}

#[tokio::test(start_paused = true)]
async fn broker_without_producer_ids_fails_records_at_once_and_by_name() {
    let broker = Broker::builder().topic("t", 1).versions(ApiKey::InitProducerId, 99, 99).seed(3).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).build().unwrap();
    for _ in 0..3 {
        let start = Instant::now();
        let error = soon(send(&producer, 0, 1).await).await.unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert!(matches!(&error, ProduceError::NoProducerId { code: None, .. }), "{error:?}");
        assert_eq!((error.class(), error.outcome()), (ErrorClass::InvalidConfiguration, Outcome::Failed));
        assert!(error.to_string().contains("embedded-0:9092 does not serve InitProducerId"), "{error}");
    }
    let plain = Producer::builder(&client).acks(Acks::Leader).build().unwrap();
    soon(send(&plain, 0, 2).await).await.unwrap();
    assert_eq!(numbers(&client, "t", 0).await, [2]);
}

/// The error of the last attempt to get a producer id, for want of which a record ran out of time.
fn why_no_id(error: &ProduceError) -> &RequestError {
    let ProduceError::DeliveryTimeout { outcome: Outcome::Failed, source: Some(source), .. } = error else {
        panic!("{error:?}");
    };
    assert!(error.to_string().ends_with("of 10s, for want of a producer id"), "{error}");
    assert_eq!(error.source().map(ToString::to_string), Some(source.to_string()), "it is in the chain");
    source
}

#[tokio::test(start_paused = true)]
async fn record_that_runs_out_of_time_for_want_of_a_producer_id_says_why_there_is_none() {
    let broker = Broker::builder().topic("t", 1).seed(3).build();
    let client = client(&broker).await;
    client.partitions("t").await.unwrap();
    let producer = Producer::builder(&client)
        .delivery_timeout(Duration::from_secs(10))
        .request_timeout(Duration::from_secs(9))
        .batch_size(400)
        .build()
        .unwrap();
    let faults = broker.faults();
    let busy = Rule::new(Fault::Error(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS)).api(ApiKey::InitProducerId).always();
    let busy = faults.add(busy);
    let mut deliveries = Vec::new();
    // Several batches: some are sealed, and some are not even that.
    for number in 0..40 {
        deliveries.push(send(&producer, 0, number).await);
    }
    for delivery in deliveries {
        let error = soon(delivery).await.unwrap_err();
        let code = ErrorCode::COORDINATOR_LOAD_IN_PROGRESS.0;
        assert!(matches!(why_no_id(&error), RequestError::Broker { code: found, .. } if *found == code), "{error:?}");
    }

    broker.stop_node(0).await.unwrap();
    faults.remove(busy);
    let error = soon(send(&producer, 0, 40).await).await.unwrap_err();
    assert!(matches!(why_no_id(&error), RequestError::Unreachable { .. }), "{error:?}");

    // What fails later fails for another reason.
    broker.start_node(0).await.unwrap();
    soon(send(&producer, 0, 41).await).await.unwrap();
    broker.remove_leader("t", 0).unwrap();
    client.refresh_metadata().await.unwrap();
    let error = soon(send(&producer, 0, 42).await).await.unwrap_err();
    let no_leader = Some(Hindrance::NoLeader);
    assert!(matches!(error, ProduceError::DeliveryTimeout { hindrance, .. } if hindrance == no_leader), "{error:?}");
    assert!(error.source().is_none() && error.to_string().contains("for want of a leader: check that"), "{error}");
}

/// What a record of `producer` lacked that ran out of time, and the address that its error names.
async fn want_of(producer: &Producer, number: u32) -> (Hindrance, String) {
    let error = soon(send(producer, 0, number).await).await.unwrap_err();
    let ProduceError::DeliveryTimeout { hindrance: Some(hindrance), source, .. } = &error else { panic!("{error:?}") };
    assert!(error.to_string().starts_with("t-0: not acknowledged within `delivery.timeout.ms` of 10s, "), "{error}");
    assert!(error.to_string().contains(": check that"), "what to do: {error}");
    (*hindrance, source.as_ref().map(ToString::to_string).unwrap_or_default())
}

#[tokio::test(start_paused = true)]
async fn record_that_runs_out_of_time_says_where_its_leader_was_and_what_to_check() {
    let broker = Broker::builder().nodes(2).topic("t", 1).seed(3).build();
    let leader = broker.leader("t", 0).unwrap().unwrap();
    let links = Links::new(&broker);
    let bootstrap = Client::builder().bootstrap("embedded-0:9092,embedded-1:9092").unwrap();
    let client = bootstrap.connector(std::sync::Arc::clone(&links) as _).build().await.unwrap();
    let producer = Producer::builder(&client)
        .delivery_timeout(Duration::from_secs(10))
        .request_timeout(Duration::from_secs(9))
        .build()
        .unwrap();
    let address = format!("embedded-{leader}");
    links.route(&address, Route::Refused);
    let (hindrance, named) = want_of(&producer, 0).await;
    assert!(hindrance == Hindrance::NoConnection && named.contains(&address), "{hindrance:?} {named}");

    // Once it is reached that is no reason any more.
    links.route(&address, Route::Node(broker.clone(), if leader == 0 { "embedded-0" } else { "embedded-1" }));
    soon(send(&producer, 0, 1).await).await.unwrap();
    let refusal = Rule::new(Fault::Error(ErrorCode::NOT_ENOUGH_REPLICAS)).api(ApiKey::Produce).always();
    let refusal = broker.faults().add(refusal);
    let error = soon(send(&producer, 0, 2).await).await.unwrap_err();
    assert!(matches!(&error, ProduceError::DeliveryTimeout { hindrance: None, last: Some(_), .. }), "{error:?}");
    broker.faults().remove(refusal);

    // Nobody is left who could say who leads.
    for node in 0..2 {
        broker.stop_node(node).await.unwrap();
    }
    let (hindrance, named) = want_of(&producer, 3).await;
    assert!(hindrance != Hindrance::NoProducerId && named.contains("embedded-"), "{hindrance:?} {named}");
}
