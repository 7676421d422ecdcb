use bytes::{Bytes, BytesMut};
use milena_core::consumer::positions::Start;
use milena_protocol::record::BatchEncoder;

use super::*;
use crate::consumer::test_rig as rig;
use crate::consumer::test_rig::{shared, tp};

/// A batch of one record per offset; a control batch has an abort marker for its only record.
fn batch(offsets: std::ops::Range<i64>, producer: Option<i64>, is_abort: bool) -> Bytes {
    let mut batch = BatchEncoder::new(Vec::new(), 0);
    for offset in offsets.clone() {
        let (key, value) = ([0; 4], offset.to_string());
        batch.append(0, is_abort.then_some(&key[..]), Some(value.as_bytes()), &[]).expect("fits");
    }
    let mut batch = batch.seal(Compression::None, None).expect("seals");
    if let Some(producer) = producer {
        batch.stamp(producer, 0, 0, true);
    }
    let mut bytes = BytesMut::from(&batch.to_bytes()[..]);
    bytes[..8].copy_from_slice(&offsets.start.to_be_bytes());
    // The attributes' bit for control batches; the CRC no longer fits, and nobody looks at it.
    bytes[22] |= u8::from(is_abort) << 5;
    bytes.freeze()
}

fn part(version: u64, batches: &[Bytes], aborted: &[(i64, i64)], charge: Charge) -> Fetched {
    let bytes = batches.concat();
    Fetched {
        version,
        bytes: bytes.len(),
        batches: RecordBatches::new(bytes.into()),
        filter: AbortedFilter::new(aborted.iter().copied()),
        charge: Arc::new(charge),
        high_watermark: -1,
        cut_off: 0,
        prepared: None,
    }
}

fn config() -> ConsumerConfig {
    ConsumerConfig { check_crcs: false, ..ConsumerConfig::default() }
}

fn enter(shared: &Shared, part: Fetched) {
    let mut state = shared.state();
    state.buffers.entry(tp(0)).or_default().push(part);
    state.make_ready(&tp(0));
}

fn version(shared: &Shared) -> u64 {
    shared.state().positions.get(&tp(0)).expect("held").version
}

fn offsets(set: &RecordSet) -> Vec<i64> {
    set.iter().map(|record| record.offset).collect()
}

#[tokio::test(start_paused = true)]
async fn transactions_that_end_below_the_position_decide_nothing_behind_it() {
    let (shared, _client) = shared(config()).await;
    // Producer 1 aborts below the position and writes again behind it; producer 2 aborts across it.
    let batches = [
        batch(0..5, Some(1), false),
        batch(5..8, Some(2), false),
        batch(8..9, Some(1), true),
        batch(9..12, Some(2), false),
        batch(12..15, Some(1), false),
        batch(15..16, Some(2), true),
        batch(16..18, Some(2), false),
    ];
    shared.state().assign([(tp(0), Start::Offset(9))]);
    enter(&shared, part(version(&shared), &batches, &[(1, 0), (2, 5)], rig::charge(&shared)));
    let mut seen = Vec::new();
    while let Some(set) = shared.hand_over() {
        seen.extend(offsets(&set.expect("sound")));
    }
    assert_eq!(seen, (12..15).chain(16..18).collect::<Vec<_>>());
    assert_eq!(shared.state().positions.get(&tp(0)).and_then(Position::position), Some(18));
}

#[tokio::test(start_paused = true)]
async fn one_reader_at_a_time_even_when_an_older_one_comes_back() {
    let (shared, _client) = shared(config()).await;
    shared.state().assign([(tp(0), Start::Offset(0))]);
    let charge = || rig::charge(&shared);
    enter(&shared, part(version(&shared), &[batch(0..5, None, false)], &[], charge()));
    let mut old = shared.take_part().expect("ready");
    let step = old.part.step(old.position, &shared.config, false);
    // While it was read, the application sought, and two parts from there have come.
    shared.state().seek(&tp(0), Start::Offset(10));
    for from in [10, 15] {
        enter(&shared, part(version(&shared), &[batch(from..from + 5, None, false)], &[], charge()));
    }
    let mut new = shared.take_part().expect("ready");
    assert_eq!(new.position, 10);
    assert!(shared.put_back(old, step).is_none(), "void");
    assert!(shared.take_part().is_none(), "what follows waits for what is being read");
    let step = new.part.step(new.position, &shared.config, false);
    let first = shared.put_back(new, step).expect("records").expect("sound");
    let second = shared.hand_over().expect("records").expect("sound");
    assert_eq!((offsets(&first), offsets(&second)), ((10..15).collect(), (15..20).collect()));
}

#[tokio::test(start_paused = true)]
async fn records_that_are_read_while_their_partition_is_revoked_are_not_handed_over() {
    let (shared, _client) = shared(config()).await;
    shared.state().assign([(tp(0), Start::Offset(0))]);
    enter(&shared, part(version(&shared), &[batch(0..5, None, false)], &[], rig::charge(&shared)));
    let mut taken = shared.take_part().expect("ready");
    let step = taken.part.step(taken.position, &shared.config, false);
    let mut state = shared.state();
    state.positions.hold_back(&tp(0));
    state.discard(&tp(0));
    drop(state);
    let unread = taken.unread as u64;
    assert!(shared.put_back(taken, step).is_none());
    assert_eq!(shared.counters.read().bytes_voided, unread);
    assert_eq!(shared.state().positions.get(&tp(0)).and_then(Position::position), Some(0));
}

#[tokio::test(start_paused = true)]
async fn fetchers_are_woken_when_a_part_is_done_and_not_for_each_set_of_it() {
    let (shared, _client) = shared(config()).await;
    shared.state().assign([(tp(0), Start::Offset(0))]);
    let batches = [batch(0..5, None, false), batch(5..10, None, false)];
    enter(&shared, part(version(&shared), &batches, &[], rig::charge(&shared)));
    let woken = shared.fetchers.notified();
    tokio::pin!(woken);
    woken.as_mut().enable();
    let _first = shared.hand_over().expect("records").expect("sound");
    assert!(!woken.as_mut().enable(), "what may be fetched is as before");
    let _last = shared.hand_over().expect("records").expect("sound");
    assert!(woken.as_mut().enable(), "there is room now");
    assert!(
        shared.state().buffers.is_empty() && shared.state().ready.is_empty(),
        "nothing is held of what was handed over"
    );
}

#[tokio::test(start_paused = true)]
async fn partition_that_is_paused_while_it_is_read_keeps_what_was_read_for_later() {
    let (shared, _client) = shared(config()).await;
    shared.state().assign([(tp(0), Start::Offset(0))]);
    let batches = [batch(0..5, None, false), batch(5..10, None, false)];
    enter(&shared, part(version(&shared), &batches, &[], rig::charge(&shared)));
    let mut taken = shared.take_part().expect("ready");
    let step = taken.part.step(taken.position, &shared.config, false);
    let unread = taken.unread;
    shared.state().set_paused(&tp(0), true);
    assert!(shared.put_back(taken, step).is_none(), "paused has returned");
    assert!(shared.hand_over().is_none());
    assert_eq!(shared.state().positions.get(&tp(0)).and_then(Position::position), Some(0));
    assert_eq!(shared.state().buffers[&tp(0)].unread_bytes(), unread, "it is here, and nobody has seen it");
    shared.state().set_paused(&tp(0), false);
    let sets: Vec<_> = batches.iter().map(|_| shared.hand_over().expect("records").expect("sound")).collect();
    assert_eq!(sets.iter().flat_map(offsets).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    assert_eq!(shared.counters.read().bytes_voided, 0);
}

#[tokio::test(start_paused = true)]
async fn damage_that_is_found_while_its_partition_is_paused_is_told_once_it_is_resumed() {
    let (shared, _client) = shared(ConsumerConfig::default()).await;
    shared.state().assign([(tp(0), Start::Offset(0))]);
    for told in [false, false, true] {
        // The checksum is not right.
        let damaged = batch(0..5, None, true);
        enter(&shared, part(version(&shared), &[damaged], &[], rig::charge(&shared)));
        let mut taken = shared.take_part().expect("ready");
        let step = taken.part.step(taken.position, &shared.config, false);
        shared.state().set_paused(&tp(0), true);
        assert!(shared.put_back(taken, step).is_none());
        assert!(shared.state().buffers.contains_key(&tp(0)), "kept");
        shared.state().set_paused(&tp(0), false);
        let is_told = matches!(shared.hand_over(), Some(Err(ConsumeError::Corrupt { offset: 0, .. })));
        assert_eq!(is_told, told);
    }
}

#[tokio::test(start_paused = true)]
async fn part_that_is_being_read_counts_as_fetched_ahead() {
    let (shared, _client) = shared(config()).await;
    shared.state().assign([(tp(0), Start::Offset(0))]);
    enter(&shared, part(version(&shared), &[batch(0..5, None, false)], &[], rig::charge(&shared)));
    let held = |shared: &Shared| {
        let state = shared.state();
        state.buffers.get(&tp(0)).map_or((0, 0), |buffer| (buffer.bytes(), buffer.charges().count()))
    };
    let before = held(&shared);
    assert!(before.0 > 0 && before.1 == 1);
    let taken = shared.take_part().expect("ready");
    assert_eq!(held(&shared), before);
    let end = EpochOffset::unknown(5);
    assert!(shared.put_back(taken, Step::End(end)).is_none());
    assert_eq!(held(&shared), (0, 0));
}

#[test]
fn no_more_are_read_ahead_at_a_time_than_may_be_and_who_asks_reads_on() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        // In real time, for in virtual time nothing is elsewhere.
        let broker = milena_broker::Broker::builder().topic("t", 1).build();
        let address = broker.listen("127.0.0.1:0").await.expect("a free port")[0].to_string();
        let client =
            crate::Client::builder().bootstrap(address).expect("an address").build().await.expect("it answers");
        let shared = Shared::new(Arc::clone(client.inner()), config());
        let most = i32::try_from(*away::MOST).expect("few");
        shared.state().assign((0..most + 2).map(|partition| (tp(partition), Start::Offset(0))));
        // The one thread there is for it is busy.
        let (release, busy) = std::sync::mpsc::channel::<()>();
        let other = tokio::task::spawn_blocking(move || busy.recv());
        let mut large = BatchEncoder::new(Vec::new(), 0);
        large.append(0, None, Some(&vec![7; 300 << 10]), &[]).expect("fits");
        let large = large.seal(Compression::None, None).expect("seals").to_bytes();
        for partition in (0..most + 2).map(tp) {
            let mut state = shared.state();
            let version = state.positions.get(&partition).expect("held").version;
            let part = part(version, std::slice::from_ref(&large), &[], rig::charge(&shared));
            state.buffers.entry(partition.clone()).or_default().push(part);
            state.make_ready(&partition);
            shared.send_away(state, &partition);
        }
        let next = || shared.hand_over().map(|set| set.expect("sound").partition());
        assert_eq!((next(), next(), next()), (Some(most), Some(most + 1), None), "those that nobody reads ahead");
        assert_eq!(shared.away.load(std::sync::atomic::Ordering::Acquire), *away::MOST);
        release.send(()).expect("it waits");
        let mut seen = Vec::new();
        let read = async {
            while seen.len() < *away::MOST {
                let came = shared.app.notified();
                tokio::pin!(came);
                came.as_mut().enable();
                match next() {
                    Some(partition) => seen.push(partition),
                    None => came.await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), read).await.expect("they come back");
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..most));
        other.await.expect("no panic").expect("released");
        shared.end();
    });
}
