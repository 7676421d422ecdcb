//! Brokers that go away, groups that move, answers that are lost: the bus mends itself, and nobody calls anything.

use std::time::Duration;

use milena::{Delivery, SubscriptionEvent, SubscriptionEvents, SubscriptionState};
use milena_broker::{Broker, CoordinatorType, Fault, Rule};
use milena_protocol::{ApiKey, ErrorCode};

use crate::support::*;

type Handling = std::pin::Pin<Box<dyn Future<Output = Result<(), &'static str>> + Send>>;

/// Notes each event, failing now and then at first.
fn handler(journal: &Journal) -> impl Fn(Delivery<Stepped>) -> Handling + Send + Sync + 'static {
    let log = journal.clone();
    move |delivery| {
        let log = log.clone();
        Box::pin(async move {
            let _inside = log.enter(&delivery);
            tokio::time::sleep(Duration::from_millis(2)).await;
            if delivery.event().number % 11 == 7 && delivery.attempt() == 1 {
                return Err("once more");
            }
            log.note(delivery.event());
            Ok(())
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_gone_for_a_while_needs_no_reconnect() {
    let broker = Broker::builder().topic("steps", 2).build();
    let bus = bus_on(&broker).await;
    let journal = Journal::default();
    let subscription = bus.subscribe(policy(), handler(&journal)).group("workers").await.unwrap();
    for number in 0..20 {
        bus.publish(&stepped("a", number)).await.unwrap();
    }
    within("before", subscription.wait_for(|status| status.counts.handled >= 20)).await.unwrap();
    broker.stop_node(0).await.unwrap();
    let during = {
        let bus = bus.clone();
        tokio::spawn(async move { bus.publish(&stepped("a", 20)).await })
    };
    tokio::time::sleep(Duration::from_secs(20)).await;
    broker.start_node(0).await.unwrap();
    within("published after all", during).await.unwrap().unwrap();
    for number in 21..40 {
        within("published", bus.publish(&stepped("a", number))).await.unwrap();
    }
    until("all are handled", || journal.distinct() == 40).await;
    journal.assert_order();
    assert!(within("close", bus.close(Duration::from_secs(30))).await.is_complete());
}

/// What the consumer's alarms say within that time, and how many are cleared.
async fn alarms(told: &mut SubscriptionEvents, time: Duration) -> (Vec<String>, usize) {
    let (mut raised, mut cleared) = (Vec::new(), 0);
    let until = tokio::time::Instant::now() + time;
    while let Ok(Some(event)) = tokio::time::timeout_at(until, told.next()).await {
        match event {
            SubscriptionEvent::ConsumerFailed { error, .. } => raised.push(error),
            SubscriptionEvent::ConsumerRecovered { .. } => cleared += 1,
            _ => {}
        }
    }
    (raised, cleared)
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_stays_away_is_an_alarm_that_names_it_until_it_is_back() {
    let broker = Broker::builder().topic("steps", 2).build();
    let bus = bus_on(&broker).await;
    let subscription = bus.subscribe(policy(), handler(&Journal::default())).group("workers").await.unwrap();
    let mut told = subscription.events();
    within("ready", subscription.ready()).await.unwrap();
    broker.stop_node(0).await.unwrap();
    let away = within("told", subscription.wait_for(|status| status.trouble.is_some())).await.unwrap();
    let trouble = away.trouble.expect("waited for");
    assert!(trouble.contains(&*broker.bootstrap()) && trouble.contains("check that"), "{trouble}");
    let (raised, cleared) = alarms(&mut told, Duration::from_secs(600)).await;
    assert_eq!((raised.len(), cleared), (2, 0), "the leader and the coordinator, once each: {raised:?}");
    broker.start_node(0).await.unwrap();
    within("recovered", subscription.wait_for(|status| status.trouble.is_none())).await.unwrap();
    assert_eq!(alarms(&mut told, Duration::from_secs(1)).await, (vec![], 1));
    bus.publish(&stepped("a", 0)).await.unwrap();
    within("handled", subscription.wait_for(|status| status.counts.handled == 1)).await.unwrap();
    assert!(within("close", bus.close(Duration::from_secs(30))).await.is_complete());
}

#[tokio::test(start_paused = true)]
async fn moving_leaders_and_coordinators_lose_and_disorder_nothing() {
    let broker = Broker::builder().nodes(3).topic("steps", 3).build();
    let bus = bus_on(&broker).await;
    let journal = Journal::default();
    let subscription = bus.subscribe(policy(), handler(&journal)).group("workers").await.unwrap();
    within("ready", subscription.ready()).await.unwrap();
    for number in 0..60 {
        let steps: Vec<_> = (0..6).map(|thing| stepped(format!("t-{thing}"), number)).collect();
        for receipt in within("published", bus.publish_batch(&steps)).await {
            receipt.unwrap();
        }
        match number {
            15 => broker.move_leader("steps", 0, 2).unwrap(),
            30 => broker.move_coordinator(CoordinatorType::Group, "workers", 1).unwrap(),
            45 => broker.move_leader("steps", 1, 0).unwrap(),
            _ => {}
        }
    }
    until("all are handled", || journal.distinct() == 360).await;
    journal.assert_order();
    assert!(within("close", bus.close(Duration::from_secs(30))).await.is_complete());
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_neither_repeats_nor_loses_an_event() {
    let broker = Broker::builder().topic("steps", 1).build();
    let bus = bus_on(&broker).await;
    bus.publish(&stepped("a", 0)).await.unwrap();
    broker.faults().add(Rule::new(Fault::DropAfterApply).api(ApiKey::Produce).topic("steps"));
    within("published", bus.publish(&stepped("a", 1))).await.unwrap();
    within("published", bus.publish(&stepped("a", 2))).await.unwrap();
    let records = read_all(&broker, "steps").await;
    assert_eq!(records.len(), 3, "written once, though it was sent twice");
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_fails_is_tried_again_and_told_of() {
    let broker = Broker::builder().topic("steps", 1).build();
    let bus = bus_on(&broker).await;
    let journal = Journal::default();
    let subscription = bus.subscribe(policy(), handler(&journal)).group("workers").await.unwrap();
    within("ready", subscription.ready()).await.unwrap();
    let mut events = subscription.events();
    let fault = Rule::new(Fault::Error(ErrorCode::GROUP_AUTHORIZATION_FAILED)).api(ApiKey::OffsetCommit).times(2);
    broker.faults().add(fault);
    bus.publish(&stepped("a", 0)).await.unwrap();
    wait_for_event(&mut events, |event| matches!(event, SubscriptionEvent::CommitFailed { .. })).await;
    let troubled = within("why", subscription.wait_for(|status| status.trouble.is_some())).await.unwrap();
    assert!(troubled.trouble.unwrap().contains("GROUP_AUTHORIZATION_FAILED"));
    let cleared = wait_for_event(&mut events, |event| !matches!(event, SubscriptionEvent::Assigned { .. })).await;
    assert_eq!(cleared, SubscriptionEvent::CommitRecovered, "raised once, cleared once");
    until_async("committed after all", async || committed(&broker, "workers", "steps", 0).await == Some(1)).await;
    assert!(within("close", bus.close(Duration::from_secs(10))).await.is_complete());
}

#[tokio::test(start_paused = true)]
async fn a_lone_event_is_handled_at_once() {
    let bus = bus().await;
    let journal = Journal::default();
    let subscription = bus.subscribe(policy(), handler(&journal)).group("workers").await.unwrap();
    within("ready", subscription.ready()).await.unwrap();
    bus.publish(&stepped("warm", 0)).await.unwrap();
    within("warm", subscription.wait_for(|status| status.counts.handled == 1)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let started = tokio::time::Instant::now();
    bus.publish(&stepped("a", 0)).await.unwrap();
    within("handled", subscription.wait_for(|status| status.counts.handled == 2)).await.unwrap();
    assert!(started.elapsed() <= Duration::from_millis(20), "took {:?}, of which the handler 2 ms", started.elapsed());
    let _ = bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn what_keeps_a_partition_from_being_read_is_told_until_it_is_over() {
    let broker = Broker::builder().topic("steps", 1).build();
    let bus = bus_on(&broker).await;
    let journal = Journal::default();
    let fault =
        Rule::new(Fault::Error(ErrorCode::TOPIC_AUTHORIZATION_FAILED)).api(ApiKey::Fetch).topic("steps").always();
    let fault = broker.faults().add(fault);
    let subscription = bus.subscribe(policy(), handler(&journal)).group("workers").await.unwrap();
    let mut events = subscription.events();
    bus.publish(&stepped("a", 0)).await.unwrap();
    let partition = Some(("steps".to_owned(), 0));
    let told = wait_for_event(&mut events, |event| matches!(event, SubscriptionEvent::ConsumerFailed { .. })).await;
    assert!(
        matches!(&told, SubscriptionEvent::ConsumerFailed { partition: about, .. } if *about == partition),
        "{told:?}"
    );
    let troubled = within("why", subscription.wait_for(|status| status.trouble.is_some())).await.unwrap();
    assert!(troubled.trouble.unwrap().contains("TOPIC_AUTHORIZATION_FAILED"));
    broker.faults().remove(fault);
    let told = wait_for_event(&mut events, |event| !matches!(event, SubscriptionEvent::Assigned { .. })).await;
    assert_eq!(told, SubscriptionEvent::ConsumerRecovered { partition });
    within("handled", subscription.wait_for(|status| status.counts.handled == 1)).await.unwrap();
    assert_eq!(subscription.status().trouble, None);
    assert!(within("close", bus.close(Duration::from_secs(30))).await.is_complete());
}

#[tokio::test(start_paused = true)]
async fn a_group_that_may_not_be_read_says_why_it_is_not_ready() {
    let broker = Broker::builder().topic("steps", 1).build();
    let bus = bus_on(&broker).await;
    let fault = Rule::new(Fault::Error(ErrorCode::TOPIC_AUTHORIZATION_FAILED)).api(ApiKey::ListOffsets).always();
    let fault = broker.faults().add(fault);
    let subscription = bus.subscribe(policy(), |_: Stepped| async {}).group("workers").await.unwrap();
    let troubled = within("why", subscription.wait_for(|status| status.trouble.is_some())).await.unwrap();
    assert_eq!(troubled.state, SubscriptionState::Joining);
    broker.faults().remove(fault);
    within("ready", subscription.ready()).await.unwrap();
    assert_eq!(subscription.status().trouble, None);
    let _ = bus.close(Duration::from_secs(10)).await;
}
