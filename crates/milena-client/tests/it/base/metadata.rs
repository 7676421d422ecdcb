//! Metadata: topics that exist, do not, or cannot; refreshes that do not storm; clusters that move.

use std::pin::pin;
use std::time::Duration;

use milena_broker::{Broker, Fault, Rule};
use milena_client::{Client, ErrorClass, RequestError};
use milena_protocol::{ApiKey, ErrorCode};
use tokio::time::{Instant, timeout};

use super::links::{Links, Route, builder, client};

fn metadata_requests(broker: &Broker) -> u64 {
    let counts = broker.requests();
    counts.iter().filter(|count| count.api == ApiKey::Metadata).map(|count| count.count).sum()
}

#[tokio::test(start_paused = true)]
async fn an_unknown_topic_is_believed_after_five_seconds() {
    let broker = Broker::builder().auto_create(false).build();
    let client = client(&broker).await;
    let start = Instant::now();
    let error = client.partitions("nonesuch").await.expect_err("there is none");
    assert!(matches!(&error, RequestError::UnknownTopic { topic } if topic == "nonesuch"), "{error:?}");
    assert!((5.0..7.0).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());
    assert_eq!(error.to_string(), "topic `nonesuch` does not exist: create it first, or check the name");
    assert_eq!(error.error_code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0));
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_appears_meanwhile_is_found() {
    let broker = Broker::builder().auto_create(false).build();
    let client = client(&broker).await;
    let create = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        broker.create_topic("soon", 4, 1).expect("a good name");
    };
    let (found, ()) = tokio::join!(client.partitions("soon"), create);
    assert_eq!(found.expect("it is there now").len(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_illegal_name_is_refused_before_anything_is_sent() {
    let broker = Broker::builder().build();
    let client = client(&broker).await;
    let (before, start) = (metadata_requests(&broker), Instant::now());
    for name in ["", ".", "..", "a b", "a/b", &"x".repeat(250)] {
        let error = client.partitions(name).await.expect_err("illegal");
        assert!(matches!(error, RequestError::InvalidTopicName { .. }), "{error:?}");
        assert_eq!(error.class(), ErrorClass::InvalidConfiguration);
    }
    assert_eq!((metadata_requests(&broker), start.elapsed()), (before, Duration::ZERO));
}

#[tokio::test]
async fn topics_are_created_only_when_that_is_asked_for() {
    let broker = Broker::builder().auto_create(true).build();
    let creating = builder(&broker).set("allow.auto.create.topics", "true").expect("a flag");
    let creating = creating.build().await.expect("the broker answers");
    assert!(!creating.partitions("made").await.expect("created on the way").is_empty());
}

#[tokio::test(start_paused = true)]
async fn many_callers_of_one_new_topic_cause_one_request() {
    let broker = Broker::builder().topic("orders", 3).build();
    let client = client(&broker).await;
    let before = metadata_requests(&broker);
    let calls = (0..100).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.partitions("orders").await.expect("it exists").len() })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.expect("no panic"), 3);
    }
    assert_eq!(metadata_requests(&broker) - before, 1);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_is_seen_to_have_ended_though_its_caller_looks_late() {
    let broker = Broker::builder().topic("orders", 3).build();
    let client = client(&broker).await;
    broker.faults().add(Rule::new(Fault::Delay(Duration::from_secs(1))).api(ApiKey::Metadata));
    let mut first = pin!(client.refresh_metadata());
    timeout(Duration::from_millis(500), &mut first).await.expect_err("it is under way");
    // Owed is the one after that; both end, and a third, before this is looked at again.
    let mut late = pin!(client.refresh_metadata());
    timeout(Duration::ZERO, &mut late).await.expect_err("it begins when the first has ended");
    first.await.expect("the broker answers");
    client.refresh_metadata().await.expect("the broker answers");
    let start = Instant::now();
    late.await.expect("it has succeeded");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_idle_client_asks_every_five_minutes() {
    let broker = Broker::builder().topic("orders", 3).build();
    let client = client(&broker).await;
    client.partitions("orders").await.expect("it exists");
    let before = metadata_requests(&broker);
    tokio::time::sleep(Duration::from_secs(3_601)).await;
    assert_eq!(metadata_requests(&broker) - before, 12);
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_hangs_holds_up_no_refresh() {
    let broker = Broker::builder().nodes(3).topic("orders", 3).build();
    let client = client(&broker).await;
    broker.clear_requests();
    client.refresh_metadata().await.expect("a broker answers");
    let asked = broker.requests().iter().find(|count| count.api == ApiKey::Metadata).expect("one was asked").node;
    let hangs = Fault::Delay(Duration::from_secs(3_600));
    let hit = broker.faults().add(Rule::new(hangs).api(ApiKey::Metadata).node(asked).always());
    for _ in 0..5 {
        let start = Instant::now();
        client.refresh_metadata().await.expect("another broker answers");
        assert!(start.elapsed() <= Duration::from_secs(6), "{:?}", start.elapsed());
    }
    assert!(broker.faults().hits(hit) > 0, "the one that hangs was asked");
}

#[tokio::test(start_paused = true)]
async fn when_no_known_broker_can_be_reached_the_bootstrap_servers_are_asked() {
    let broker = Broker::builder().nodes(2).topic("orders", 2).build();
    let connector = Links::new(&broker);
    connector.route("front", Route::Node(broker.clone(), "embedded-0"));
    let bootstrap = Client::builder().bootstrap("front:9092").expect("an address");
    let client = bootstrap.connector(std::sync::Arc::clone(&connector) as _).build().await.expect("it answers");
    client.refresh_metadata().await.expect("the nodes answer");

    for node in ["embedded-0", "embedded-1"] {
        connector.route(node, Route::Refused);
    }
    for node in [0, 1] {
        broker.stop_node(client.metadata().nodes[node].id).await.expect("a node");
    }
    for node in client.metadata().nodes {
        broker.start_node(node.id).await.expect("a node");
    }
    let before = connector.dials("front");
    // The first refresh finds every node dead, the next one begins at the bootstrap server.
    while client.refresh_metadata().await.is_err() {}
    assert!(connector.dials("front") > before);
}

#[tokio::test(start_paused = true)]
async fn another_cluster_behind_the_bootstrap_address_is_refused() {
    let (ours, theirs) = (Broker::builder().seed(1).build(), Broker::builder().seed(2).build());
    assert_ne!(ours.cluster_id(), theirs.cluster_id());
    let connector = Links::new(&ours);
    connector.route("front", Route::Node(ours.clone(), "embedded-0"));
    let bootstrap = Client::builder().bootstrap("front:9092").expect("an address");
    let client = bootstrap.connector(std::sync::Arc::clone(&connector) as _).build().await.expect("it answers");
    client.refresh_metadata().await.expect("the node answers");

    connector.route("front", Route::Node(theirs.clone(), "embedded-0"));
    connector.route("embedded-0", Route::Refused);
    let node = client.metadata().nodes[0].id;
    ours.stop_node(node).await.expect("a node");
    let error = loop {
        match client.refresh_metadata().await {
            Err(error @ RequestError::OtherCluster { .. }) => break error,
            Err(RequestError::Unreachable { .. } | RequestError::Disconnected { .. }) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(error.class(), ErrorClass::Fatal);
    assert_eq!(client.metadata().cluster_id.as_deref(), Some(ours.cluster_id()));
}
