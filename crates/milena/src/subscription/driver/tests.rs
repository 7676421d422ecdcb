//! What a driver makes of answers that come late. Its consumer is real, its events are given by hand.

use milena_broker::Broker;
use milena_client::TimeSource;
use tokio::sync::broadcast;

use super::*;
use crate::bus::Bus;
use crate::handler::Routes;
use crate::lanes::Budget;
use crate::policy::{FailurePolicy, Then};
use crate::subscription::background::{Begin, Commit, Search};
use crate::subscription::consumer::subscribed_consumer;
use crate::subscription::engine::{EngineSettings, Order};
use crate::subscription::handle::SeekTo;
use crate::subscription::status::SubscriptionState;

/// A driver that nobody runs, and what it tells.
fn driver(bus: &Bus, consumer: Consumer) -> (Driver, broadcast::Receiver<SubscriptionEvent>) {
    let settings = EngineSettings {
        group: "workers".into(),
        policy: FailurePolicy::attempts(1).then(Then::Stop),
        order: Order::Aggregate,
        concurrency: 1,
        budget: Budget { records: 8, bytes: 1 << 20, span: 64 },
        total_records: 8,
        total_bytes: 1 << 20,
    };
    let (events, told) = broadcast::channel(64);
    let client = bus.inner().client.clone();
    let clock: TimeSource = client.time().clone();
    let writer = std::sync::Arc::new(|_| -> std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send>> {
        Box::pin(std::future::ready(Ok(())))
    });
    let engine = Engine::new(settings, Routes::default(), writer, clock, fastrand::Rng::with_seed(7), events);
    let settings = DriverSettings {
        topics: vec!["steps".to_owned()],
        group: "workers".to_owned(),
        bus: std::sync::Arc::downgrade(bus.inner()),
        commit_interval: Duration::from_millis(100),
        commit_records: 1_000,
        revoke_timeout: Duration::from_secs(30),
        late: BTreeMap::new(),
    };
    let status = watch::Sender::new(SubscriptionStatus::default());
    (Driver::new(settings, client, consumer, engine, mpsc::channel(1).1, status), told)
}

/// A consumer's next event that is of interest; a rebalance that adds nothing is not.
async fn next(consumer: &Consumer) -> ConsumerEvent {
    let next = async {
        loop {
            match consumer.next().await {
                Ok(ConsumerEvent::Assigned(assignment)) if assignment.partitions().is_empty() => {}
                Ok(event) => return event,
                // Nothing is committed, which is the driver's to see to.
                Err(ConsumeError::NoOffset(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), next).await.expect("it happens")
}

/// A driver in the middle of a revocation, whose number is returned with the partition.
async fn revoking() -> (Driver, broadcast::Receiver<SubscriptionEvent>, TopicPartition, Bus, Consumer) {
    let broker = Broker::builder().config("group.initial.rebalance.delay.ms", "0").topic("steps", 2).build();
    let bus = Bus::builder().embedded(broker).open().await.unwrap();
    let client = &bus.inner().client;
    let join = || subscribed_consumer(client, "workers", &["steps".to_owned()], &[]).unwrap();
    let first = join();
    let assigned = next(&first).await;
    let second = join();
    let ConsumerEvent::Revoked(guard) = next(&first).await else { panic!("a partition moves") };
    let partition = guard.partitions()[0].clone();
    let (mut driver, told) = driver(&bus, first);
    driver.handle_event(assigned);
    driver.handle_event(ConsumerEvent::Revoked(guard));
    (driver, told, partition, bus, second)
}

/// Finishes a record of a revoked partition, which is to be committed then.
fn finish(driver: &mut Driver, partition: &TopicPartition) {
    driver.engine.assign(partition.clone(), 5, -1);
    driver.engine.drain(partition);
}

fn answer(driver: &Driver) -> Commit {
    let (topic, revocation) = ("steps".into(), Some(driver.last_number));
    Commit { topic, committed: Vec::new(), stale: Vec::new(), error: None, revocation }
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_a_revocation_does_not_undo_an_assignment_that_came_since() {
    let (mut driver, mut told, partition, _bus, _second) = revoking().await;
    finish(&mut driver, &partition);
    driver.drive_commits(driver.now());
    assert_eq!(driver.commits.out.len(), 1);
    // Without the loss having been told: the epoch alone must protect what is held now.
    let anew = AssignmentEpoch(1_000);
    driver.handle_assigned(std::slice::from_ref(&partition), anew);
    let late = answer(&driver);
    driver.handle_committed(late);
    assert_eq!(driver.held.get(&partition), Some(&anew));
    assert!(driver.unpositioned.contains(&partition), "it will still begin");
    assert!(!std::iter::from_fn(|| told.try_recv().ok()).any(|it| matches!(it, SubscriptionEvent::Revoked { .. })));
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_is_not_revoked_afterwards() {
    let (mut driver, mut told, partition, _bus, _second) = revoking().await;
    finish(&mut driver, &partition);
    driver.drive_commits(driver.now());
    driver.handle_event(ConsumerEvent::Lost(vec![partition.clone()]));
    assert!(driver.revocations.is_empty(), "nothing is left to give up");
    let late = answer(&driver);
    driver.handle_committed(late);
    let told: Vec<_> = std::iter::from_fn(|| told.try_recv().ok()).collect();
    assert!(told.iter().any(|it| matches!(it, SubscriptionEvent::Lost { .. })), "{told:?}");
    assert!(!told.iter().any(|it| matches!(it, SubscriptionEvent::Revoked { .. })), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_revocation_waits_for_the_commit_that_is_out() {
    let (mut driver, _told, partition, _bus, _second) = revoking().await;
    driver.commits.out.insert("steps".into(), false);
    finish(&mut driver, &partition);
    let before = driver.background.len();
    let now = driver.now();
    driver.drive_commits(now + Duration::from_secs(3_600));
    assert_eq!(driver.background.len(), before, "two commits at once could overtake one another");
    driver.handle_committed(Commit { revocation: None, ..answer(&driver) });
    driver.drive_commits(now);
    assert_eq!((driver.background.len(), driver.commits.out.len()), (before + 1, 1));
    assert!(driver.held.contains_key(&partition), "given up when that is answered");
}

#[tokio::test(start_paused = true)]
async fn a_topic_whose_commits_fail_is_told_until_it_recovers_or_is_held_no_more() {
    let (mut driver, mut told, partition, _bus, _second) = revoking().await;
    let bell = TopicPartition::new("bells", 0);
    let epoch = driver.held[&partition];
    let steps =
        |driver: &Driver| Commit { committed: vec![(partition.clone(), 5, epoch)], revocation: None, ..answer(driver) };
    for is_given_up in [false, true] {
        driver.handle_assigned(std::slice::from_ref(&bell), epoch);
        let failed = Commit { topic: "bells".into(), error: Some("gone".to_owned()), ..steps(&driver) };
        driver.handle_committed(Commit { committed: Vec::new(), ..failed });
        driver.handle_committed(steps(&driver));
        let mut told = || {
            let of_commits = |it: &SubscriptionEvent| {
                matches!(it, SubscriptionEvent::CommitFailed { .. } | SubscriptionEvent::CommitRecovered)
            };
            std::iter::from_fn(|| told.try_recv().ok()).filter(of_commits).collect::<Vec<_>>()
        };
        assert_eq!(told(), [SubscriptionEvent::CommitFailed { error: "gone".to_owned() }], "another's success is none");
        if is_given_up {
            driver.forget(&bell);
            driver.handle_committed(steps(&driver));
        } else {
            let committed = vec![(bell.clone(), 1, epoch)];
            driver.handle_committed(Commit { topic: "bells".into(), committed, ..steps(&driver) });
        }
        assert_eq!(told(), [SubscriptionEvent::CommitRecovered]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_came_due_while_its_topic_had_one_out_follows_at_once_and_no_turn_waits_for_it() {
    let (mut driver, _told, partition, _bus, _second) = revoking().await;
    driver.revocations.clear();
    driver.engine.assign(partition.clone(), 5, -1);
    let now = driver.now();
    driver.commits.out.insert("steps".into(), false);
    driver.commits.at = Some(now);
    driver.drive_commits(now);
    assert_eq!(driver.next_commit(), None, "it would turn for ever, and do nothing");
    driver.handle_committed(Commit { revocation: None, ..answer(&driver) });
    driver.drive_commits(now);
    assert_eq!(driver.commits.out.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_commit_of_an_earlier_assignment_says_nothing_about_the_next() {
    let (mut driver, _told, partition, _bus, _second) = revoking().await;
    let anew = AssignmentEpoch(1_000);
    driver.handle_assigned(std::slice::from_ref(&partition), anew);
    driver.engine.assign(partition.clone(), 5, -1);
    let stale = vec![(partition.clone(), 5, AssignmentEpoch(1))];
    driver.handle_committed(Commit { committed: stale, revocation: None, ..answer(&driver) });
    assert!(driver.engine.is_dirty(), "its own position is still to be committed");
}

#[tokio::test(start_paused = true)]
async fn a_refused_seek_leaves_a_partition_that_was_halted_for_another_one_to_go_on() {
    let (mut driver, _told, partition, _bus, _second) = revoking().await;
    driver.unpositioned.clear();
    for held in driver.held.keys() {
        driver.consumer.seek(held, milena_client::consumer::Start::Offset(5)).unwrap();
    }
    driver.engine.assign(partition.clone(), 5, 5);
    let (topic, index) = (partition.topic.to_string(), partition.partition);
    let (reply, _first) = tokio::sync::oneshot::channel();
    driver.begin_seek(topic.clone(), index, SeekTo::Beginning, reply);
    driver.handle_found(driver.last_number, Ok(0));
    assert!(driver.engine.is_halted(&partition), "it waits for what runs");
    let (reply, mut answer) = tokio::sync::oneshot::channel();
    driver.begin_seek(topic, index, SeekTo::Offset(999), reply);
    driver.handle_found(driver.last_number, Err(SubscriptionError::Closed));
    assert!(matches!(answer.try_recv(), Ok(Err(SubscriptionError::Closed))));
    driver.carry_out_seeks(driver.now());
    assert!(!driver.engine.is_halted(&partition), "nobody else would let it go on");
    assert_eq!(driver.consumer.position(&partition), Some(5), "from what is finished");
}

#[tokio::test(start_paused = true)]
async fn a_refused_seek_gives_a_lost_position_back_to_be_looked_for() {
    let (mut driver, _told, partition, _bus, _second) = revoking().await;
    driver.unpositioned.clear();
    driver.engine.assign(partition.clone(), 5, 5);
    assert_eq!(driver.consumer.position(&partition), None, "the consumer has said so, and says it once");
    let (reply, _answer) = tokio::sync::oneshot::channel();
    driver.begin_seek(partition.topic.to_string(), partition.partition, SeekTo::Offset(999), reply);
    driver.handle_found(driver.last_number, Err(SubscriptionError::Closed));
    assert!(driver.seeks.iter().any(|seek| seek.partition == partition), "it is looked for again");
}

#[tokio::test(start_paused = true)]
async fn a_committed_begin_is_sought_where_the_consumer_has_no_position() {
    let (mut driver, _told, partition, _bus, _second) = revoking().await;
    let epoch = driver.held[&partition];
    assert_eq!(driver.consumer.position(&partition), None);
    driver.handle_begins(epoch, vec![(partition.clone(), Begin::Committed(3))]);
    assert_eq!(driver.consumer.position(&partition), Some(3), "it would never be fetched");
}

#[tokio::test(start_paused = true)]
async fn a_search_goes_on_for_what_is_not_found_and_only_for_that() {
    let (mut driver, _told, partition, _bus, _second) = revoking().await;
    let epoch = driver.held[&partition];
    let all: Vec<_> = driver.held.keys().cloned().collect();
    let other = all.iter().find(|it| **it != partition).cloned().expect("two partitions");
    let consumer = driver.consumer.clone();
    let search = || Search::new(consumer.clone(), epoch, all.iter().map(|it| (it.clone(), false)).collect());
    let before = driver.background.len();
    let (begins, searches) = (vec![(partition.clone(), Begin::Oldest(0))], vec![search()]);
    driver.handle_background(Background::Begins { epoch, begins, errors: Vec::new(), searches });
    assert!(!driver.unpositioned.contains(&partition), "it goes on");
    assert!(driver.unpositioned.contains(&other));
    assert_eq!(driver.background.len(), before + 1);
    assert!(driver.alarms.consumer.is_empty(), "its leader may just be slower");
    let errors = all.iter().map(|it| (it.clone(), "no leader".to_owned())).collect();
    driver.handle_background(Background::Begins { epoch, begins: Vec::new(), errors, searches: vec![search()] });
    assert_eq!(driver.background.len(), before + 2);
    driver.handle_event(ConsumerEvent::Lost(vec![]));
    let alarmed: Vec<_> = driver.alarms.consumer.keys().cloned().collect();
    assert_eq!(alarmed, [Some(other.clone())], "raised until it is known, whatever else happens");
    let begins = vec![(other, Begin::Oldest(0))];
    driver.handle_background(Background::Begins { epoch, begins, errors: Vec::new(), searches: vec![search()] });
    assert_eq!(driver.background.len(), before + 2, "nothing is left to look for");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_lost_all_it_had_is_not_assigned() {
    let (mut driver, _told, _partition, _bus, _second) = revoking().await;
    let all: Vec<_> = driver.held.keys().cloned().collect();
    driver.handle_event(ConsumerEvent::Lost(all));
    assert!(!driver.is_assigned);
}

#[tokio::test(start_paused = true)]
async fn a_stale_count_of_partitions_is_not_told_as_growth_afterwards() {
    let (mut driver, mut told, ..) = revoking().await;
    for count in [6, 4, 6] {
        driver.handle_partition_counts(vec![("steps".to_owned(), count)]);
    }
    assert!(
        !std::iter::from_fn(|| told.try_recv().ok()).any(|it| matches!(it, SubscriptionEvent::PartitionsAdded { .. }))
    );
}

#[tokio::test(start_paused = true)]
async fn a_closed_consumer_ends_the_subscription_and_is_not_asked_again() {
    let (mut driver, ..) = revoking().await;
    driver.consumer.close(Duration::from_secs(5)).await.unwrap();
    let closed = driver.consumer.next().await.expect_err("it is closed");
    driver.handle_error(&closed);
    assert!(driver.is_consumer_closed && driver.closing.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_offset_that_is_found_clears_the_alarm_of_the_one_that_was_not() {
    let (mut driver, _told, partition, _bus, _second) = revoking().await;
    driver.unpositioned.clear();
    driver.take_up_resets();
    let number_of = |driver: &Driver| driver.seeks.iter().find(|it| it.partition == partition).map(|it| it.number);
    driver.handle_found(number_of(&driver).unwrap(), Err(SubscriptionError::Closed));
    assert!(driver.alarms.consumer.contains_key(&Some(partition.clone())));
    driver.handle_found(number_of(&driver).unwrap(), Ok(0));
    assert!(!driver.alarms.consumer.contains_key(&Some(partition.clone())));
}

#[tokio::test(start_paused = true)]
async fn a_driver_whose_last_handle_went_while_it_was_busy_closes() {
    let (driver, _told, _partition, _bus, _second) = revoking().await;
    let status = driver.status.subscribe();
    assert!(driver.commands.is_closed(), "nobody holds the subscription");
    tokio::time::timeout(Duration::from_secs(60), driver.run()).await.expect("it ends");
    assert_eq!(status.borrow().state, SubscriptionState::Closed);
}

#[tokio::test(start_paused = true)]
async fn work_that_the_runtime_drops_on_its_way_out_is_no_panic_of_the_driver() {
    let (mut driver, _told, _partition, _bus, _second) = revoking().await;
    driver.background.spawn(std::future::pending());
    driver.background.abort_all();
    tokio::task::yield_now().await;
    tokio::time::timeout(Duration::from_secs(60), driver.run()).await.expect("nobody holds it, so it closes");
}
