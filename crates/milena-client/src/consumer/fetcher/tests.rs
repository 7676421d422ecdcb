use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use milena_broker::Broker as Embedded;
use milena_core::consumer::positions::{Position, Start};
use milena_core::consumer::prefetch::Wish;
use milena_protocol::NodeId;
use milena_protocol::compress::Compression;
use milena_protocol::fetch::{EpochEndOffset, FetchedTopic};
use milena_protocol::record::BatchEncoder;

use super::*;
use crate::consumer::config::ConsumerConfig;
use crate::consumer::pauses::Turn;
use crate::consumer::test_rig::{charge, shared, shared_on, tp};

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

#[test]
fn part_of_an_answer_with_neither_records_nor_anything_to_heed_is_nothing() {
    let of = |error_code| fetched(error_code, bytes::Bytes::new());
    let parts = [
        of(ErrorCode::NONE),
        fetched(ErrorCode::NONE, bytes::Bytes::from_static(b"a batch")),
        of(ErrorCode::KAFKA_STORAGE_ERROR),
        FetchedPartition { diverging_epoch: Some(EpochEndOffset { epoch: 0, end_offset: 0 }), ..of(ErrorCode::NONE) },
        FetchedPartition { preferred_read_replica: Some(NodeId(1)), ..of(ErrorCode::NONE) },
    ];
    assert_eq!(parts.each_ref().map(has_nothing), [true, false, false, false, false]);
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
    shared.state().positions.set_leader(&tp(0), Some((0, 0)));
    let version = shared.state().positions.get(&tp(0)).expect("held").version;
    for _ in 0..1000 {
        let charge = Arc::new(charge(&shared));
        let refused = fetched(ErrorCode::TOPIC_AUTHORIZATION_FAILED, bytes::Bytes::new());
        shared.take_partition(&mut shared.state(), 0, (tp(0), version), refused, &charge, &Pauses::new(&shared.client));
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

/// One partition that node 0 leads, and accounts for fetchers of two nodes.
async fn of_two_nodes() -> (Arc<Shared>, crate::Client) {
    let (shared, client) = shared(ConsumerConfig::default()).await;
    shared.state().assign([(tp(0), Start::Offset(5))]);
    shared.state().positions.set_leader(&tp(0), Some((0, 0)));
    for node in [0, 1] {
        let account = shared.client.prefetch.budget.open();
        shared.state().fetching.insert(node, account);
    }
    (shared, client)
}

fn asked(plan: Plan) -> (Asked, Charge) {
    let Plan::Fetch(asked, charge) = plan else { panic!("nothing to fetch") };
    (asked, charge)
}

#[tokio::test(start_paused = true)]
async fn old_leader_that_is_silent_does_not_keep_a_partition_from_the_new_one() {
    let (shared, _client) = of_two_nodes().await;
    let (silent, _charge) = asked(shared.plan(0, Kind::Quick, false));
    shared.state().positions.set_leader(&tp(0), Some((1, 1)));
    let (_new, _charge) = asked(shared.plan(1, Kind::Quick, false));
    // And when it is over at last, what was asked of the new one is still asked.
    shared.state().forget_asked(&silent);
    assert!(offsets(&shared.plan(1, Kind::Quick, false)).is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_had_nothing_at_one_node_is_asked_for_at_once_of_another() {
    let (shared, _client) = of_two_nodes().await;
    let (quick, charge) = asked(shared.plan(0, Kind::Quick, false));
    shared.take_in(quick, FetchReply::default(), charge);
    assert!(offsets(&shared.plan(0, Kind::Quick, false)).is_empty(), "it had nothing");
    let (late, charge) = asked(shared.plan(0, Kind::Parked, false));
    shared.state().positions.set_leader(&tp(0), Some((1, 1)));
    // Nor does the one that is under way make it quiet there.
    shared.take_in(late, FetchReply::default(), charge);
    assert_eq!(offsets(&shared.plan(1, Kind::Quick, false)), [5]);
}

#[tokio::test(start_paused = true)]
async fn present_leader_alone_may_say_that_the_position_is_out_of_range() {
    let (shared, _client) = of_two_nodes().await;
    let until = shared.client.clock.now() + Duration::from_secs(60);
    let version = shared.state().positions.get(&tp(0)).expect("held").version;
    shared.state().positions.prefer(&tp(0), version, 1, until);
    let answer = |node| {
        let refused = fetched(ErrorCode::OFFSET_OUT_OF_RANGE, bytes::Bytes::new());
        shared.take_partition(
            &mut shared.state(),
            node,
            (tp(0), version),
            refused,
            &Arc::new(charge(&shared)),
            &Pauses::new(&shared.client),
        );
        shared.state().positions.get(&tp(0)).and_then(Position::position)
    };
    assert!(shared.state().positions.give_up_replica(&tp(0), 1, until), "another fetch failed meanwhile");
    assert_eq!(answer(1), Some(5), "a replica that is none any more");
    shared.state().positions.set_leader(&tp(0), Some((2, 1)));
    assert_eq!(answer(0), Some(5), "a leader that is none any more");
    let now = shared.client.clock.now();
    shared.state().fail(&tp(0), now, &Pauses::new(&shared.client));
    assert_eq!(answer(2), None, "reset");
    assert_eq!(shared.state().paused.turn(&tp(0), now), Turn::Free, "and where it begins anew nothing has failed");
}

#[tokio::test(start_paused = true)]
async fn fetcher_waits_for_room_only_where_room_is_what_it_lacks() {
    let (shared, _client) = of_two_nodes().await;
    let waits = |kind| match shared.plan(0, kind, false) {
        Plan::Wait(until) => until,
        Plan::Fetch(..) | Plan::Leave => panic!("there is something to fetch"),
    };
    let (first, charge) = asked(shared.plan(0, Kind::Session, true));
    assert_eq!(waits(Kind::Quick), Until::default(), "all is asked for");
    // All of its share is taken by what it brought.
    let mut state = shared.state();
    state.forget_asked(&first);
    state.seek(&tp(0), Start::Offset(9));
    let wish = Wish { most: usize::MAX, least: 1, slices: 1 };
    let account = &state.fetching[&0];
    let mut held = vec![charge];
    while let Some(mut charge) = account.reserve(wish, || 0) {
        charge.settle(charge.bytes());
        held.push(charge);
    }
    drop(state);
    assert_eq!(waits(Kind::Session), Until { time: None, room: true });
    let again = shared.client.clock.now() + Duration::from_secs(1);
    shared.state().delay(&tp(0), again);
    assert_eq!(waits(Kind::Session), Until { time: Some(again), room: false });
    let freed = shared.client.prefetch.room.notified();
    tokio::pin!(freed);
    assert!(!freed.as_mut().enable());
    drop(held);
    assert!(freed.as_mut().enable(), "and it hears of it");
}

#[tokio::test(start_paused = true)]
async fn answer_wakes_who_waits_for_room_and_others_only_for_a_partition_that_may_be_theirs() {
    let of = |error_code| fetched(error_code, bytes::Bytes::new());
    let preferred = FetchedPartition { preferred_read_replica: Some(NodeId(0)), ..of(ErrorCode::NONE) };
    for (partition, moves) in
        [(None, false), (Some(preferred), true), (Some(of(ErrorCode::NOT_LEADER_OR_FOLLOWER)), true)]
    {
        let (shared, _client) = of_two_nodes().await;
        let (asked, mut charge) = asked(shared.plan(0, Kind::Session, true));
        let (room, change) = (shared.client.prefetch.room.notified(), shared.fetchers.notified());
        tokio::pin!(room, change);
        assert!(!room.as_mut().enable() && !change.as_mut().enable());
        // What was reserved for it, of what all consumers of the client share, did not come.
        assert!(charge.bytes() > 100_000);
        charge.settle(20);
        let partitions: Vec<FetchedPartition> = partition.into_iter().collect();
        shared.take_in(asked, FetchReply { partitions, ..FetchReply::default() }, charge);
        assert_eq!((room.as_mut().enable(), change.as_mut().enable()), (true, moves));
    }
}

/// Counts how often a future is polled.
struct Counted(Pin<Box<dyn Future<Output = ()> + Send>>, Arc<AtomicU64>);

impl Future for Counted {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.as_mut().poll(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn idle_turn_is_one_request_and_wakes_the_fetcher_of_its_node_alone() {
    const NODES: i32 = 6;
    let broker = Embedded::builder().nodes(NODES as u16).topic("t", NODES).build();
    let (shared, _client) = shared_on(broker.clone(), ConsumerConfig::default()).await;
    shared.client.metadata.topic("t", Duration::from_secs(1)).await.expect("it is there");
    shared.state().assign((0..NODES).map(|partition| (tp(partition), Start::Offset(0))));
    let snapshot = shared.client.metadata.snapshot();
    let polls = Arc::new(AtomicU64::new(0));
    for partition in 0..NODES {
        let (node, epoch) = snapshot.leader("t", partition).expect("led");
        shared.state().positions.set_leader(&tp(partition), Some((node, epoch.unwrap_or(-1))));
        let account = shared.client.prefetch.budget.open();
        assert!(shared.state().fetching.insert(node, account).is_none(), "each node leads one");
    }
    for node in 0..NODES {
        tokio::spawn(Counted(Box::pin(run(Arc::clone(&shared), node)), Arc::clone(&polls)));
    }
    let asked = || broker.requests().iter().map(|count| count.count).sum::<u64>();
    // They are connected, and have their sessions.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = (asked(), polls.load(Ordering::Relaxed));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (asked, polls) = (asked() - before.0, polls.load(Ordering::Relaxed) - before.1);
    let fetches = u64::try_from(NODES).expect("few") * 120;
    assert!(asked.abs_diff(fetches) <= NODES as u64, "{asked} requests where {fetches} fetches are waited for");
    assert!(polls <= asked + NODES as u64, "{polls} turns of fetchers for {asked} answers");
    shared.end();
}
