//! Commits beside one another: what they wait for, and what must not wait for them.

use std::time::Duration;

use milena_broker::{Fault, Rule};
use milena_client::TopicPartition;
use milena_client::consumer::{AssignmentEpoch, Consumer, OffsetRefused, Start};
use milena_protocol::{ApiKey, ErrorCode};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::consumer_group::{COOPERATIVE, assigned, poll, revoked, subscribe};
use crate::consumer_rig::{Rig, records, tp};

/// Commits one offset after the other, for as long as it may.
fn commit_for_ever(consumer: &Consumer, partition: TopicPartition, epoch: AssignmentEpoch) -> JoinHandle<()> {
    let consumer = consumer.clone();
    tokio::spawn(async move {
        for offset in 1.. {
            consumer.commit([(partition.clone(), offset.into(), epoch)]).await.unwrap();
        }
    })
}

#[tokio::test(start_paused = true)]
async fn revocation_does_not_wait_for_commits_that_others_go_on_asking_for() {
    let rig = Rig::new(1, "t", 2).await;
    let first = subscribe(rig.member("g").assignors(COOPERATIVE).commit_on_drop(true));
    assigned(&first).await;
    for partition in 0..2 {
        rig.produce("t", partition, 0..10).await;
    }
    let sets = [records(&first).await, records(&first).await];
    rig.broker.faults().add(Rule::new(Fault::Delay(Duration::from_millis(20))).api(ApiKey::OffsetCommit).always());
    let second = subscribe(rig.another(8).await.member("g").assignors(COOPERATIVE));
    let seconds = tokio::spawn({
        let second = second.clone();
        async move { while assigned(&second).await.is_empty() {} }
    });
    let guard = revoked(&first).await;
    let moving = guard.partitions()[0].clone();
    let (kept, epoch) = first.assignment().into_iter().find(|(held, _)| *held != moving).unwrap();
    let committers = [(); 2].map(|()| commit_for_ever(&first, kept.clone(), epoch));
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    // Asked for while the guard lives: these are waited for, however they are asked for.
    drop(sets);
    drop(guard);
    let start = Instant::now();
    let polls = poll(&first);
    seconds.await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(rig.broker.committed("g", "t", moving.partition), Some(10), "what was dropped before is committed");
    assert!(committers.iter().all(|committer| !committer.is_finished()), "they never stopped, nor failed");
    committers.iter().for_each(JoinHandle::abort);
    polls.abort();
}

#[tokio::test(start_paused = true)]
async fn topic_that_the_coordinator_does_not_know_holds_no_other_commit_back() {
    let rig = Rig::new(1, "t", 1).await;
    let consumer = rig.member("g").build().unwrap();
    consumer.assign([("t", 0, Start::Beginning), ("gone", 0, Start::Beginning)]).unwrap();
    let commits = |offset: i64| consumer.assignment().into_iter().map(move |(tp, epoch)| (tp, offset.into(), epoch));
    let both = tokio::spawn({
        let (consumer, commits) = (consumer.clone(), commits(1).collect::<Vec<_>>());
        async move { consumer.commit(commits).await }
    });
    tokio::task::yield_now().await;
    let start = Instant::now();
    for offset in 2..10 {
        let others = commits(offset).filter(|(partition, ..)| &*partition.topic == "t");
        consumer.commit(others).await.unwrap();
        assert_eq!(rig.broker.committed("g", "t", 0), Some(offset));
    }
    assert!(start.elapsed() < Duration::from_millis(100) && !both.is_finished(), "{:?}", start.elapsed());
    let refused = both.await.unwrap().unwrap_err().refused;
    assert_eq!(refused, [(tp("gone", 0), OffsetRefused::Broker(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION))]);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn close_does_not_wait_for_a_topic_that_was_deleted() {
    let rig = Rig::new(1, "t", 1).await;
    rig.broker.create_topic("gone", 1, 1).unwrap();
    let consumer = rig.member("g").build().unwrap();
    consumer.subscribe(["t", "gone"]).unwrap();
    while assigned(&consumer).await.len() < 2 {}
    assert!(rig.broker.delete_topic("gone"));
    let offsets: Vec<_> = consumer.assignment().into_iter().map(|(tp, epoch)| (tp, 1.into(), epoch)).collect();
    let commits = [(); 2].map(|()| {
        let (consumer, offsets) = (consumer.clone(), offsets.clone());
        tokio::spawn(async move { consumer.commit(offsets).await })
    });
    tokio::task::yield_now().await;
    let start = Instant::now();
    consumer.close(Duration::from_secs(5)).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
    assert!(rig.broker.members("g").is_empty(), "it has left");
    assert_eq!(rig.broker.committed("g", "t", 0), Some(1));
    for commit in commits {
        let refused = commit.await.unwrap().unwrap_err().refused;
        let partitions: Vec<_> = refused.into_iter().map(|(partition, _)| partition).collect();
        assert_eq!(partitions, [tp("gone", 0)], "what was committed is said to be");
    }
}
