//! Fetch sessions, long polls and leader epochs, request by request: the embedded broker answers as Kafka does.

use std::time::Duration;

use bytes::Bytes;
use milena_protocol::ErrorCode;
use milena_protocol::NodeId;
use milena_protocol::TopicName;
use milena_protocol::compress::Compression;
use milena_protocol::messages::FetchRequest;
use milena_protocol::messages::FetchResponse;
use milena_protocol::messages::OffsetForLeaderEpochRequest;
use milena_protocol::messages::fetch_request::FetchPartition;
use milena_protocol::messages::fetch_request::FetchTopic;
use milena_protocol::messages::fetch_request::ForgottenTopic;
use milena_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use milena_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderTopic;
use milena_protocol::record::BatchEncoder;
use milena_tests::cluster::Cluster;
use milena_tests::on_every_cluster;
use milena_tests::wire::Wires;
use tokio::time::Instant;

on_every_cluster!(
    a_session_tells_what_changed,
    sessions_are_refused_by_id_and_epoch,
    a_long_poll_waits_for_its_bytes,
    a_long_poll_ends_in_time_with_what_there_is,
    a_long_poll_waits_beside_what_is_missing_but_not_beside_an_error,
    epochs_end_where_the_next_begins,
    fetches_are_held_against_the_epoch,
);

const LONG: Duration = Duration::from_secs(20);

async fn topic(cluster: &Cluster, n_partitions: i32) -> (Wires, String) {
    let mut wires = Wires::to(cluster);
    let topic = cluster.unique("fetch");
    wires.create(&topic, n_partitions, &[]).await.unwrap();
    (wires, topic)
}

/// One record; the batch is its `size` and some 75 bytes.
fn batch(size: usize) -> Bytes {
    let mut batch = BatchEncoder::new(Vec::new(), 1_700_000_000_000);
    batch.append(1_700_000_000_000, None, Some(&vec![b'v'; size]), &[]).unwrap();
    batch.seal(Compression::None, None).unwrap().to_bytes()
}

async fn produce(wires: &mut Wires, topic: &str, size: usize) {
    assert_eq!(wires.produce(topic, 0, batch(size)).await.unwrap().0, ErrorCode::NONE);
}

/// Partition 0, whatever the epoch.
fn partition(fetch_offset: i64) -> FetchPartition {
    FetchPartition {
        partition: 0,
        current_leader_epoch: -1,
        fetch_offset,
        last_fetched_epoch: -1,
        log_start_offset: -1,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    }
}

/// A fetch that doesn't wait.
fn request(session: (i32, i32), topic: &str, partitions: Vec<FetchPartition>) -> FetchRequest {
    let name = TopicName::from(topic.to_owned());
    let topics = vec![FetchTopic { topic: name, partitions, ..Default::default() }];
    FetchRequest {
        replica_id: NodeId(-1),
        max_wait_ms: 0,
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_id: session.0,
        session_epoch: session.1,
        topics: topics.into_iter().filter(|topic| !topic.partitions.is_empty()).collect(),
        ..Default::default()
    }
}

async fn fetch(wires: &mut Wires, topic: &str, request: &FetchRequest) -> FetchResponse {
    wires.leader(topic, 0).await.unwrap().send(12, request).await.unwrap()
}

/// Bytes of the records that came.
fn n_bytes(response: &FetchResponse) -> usize {
    let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
    partitions.map(|data| data.records.as_ref().map_or(0, Bytes::len)).sum()
}

/// Error, session and the partitions that were told of.
fn told(response: &FetchResponse) -> (ErrorCode, i32, Vec<(i32, ErrorCode)>) {
    let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
    let partitions = partitions.map(|data| (data.partition_index, data.error_code));
    (response.error_code, response.session_id, partitions.collect())
}

async fn a_session_tells_what_changed(cluster: Cluster) {
    let (mut wires, topic) = topic(&cluster, 1).await;
    produce(&mut wires, &topic, 10).await;
    let opened = fetch(&mut wires, &topic, &request((0, 0), &topic, vec![partition(0)])).await;
    let id = opened.session_id;
    assert!(id > 0);
    assert_eq!(told(&opened), (ErrorCode::NONE, id, vec![(0, ErrorCode::NONE)]));
    // Not asked for again, not moved on: the same records come again.
    let again = fetch(&mut wires, &topic, &request((id, 1), &topic, Vec::new())).await;
    assert_eq!((told(&again), n_bytes(&again)), (told(&opened), n_bytes(&opened)));
    // At the end there is nothing to tell.
    let at_end = fetch(&mut wires, &topic, &request((id, 2), &topic, vec![partition(1)])).await;
    assert_eq!(told(&at_end), (ErrorCode::NONE, id, Vec::new()));
    produce(&mut wires, &topic, 10).await;
    let more = fetch(&mut wires, &topic, &request((id, 3), &topic, Vec::new())).await;
    assert_eq!(told(&more), (ErrorCode::NONE, id, vec![(0, ErrorCode::NONE)]));
    // Out of range is an error, and errors are told each time.
    let beyond = fetch(&mut wires, &topic, &request((id, 4), &topic, vec![partition(100)])).await;
    let out_of_range = (ErrorCode::NONE, id, vec![(0, ErrorCode::OFFSET_OUT_OF_RANGE)]);
    assert_eq!(told(&beyond), out_of_range);
    let again = fetch(&mut wires, &topic, &request((id, 5), &topic, Vec::new())).await;
    assert_eq!(told(&again), out_of_range);
    // Of what was forgotten nothing is told.
    let mut forget = request((id, 6), &topic, Vec::new());
    forget.forgotten_topics_data =
        vec![ForgottenTopic { topic: TopicName::from(topic.clone()), partitions: vec![0], ..Default::default() }];
    assert_eq!(told(&fetch(&mut wires, &topic, &forget).await), (ErrorCode::NONE, 0, Vec::new()));
}

async fn sessions_are_refused_by_id_and_epoch(cluster: Cluster) {
    let (mut wires, topic) = topic(&cluster, 1).await;
    let opened = fetch(&mut wires, &topic, &request((0, 0), &topic, vec![partition(0)])).await;
    let id = opened.session_id;
    let code = async |wires: &mut Wires, session| {
        let response = fetch(wires, &topic, &request(session, &topic, vec![partition(0)])).await;
        (response.error_code, response.session_id == id, response.responses.len())
    };
    let bad_epoch = (ErrorCode::INVALID_FETCH_SESSION_EPOCH, false, 0);
    let unknown = (ErrorCode::FETCH_SESSION_ID_NOT_FOUND, false, 0);
    assert_eq!(code(&mut wires, (id, 2)).await, bad_epoch, "one was left out");
    assert_eq!(code(&mut wires, (id, 1)).await, (ErrorCode::NONE, true, 0), "it lives on");
    assert_eq!(code(&mut wires, (id, 1)).await, bad_epoch, "the same once more");
    assert_eq!(code(&mut wires, (id ^ 0x55, 1)).await, unknown);
    assert_eq!(code(&mut wires, (0, 1)).await, unknown);
    // A final epoch closes it, and answers in full.
    assert_eq!(code(&mut wires, (id, -1)).await, (ErrorCode::NONE, false, 1));
    assert_eq!(code(&mut wires, (id, 2)).await, unknown);
}

/// A fetch from the start of the log that waits for 1000 bytes.
fn waiting(topic: &str, max_wait: Duration) -> FetchRequest {
    let max_wait_ms = i32::try_from(max_wait.as_millis()).unwrap();
    FetchRequest { max_wait_ms, min_bytes: 1000, ..request((0, -1), topic, vec![partition(0)]) }
}

async fn a_long_poll_waits_for_its_bytes(cluster: Cluster) {
    let (mut wires, topic) = topic(&cluster, 1).await;
    let mut reader = Wires::to(&cluster);
    reader.leader(&topic, 0).await.unwrap();
    let started = Instant::now();
    let write = async {
        for _ in 0..4 {
            produce(&mut wires, &topic, 250).await;
        }
    };
    let waiting = waiting(&topic, LONG);
    let (fetched, ()) = tokio::join!(fetch(&mut reader, &topic, &waiting), write);
    assert_eq!(told(&fetched), (ErrorCode::NONE, 0, vec![(0, ErrorCode::NONE)]));
    // Three batches are too little, four are enough.
    assert!(n_bytes(&fetched) >= 1000, "{}", n_bytes(&fetched));
    assert_eq!(fetched.responses[0].partitions[0].high_watermark, 4);
    assert!(started.elapsed() < LONG / 2, "{:?}", started.elapsed());
}

async fn a_long_poll_ends_in_time_with_what_there_is(cluster: Cluster) {
    let (mut wires, topic) = topic(&cluster, 1).await;
    produce(&mut wires, &topic, 100).await;
    let max_wait = Duration::from_millis(700);
    let started = Instant::now();
    let fetched = fetch(&mut wires, &topic, &waiting(&topic, max_wait)).await;
    assert!(started.elapsed() >= max_wait && started.elapsed() < LONG / 2, "{:?}", started.elapsed());
    assert!(n_bytes(&fetched) > 100 && n_bytes(&fetched) < 1000);
}

async fn a_long_poll_waits_beside_what_is_missing_but_not_beside_an_error(cluster: Cluster) {
    let (mut wires, topic) = topic(&cluster, 2).await;
    let max_wait = Duration::from_millis(700);
    let both = async |wires: &mut Wires, other: FetchPartition, max_wait: Duration| {
        let mut request = waiting(&topic, max_wait);
        request.topics[0].partitions.push(other);
        let started = Instant::now();
        let (_, _, mut codes) = told(&fetch(wires, &topic, &request).await);
        codes.sort_unstable_by_key(|(partition, _)| *partition);
        (codes.last().copied(), codes.len(), started.elapsed())
    };
    let missing = FetchPartition { partition: 9, ..partition(0) };
    let (code, n_told, waited) = both(&mut wires, missing, max_wait).await;
    assert_eq!((code, n_told), (Some((9, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)), 2));
    assert!(waited >= max_wait, "{waited:?}");
    // On another node the second partition has another leader, which is an error as well.
    let beyond = FetchPartition { partition: 1, ..partition(77) };
    let (code, n_told, waited) = both(&mut wires, beyond, LONG).await;
    let code = code.unwrap();
    assert!(matches!(code, (1, ErrorCode::OFFSET_OUT_OF_RANGE | ErrorCode::NOT_LEADER_OR_FOLLOWER)), "{code:?}");
    assert_eq!(n_told, 2);
    assert!(waited < LONG / 2, "{waited:?}");
    // Where nothing is there, nothing is waited for.
    let mut nothing = waiting(&topic, LONG);
    nothing.topics[0].partitions = vec![FetchPartition { partition: 9, ..partition(0) }];
    let started = Instant::now();
    fetch(&mut wires, &topic, &nothing).await;
    assert!(started.elapsed() < LONG / 2, "{:?}", started.elapsed());
}

async fn epochs_end_where_the_next_begins(cluster: Cluster) {
    let (mut wires, topic) = topic(&cluster, 1).await;
    produce(&mut wires, &topic, 10).await;
    produce(&mut wires, &topic, 10).await;
    let mut ends = Vec::new();
    for (index, current_leader_epoch, leader_epoch) in
        [(0, -1, 0), (0, 0, 0), (0, -1, 1), (0, -1, -1), (0, 5, 0), (9, -1, 0)]
    {
        let partitions = vec![OffsetForLeaderPartition {
            partition: index,
            current_leader_epoch,
            leader_epoch,
            ..Default::default()
        }];
        let topics = vec![OffsetForLeaderTopic { topic: TopicName::from(topic.clone()), partitions }];
        let request = OffsetForLeaderEpochRequest { replica_id: NodeId(-1), topics };
        let response = wires.leader(&topic, 0).await.unwrap().send(4, &request).await.unwrap();
        let end = &response.topics[0].partitions[0];
        ends.push((end.error_code, end.leader_epoch, end.end_offset));
    }
    let none = ErrorCode::NONE;
    assert_eq!(
        ends,
        [
            (none, 0, 2),
            (none, 0, 2),
            (none, -1, -1),
            (none, -1, -1),
            (ErrorCode::UNKNOWN_LEADER_EPOCH, -1, -1),
            (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, -1, -1),
        ]
    );
}

async fn fetches_are_held_against_the_epoch(cluster: Cluster) {
    let (mut wires, topic) = topic(&cluster, 1).await;
    produce(&mut wires, &topic, 10).await;
    let mut answers = Vec::new();
    for (current_leader_epoch, last_fetched_epoch, offset) in
        [(0, -1, 0), (5, -1, 0), (-1, 0, 1), (-1, 0, 2), (-1, 5, 1), (-1, 5, 9)]
    {
        let partition = FetchPartition { current_leader_epoch, last_fetched_epoch, ..partition(offset) };
        let fetched = fetch(&mut wires, &topic, &request((0, -1), &topic, vec![partition])).await;
        let data = &fetched.responses[0].partitions[0];
        let diverging = (data.diverging_epoch.epoch, data.diverging_epoch.end_offset);
        answers.push((data.error_code, data.high_watermark, diverging, n_bytes(&fetched) > 0));
    }
    let none = ErrorCode::NONE;
    let no_epoch = (-1, -1);
    assert_eq!(
        answers,
        [
            (none, 1, no_epoch, true),
            (ErrorCode::UNKNOWN_LEADER_EPOCH, -1, no_epoch, false),
            (none, 1, no_epoch, false),
            (none, 1, (0, 1), false),
            (ErrorCode::OFFSET_OUT_OF_RANGE, -1, no_epoch, false),
            (ErrorCode::OFFSET_OUT_OF_RANGE, -1, no_epoch, false),
        ]
    );
}
