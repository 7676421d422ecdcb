//! Stopping and starting nodes, over links and over TCP.

use std::{io, time::Duration};

use milena_broker::{Broker, BrokerError};
use milena_protocol::{ErrorCode, NodeId, messages::FetchRequest};
use tokio::net::TcpStream;

use crate::client::{Client, fetch_request, metadata_request, plain, values};

#[tokio::test(start_paused = true)]
async fn a_stopped_node_cuts_its_connections_and_gives_up_its_leaders() {
    let broker = Broker::builder().nodes(3).topic("t", 3).build();
    let mut parked = Client::to(&broker, 1);
    parked.send(12, &FetchRequest { max_wait_ms: 60_000, ..fetch_request("t", &[(1, 0)]) }).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    broker.stop_node(1).await.expect("a known node");
    assert_eq!(parked.frame().await, Err(Vec::new()), "the parked fetch ends with its node");
    let refused = broker.connect("embedded-1", 9092).map(|_| ()).map_err(|error| error.kind());
    assert_eq!(refused, Err(io::ErrorKind::ConnectionRefused));
    let response = Client::to(&broker, 0).call(12, &metadata_request(&["t"])).await;
    assert_eq!(response.brokers.iter().map(|node| node.node_id.0).collect::<Vec<_>>(), [0, 2]);
    let moved = &response.topics[0].partitions[1];
    assert_eq!((moved.leader_id, moved.leader_epoch), (NodeId(2), 1));
    assert_eq!((moved.isr_nodes.len(), &moved.offline_replicas[..]), (2, &[NodeId(1)][..]));
    broker.start_node(1).await.expect("it starts");
    let response = Client::to(&broker, 1).call(12, &metadata_request(&["t"])).await;
    assert_eq!((response.brokers.len(), response.topics[0].partitions[1].isr_nodes.len()), (3, 3));
    assert_eq!(broker.stop_node(7).await, Err(BrokerError::UnknownNode(7)));
}

#[tokio::test(start_paused = true)]
async fn the_only_replica_comes_back_with_its_records() {
    let broker = Broker::builder().nodes(2).build();
    broker.create_topic("t", 2, 1).expect("a new topic");
    Client::to(&broker, 1).produce("t", 1, plain(&["kept"])).await;
    broker.stop_node(1).await.expect("a known node");
    let response = Client::to(&broker, 0).call(12, &metadata_request(&["t"])).await;
    assert_eq!(response.topics[0].partitions[1].error_code, ErrorCode::LEADER_NOT_AVAILABLE);
    broker.start_node(1).await.expect("it starts");
    assert_eq!(values(&Client::to(&broker, 1).fetch("t", 1, 0).await), ["kept"]);
}

#[tokio::test]
async fn over_tcp_clients_are_told_tcp_addresses_and_a_restart_keeps_them() {
    let broker = Broker::builder().nodes(2).topic("t", 1).build();
    let addresses = broker.listen("127.0.0.1:0").await.expect("free ports");
    let mut client = Client::over(TcpStream::connect(addresses[0]).await.expect("it listens"));
    let response = client.call(12, &metadata_request(&["t"])).await;
    let told: Vec<_> = response.brokers.iter().map(|node| format!("{}:{}", node.host, node.port)).collect();
    assert_eq!(told, addresses.iter().map(ToString::to_string).collect::<Vec<_>>());
    let embedded = Client::to(&broker, 0).call(12, &metadata_request(&["t"])).await;
    assert_eq!(&*embedded.brokers[0].host, "embedded-0", "links have names of their own");

    broker.stop_node(1).await.expect("a known node");
    assert!(TcpStream::connect(addresses[1]).await.is_err());
    broker.start_node(1).await.expect("the port is free again");
    let mut back = Client::over(TcpStream::connect(addresses[1]).await.expect("it listens again"));
    assert_eq!(back.call(12, &metadata_request(&["t"])).await.brokers.len(), 2);
    broker.shutdown().await;
    assert_eq!(back.frame().await, Err(Vec::new()));
    assert!(TcpStream::connect(addresses[0]).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_stops_the_nodes() {
    let broker = Broker::builder().build();
    let mut client = Client::to(&broker, 0);
    drop(broker);
    assert_eq!(client.frame().await, Err(Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn wrong_addresses_are_errors_that_say_what_there_is() {
    let broker = Broker::builder().build();
    let error = broker.connect("elsewhere", 9092).map(|_| ()).expect_err("no such host");
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("embedded-0:9092"), "{error}");
    assert!(broker.listen("not an address").await.is_err());
    let error = Broker::builder().config("no.such.config", "1").try_build().expect_err("an unknown config");
    assert!(error.to_string().contains("no.such.config"), "{error}");
    assert!(Broker::builder().topic("not legal", 1).try_build().is_err());
    assert!(Broker::builder().nodes(0).try_build().is_err());
}

#[tokio::test(start_paused = true)]
async fn requests_are_counted_by_node_api_and_version() {
    let broker = Broker::builder().nodes(2).topic("t", 1).build();
    let mut client = Client::to(&broker, 1);
    client.call(12, &metadata_request(&["t"])).await;
    client.call(12, &metadata_request(&["t"])).await;
    client.call(4, &metadata_request(&["t"])).await;
    let lines: Vec<_> = broker.requests().iter().map(|line| (line.node, line.version, line.count)).collect();
    assert_eq!(lines, [(1, 4, 1), (1, 12, 2)]);
    broker.clear_requests();
    assert_eq!(broker.requests(), []);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_ids() {
    let ids = async |seed| {
        let broker = Broker::builder().seed(seed).topic("t", 1).build();
        let topic_id = Client::to(&broker, 0).call(12, &metadata_request(&["t"])).await.topics[0].topic_id;
        (broker.cluster_id().to_owned(), topic_id)
    };
    assert_eq!(ids(1).await, ids(1).await);
    assert_ne!(ids(1).await, ids(2).await);
}
