//! Finding the cluster, and saying clearly why it cannot be found.

use std::time::Duration;

use milena_broker::Broker;
use milena_client::{Client, ClientConfig, ClientError, ErrorClass, RequestError, RuntimeChoice, TcpConnector};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::links::{Links, Route, builder, client};

/// A port on which something answers every client with `bytes`, or with nothing at all.
async fn service(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 256];
            if stream.read(&mut request).await.is_ok() {
                drop(stream.write_all(bytes).await);
            }
            if bytes.is_empty() {
                silent.push(stream);
            }
        }
    });
    address
}

fn source(error: &ClientError) -> &RequestError {
    match error {
        ClientError::Bootstrap { source, .. } => source,
        other => panic!("not a bootstrap error: {other:?}"),
    }
}

#[tokio::test]
async fn one_bootstrap_server_leads_to_the_whole_cluster() {
    let broker = Broker::builder().nodes(3).topic("orders", 6).build();
    let first = broker.bootstrap().split(',').next().expect("a node").to_owned();
    let builder = Client::builder().bootstrap(first).expect("an address").connector(Links::new(&broker));
    let client = builder.build().await.expect("the broker answers");
    let cluster = client.metadata();
    assert_eq!(cluster.nodes.len(), 3);
    assert_eq!(cluster.cluster_id.as_deref(), Some(broker.cluster_id()));
    assert!(cluster.controller.is_some());
    assert!(cluster.topics.is_empty(), "only what is used is asked for");
    assert_eq!(client.partitions("orders").await.expect("it exists").len(), 6);
}

#[tokio::test]
async fn it_works_over_tcp_and_on_a_thread_of_its_own() {
    let broker = Broker::builder().nodes(2).topic("orders", 2).build();
    let addresses = broker.listen("127.0.0.1:0").await.expect("free ports");
    for runtime in [RuntimeChoice::Current, RuntimeChoice::Dedicated] {
        let builder = Client::builder().bootstrap(addresses[0].to_string()).expect("an address");
        let client = builder.runtime(runtime).build().await.expect("the broker answers");
        assert_eq!(client.partitions("orders").await.expect("it exists").len(), 2);
        assert!(client.close(Duration::from_secs(10)).await.clean);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_address_is_named_within_the_bootstrap_timeout() {
    let broker = Broker::builder().build();
    let connector = Links::new(&broker);
    connector.route("nowhere", Route::Refused);
    let start = Instant::now();
    let builder = Client::builder().bootstrap("nowhere:9092").expect("an address").connector(connector);
    let error = builder.build().await.expect_err("nobody there");
    assert!((9..=10).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_eq!(error.to_string(), "none of the bootstrap servers nowhere:9092 answered within 10s");
    let source = source(&error);
    assert!(matches!(source, RequestError::Unreachable { address, .. } if address == "nowhere:9092"), "{source:?}");
    assert!(source.to_string().contains("check that the broker runs"), "{source}");
    assert_eq!(error.class(), ErrorClass::Retriable);
}

#[tokio::test(start_paused = true)]
async fn one_dead_bootstrap_server_does_not_matter() {
    let broker = Broker::builder().build();
    let connector = Links::new(&broker);
    connector.route("dead", Route::Refused);
    let servers = format!("dead:9092,{}", broker.bootstrap());
    let builder = Client::builder().bootstrap(servers).expect("addresses").connector(connector);
    builder.build().await.expect("the other one answers");
}

#[tokio::test]
async fn another_service_on_the_port_is_named_at_once() {
    for (bytes, wanted) in [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".as_slice(), "an HTTP server answers there"),
        (&[21, 3, 3, 0, 2, 2, 70], "a TLS listener answers there"),
        (b"220 mail.example.org ESMTP\r\n", "does not speak the Kafka protocol"),
    ] {
        let address = service(bytes).await;
        let start = Instant::now();
        let builder = Client::builder().bootstrap(address.clone()).expect("an address");
        let error = builder.build().await.expect_err("no broker");
        assert!(start.elapsed() < Duration::from_secs(5), "no retry can mend it");
        let text = source(&error).to_string();
        assert!(text.contains(&address) && text.contains(wanted), "{text}");
        assert_eq!(error.class(), ErrorClass::InvalidConfiguration);
    }
}

#[tokio::test]
async fn a_silent_port_is_given_up_in_time() {
    let address = service(b"").await;
    let mut config = ClientConfig::from_pairs([("bootstrap.servers", &address)]).expect("an address");
    config.bootstrap_timeout = Duration::from_millis(300);
    let start = Instant::now();
    let error = Client::builder().config(config).build().await.expect_err("no broker");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(error.to_string().contains(&address), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_paused_clock_needs_links_in_memory() {
    let builder = Client::builder().bootstrap("localhost:9092").expect("an address");
    let error = builder.connector(std::sync::Arc::new(TcpConnector::default())).build().await.expect_err("refused");
    assert!(matches!(error, ClientError::PausedClock), "{error:?}");

    let broker = Broker::builder().build();
    let client = client(&broker).await;
    assert!(client.time().is_virtual());
    let before = client.time().wall_millis();
    tokio::time::advance(Duration::from_secs(3_600)).await;
    assert_eq!(client.time().wall_millis() - before, 3_600_000);
}

#[test]
fn without_a_runtime_it_says_so() {
    let builder = Client::builder().bootstrap("localhost:9092").expect("an address");
    let error = builder.start().expect_err("no runtime");
    assert!(matches!(error, ClientError::Runtime(_)), "{error:?}");
}

#[tokio::test]
async fn wrong_settings_are_refused_before_anything_is_sent() {
    assert!(Client::builder().bootstrap("localhost").is_err());
    let broker = Broker::builder().build();
    assert!(builder(&broker).set("bootstrap.server", "x").is_err());
    let contradiction = builder(&broker).set("default.api.timeout.ms", "1").expect("a number");
    let error = contradiction.build().await.expect_err("below the request timeout");
    assert!(matches!(error, ClientError::Config(_)), "{error:?}");
    assert!(broker.requests().is_empty());
}

#[tokio::test]
async fn an_old_broker_is_spoken_to_in_its_versions() {
    let broker = Broker::builder()
        .topic("orders", 3)
        .versions(milena_protocol::ApiKey::Metadata, 4, 7)
        .versions(milena_protocol::ApiKey::ApiVersions, 0, 2)
        .build();
    let client = client(&broker).await;
    assert_eq!(client.partitions("orders").await.expect("it exists").len(), 3);
}
