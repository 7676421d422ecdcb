//! What fails in a row is asked for at ever longer intervals (KIP-580), from `retry.backoff.ms` to `retry.backoff.max.ms`, and
//! at once where another can answer.

use std::time::Duration;

use milena_broker::{CoordinatorType, Fault, Rule};
use milena_client::ClientBuilder;
use milena_client::consumer::{Consumer, OffsetReset, Start};
use milena_protocol::{ApiKey, ErrorCode};
use tokio::time::{Instant, sleep, timeout};

use crate::consumer_rig::{LIMIT, Rig, assert_quiet, read};

const MS: Duration = Duration::from_millis(1);
/// `retry.backoff.ms` and `retry.backoff.max.ms`.
const FIRST: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_secs(1);

/// Resolves when the node was asked more often than that.
async fn asked_again(rig: &Rig, node: i32, api: ApiKey, before: u64) {
    let more = async {
        while rig.asked(node, api) == before {
            sleep(MS).await;
        }
    };
    timeout(LIMIT, more).await.expect("it is asked again");
}

/// The node was just asked: it is asked again after these pauses, give or take a fifth, and the longest is never exceeded.
async fn expect_pauses(rig: &Rig, node: i32, api: ApiKey, pauses: impl IntoIterator<Item = Duration>, most: Duration) {
    for (number, pause) in pauses.into_iter().enumerate() {
        let began = Instant::now();
        asked_again(rig, node, api, rig.asked(node, api)).await;
        let waited = began.elapsed();
        // In virtual time a way takes none, and steps are of a millisecond.
        let range = pause.mul_f64(0.8) - 2 * MS..=pause.mul_f64(1.2).min(most) + 2 * MS;
        assert!(range.contains(&waited), "{api:?}, pause {number}: {waited:?} and not {pause:?}");
    }
}

fn backoff(client: ClientBuilder, first: Duration, most: Duration) -> ClientBuilder {
    let client = client.set("retry.backoff.ms", &first.as_millis().to_string()).unwrap();
    client.set("retry.backoff.max.ms", &most.as_millis().to_string()).unwrap()
}

fn growing(from: Duration, most: Duration) -> impl Iterator<Item = Duration> {
    (0..7).map(move |attempt| (from * (1 << attempt)).min(most))
}

/// `t` of three partitions on two nodes, all led by node 0, with ten records each.
async fn of_two_nodes() -> Rig {
    let rig = Rig::new(2, "t", 3).await;
    for partition in 0..3 {
        rig.broker.move_leader("t", partition, 0).unwrap();
    }
    rig.client.refresh_metadata().await.unwrap();
    for partition in 0..3 {
        rig.produce("t", partition, 0..10).await;
    }
    rig
}

fn refused(api: ApiKey) -> Rule {
    let error = if api == ApiKey::OffsetFetch {
        ErrorCode::COORDINATOR_LOAD_IN_PROGRESS
    } else {
        ErrorCode::KAFKA_STORAGE_ERROR
    };
    Rule::new(Fault::Error(error)).api(api).always()
}

/// A consumer of partition 0 that asks for this, soon if not now.
async fn about_to_ask(rig: &Rig, api: ApiKey) -> Consumer {
    let consumer = rig.consumer().group("g").build().unwrap();
    let start = match api {
        ApiKey::OffsetFetch => Start::Committed,
        ApiKey::ListOffsets => Start::Beginning,
        _ => Start::Offset(0),
    };
    consumer.assign([("t", 0, start)]).unwrap();
    if api == ApiKey::OffsetForLeaderEpoch {
        read(&consumer, 10).await;
        rig.broker.move_leader("t", 0, 0).unwrap();
        rig.client.refresh_metadata().await.unwrap();
    }
    consumer
}

#[tokio::test(start_paused = true)]
async fn what_fails_in_a_row_is_asked_for_at_growing_intervals() {
    for api in [ApiKey::Fetch, ApiKey::ListOffsets, ApiKey::OffsetForLeaderEpoch] {
        for (first, most) in [(FIRST, MOST), (Duration::from_millis(20), Duration::from_millis(300))] {
            let rig = of_two_nodes().await.with(|client| backoff(client, first, most)).await;
            let rule = rig.broker.faults().add(refused(api));
            let consumer = about_to_ask(&rig, api).await;
            asked_again(&rig, 0, api, 0).await;
            expect_pauses(&rig, 0, api, growing(first, most), most).await;
            rig.broker.faults().remove(rule);
            if api == ApiKey::OffsetForLeaderEpoch {
                rig.produce("t", 0, 10..20).await;
            }
            read(&consumer, 10).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn coordinator_that_knows_no_offsets_yet_is_asked_at_growing_intervals() {
    let rig = of_two_nodes().await;
    let consumer = rig.member("g").build().unwrap();
    let node = rig.broker.coordinator(CoordinatorType::Group, "g").unwrap();
    rig.broker.faults().add(refused(ApiKey::OffsetFetch));
    consumer.assign([("t", 0, Start::Committed)]).unwrap();
    asked_again(&rig, node, ApiKey::OffsetFetch, 0).await;
    expect_pauses(&rig, node, ApiKey::OffsetFetch, growing(FIRST, MOST), MOST).await;
}

#[tokio::test(start_paused = true)]
async fn fetch_that_succeeds_makes_the_next_pause_short_again() {
    let rig = of_two_nodes().await;
    let consumer = rig.consumer().build().unwrap();
    consumer.assign([("t", 0, Start::Offset(10))]).unwrap();
    assert_quiet(&consumer, MOST).await;
    for _ in 0..2 {
        let rule = rig.broker.faults().add(refused(ApiKey::Fetch));
        let before = rig.asked(0, ApiKey::Fetch);
        rig.produce("t", 0, 0..10).await;
        asked_again(&rig, 0, ApiKey::Fetch, before).await;
        expect_pauses(&rig, 0, ApiKey::Fetch, growing(FIRST, MOST), MOST).await;
        rig.broker.faults().remove(rule);
        read(&consumer, 10).await;
        assert_quiet(&consumer, 3 * MOST).await;
    }
}

#[tokio::test(start_paused = true)]
async fn another_leader_is_asked_at_once_whatever_the_one_before_refused() {
    for api in [ApiKey::Fetch, ApiKey::ListOffsets, ApiKey::OffsetForLeaderEpoch] {
        let rig = of_two_nodes().await;
        rig.broker.faults().add(refused(api).node(0));
        let consumer = about_to_ask(&rig, api).await;
        asked_again(&rig, 0, api, 0).await;
        expect_pauses(&rig, 0, api, growing(FIRST, MOST), MOST).await;
        if api == ApiKey::OffsetForLeaderEpoch {
            rig.produce("t", 0, 10..20).await;
        }
        rig.broker.move_leader("t", 0, 1).unwrap();
        rig.client.refresh_metadata().await.unwrap();
        let began = Instant::now();
        read(&consumer, 10).await;
        assert!(began.elapsed() < FIRST / 2, "{api:?}: {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn partitions_that_fail_together_are_asked_for_together() {
    let rig = of_two_nodes().await;
    rig.broker.faults().add(refused(ApiKey::Fetch));
    let consumer = rig.consumer().build().unwrap();
    consumer.assign((0..3).map(|partition| ("t", partition, Start::Offset(0)))).unwrap();
    asked_again(&rig, 0, ApiKey::Fetch, 0).await;
    expect_pauses(&rig, 0, ApiKey::Fetch, growing(FIRST, MOST), MOST).await;
}

#[tokio::test(start_paused = true)]
async fn another_leader_is_asked_at_once_where_the_one_before_is_silent() {
    for api in [ApiKey::ListOffsets, ApiKey::OffsetForLeaderEpoch] {
        let rig = of_two_nodes().await;
        rig.broker.faults().add(Rule::new(Fault::Delay(10 * LIMIT)).api(api).node(0).always());
        let consumer = about_to_ask(&rig, api).await;
        asked_again(&rig, 0, api, 0).await;
        rig.broker.move_leader("t", 0, 1).unwrap();
        if api == ApiKey::OffsetForLeaderEpoch {
            rig.produce("t", 0, 10..20).await;
        }
        rig.client.refresh_metadata().await.unwrap();
        let began = Instant::now();
        read(&consumer, 10).await;
        assert!(began.elapsed() < FIRST / 2, "{api:?}: {:?}", began.elapsed());
    }
}

/// An application that takes its time over what was fetched before the position went out of range.
#[tokio::test(start_paused = true)]
async fn position_that_is_out_of_range_is_reset_as_soon_as_what_was_fetched_is_handed_over() {
    for slow in 1..=5 {
        let rig = of_two_nodes().await;
        let builder = rig.consumer().auto_offset_reset(OffsetReset::Earliest).fetch_max_wait(20 * MS);
        let consumer = builder.build().unwrap();
        consumer.assign([("t", 0, Start::Offset(0))]).unwrap();
        asked_again(&rig, 0, ApiKey::Fetch, 0).await;
        let rule = Rule::new(Fault::Error(ErrorCode::OFFSET_OUT_OF_RANGE)).api(ApiKey::Fetch).always();
        let rule = rig.broker.faults().add(rule);
        // Each reset is refused as well, and another follows: in no time, if it took none.
        rig.broker.faults().add(Rule::new(Fault::Delay(MS)).api(ApiKey::ListOffsets).always());
        let before = rig.asked(0, ApiKey::Fetch);
        sleep(slow * 2 * MOST + slow * 37 * MS).await;
        let asked = rig.asked(0, ApiKey::Fetch) - before;
        assert!((1..=u64::from(slow) * 2 + 3).contains(&asked), "{asked} times in vain, in {slow} times two seconds");
        assert_eq!(rig.asked(0, ApiKey::ListOffsets), 0, "what was fetched comes first");
        let began = Instant::now();
        read(&consumer, 10).await;
        let next = async {
            let _more = consumer.next().await;
        };
        let reset = asked_again(&rig, 0, ApiKey::ListOffsets, 0);
        tokio::select! {
            () = next => panic!("there is nothing to read while all is refused"),
            () = reset => {}
        }
        assert!(began.elapsed() < FIRST / 2, "{:?} after {slow}", began.elapsed());
        rig.broker.faults().remove(rule);
        assert_eq!(read(&consumer, 10).await[&0], (0..10).collect::<Vec<_>>(), "from the beginning");
    }
}

#[tokio::test(start_paused = true)]
async fn partitions_that_began_to_fail_at_different_times_come_together() {
    let rig = Rig::new(1, "t", 200).await;
    rig.broker.faults().add(refused(ApiKey::Fetch));
    let consumer = rig.consumer().build().unwrap();
    for new in 0..200 {
        let held = (0..new).map(|partition| ("t", partition, Start::Committed));
        consumer.assign(held.chain([("t", new, Start::Offset(0))])).unwrap();
        sleep(7 * MS).await;
    }
    sleep(10 * MOST).await;
    let before = rig.asked(0, ApiKey::Fetch);
    sleep(10 * MOST).await;
    let asked = rig.asked(0, ApiKey::Fetch) - before;
    assert!((10..=100).contains(&asked), "{asked} requests in ten times the longest pause");
}
