//! What happens to a connection that sends nonsense, and to the others: nothing.

use std::time::Duration;

use milena_broker::Broker;
use milena_protocol::{
    ApiKey, ErrorCode,
    frame::{decode_response_header, encode_request},
    messages::{ApiVersionsRequest, ApiVersionsResponse, MetadataRequest},
};
use tokio::io::AsyncWriteExt as _;

use crate::client::{Client, metadata_request};

fn software() -> ApiVersionsRequest {
    ApiVersionsRequest { client_software_name: "it".into(), client_software_version: "1".into(), ..Default::default() }
}

fn frame(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes()[..], body].concat()
}

#[tokio::test(start_paused = true)]
async fn nonsense_ends_its_connection_and_no_other() {
    let broker = Broker::builder().topic("t", 1).build();
    let mut bystander = Client::to(&broker, 0);
    let whole = encode_request(1, Some("it"), 12, &metadata_request(&["t"])).expect("encodes");
    let truncated = frame(&whole[4..whole.len() - 1]);
    let unknown_api = frame(&[0x03, 0xe7, 0, 0, 0, 0, 0, 1, 0xff, 0xff]);
    let not_served = frame(&[0, ApiKey::SaslHandshake as u8, 0, 1, 0, 0, 0, 1, 0xff, 0xff]);
    let version_99 = frame(&[0, 3, 0, 99, 0, 0, 0, 1, 0xff, 0xff, 0]);
    let huge_array = frame(&[0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    for (name, bytes) in [
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("a negative length", vec![0xff, 0xff, 0xff, 0xff]),
        ("a length over the limit", vec![0x7f, 0xff, 0xff, 0xff]),
        ("an empty frame", vec![0, 0, 0, 0]),
        ("half a header", frame(&[0, 3, 0])),
        ("a truncated body", truncated),
        ("an unknown api", unknown_api),
        ("an api that is not served", not_served),
        ("a version that is not served", version_99),
        ("an array longer than the frame", huge_array),
    ] {
        let mut client = Client::to(&broker, 0);
        client.stream.write_all(&bytes).await.expect("the broker reads");
        assert_eq!(client.frame().await, Err(Vec::new()), "{name}: closed without an answer");
        assert_eq!(bystander.call(12, &metadata_request(&["t"])).await.topics.len(), 1, "{name}: others go on");
    }
}

#[tokio::test(start_paused = true)]
async fn what_follows_a_whole_body_is_ignored() {
    let broker = Broker::builder().topic("t", 1).build();
    let mut client = Client::to(&broker, 0);
    let whole = encode_request(1, Some("it"), 12, &metadata_request(&["t"])).expect("encodes");
    client.stream.write_all(&frame(&[&whole[4..], &[0, 0]].concat())).await.expect("the broker reads");
    assert!(client.receive::<MetadataRequest>(12).await.is_some(), "Kafka answers too");
}

#[tokio::test(start_paused = true)]
async fn frames_may_arrive_byte_by_byte_or_all_at_once() {
    let broker = Broker::builder().topic("t", 1).build();
    let mut client = Client::to(&broker, 0);
    let one = encode_request(1, Some("it"), 12, &metadata_request(&["t"])).expect("encodes");
    for byte in &one[..] {
        client.stream.write_all(&[*byte]).await.expect("the broker reads");
        tokio::task::yield_now().await;
    }
    client.stream.write_all(&[&one[..], &one[..]].concat()).await.expect("the broker reads");
    for _ in 0..3 {
        let (id, response) = client.receive::<MetadataRequest>(12).await.expect("an answer");
        assert_eq!((id, response.topics.len()), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn api_versions_from_the_future_are_answered_in_version_0() {
    let broker = Broker::builder().build();
    let mut client = Client::to(&broker, 0);
    // Version 99 with the header of a flexible version, and a body nobody knows.
    let body = [0, 18, 0, 99, 0, 0, 0, 42, 0, 2, b'i', b't', 0, 0xde, 0xad, 0xbe, 0xef];
    client.stream.write_all(&frame(&body)).await.expect("the broker reads");
    let mut answer = client.frame().await.expect("an answer");
    assert_eq!(decode_response_header(&mut answer, ApiKey::ApiVersions, 0), Ok(42));
    let response: ApiVersionsResponse = milena_protocol::Decode::decode_exact(0, answer).expect("version 0");
    assert_eq!(response.error_code, ErrorCode::UNSUPPORTED_VERSION);
    let own: Vec<_> = response.api_keys.iter().map(|key| (key.api_key, key.max_version)).collect();
    assert_eq!(own, [(18, 5)]);
    assert_eq!(client.call(5, &software()).await.error_code, ErrorCode::NONE, "the connection is still good");
}

#[tokio::test(start_paused = true)]
async fn api_versions_name_what_is_served_and_check_who_asks() {
    let broker = Broker::builder().versions(ApiKey::Fetch, 4, 11).versions(ApiKey::DescribeCluster, 1, 0).build();
    let mut client = Client::to(&broker, 0);
    let response = client.call(3, &software()).await;
    let range = |api: ApiKey| {
        let key = response.api_keys.iter().find(|key| key.api_key == i16::from(api));
        key.map(|key| (key.min_version, key.max_version))
    };
    assert_eq!(range(ApiKey::Produce), Some((0, 13)), "as Kafka claims, for the sake of librdkafka");
    assert_eq!(range(ApiKey::Fetch), Some((4, 11)), "pinned");
    assert_eq!(range(ApiKey::DescribeCluster), None, "hidden");
    let nameless = ApiVersionsRequest { client_software_name: "-".into(), ..software() };
    assert_eq!(client.call(3, &nameless).await.error_code, ErrorCode::INVALID_REQUEST);
    let expecting = |cluster: &str, node_id| {
        let cluster_id = (!cluster.is_empty()).then(|| cluster.into());
        ApiVersionsRequest { cluster_id, node_id, ..software() }
    };
    for (cluster, node, code) in [
        (broker.cluster_id(), 0, ErrorCode::NONE),
        (broker.cluster_id(), 1, ErrorCode::REBOOTSTRAP_REQUIRED),
        ("other", 0, ErrorCode::REBOOTSTRAP_REQUIRED),
        ("other", -1, ErrorCode::INVALID_REQUEST),
        ("", 0, ErrorCode::INVALID_REQUEST),
    ] {
        assert_eq!(client.call(5, &expecting(cluster, node)).await.error_code, code, "{cluster} {node}");
    }
    let old = client.call(0, &ApiVersionsRequest::default()).await;
    assert_eq!((old.error_code, old.api_keys.len()), (ErrorCode::NONE, response.api_keys.len()));
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_closed() {
    let broker = Broker::builder().config("connections.max.idle.ms", "60000").build();
    let mut client = Client::to(&broker, 0);
    let started = tokio::time::Instant::now();
    assert_eq!(client.frame().await, Err(Vec::new()));
    assert_eq!(started.elapsed(), Duration::from_secs(60));
}
