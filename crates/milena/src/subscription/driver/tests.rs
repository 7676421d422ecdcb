//! What a driver makes of answers that come late. Its consumer is real, its events are given by hand.

use milena_broker::Broker;
use milena_client::TimeSource;
use tokio::sync::broadcast;

use super::*;
use crate::bus::Bus;
use crate::handler::Routes;
use crate::lanes::Budget;
use crate::policy::{FailurePolicy, Then};
use crate::subscription::background::Commit;
use crate::subscription::consumer::subscribed_consumer;
use crate::subscription::engine::{EngineSettings, Order};

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

fn answer(driver: &Driver) -> Commit {
    Commit { committed: Vec::new(), stale: Vec::new(), error: None, revocation: Some(driver.last_number) }
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_a_revocation_does_not_undo_an_assignment_that_came_since() {
    let (mut driver, mut told, partition, _bus, _second) = revoking().await;
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
    driver.commits.is_out = true;
    let before = driver.background.len();
    let now = driver.now();
    driver.drive_commits(now + Duration::from_secs(3_600));
    assert_eq!(driver.background.len(), before, "two commits at once could overtake one another");
    driver.handle_committed(Commit { revocation: None, ..answer(&driver) });
    driver.drive_commits(now);
    assert_eq!((driver.background.len(), driver.commits.is_out), (before + 1, true));
    assert!(driver.held.contains_key(&partition), "given up when that is answered");
}

#[tokio::test(start_paused = true)]
async fn a_commit_of_an_earlier_assignment_says_nothing_about_the_next() {
    let (mut driver, _told, partition, _bus, _second) = revoking().await;
    let anew = AssignmentEpoch(1_000);
    driver.handle_assigned(std::slice::from_ref(&partition), anew);
    driver.engine.assign(partition.clone(), 5, -1);
    let stale = vec![(partition.clone(), 5, AssignmentEpoch(1))];
    driver.handle_committed(Commit { committed: stale, stale: Vec::new(), error: None, revocation: None });
    assert!(driver.engine.is_dirty(), "its own position is still to be committed");
}
