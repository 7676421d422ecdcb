//! Where a subscription begins, and what becomes of a position that is no more.

use std::sync::Arc;
use std::time::Duration;

use milena::{Bus, Event, SeekTo, StartAt, SubscriptionError, SubscriptionEvent, SubscriptionState};
use milena_admin::{Admin, GroupOffset};
use milena_broker::{Broker, Fault, Rule};
use milena_client::TopicPartition;
use milena_protocol::{ApiKey, ErrorCode};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::support::*;

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(type = "test.rang", topic = "bells", aggregate = bell, partitions = 2)]
struct Rang {
    bell: String,
}

async fn publish_ten(bus: &milena::Bus, from: u64) {
    for number in from..from + 10 {
        bus.publish(&stepped("a", number)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_start_in_a_group_that_has_members_replays_nothing() {
    let broker = Broker::builder().topic("steps", 2).topic("bells", 2).build();
    let bus = Bus::builder().embedded(broker.clone()).set("metadata.max.age.ms", "1000").open().await.unwrap();
    let bells = bus.subscribe(policy(), |_: Rang| async {}).group("workers").await.unwrap();
    within("a member is there", bells.ready()).await.unwrap();
    publish_ten(&bus, 0).await;
    let journal = Journal::default();
    let late = bus.subscribe(policy(), noting(&journal)).group("workers").start_at(StartAt::Latest).await.unwrap();
    within("ready", late.ready()).await.unwrap();
    let committed: Vec<_> = (0..2).map(|partition| broker.committed("workers", "steps", partition)).collect();
    let ends: Vec<_> = (0..2).map(|partition| Some(broker.log_offsets("steps", partition).unwrap().1)).collect();
    assert_eq!(committed, ends, "the ends are committed before it is ready");
    bus.publish(&stepped("a", 10)).await.unwrap();
    within("the new one", late.wait_for(|status| status.counts.handled == 1)).await.unwrap();
    assert_eq!(journal.of("a"), [10]);
    // Partitions that appear later begin with their oldest event.
    let plain = client(&broker).await;
    for (_, result) in Admin::new(&plain).create_partitions(&[("steps", 8)]).await.unwrap() {
        result.unwrap();
    }
    for thing in 0..40 {
        bus.publish(&stepped(format!("t-{thing}"), 0)).await.unwrap();
    }
    within("grown", late.wait_for(|status| status.partitions.len() == 8)).await.unwrap();
    within("all", late.wait_for(|status| status.counts.handled == 41)).await.unwrap();
    let _ = plain.close(Duration::from_secs(5)).await;
    let _ = bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_position_that_retention_overtook_is_told_of_and_nothing_else_is_skipped() {
    let broker = Broker::builder().topic("steps", 1).build();
    let bus = bus_on(&broker).await;
    let journal = Journal::default();
    let first = bus.subscribe(policy(), noting(&journal)).group("workers").await.unwrap();
    bus.publish(&stepped("a", 0)).await.unwrap();
    within("one", first.wait_for(|status| status.counts.handled == 1)).await.unwrap();
    assert!(within("closed", first.close(Duration::from_secs(10))).await.is_complete());
    publish_ten(&bus, 1).await;
    let plain = client(&broker).await;
    let deleted = Admin::new(&plain).delete_records(&[(TopicPartition::new("steps", 0), 6)]).await.unwrap();
    assert!(deleted.iter().all(|(_, result)| result.is_ok()), "{deleted:?}");
    let _ = plain.close(Duration::from_secs(5)).await;
    let second = bus.subscribe(policy(), noting(&journal)).group("workers").await.unwrap();
    let mut events = second.events();
    let lost = wait_for_event(&mut events, |event| matches!(event, SubscriptionEvent::PositionLost { .. })).await;
    assert_eq!(lost, SubscriptionEvent::PositionLost { topic: "steps".into(), partition: 0, from: 1, to: 6 });
    within("the rest", second.wait_for(|status| status.counts.handled == 5)).await.unwrap();
    assert_eq!(journal.of("a"), [0, 6, 7, 8, 9, 10]);
    assert!(within("close", bus.close(Duration::from_secs(10))).await.is_complete());
    assert_eq!(broker.committed("workers", "steps", 0), Some(11));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_was_cut_off_is_told_of_and_read_on_from_there() {
    let broker = Broker::builder().topic("steps", 1).build();
    let bus = bus_on(&broker).await;
    let journal = Journal::default();
    let subscription = bus.subscribe(policy(), noting(&journal)).group("workers").await.unwrap();
    let mut events = subscription.events();
    publish_ten(&bus, 0).await;
    within("ten", subscription.wait_for(|status| status.counts.handled == 10)).await.unwrap();
    broker.truncate("steps", 0, 4).unwrap();
    let lost = wait_for_event(&mut events, |event| matches!(event, SubscriptionEvent::PositionLost { .. })).await;
    assert_eq!(lost, SubscriptionEvent::PositionLost { topic: "steps".into(), partition: 0, from: 10, to: 4 });
    bus.publish(&stepped("a", 10)).await.unwrap();
    within("the next", subscription.wait_for(|status| status.counts.handled == 11)).await.unwrap();
    assert_eq!(journal.of("a"), (0..=10).collect::<Vec<_>>(), "what is left of the log was handled once");
    until("the commit follows", || broker.committed("workers", "steps", 0) == Some(5)).await;
    assert!(within("close", bus.close(Duration::from_secs(10))).await.is_complete());
}

#[tokio::test(start_paused = true)]
async fn a_seek_to_where_nothing_is_changes_nothing_and_says_what_there_is() {
    let broker = Broker::builder().topic("steps", 1).build();
    let bus = bus_on(&broker).await;
    let journal = Journal::default();
    let subscription = bus.subscribe(policy(), noting(&journal)).group("workers").await.unwrap();
    publish_ten(&bus, 0).await;
    within("ten", subscription.wait_for(|status| status.counts.handled == 10)).await.unwrap();
    for offset in [11, i64::MAX, -1] {
        let refused = within("an answer", subscription.seek("steps", 0, SeekTo::Offset(offset))).await;
        let Err(SubscriptionError::OutOfRange { earliest: 0, latest: 10, .. }) = refused else { panic!("{refused:?}") };
    }
    bus.publish(&stepped("a", 10)).await.unwrap();
    within("the next", subscription.wait_for(|status| status.counts.handled == 11)).await.unwrap();
    assert_eq!(journal.of("a"), (0..=10).collect::<Vec<_>>());
    within("the end is there", subscription.seek("steps", 0, SeekTo::Offset(11))).await.unwrap();
    let _ = bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn of_two_seeks_the_later_holds_whichever_answer_comes_first() {
    let broker = Broker::builder().topic("steps", 1).build();
    let bus = bus_on(&broker).await;
    let journal = Journal::default();
    let subscription = bus.subscribe(policy(), noting(&journal)).group("workers").await.unwrap();
    publish_ten(&bus, 0).await;
    within("ten", subscription.wait_for(|status| status.counts.handled == 10)).await.unwrap();
    let (earlier, later) = tokio::join!(
        subscription.seek("steps", 0, SeekTo::Beginning),
        subscription.seek("steps", 0, SeekTo::Offset(8))
    );
    assert!(matches!(earlier, Err(SubscriptionError::Seek { .. })), "{earlier:?}");
    later.unwrap();
    within("two again", subscription.wait_for(|status| status.counts.handled == 12)).await.unwrap();
    assert_eq!(journal.of("a")[10..], [8, 9]);
    let _ = bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_seek_does_not_wait_for_a_first_position() {
    let broker = Broker::builder().topic("steps", 1).build();
    let bus = bus_on(&broker).await;
    publish_ten(&bus, 0).await;
    let journal = Journal::default();
    broker.faults().add(Rule::new(Fault::Delay(Duration::from_secs(20))).api(ApiKey::OffsetFetch).times(2));
    let subscription = bus.subscribe(policy(), noting(&journal)).group("workers").await.unwrap();
    within("assigned", subscription.wait_for(|status| !status.partitions.is_empty())).await.unwrap();
    let started = tokio::time::Instant::now();
    within("sought", subscription.seek("steps", 0, SeekTo::Offset(7))).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(5), "took {:?}", started.elapsed());
    within("three", subscription.wait_for(|status| status.counts.handled == 3)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(journal.of("a"), [7, 8, 9], "the late answer about where to begin moves nothing");
    let _ = bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_seek_does_not_freeze_a_partition_that_an_earlier_one_had_halted() {
    let broker = Broker::builder().topic("steps", 1).build();
    let bus = bus_on(&broker).await;
    let (journal, gate) = (Journal::default(), Arc::new(Semaphore::new(0)));
    let (log, door) = (journal.clone(), Arc::clone(&gate));
    let handler = move |event: Stepped| {
        let (log, door) = (log.clone(), Arc::clone(&door));
        async move {
            door.acquire().await.unwrap().forget();
            log.note(&event);
        }
    };
    let subscription = bus.subscribe(policy(), handler).group("workers").await.unwrap();
    publish_ten(&bus, 0).await;
    within("it runs", subscription.wait_for(|status| status.running == 1)).await.unwrap();
    let earlier = {
        let subscription = subscription.clone();
        tokio::spawn(async move { subscription.seek("steps", 0, SeekTo::Beginning).await })
    };
    // Time moves on only when nothing is under way: the offset is found by then, and the handler is waited for.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let refused = within("an answer", subscription.seek("steps", 0, SeekTo::Offset(999))).await;
    assert!(matches!(refused, Err(SubscriptionError::OutOfRange { .. })), "{refused:?}");
    assert!(matches!(earlier.await.unwrap(), Err(SubscriptionError::Seek { .. })));
    let mut events = subscription.events();
    gate.add_permits(100);
    within("all", subscription.wait_for(|status| status.counts.handled == 10)).await.unwrap();
    assert_eq!(journal.of("a"), (0..10).collect::<Vec<_>>(), "each once: the refused seek has moved nothing");
    until("they are committed", || broker.committed("workers", "steps", 0) == Some(10)).await;
    let _ = bus.close(Duration::from_secs(10)).await;
    while let Some(event) = events.next().await {
        assert!(!matches!(event, SubscriptionEvent::PositionLost { .. }), "nothing was lost");
    }
}

/// Publishes events to both partitions of a topic, and says how many each has.
async fn publish_to_two(broker: &Broker, bus: &Bus) -> [u64; 2] {
    for thing in 0..40 {
        bus.publish(&stepped(format!("t-{thing}"), 0)).await.unwrap();
    }
    let counts = [0, 1].map(|partition| u64::try_from(broker.log_offsets("steps", partition).unwrap().1).unwrap());
    assert!(counts.iter().all(|count| *count > 5), "{counts:?}");
    counts
}

#[tokio::test(start_paused = true)]
async fn a_position_that_is_lost_while_another_is_looked_for_is_not_passed_over() {
    let broker = Broker::builder().topic("steps", 2).build();
    let bus = bus_on(&broker).await;
    let [zero, one] = publish_to_two(&broker, &bus).await;
    let plain = client(&broker).await;
    let admin = Admin::new(&plain);
    let overtaken = TopicPartition::new("steps", 0);
    let committed = admin.alter_group_offsets("workers", &[(overtaken.clone(), GroupOffset::new(1))]).await.unwrap();
    assert!(committed.iter().all(|(_, result)| result.is_ok()), "{committed:?}");
    let deleted = admin.delete_records(&[(overtaken, 3)]).await.unwrap();
    assert!(deleted.iter().all(|(_, result)| result.is_ok()), "{deleted:?}");
    let _ = plain.close(Duration::from_secs(5)).await;
    broker.faults().add(Rule::new(Fault::Delay(Duration::from_secs(3))).api(ApiKey::ListOffsets));
    let subscription = bus.subscribe(policy(), |_: Stepped| async {}).group("workers").await.unwrap();
    let mut events = subscription.events();
    let lost = wait_for_event(&mut events, |event| matches!(event, SubscriptionEvent::PositionLost { .. })).await;
    assert_eq!(lost, SubscriptionEvent::PositionLost { topic: "steps".into(), partition: 0, from: 1, to: 3 });
    within("all", subscription.wait_for(|status| status.counts.handled == zero - 3 + one)).await.unwrap();
    let _ = bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_partition_whose_begin_is_not_found_keeps_no_other_waiting() {
    let broker = Broker::builder().topic("steps", 2).build();
    let bus = bus_on(&broker).await;
    let [zero, one] = publish_to_two(&broker, &bus).await;
    let fault = Rule::new(Fault::Error(ErrorCode::LEADER_NOT_AVAILABLE)).api(ApiKey::ListOffsets);
    let fault = broker.faults().add(fault.topic("steps").partition(1).always());
    let subscription = bus.subscribe(policy(), |_: Stepped| async {}).group("workers").await.unwrap();
    within("assigned", subscription.wait_for(|status| status.partitions.len() == 2)).await.unwrap();
    let started = tokio::time::Instant::now();
    within("those of the other", subscription.wait_for(|status| status.counts.handled == zero)).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1), "took {:?}", started.elapsed());
    let status = within("it is told", subscription.wait_for(|status| status.trouble.is_some())).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(10), "took {:?}", started.elapsed());
    assert_eq!(status.state, SubscriptionState::Joining, "the one is not there yet");
    broker.faults().remove(fault);
    within("all", subscription.wait_for(|status| status.counts.handled == zero + one)).await.unwrap();
    within("ready", subscription.ready()).await.unwrap();
    until("it is over", || subscription.status().trouble.is_none()).await;
    let _ = bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_partition_without_a_leader_keeps_no_other_waiting() {
    let broker = Broker::builder().topic("steps", 2).build();
    let bus = bus_on(&broker).await;
    let [zero, one] = publish_to_two(&broker, &bus).await;
    broker.remove_leader("steps", 1).unwrap();
    let subscription = bus.subscribe(policy(), |_: Stepped| async {}).group("workers").await.unwrap();
    within("assigned", subscription.wait_for(|status| status.partitions.len() == 2)).await.unwrap();
    let started = tokio::time::Instant::now();
    within("those of the other", subscription.wait_for(|status| status.counts.handled == zero)).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1), "took {:?}", started.elapsed());
    broker.move_leader("steps", 1, 0).unwrap();
    within("all", subscription.wait_for(|status| status.counts.handled == zero + one)).await.unwrap();
    within("ready", subscription.ready()).await.unwrap();
    let _ = bus.close(Duration::from_secs(10)).await;
}

fn count(broker: &Broker, api: ApiKey) -> u64 {
    broker.requests().iter().filter(|request| request.api == api).map(|request| request.count).sum()
}

#[tokio::test(start_paused = true)]
async fn a_distant_cluster_is_asked_once_where_partitions_begin() {
    let broker = Broker::builder().nodes(3).topic("steps", 30).build();
    let bus = bus_on(&broker).await;
    let delay = Duration::from_millis(300);
    broker.faults().add(Rule::new(Fault::Delay(delay)).api(ApiKey::ListOffsets).always());
    let subscription = bus.subscribe(policy(), |_: Stepped| async {}).group("workers").await.unwrap();
    within("assigned", subscription.wait_for(|status| status.partitions.len() == 30)).await.unwrap();
    let started = tokio::time::Instant::now();
    within("ready", subscription.ready()).await.unwrap();
    assert!(started.elapsed() < delay + Duration::from_millis(100), "took {:?}", started.elapsed());
    let asked: Vec<_> = broker.requests().into_iter().filter(|it| it.api == ApiKey::ListOffsets).collect();
    assert!(asked.len() == 3 && asked.iter().all(|leader| leader.count == 1), "{asked:?}");
    // The consumer asks for itself, and the subscription.
    assert_eq!(count(&broker, ApiKey::OffsetFetch), 2);
    let _ = bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_leader_keeps_only_its_own_partitions_waiting() {
    let broker = Broker::builder().nodes(3).topic("steps", 30).build();
    let bus = bus_on(&broker).await;
    let fault = Rule::new(Fault::Delay(Duration::from_secs(3_600))).api(ApiKey::ListOffsets).node(2);
    let fault = broker.faults().add(fault.always());
    for thing in 0..300 {
        bus.publish(&stepped(format!("t-{thing}"), 0)).await.unwrap();
    }
    let events_of = |is_wanted: fn(i32) -> bool| {
        let of_leader = (0..30).filter(|it| is_wanted(broker.leader("steps", *it).unwrap().unwrap()));
        of_leader.map(|it| u64::try_from(broker.log_offsets("steps", it).unwrap().1).unwrap()).sum::<u64>()
    };
    let (others, all) = (events_of(|leader| leader != 2), events_of(|_| true));
    assert!(0 < others && others < all, "{others} of {all}");
    let subscription = bus.subscribe(policy(), |_: Stepped| async {}).group("workers").await.unwrap();
    within("assigned", subscription.wait_for(|status| status.partitions.len() == 30)).await.unwrap();
    let started = tokio::time::Instant::now();
    within("of the others", subscription.wait_for(|status| status.counts.handled == others)).await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(100), "took {:?}", started.elapsed());
    within("it is told", subscription.wait_for(|status| status.trouble.is_some())).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(10), "took {:?}", started.elapsed());
    broker.faults().remove(fault);
    within("all", subscription.wait_for(|status| status.counts.handled == all)).await.unwrap();
    let asked = count(&broker, ApiKey::ListOffsets);
    assert!(asked <= 8, "asked {asked} times: not once for each partition");
    let _ = bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_the_coordinator_cannot_tell_of_keeps_no_other_waiting() {
    for error in [ErrorCode::UNSTABLE_OFFSET_COMMIT, ErrorCode::TOPIC_AUTHORIZATION_FAILED] {
        let broker = Broker::builder().topic("steps", 2).build();
        let bus = bus_on(&broker).await;
        let [zero, one] = publish_to_two(&broker, &bus).await;
        let fault = Rule::new(Fault::Error(error)).api(ApiKey::OffsetFetch).topic("steps").partition(1);
        let fault = broker.faults().add(fault.always());
        let subscription = bus.subscribe(policy(), |_: Stepped| async {}).group("workers").await.unwrap();
        within("assigned", subscription.wait_for(|status| status.partitions.len() == 2)).await.unwrap();
        let started = tokio::time::Instant::now();
        within("those of the other", subscription.wait_for(|status| status.counts.handled == zero)).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(1), "{error:?} took {:?}", started.elapsed());
        within("it is told", subscription.wait_for(|status| status.trouble.is_some())).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(10), "{error:?} took {:?}", started.elapsed());
        broker.faults().remove(fault);
        within("all", subscription.wait_for(|status| status.counts.handled == zero + one)).await.unwrap();
        until("it is over", || subscription.status().trouble.is_none()).await;
        let _ = bus.close(Duration::from_secs(10)).await;
    }
}
