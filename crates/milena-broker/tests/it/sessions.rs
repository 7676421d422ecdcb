//! Fetch sessions (KIP-227).

use std::time::Duration;

use milena_broker::{Broker, Fault, Rule};
use milena_protocol::{
    ApiKey, ErrorCode,
    messages::{FetchRequest, FetchResponse, fetch_request::ForgottenTopic},
};

use crate::client::{Client, fetch_request, plain, values};

/// A fetch in a session; `partitions` are those that change.
fn incremental(session_id: i32, session_epoch: i32, partitions: &[(i32, i64)]) -> FetchRequest {
    let full = fetch_request("t", partitions);
    let topics = if partitions.is_empty() { Vec::new() } else { full.topics.clone() };
    FetchRequest { session_id, session_epoch, topics, ..full }
}

fn mentioned(response: &FetchResponse) -> Vec<i32> {
    response.responses.iter().flat_map(|topic| topic.partitions.iter().map(|data| data.partition_index)).collect()
}

async fn session(client: &mut Client) -> i32 {
    let response = client.call(12, &incremental(0, 0, &[(0, 0), (1, 0), (2, 0)])).await;
    assert_eq!(mentioned(&response), [0, 1, 2], "a full fetch mentions everything");
    assert_ne!(response.session_id, 0);
    response.session_id
}

fn broker() -> Broker {
    Broker::builder().topic("t", 3).seed(3).build()
}

#[tokio::test(start_paused = true)]
async fn only_what_changed_is_mentioned() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    let id = session(&mut client).await;
    let quiet = client.call(12, &incremental(id, 1, &[])).await;
    assert_eq!((quiet.session_id, mentioned(&quiet)), (id, vec![]));
    client.produce("t", 1, plain(&["x"])).await;
    let news = client.call(12, &incremental(id, 2, &[])).await;
    assert_eq!(mentioned(&news), [1]);
    assert_eq!(values(&news.responses[0].partitions[0]), ["x"]);
    let moved_on = client.call(12, &incremental(id, 3, &[(1, 1)])).await;
    assert_eq!(mentioned(&moved_on), Vec::<i32>::new(), "the new position is remembered, and nothing is there");
}

#[tokio::test(start_paused = true)]
async fn who_got_records_goes_to_the_end_of_the_line() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    for partition in 0..3 {
        client.produce("t", partition, plain(&["x"])).await;
    }
    let mut starved = incremental(0, 0, &[(0, 0), (1, 0), (2, 0)]);
    starved.max_bytes = 1;
    let first = client.call(12, &starved).await;
    let fed = |response: &FetchResponse| -> Vec<i32> {
        let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
        partitions.filter(|data| !values(data).is_empty()).map(|data| data.partition_index).collect()
    };
    assert_eq!(fed(&first), [0]);
    // The full fetch does not count yet, as in Kafka.
    for (epoch, expected) in [(1, 0), (2, 1), (3, 2), (4, 0)] {
        let mut request = incremental(first.session_id, epoch, &[]);
        request.max_bytes = 1;
        assert_eq!(fed(&client.call(12, &request).await), [expected]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_in_a_session_waits_for_all_its_partitions() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    let id = session(&mut client).await;
    let waiting = FetchRequest { max_wait_ms: 10_000, ..incremental(id, 1, &[]) };
    let started = tokio::time::Instant::now();
    client.send(12, &waiting).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    Client::to(&broker, 0).produce("t", 2, plain(&["x"])).await;
    let (_, response) = client.receive::<FetchRequest>(12).await.expect("an answer");
    assert_eq!((mentioned(&response), started.elapsed()), (vec![2], Duration::from_secs(2)));
}

#[tokio::test(start_paused = true)]
async fn wrong_epochs_and_unknown_ids_are_refused() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    let id = session(&mut client).await;
    let code = |response: FetchResponse| response.error_code;
    assert_eq!(code(client.call(12, &incremental(id, 2, &[])).await), ErrorCode::INVALID_FETCH_SESSION_EPOCH);
    assert_eq!(code(client.call(12, &incremental(id + 1, 1, &[])).await), ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
    assert_eq!(code(client.call(13, &incremental(id, 1, &[])).await), ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR);
    assert_eq!(code(client.call(12, &incremental(id, 1, &[])).await), ErrorCode::NONE, "the session is unharmed");
}

#[tokio::test(start_paused = true)]
async fn forgotten_partitions_are_not_read_any_more_and_an_empty_session_ends() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    let id = session(&mut client).await;
    client.produce("t", 0, plain(&["x"])).await;
    let forget = |epoch, partitions: Vec<i32>| FetchRequest {
        forgotten_topics_data: vec![ForgottenTopic { topic: "t".into(), partitions, ..Default::default() }],
        ..incremental(id, epoch, &[])
    };
    let response = client.call(12, &forget(1, vec![0])).await;
    assert_eq!(mentioned(&response), Vec::<i32>::new());
    let empty = client.call(12, &forget(2, vec![1, 2])).await;
    assert_eq!((empty.error_code, empty.session_id), (ErrorCode::NONE, 0));
    let gone = client.call(12, &incremental(id, 3, &[])).await;
    assert_eq!(gone.error_code, ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
}

#[tokio::test(start_paused = true)]
async fn an_error_is_mentioned_until_it_is_gone_and_once_more() {
    let broker = Broker::builder().nodes(2).topic("t", 3).build();
    for partition in 0..3 {
        broker.move_leader("t", partition, 0).expect("a known partition");
    }
    let mut client = Client::to(&broker, 0);
    let id = session(&mut client).await;
    broker.remove_leader("t", 1).expect("a known partition");
    for epoch in [1, 2] {
        let response = client.call(12, &incremental(id, epoch, &[])).await;
        assert_eq!(mentioned(&response), [1]);
        assert_eq!(response.responses[0].partitions[0].error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    }
    broker.move_leader("t", 1, 0).expect("a known partition");
    let healed = client.call(12, &incremental(id, 3, &[])).await;
    assert_eq!(mentioned(&healed), [1]);
    assert_eq!(healed.responses[0].partitions[0].error_code, ErrorCode::NONE);
    assert_eq!(mentioned(&client.call(12, &incremental(id, 4, &[])).await), Vec::<i32>::new());
}

#[tokio::test(start_paused = true)]
async fn sessions_end_by_eviction_restart_and_lack_of_slots() {
    let broker = Broker::builder().topic("t", 3).config("max.incremental.fetch.session.cache.slots", "1").build();
    let mut client = Client::to(&broker, 0);
    let id = session(&mut client).await;
    let full = client.call(12, &incremental(0, 0, &[(0, 0)])).await;
    assert_eq!(full.session_id, 0, "no slot, no session, but an answer");
    tokio::time::sleep(Duration::from_secs(121)).await;
    let next = client.call(12, &incremental(0, 0, &[(0, 0)])).await.session_id;
    assert_ne!(next, 0, "an idle session gives way after two minutes");
    let evicted = client.call(12, &incremental(id, 1, &[])).await;
    assert_eq!(evicted.error_code, ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
    broker.faults().add(Rule::new(Fault::EvictFetchSession).api(ApiKey::Fetch));
    let evicted = client.call(12, &incremental(next, 1, &[])).await;
    assert_eq!(evicted.error_code, ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
    let id = client.call(12, &incremental(0, 0, &[(0, 0)])).await.session_id;
    broker.stop_node(0).await.expect("a known node");
    broker.start_node(0).await.expect("it starts");
    let restarted = Client::to(&broker, 0).call(12, &incremental(id, 1, &[])).await;
    assert_eq!(restarted.error_code, ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
}
