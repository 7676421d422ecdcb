//! Groups: who holds what, revoked and lost, commits and epochs, coordinators, static members, silence.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeSet;
use std::time::Duration;

use milena_broker::{CoordinatorType, Fault, Rule};
use milena_client::TopicPartition;
use milena_client::consumer::{
    Assignor, ConsumeError, Consumer, ConsumerBuilder, ConsumerEvent, OffsetAndMetadata, OffsetRefused, OffsetReset,
    RevocationGuard, Start,
};
use milena_protocol::{ApiKey, ErrorCode};
use tokio::time::{Instant, timeout};

use crate::consumer_rig::{LIMIT, Rig, assert_quiet, next, read, records, tp, values};

pub(crate) const EAGER: [Assignor; 1] = [Assignor::Range];
pub(crate) const COOPERATIVE: [Assignor; 1] = [Assignor::CooperativeSticky];

pub(crate) async fn assigned(consumer: &Consumer) -> BTreeSet<TopicPartition> {
    loop {
        match next(consumer).await {
            ConsumerEvent::Assigned(_) => return held(consumer),
            other => assert!(!matches!(other, ConsumerEvent::Lost(_)), "{other:?}"),
        }
    }
}

pub(crate) fn held(consumer: &Consumer) -> BTreeSet<TopicPartition> {
    consumer.assignment().into_iter().map(|(partition, _)| partition).collect()
}

pub(crate) async fn revoked(consumer: &Consumer) -> RevocationGuard {
    loop {
        match next(consumer).await {
            ConsumerEvent::Revoked(guard) => return guard,
            ConsumerEvent::Lost(partitions) => panic!("lost {partitions:?}"),
            _ => {}
        }
    }
}

pub(crate) fn subscribe(builder: ConsumerBuilder) -> Consumer {
    let consumer = builder.build().unwrap();
    consumer.subscribe(["t"]).unwrap();
    consumer
}

pub(crate) fn partitions(indexes: std::ops::Range<i32>) -> BTreeSet<TopicPartition> {
    indexes.map(|index| tp("t", index)).collect()
}

/// Polls in the background, giving up whatever is revoked, so that rebalances go on.
pub(crate) fn poll(consumer: &Consumer) -> tokio::task::JoinHandle<()> {
    let consumer = consumer.clone();
    tokio::spawn(async move { while consumer.next().await.is_ok() {} })
}

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test(start_paused = true)]
async fn lone_member_reads_everything_and_resumes_at_its_commit() {
    let rig = Rig::new(3, "t", 3).await;
    for partition in 0..3 {
        rig.produce("t", partition, 0..10).await;
    }
    let consumer = subscribe(rig.member("g"));
    assert_eq!(assigned(&consumer).await, partitions(0..3));
    let mut done = 0;
    while done < 30 {
        let set = records(&consumer).await;
        done += set.len();
        let offset = OffsetAndMetadata { offset: set.next_offset(), leader_epoch: None, metadata: "x".to_owned() };
        consumer.commit([(set.topic_partition().clone(), offset, set.epoch())]).await.unwrap();
    }
    assert_eq!(rig.broker.committed("g", "t", 0), Some(10));
    let committed = consumer.committed([tp("t", 0)]).await.unwrap();
    assert_eq!((committed[&tp("t", 0)].offset, &*committed[&tp("t", 0)].metadata), (10, "x"));
    consumer.close(Duration::from_secs(5)).await.unwrap();
    assert!(rig.broker.members("g").is_empty(), "a dynamic member says goodbye");
    rig.produce("t", 1, 10..20).await;
    let consumer = subscribe(rig.member("g"));
    let set = records(&consumer).await;
    assert_eq!((set.partition(), values(&set)), (1, (10..20).collect()), "nothing is read again");
    assert_quiet(&consumer, Duration::from_secs(2)).await;
}

#[tokio::test(start_paused = true)]
async fn eager_joiner_waits_for_the_guard_and_commits_inside_it_count() {
    let rig = Rig::new(1, "t", 4).await;
    for partition in 0..4 {
        rig.produce("t", partition, 0..10).await;
    }
    let first = subscribe(rig.member("g").assignors(EAGER));
    assigned(&first).await;
    let set = records(&first).await;
    let second = subscribe(rig.another(8).await.member("g").assignors(EAGER));
    let second_polls = second.clone();
    let joined = tokio::spawn(async move { assigned(&second_polls).await });
    let guard = revoked(&first).await;
    assert_eq!(guard.partitions().len(), 4, "eager: all");
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!joined.is_finished(), "held up by the guard, long past the session's heartbeats");
    let commit = (set.topic_partition().clone(), set.next_offset().into(), set.epoch());
    first.commit([commit.clone()]).await.expect("the partition is still ours");
    assert_eq!(rig.broker.committed("g", "t", set.partition()), Some(10));
    drop(guard);
    let mine = assigned(&first).await;
    let yours = joined.await.unwrap();
    assert_eq!(mine.union(&yours).cloned().collect::<BTreeSet<_>>(), partitions(0..4));
    assert!(mine.is_disjoint(&yours));
    let (partition, mut offset, epoch) = commit;
    offset.offset = 5;
    let refused = first.commit([(partition, offset, epoch)]).await.unwrap_err();
    assert_eq!(refused.refused[0].1, OffsetRefused::StaleEpoch);
    assert_eq!(rig.broker.committed("g", "t", set.partition()), Some(10), "the late completion is a no-op");
}

#[tokio::test(start_paused = true)]
async fn cooperative_joiner_takes_some_and_the_rest_reads_on() {
    let rig = Rig::new(1, "t", 4).await;
    let first = subscribe(rig.member("g").assignors(COOPERATIVE));
    assigned(&first).await;
    let epochs = first.assignment();
    let second = subscribe(rig.another(8).await.member("g").assignors(COOPERATIVE));
    let second_polls = poll(&second);
    let guard = revoked(&first).await;
    assert_eq!(guard.partitions().len(), 2);
    let moving: BTreeSet<TopicPartition> = guard.partitions().iter().cloned().collect();
    let kept: Vec<_> = epochs.into_iter().filter(|(partition, _)| !moving.contains(partition)).collect();
    // What is kept is read and committed while the guard is held.
    rig.produce("t", kept[0].0.partition, 0..10).await;
    let set = records(&first).await;
    assert_eq!((set.topic_partition(), set.epoch()), (&kept[0].0, kept[0].1), "same spell as before");
    first.commit([(set.topic_partition().clone(), set.next_offset().into(), set.epoch())]).await.unwrap();
    assert!(held(&second).is_empty(), "not before they are given up");
    drop(guard);
    let polls = poll(&first);
    until("the second member holds what the first gave up", || held(&second) == moving).await;
    assert_eq!(held(&first), kept.iter().map(|(partition, _)| partition.clone()).collect());
    polls.abort();
    second_polls.abort();
}

#[tokio::test(start_paused = true)]
async fn two_members_on_one_client_join_one_group() {
    let rig = Rig::new(1, "t", 4).await;
    for assignors in [&EAGER[..], &[Assignor::RoundRobin], &[Assignor::Sticky], &COOPERATIVE] {
        let group = assignors[0].name();
        let members: Vec<Consumer> =
            (0..2).map(|_| subscribe(rig.member(group).assignors(assignors.iter().copied()))).collect();
        let polls: Vec<_> = members.iter().map(poll).collect();
        let start = Instant::now();
        until(group, || members.iter().all(|member| held(member).len() == 2)).await;
        assert!(start.elapsed() < Duration::from_secs(20), "{group}: {:?}", start.elapsed());
        assert!(held(&members[0]).is_disjoint(&held(&members[1])));
        polls.iter().for_each(tokio::task::JoinHandle::abort);
        for member in members {
            member.close(Duration::from_secs(5)).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn leaver_s_partitions_go_to_those_who_stay() {
    let rig = Rig::new(1, "t", 4).await;
    let stays = subscribe(rig.member("g").assignors(COOPERATIVE));
    let leaves = subscribe(rig.another(8).await.member("g").assignors(COOPERATIVE));
    let polls = (poll(&stays), poll(&leaves));
    until("both share", || held(&stays).len() == 2 && held(&leaves).len() == 2).await;
    leaves.close(Duration::from_secs(5)).await.unwrap();
    until("one has all", || held(&stays).len() == 4).await;
    polls.0.abort();
}

#[tokio::test(start_paused = true)]
async fn dropped_consumer_leaves_in_the_background() {
    let rig = Rig::new(1, "t", 1).await;
    let consumer = subscribe(rig.member("g"));
    assigned(&consumer).await;
    assert_eq!(rig.broker.members("g").len(), 1);
    drop(consumer);
    until("the group is empty", || rig.broker.members("g").is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn static_member_returns_to_its_partitions_without_a_rebalance() {
    let rig = Rig::new(1, "t", 4).await;
    let static_member = |rig: &Rig, id: &str| subscribe(rig.member("g").instance_id(id).assignors(EAGER));
    let other_client = rig.another(8).await;
    let stays = static_member(&rig, "a");
    let polls = poll(&stays);
    let restarts = static_member(&other_client, "b");
    let polls_b = poll(&restarts);
    until("both share", || held(&stays).len() == 2 && held(&restarts).len() == 2).await;
    let (before, epochs) = (held(&restarts), stays.assignment());
    polls_b.abort();
    restarts.close(Duration::from_secs(5)).await.unwrap();
    assert_eq!(rig.broker.members("g").len(), 2, "no goodbye");
    let back = static_member(&other_client, "b");
    assert_eq!(assigned(&back).await, before);
    assert_eq!(stays.assignment(), epochs, "the other member noticed nothing");
    polls.abort();
}

#[tokio::test(start_paused = true)]
async fn second_instance_of_a_static_member_fences_the_first() {
    let rig = Rig::new(1, "t", 2).await;
    let first = subscribe(rig.member("g").instance_id("a"));
    assigned(&first).await;
    let second = subscribe(rig.another(8).await.member("g").instance_id("a"));
    assert_eq!(assigned(&second).await, partitions(0..2));
    let mut events = Vec::new();
    let error = loop {
        match timeout(LIMIT, first.next()).await.unwrap() {
            Ok(event) => events.push(event),
            Err(error) => break error,
        }
    };
    assert!(matches!(&events[..], [ConsumerEvent::Lost(lost)] if lost.len() == 2), "{events:?}");
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("group.instance.id"), "{error:?}");
    assert!(held(&first).is_empty());
}

#[tokio::test(start_paused = true)]
async fn evicted_member_loses_its_partitions_and_joins_again() {
    let rig = Rig::new(1, "t", 2).await;
    rig.produce("t", 0, 0..10).await;
    let consumer = subscribe(rig.member("g"));
    assigned(&consumer).await;
    let set = records(&consumer).await;
    let member = rig.broker.members("g").pop().unwrap();
    assert!(rig.broker.evict_member("g", &member));
    loop {
        match next(&consumer).await {
            ConsumerEvent::Lost(lost) => {
                assert_eq!(lost.into_iter().collect::<BTreeSet<_>>(), partitions(0..2));
                break;
            }
            other => assert!(!matches!(other, ConsumerEvent::Revoked(_)), "lost is not revoked: {other:?}"),
        }
    }
    let commit = (set.topic_partition().clone(), set.next_offset().into(), set.epoch());
    let refused = consumer.commit([commit]).await.unwrap_err();
    assert_eq!(refused.refused[0].1, OffsetRefused::StaleEpoch);
    assert_eq!(assigned(&consumer).await, partitions(0..2));
    assert_eq!(values(&records(&consumer).await), (0..10).collect::<Vec<_>>(), "not committed, so read again");
}

#[tokio::test(start_paused = true)]
async fn moved_coordinator_is_found_and_nothing_is_given_up() {
    let rig = Rig::new(3, "t", 2).await;
    let consumer = subscribe(rig.member("g"));
    assigned(&consumer).await;
    let epochs = consumer.assignment();
    for round in 0..4 {
        let node = rig.broker.coordinator(CoordinatorType::Group, "g").unwrap();
        rig.broker.move_coordinator(CoordinatorType::Group, "g", (node + 1) % 3).unwrap();
        rig.produce("t", 0, round * 10..round * 10 + 10).await;
        let set = records(&consumer).await;
        consumer.commit([(set.topic_partition().clone(), set.next_offset().into(), set.epoch())]).await.unwrap();
        assert_eq!(rig.broker.committed("g", "t", 0), Some(round * 10 + 10));
        assert_quiet(&consumer, Duration::from_secs(10)).await;
    }
    assert_eq!(consumer.assignment(), epochs);
}

#[tokio::test(start_paused = true)]
async fn commits_keep_their_order_through_errors_and_lost_answers() {
    let rig = Rig::new(3, "t", 1).await;
    rig.produce("t", 0, 0..10).await;
    let consumer = subscribe(rig.member("g"));
    let set = records(&consumer).await;
    let faults = rig.broker.faults();
    for (nth, fault) in [
        (1, Fault::Error(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS)),
        (2, Fault::DropBeforeApply),
        (3, Fault::DropAfterApply),
        (4, Fault::Error(ErrorCode::NOT_COORDINATOR)),
        (5, Fault::Delay(Duration::from_secs(3))),
    ] {
        faults.add(Rule::new(fault).api(ApiKey::OffsetCommit).nth(nth));
    }
    let commits = (1..=10).map(|offset| {
        let consumer = consumer.clone();
        let commit = (set.topic_partition().clone(), OffsetAndMetadata::from(offset), set.epoch());
        async move { consumer.commit([commit]).await }
    });
    let mut tasks = Vec::new();
    for commit in commits {
        tasks.push(tokio::spawn(commit));
        tokio::task::yield_now().await;
    }
    for task in tasks {
        timeout(LIMIT, task).await.unwrap().unwrap().unwrap();
    }
    assert_eq!(rig.broker.committed("g", "t", 0), Some(10), "the last one asked for is the last one applied");
}

#[tokio::test(start_paused = true)]
async fn heartbeats_do_not_depend_on_polling() {
    let rig = Rig::new(1, "t", 1).await;
    let consumer = subscribe(rig.member("g").session_timeout(Duration::from_secs(10)));
    assigned(&consumer).await;
    let epochs = consumer.assignment();
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(rig.broker.members("g").len(), 1);
    assert_eq!(consumer.assignment(), epochs);
}

#[tokio::test(start_paused = true)]
async fn silence_beyond_the_poll_interval_leaves_the_group_and_a_poll_comes_back() {
    let rig = Rig::new(1, "t", 1).await;
    let consumer = subscribe(rig.member("g").max_poll_interval(Duration::from_secs(60)));
    assigned(&consumer).await;
    tokio::time::sleep(Duration::from_secs(55)).await;
    assert_eq!(rig.broker.members("g").len(), 1);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(rig.broker.members("g").is_empty());
    assert!(matches!(next(&consumer).await, ConsumerEvent::Lost(lost) if lost == [tp("t", 0)]));
    assert_eq!(assigned(&consumer).await, partitions(0..1));
    // Waiting inside `next` is polling, however long it takes.
    assert_quiet(&consumer, Duration::from_secs(300)).await;
    assert_eq!(rig.broker.members("g").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn guard_held_past_the_limit_loses_its_partitions() {
    let rig = Rig::new(1, "t", 2).await;
    let first = subscribe(rig.member("g").assignors(EAGER).max_poll_interval(Duration::from_secs(30)));
    assigned(&first).await;
    let second = subscribe(rig.another(8).await.member("g").assignors(EAGER));
    let polls = poll(&second);
    let guard = revoked(&first).await;
    let start = Instant::now();
    let lost = next(&first).await;
    assert!(matches!(&lost, ConsumerEvent::Lost(lost) if lost.len() == 2), "{lost:?}");
    assert!((29..=31).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    drop(guard);
    assert_eq!(assigned(&first).await.len(), 1, "and the member goes on");
    polls.abort();
}

#[tokio::test(start_paused = true)]
async fn topics_that_appear_later_are_read_by_name_and_by_pattern() {
    let rig = Rig::new(1, "t", 1).await;
    let by_name = rig.member("names").build().unwrap();
    by_name.subscribe(["t", "later.a"]).unwrap();
    let by_pattern = rig.member("pattern").build().unwrap();
    by_pattern.subscribe_matching(|name| name.starts_with("later.")).unwrap();
    assert_eq!(assigned(&by_name).await, partitions(0..1));
    rig.broker.create_topic("later.a", 2, 1).unwrap();
    rig.client.refresh_metadata().await.unwrap();
    rig.produce("later.a", 1, 0..10).await;
    for consumer in [&by_name, &by_pattern] {
        let set = records(consumer).await;
        assert_eq!((set.topic(), set.len()), ("later.a", 10));
    }
    assert_eq!(held(&by_name).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn changed_subscription_gives_up_and_takes_topics() {
    let rig = Rig::new(1, "t", 2).await;
    rig.broker.create_topic("u", 2, 1).unwrap();
    let consumer = subscribe(rig.member("g").assignors(COOPERATIVE));
    assigned(&consumer).await;
    consumer.subscribe(["u"]).unwrap();
    let guard = revoked(&consumer).await;
    assert_eq!(guard.partitions().len(), 2);
    drop(guard);
    assert_eq!(assigned(&consumer).await, [tp("u", 0), tp("u", 1)].into());
}

#[tokio::test(start_paused = true)]
async fn added_partitions_are_taken_on() {
    let rig = Rig::new(1, "t", 1).await;
    let consumer = subscribe(rig.member("g"));
    assigned(&consumer).await;
    use milena_client::raw::Target;
    use milena_protocol::messages::CreatePartitionsRequest;
    use milena_protocol::messages::create_partitions_request::CreatePartitionsTopic;
    let request = CreatePartitionsRequest {
        topics: vec![CreatePartitionsTopic { name: "t".into(), count: 3, assignments: None }],
        timeout_ms: 1000,
        validate_only: false,
    };
    rig.client.raw().send(Target::Controller, request).await.unwrap();
    rig.client.refresh_metadata().await.unwrap();
    let polls = poll(&consumer);
    until("three partitions", || held(&consumer).len() == 3).await;
    polls.abort();
}

#[tokio::test(start_paused = true)]
async fn commit_on_drop_commits_what_was_dropped_and_nothing_else() {
    let rig = Rig::new(1, "t", 1).await;
    for batch in 0..3 {
        rig.produce("t", 0, batch * 10..batch * 10 + 10).await;
    }
    let consumer = subscribe(rig.member("g").commit_on_drop(true));
    let first = records(&consumer).await;
    let second = records(&consumer).await;
    let third = records(&consumer).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(rig.broker.committed("g", "t", 0), None, "nothing was dropped, and no timer commits");
    drop(second);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.broker.committed("g", "t", 0), None, "the first is still held");
    drop(first);
    until("two batches are committed", || rig.broker.committed("g", "t", 0) == Some(20)).await;
    drop(third);
    consumer.close(Duration::from_secs(5)).await.unwrap();
    assert_eq!(rig.broker.committed("g", "t", 0), Some(30), "closing commits what was dropped");
}

#[tokio::test(start_paused = true)]
async fn revoked_records_are_not_handed_over_any_more() {
    let rig = Rig::new(1, "t", 2).await;
    for partition in 0..2 {
        for batch in 0..5 {
            rig.produce("t", partition, batch * 10..batch * 10 + 10).await;
        }
    }
    let first = subscribe(rig.member("g").assignors(EAGER));
    records(&first).await;
    let second = subscribe(rig.another(8).await.member("g").assignors(EAGER));
    let seconds = tokio::spawn(async move { read(&second, 50).await });
    // The rebalance is learned from a heartbeat; four batches wait to be handed over then.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let ConsumerEvent::Revoked(guard) = next(&first).await else { panic!("records of what is being revoked") };
    assert_quiet(&first, Duration::from_secs(2)).await;
    drop(guard);
    let mine = assigned(&first).await;
    assert_eq!(mine.len(), 1);
    let read = read(&first, 50).await;
    assert_eq!(read.len(), 1);
    assert!(
        read.values().all(|values| *values == (0..50).collect::<Vec<_>>()),
        "from the start: nothing was committed"
    );
    assert_eq!(seconds.await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn commits_by_hand_work_without_a_membership() {
    let rig = Rig::new(1, "t", 1).await;
    rig.produce("t", 0, 0..10).await;
    let consumer = rig.member("g").build().unwrap();
    consumer.assign([("t", 0, Start::Committed)]).unwrap();
    let set = records(&consumer).await;
    consumer.commit([(tp("t", 0), 7.into(), set.epoch())]).await.unwrap();
    assert_eq!(rig.broker.committed("g", "t", 0), Some(7));
    let again = rig.member("g").build().unwrap();
    again.assign([("t", 0, Start::Committed)]).unwrap();
    assert_eq!(values(&records(&again).await), (7..10).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn commits_do_not_wait_for_the_join_of_a_cooperative_rebalance() {
    let rig = Rig::new(1, "t", 2).await;
    for partition in 0..2 {
        rig.produce("t", partition, 0..10).await;
    }
    let consumer = subscribe(rig.member("g").assignors(COOPERATIVE));
    assigned(&consumer).await;
    let set = records(&consumer).await;
    let polls = poll(&consumer);
    // The first to ask is the member of old, which hears of the other from a heartbeat.
    let slow = rig.broker.faults();
    let second = subscribe(rig.another(8).await.member("g").assignors(COOPERATIVE));
    let second_polls = poll(&second);
    until("the second member asks to join", || rig.broker.members("g").len() == 2).await;
    let delay = Rule::new(Fault::Delay(Duration::from_secs(30))).api(ApiKey::JoinGroup);
    let delayed = slow.add(delay);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(slow.remove(delayed), 1, "our join is under way");
    let start = Instant::now();
    consumer.commit([(set.topic_partition().clone(), set.next_offset().into(), set.epoch())]).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(rig.broker.committed("g", "t", set.partition()), Some(10));
    until("both share", || held(&consumer).len() == 1 && held(&second).len() == 1).await;
    polls.abort();
    second_polls.abort();
}

#[tokio::test(start_paused = true)]
async fn commit_that_found_no_coordinator_was_never_sent() {
    let rig = Rig::new(1, "t", 1).await;
    rig.produce("t", 0, 0..10).await;
    let consumer = subscribe(rig.member("g").session_timeout(Duration::from_secs(600)));
    let set = records(&consumer).await;
    let commit = || consumer.commit([(tp("t", 0), set.next_offset().into(), set.epoch())]);
    let faults = rig.broker.faults();
    let refuses = [ApiKey::FindCoordinator, ApiKey::OffsetCommit, ApiKey::Heartbeat].map(|api| {
        let rule = Rule::new(Fault::DropBeforeApply);
        faults.add(rule.api(api).always())
    });
    let refused = commit().await.unwrap_err();
    // The first attempt was written before its connection broke; nothing can tell that it had no effect.
    assert!(matches!(refused.refused[0].1, OffsetRefused::TimedOut(_)), "{refused}");
    let refused = commit().await.unwrap_err();
    assert!(matches!(refused.refused[0].1, OffsetRefused::NeverSent(_)), "{refused}");
    assert!(refused.to_string().contains("not committed"), "{refused}");
    for rule in refuses {
        faults.remove(rule);
    }
    commit().await.unwrap();
    assert_eq!(rig.broker.committed("g", "t", 0), Some(10));
}

#[tokio::test(start_paused = true)]
async fn positions_of_an_assignment_are_awaited_and_end_with_it() {
    let rig = Rig::new(2, "t", 2).await;
    rig.produce("t", 0, 0..10).await;
    let slow = Rule::new(Fault::Delay(Duration::from_secs(3))).api(ApiKey::ListOffsets).always();
    let slow = rig.broker.faults().add(slow);
    let consumer = subscribe(rig.member("g").auto_offset_reset(OffsetReset::Latest));
    let both = [tp("t", 1), tp("t", 0)];
    assert!(matches!(consumer.positioned(&both).await, Err(ConsumeError::NotAssigned(_))), "not yet");
    assigned(&consumer).await;
    assert_eq!(consumer.position(&both[1]), None);
    let start = Instant::now();
    assert_eq!(timeout(LIMIT, consumer.positioned(&both)).await.unwrap().unwrap(), [0, 10]);
    assert!(start.elapsed() >= Duration::from_secs(2), "the leaders took their time: {:?}", start.elapsed());
    assert!(consumer.positioned(&[]).await.unwrap().is_empty());
    // A wait ends when the partition goes, and when the consumer does.
    rig.broker.faults().remove(slow);
    rig.broker.faults().add(Rule::new(Fault::DropBeforeApply).api(ApiKey::ListOffsets).always());
    let waits = |consumer: &Consumer| {
        let (consumer, both) = (consumer.clone(), both.clone());
        tokio::spawn(async move { consumer.positioned(&both).await })
    };
    consumer.seek(&both[0], Start::End).unwrap();
    let wait = waits(&consumer);
    let member = rig.broker.members("g").pop().unwrap();
    assert!(rig.broker.evict_member("g", &member));
    assert!(matches!(timeout(LIMIT, wait).await.unwrap().unwrap(), Err(ConsumeError::NotAssigned(_))));
    until("the member is back", || held(&consumer).len() == 2).await;
    let wait = waits(&consumer);
    tokio::task::yield_now().await;
    consumer.close(Duration::from_secs(5)).await.unwrap();
    assert!(matches!(timeout(LIMIT, wait).await.unwrap().unwrap(), Err(ConsumeError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_for_a_join_that_another_member_holds_up() {
    let rig = Rig::new(1, "t", 2).await;
    let first = subscribe(rig.member("g").assignors(EAGER));
    assigned(&first).await;
    // A static member has no id to ask for: its very first join is held up.
    for (consumer_first, id) in [(true, "a"), (false, "b")] {
        let other = rig.another(8).await;
        let second = subscribe(other.member("g").instance_id(id).assignors(EAGER));
        let guard = revoked(&first).await;
        let start = Instant::now();
        if consumer_first {
            second.close(LIMIT).await.unwrap();
        }
        let report = other.client.close(LIMIT).await;
        assert!(report.clean && start.elapsed() < Duration::from_millis(500), "{report:?}");
        drop(guard);
        assigned(&first).await;
    }
}
