use milena_core::consumer::positions::Start;
use milena_protocol::compress::Compression;
use milena_protocol::fetch::{FetchedPartition, FetchedTopic};
use milena_protocol::record::BatchEncoder;

use super::*;
use crate::consumer::config::ConsumerConfig;
use crate::consumer::test_rig::{charge, shared, tp};

fn offsets(plan: &Plan) -> Vec<i64> {
    match plan {
        Plan::Fetch(asked, _) => asked.send.iter().map(|(_, target)| target.offset).collect(),
        Plan::Wait(_) | Plan::Leave => Vec::new(),
    }
}

fn fetched(error_code: ErrorCode, records: bytes::Bytes) -> FetchedPartition {
    FetchedPartition {
        topic: FetchedTopic::Name("t".into()),
        partition: 0,
        error_code,
        high_watermark: 1,
        last_stable_offset: 1,
        log_start_offset: 0,
        diverging_epoch: None,
        current_leader: None,
        aborted_transactions: Vec::new(),
        preferred_read_replica: None,
        records,
    }
}

#[tokio::test(start_paused = true)]
async fn request_ends_as_its_answer_is_taken_in_and_no_other_asks_for_the_same() {
    let (shared, _client) = shared(ConsumerConfig::default()).await;
    shared.state().assign([(tp(0), Start::Offset(0))]);
    shared.state().positions.set_leader(&tp(0), Some((0, 0)));
    let account = shared.client.prefetch.budget.open();
    shared.state().fetching.insert(0, account);
    let plan = shared.plan(0, Kind::Session, true);
    assert_eq!(offsets(&plan), [0]);
    let Plan::Fetch(asked, charge) = plan else { panic!("nothing to fetch") };
    for kind in [Kind::Session, Kind::Quick, Kind::Parked] {
        assert!(offsets(&shared.plan(0, kind, false)).is_empty(), "asked for already");
    }
    let mut batch = BatchEncoder::new(Vec::new(), 0);
    batch.append(0, None, Some(b"one"), &[]).expect("fits");
    let records = batch.seal(Compression::None, None).expect("seals").to_bytes();
    let fetched = fetched(ErrorCode::NONE, records);
    let reply = FetchReply { partitions: vec![fetched], ..FetchReply::default() };
    shared.take_in(asked, reply, charge);
    assert_eq!(offsets(&shared.plan(0, Kind::Quick, false)), [1], "on from what is here, and at once");
}

#[tokio::test(start_paused = true)]
async fn refusals_do_not_pile_up_while_nobody_asks_for_events() {
    let (shared, _client) = shared(ConsumerConfig::default()).await;
    shared.state().assign([(tp(0), Start::Offset(0))]);
    let version = shared.state().positions.get(&tp(0)).expect("held").version;
    for _ in 0..1000 {
        let charge = Arc::new(charge(&shared));
        let refused = fetched(ErrorCode::TOPIC_AUTHORIZATION_FAILED, bytes::Bytes::new());
        shared.take_partition(&mut shared.state(), 0, tp(0), version, refused, &charge);
    }
    assert_eq!(shared.state().events.len(), 100);
}

/// What one turn allocates: an answer about one partition is taken in, and the next fetch planned.
async fn turn_beside(idle: i32) -> (u64, u64) {
    let (shared, _client) = shared(ConsumerConfig::default()).await;
    shared.state().assign((0..=idle).map(|partition| (tp(partition), Start::Offset(0))));
    for partition in 0..=idle {
        shared.state().positions.set_leader(&tp(partition), Some((0, 0)));
    }
    let account = shared.client.prefetch.budget.open();
    shared.state().fetching.insert(0, account);
    let Plan::Fetch(asked, charge) = shared.plan(0, Kind::Session, true) else { panic!("nothing to fetch") };
    assert_eq!(asked.send.len() as i32, idle + 1, "a session is opened with everything");
    let mut batch = BatchEncoder::new(Vec::new(), 0);
    batch.append(0, None, Some(b"one"), &[]).expect("fits");
    let records = batch.seal(Compression::None, None).expect("seals").to_bytes();
    let reply = FetchReply { partitions: vec![fetched(ErrorCode::NONE, records)], ..FetchReply::default() };
    let mut named = 0;
    let turn = allocation_counter::measure(|| {
        shared.take_in(asked, reply, charge);
        let Plan::Fetch(asked, _) = shared.plan(0, Kind::Session, false) else { panic!("nothing to fetch") };
        named = asked.send.len() + asked.forget.len();
    });
    assert_eq!(named, 1, "of the busy one alone the session is told");
    (turn.count_total, turn.bytes_total)
}

#[tokio::test(start_paused = true)]
async fn turn_of_a_busy_partition_costs_the_same_beside_idle_ones() {
    assert_eq!(turn_beside(1).await, turn_beside(5_000).await);
}
