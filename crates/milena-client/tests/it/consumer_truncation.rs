//! Logs that lose what was read of them (KIP-320): seen whoever tells first, told by the reset policy, and never taken for
//! something else.

use std::time::Duration;

use milena_broker::{Fault, Rule};
use milena_client::ErrorClass;
use milena_client::consumer::{
    ConsumeError, Consumer, ConsumerEvent, EpochOffset, LogTruncation, OffsetAndMetadata, OffsetReset, Start,
};
use milena_protocol::{ApiKey, ErrorCode};
use tokio::time::timeout;

use crate::consumer_rig::{LIMIT, Rig, assert_quiet, next, read, records, tp, values};

/// Three batches of ten, read to the end, of which the last leader had only the first; then ten others are written.
async fn truncated(rig: &Rig, consumer: &Consumer) {
    for batch in 0..3 {
        rig.produce("t", 0, batch * 10..batch * 10 + 10).await;
    }
    consumer.assign([("t", 0, Start::Beginning)]).unwrap();
    read(consumer, 30).await;
    rig.broker.truncate("t", 0, 10).unwrap();
}

fn lost() -> LogTruncation {
    let position = EpochOffset { offset: 30, epoch: 0 };
    LogTruncation { partition: tp("t", 0), position, diverged: Some(EpochOffset { offset: 10, epoch: 0 }) }
}

fn consumer(rig: &Rig, policy: OffsetReset) -> Consumer {
    rig.consumer().auto_offset_reset(policy).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn with_a_policy_it_is_told_and_goes_on_where_the_logs_part() {
    for policy in [OffsetReset::Earliest, OffsetReset::Latest, OffsetReset::ByDuration(Duration::from_secs(1))] {
        let rig = Rig::new(1, "t", 1).await;
        let consumer = consumer(&rig, policy);
        truncated(&rig, &consumer).await;
        rig.produce("t", 0, 100..110).await;
        let ConsumerEvent::Truncated(told) = next(&consumer).await else { panic!("{policy:?}: not told") };
        assert_eq!(told, lost());
        let set = records(&consumer).await;
        assert_eq!((set.iter().next().unwrap().offset, values(&set)), (10, (100..110).collect()), "{policy:?}");
        assert_eq!(consumer.metrics().truncations, 1);
        assert_quiet(&consumer, Duration::from_secs(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn log_that_grew_beyond_the_position_again_is_seen_all_the_same() {
    let rig = Rig::new(1, "t", 1).await;
    let consumer = consumer(&rig, OffsetReset::None);
    truncated(&rig, &consumer).await;
    // Before the consumer looks: its position is in range, and what is there is not what it read.
    for batch in 10..15 {
        rig.produce("t", 0, batch * 10..batch * 10 + 10).await;
    }
    let error = timeout(LIMIT, consumer.next()).await.unwrap().unwrap_err();
    let ConsumeError::Truncated(told) = &error else { panic!("{error:?}") };
    assert_eq!((told, error.class()), (&lost(), ErrorClass::ApplicationRecoverable));
    assert!(error.to_string().contains("seek to where to go on"), "{error}");
    assert_quiet(&consumer, Duration::from_secs(60)).await;
    assert_eq!(consumer.position(&tp("t", 0)), None, "it waits for a seek");
    consumer.seek(&tp("t", 0), Start::Offset(told.diverged.unwrap().offset)).unwrap();
    let mut seen = Vec::new();
    while seen.len() < 50 {
        seen.extend(values(&records(&consumer).await));
    }
    assert_eq!(seen, (100..150).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn what_was_only_fetched_ahead_is_fetched_again_and_nobody_hears_of_it() {
    let rig = Rig::new(1, "t", 1).await;
    for batch in 0..3 {
        rig.produce("t", 0, batch * 10..batch * 10 + 10).await;
    }
    let consumer = consumer(&rig, OffsetReset::None);
    consumer.assign([("t", 0, Start::Beginning)]).unwrap();
    assert_eq!(values(&records(&consumer).await), (0..10).collect::<Vec<_>>());
    // The other two batches are here, unread.
    rig.broker.truncate("t", 0, 20).unwrap();
    rig.produce("t", 0, 100..110).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut seen = Vec::new();
    while seen.len() < 20 {
        seen.extend(values(&records(&consumer).await));
    }
    assert_eq!(seen, (10..20).chain(100..110).collect::<Vec<_>>());
    let metrics = consumer.metrics();
    assert!(metrics.truncations == 1 && metrics.bytes_voided > 0, "{metrics:?}");
}

#[tokio::test(start_paused = true)]
async fn committed_epoch_tells_after_a_restart() {
    let rig = Rig::new(1, "t", 1).await;
    let member = || {
        let consumer = rig.consumer().group("g").auto_offset_reset(OffsetReset::None).build().unwrap();
        consumer.assign([("t", 0, Start::Committed)]).unwrap();
        consumer
    };
    for batch in 0..3 {
        rig.produce("t", 0, batch * 10..batch * 10 + 10).await;
    }
    let first = rig.consumer().group("g").auto_offset_reset(OffsetReset::None).build().unwrap();
    first.assign([("t", 0, Start::Beginning)]).unwrap();
    let mut set = records(&first).await;
    while set.next_offset() < 30 {
        set = records(&first).await;
    }
    let leader_epoch = Some(set.leader_epoch());
    let commit = OffsetAndMetadata { offset: 30, leader_epoch, ..OffsetAndMetadata::default() };
    first.commit([(tp("t", 0), commit, set.epoch())]).await.unwrap();
    first.close(Duration::from_secs(5)).await.unwrap();
    rig.broker.truncate("t", 0, 10).unwrap();
    for batch in 10..15 {
        rig.produce("t", 0, batch * 10..batch * 10 + 10).await;
    }
    let error = timeout(LIMIT, member().next()).await.unwrap().unwrap_err();
    assert!(matches!(&error, ConsumeError::Truncated(told) if *told == lost()), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn new_leader_vouches_before_anything_is_read_of_it() {
    let rig = Rig::new(3, "t", 1).await;
    rig.broker.move_leader("t", 0, 0).unwrap();
    rig.client.refresh_metadata().await.unwrap();
    let consumer = consumer(&rig, OffsetReset::None);
    consumer.assign([("t", 0, Start::Beginning)]).unwrap();
    rig.produce("t", 0, 0..10).await;
    read(&consumer, 10).await;
    // It can't say yet: errors about epochs are no answers, and what has no answer is asked again.
    for (nth, error) in [
        (1, ErrorCode::FENCED_LEADER_EPOCH),
        (2, ErrorCode::UNKNOWN_LEADER_EPOCH),
        (3, ErrorCode::NOT_LEADER_OR_FOLLOWER),
    ] {
        rig.broker.faults().add(Rule::new(Fault::Error(error)).api(ApiKey::OffsetForLeaderEpoch).nth(nth));
    }
    rig.broker.move_leader("t", 0, 1).unwrap();
    rig.produce("t", 0, 10..20).await;
    assert_eq!(read(&consumer, 10).await[&0], (10..20).collect::<Vec<_>>());
    assert!(rig.asked(1, ApiKey::OffsetForLeaderEpoch) >= 4);
    assert_eq!(consumer.metrics().truncations, 0);
}

#[tokio::test(start_paused = true)]
async fn old_brokers_that_cannot_say_where_epochs_end_are_read_on() {
    for versions in [(2, 2), (1, 0)] {
        let broker = Rig::broker(2).topic("t", 1).versions(ApiKey::OffsetForLeaderEpoch, versions.0, versions.1);
        let rig = Rig::of(broker.versions(ApiKey::Fetch, 4, 11)).await;
        let consumer = consumer(&rig, OffsetReset::None);
        consumer.assign([("t", 0, Start::Beginning)]).unwrap();
        for round in 0..4 {
            rig.produce("t", 0, round * 10..round * 10 + 10).await;
            assert_eq!(read(&consumer, 10).await[&0], (round * 10..round * 10 + 10).collect::<Vec<_>>());
            rig.broker.move_leader("t", 0, round as i32 % 2).unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn brokers_whose_fetches_do_not_tell_are_asked() {
    let rig = Rig::of(Rig::broker(2).topic("t", 1).versions(ApiKey::Fetch, 4, 11)).await;
    let consumer = consumer(&rig, OffsetReset::None);
    truncated(&rig, &consumer).await;
    for batch in 10..15 {
        rig.produce("t", 0, batch * 10..batch * 10 + 10).await;
    }
    let error = timeout(LIMIT, consumer.next()).await.unwrap().unwrap_err();
    assert!(matches!(&error, ConsumeError::Truncated(told) if *told == lost()), "{error:?}");
}
