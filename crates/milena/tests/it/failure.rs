//! What can't be handled: poison, used-up attempts, panics, dead letters that can't be written, stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use milena::{
    Bus, Envelope, FailurePolicy, StopReason, SubscribeError, SubscriptionError, SubscriptionEvent, SubscriptionState,
    Then, TopicStrategy, UnknownTypes,
};
use milena_admin::{Admin, ConfigChange, ConfigResource};
use milena_broker::{Broker, Fault, Rule};
use milena_client::producer::{Record, RecordHeader};
use milena_protocol::{ApiKey, ErrorCode};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn poison_goes_whole_to_the_dead_letters_and_the_partition_goes_on() {
    let broker = Broker::builder().topic("steps", 1).build();
    let bus = bus_on(&broker).await;
    let journal = Journal::default();
    let log = journal.clone();
    let subscription = bus
        .subscribe(policy(), move |event: Stepped| {
            log.note(&event);
            async {}
        })
        .group("workers")
        .await
        .unwrap();
    let own = [
        RecordHeader { key: "x", value: Some(b"1") },
        RecordHeader { key: "x", value: None },
        RecordHeader { key: "y", value: Some(b"") },
    ];
    send_raw(&broker, Record::to("steps").key(b"\xfe\xff").value(b"\x00 no event").headers(&own)).await;
    bus.publish(&stepped("a", 0)).await.unwrap();
    within(
        "both settled",
        subscription.wait_for(|status| status.counts.handled == 1 && status.counts.dead_lettered == 1),
    )
    .await
    .unwrap();
    let letters = read_all(&broker, "steps.dead-letters").await;
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!((letter.key(), letter.value()), (Some(&b"\xfe\xff"[..]), Some(&b"\x00 no event"[..])));
    let header = |name: &str| {
        let found = letter.headers().last(name).unwrap_or_else(|| panic!("no header {name}"));
        String::from_utf8(found.value.unwrap_or_default().to_vec()).unwrap()
    };
    let first: Vec<_> = letter.headers().iter().take(3).map(|header| (header.key, header.value)).collect();
    assert_eq!(first, [(&b"x"[..], Some(&b"1"[..])), (b"x", None), (b"y", Some(b""))], "its own headers, verbatim");
    assert_eq!(header("__dlq.errors.topic"), "steps");
    assert_eq!(header("__dlq.errors.partition"), "0");
    assert_eq!(header("__dlq.errors.offset"), "0");
    assert_eq!(header("__dlq.errors.group"), "workers");
    assert_eq!(header("__dlq.errors.delivery.count"), "1");
    assert_eq!(header("milena.dlq.kind"), "envelope");
    let _ = bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_panicking_handler_ends_in_a_dead_letter_after_its_attempts() {
    let bus = bus().await;
    let subscription = bus
        .subscribe(policy(), |event: Stepped| async move { assert!(event.number != 1, "unlucky number") })
        .group("workers")
        .await
        .unwrap();
    for number in 0..3 {
        bus.publish(&stepped("a", number)).await.unwrap();
    }
    let status = within("settled", subscription.wait_for(|status| status.counts.handled == 2)).await.unwrap();
    assert_eq!((status.counts.dead_lettered, status.counts.retried), (1, 2));
    let letters = read_all(bus.broker().unwrap(), "steps.dead-letters").await;
    let message = letters[0].headers().last("__dlq.errors.message").unwrap();
    assert_eq!(message.value, Some(&b"the handler panicked: unlucky number"[..]));
    let _ = bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_cannot_be_written_holds_its_offset_until_it_can() {
    let broker = Broker::builder().topic("steps", 1).topic("steps.dead-letters", 1).build();
    let bus = Bus::builder().embedded(broker.clone()).open().await.unwrap();
    let subscription = bus
        .subscribe(FailurePolicy::attempts(1).then(Then::DeadLetter), |event: Stepped| async move {
            if event.thing == "bad" { Err("never") } else { Ok(()) }
        })
        .group("workers")
        .await
        .unwrap();
    within("ready", subscription.ready()).await.unwrap();
    let mut events = subscription.events();
    let fault = broker.faults().add(
        Rule::new(Fault::Error(ErrorCode::TOPIC_AUTHORIZATION_FAILED))
            .api(ApiKey::Produce)
            .topic("steps.dead-letters")
            .always(),
    );
    bus.publish(&stepped("bad", 0)).await.unwrap();
    for number in 0..5 {
        bus.publish(&stepped("good", number)).await.unwrap();
    }
    let alarm = within("the alarm", async {
        loop {
            match events.next().await {
                Some(SubscriptionEvent::DeadLetterFailed { offset, .. }) => return offset,
                Some(_) => {}
                None => panic!("the subscription ended"),
            }
        }
    })
    .await;
    assert_eq!(alarm, 0);
    let held = within("others", subscription.wait_for(|status| status.counts.handled == 5)).await.unwrap();
    assert_eq!((held.held_dead_letters, held.counts.dead_lettered), (1, 0));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        committed(&broker, "workers", "steps", 0).await,
        None,
        "the offset is held: nothing is committed past it"
    );
    broker.faults().remove(fault);
    within(
        "written",
        subscription.wait_for(|status| status.counts.dead_lettered == 1 && status.held_dead_letters == 0),
    )
    .await
    .unwrap();
    assert!(within("close", bus.close(Duration::from_secs(10))).await.is_complete());
    assert_eq!(committed(&broker, "workers", "steps", 0).await, Some(6));
    assert_eq!(read_all(&broker, "steps.dead-letters").await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_dead_letter_topic_exists_before_the_first_handler_runs() {
    let broker = Broker::builder().auto_create(false).topic("steps", 1).build();
    let bus = bus_on(&broker).await;
    let existed = Arc::new(AtomicBool::new(false));
    let (seen, looked_at) = (Arc::clone(&existed), broker.clone());
    let subscription = bus
        .subscribe(policy(), move |_: Stepped| {
            seen.store(looked_at.log_offsets("steps.dead-letters", 0).is_ok(), Ordering::SeqCst);
            async {}
        })
        .group("workers")
        .await
        .unwrap();
    bus.publish(&stepped("a", 0)).await.unwrap();
    within("handled", subscription.wait_for(|status| status.counts.handled == 1)).await.unwrap();
    assert!(existed.load(Ordering::SeqCst));
    let _ = bus.close(Duration::from_secs(10)).await;

    let forbidding =
        Bus::builder().embedded(broker.clone()).topic_strategy(TopicStrategy::Ignore).open().await.unwrap();
    let elsewhere = policy().dead_letter_topic("nowhere");
    let refused = forbidding.subscribe(elsewhere, |_: Stepped| async {}).group("others").await;
    assert!(matches!(refused, Err(SubscribeError::TopicUnavailable(_))), "without it, nothing begins: {refused:?}");
}

#[tokio::test(start_paused = true)]
async fn stop_ends_the_subscription_with_the_failed_event_uncommitted() {
    let broker = Broker::builder().topic("steps", 1).build();
    let bus = bus_on(&broker).await;
    let subscription = bus
        .subscribe(FailurePolicy::attempts(2).then(Then::Stop), |event: Stepped| async move {
            if event.number == 2 { Err("broken") } else { Ok(()) }
        })
        .group("workers")
        .await
        .unwrap();
    for number in 0..4 {
        bus.publish(&stepped("a", number)).await.unwrap();
    }
    let over = within("stopped", subscription.wait_for(|status| status.state.is_over())).await.unwrap();
    let SubscriptionState::Stopped(StopReason::Policy { offset, message, .. }) = over.state else {
        panic!("stopped by its policy, not {:?}", over.state)
    };
    assert_eq!((offset, message.as_str(), over.counts.handled), (2, "broken", 2));
    assert!(matches!(subscription.ready().await, Err(SubscriptionError::Stopped(_))));
    assert_eq!(committed(&broker, "workers", "steps", 0).await, Some(2));
    // Its share of the bus is free again: a repaired handler goes on where it stopped.
    let again = bus.subscribe(policy(), |_: Stepped| async {}).group("workers").await.unwrap();
    within("the rest", again.wait_for(|status| status.counts.handled == 2)).await.unwrap();
    let _ = bus.close(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn events_of_a_type_that_nobody_wants_are_passed_over_or_fail_as_told() {
    let bus = bus().await;
    let skipping = bus.subscribe(policy(), |_: Stepped| async {}).group("skipping").await.unwrap();
    let failing = bus
        .subscribe(policy(), |_: Stepped| async {})
        .group("failing")
        .unknown_types(UnknownTypes::Fail)
        .await
        .unwrap();
    let other = Envelope::new("e-1", "test.other", "a", "{}").with_source("s");
    bus.publish_envelope("steps", &other).await.unwrap();
    bus.publish(&stepped("a", 0)).await.unwrap();
    let skipped = within("skipped", skipping.wait_for(|status| status.counts.handled == 1)).await.unwrap();
    assert_eq!((skipped.counts.skipped, skipped.counts.dead_lettered), (1, 0));
    let failed = within("failed", failing.wait_for(|status| status.counts.handled == 1)).await.unwrap();
    assert_eq!((failed.counts.skipped, failed.counts.dead_lettered), (0, 1));
    let _ = bus.close(Duration::from_secs(10)).await;
}

/// An event of a size that only just fits: so many bytes below what is taken by default.
fn nearly_too_large(below: usize) -> Envelope {
    let pad = "x".repeat(1024 * 1024 - below);
    Envelope::new("e-1", "test.stepped", "a", format!("{{\"thing\":\"a\",\"number\":0,\"pad\":\"{pad}\"}}"))
        .with_source("s")
}

/// Sets how much the dead-letter topic of the steps takes.
async fn limit_dead_letters(broker: &Broker, bytes: &str) {
    let plain = client(broker).await;
    let topic = ConfigResource::Topic("steps.dead-letters".to_owned());
    let change = ("max.message.bytes".to_owned(), ConfigChange::Set(bytes.to_owned()));
    let (_, result) = Admin::new(&plain).alter_configs(&[(topic, vec![change])]).await.unwrap().remove(0);
    result.unwrap();
    let _ = plain.close(Duration::from_secs(5)).await;
}

/// A handler that has much to say about why it fails.
async fn fails(event: Stepped) -> Result<(), String> {
    if event.thing == "a" { Err("n".repeat(1_000)) } else { Ok(()) }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_only_just_fitted_can_be_dead_lettered() {
    let broker = Broker::builder().topic("steps", 1).build();
    let bus = bus_on(&broker).await;
    let subscription = bus.subscribe(policy(), fails).group("workers").await.unwrap();
    let event = nearly_too_large(400);
    bus.publish_envelope("steps", &event).await.unwrap();
    within("written", subscription.wait_for(|status| status.counts.dead_lettered == 1)).await.unwrap();
    let letters = read_all(&broker, "steps.dead-letters").await;
    assert_eq!(letters[0].value(), Some(&event.payload()[..]));
    assert!(letters[0].headers().last("__dlq.errors.message").is_some());
    assert!(within("close", bus.close(Duration::from_secs(10))).await.is_complete());
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_is_too_large_goes_without_its_texts_and_else_is_held_with_the_reason() {
    // Somebody has decided that the topic takes no more than usual.
    let broker = Broker::builder().topic("steps", 1).topic("steps.dead-letters", 1).build();
    limit_dead_letters(&broker, "1048588").await;
    let bus = bus_on(&broker).await;
    let subscription = bus.subscribe(policy(), fails).group("workers").await.unwrap();
    let mut events = subscription.events();
    let event = nearly_too_large(1_000);
    bus.publish_envelope("steps", &event).await.unwrap();
    within("written", subscription.wait_for(|status| status.counts.dead_lettered == 1)).await.unwrap();
    let letters = read_all(&broker, "steps.dead-letters").await;
    assert_eq!(letters[0].value(), Some(&event.payload()[..]));
    assert!(letters[0].headers().last("__dlq.errors.message").is_none(), "its texts did not fit");
    assert!(letters[0].headers().last("milena.dlq.kind").is_some());
    bus.publish_envelope("steps", &nearly_too_large(400)).await.unwrap();
    let alarm = wait_for_event(&mut events, |event| matches!(event, SubscriptionEvent::DeadLetterFailed { .. })).await;
    let SubscriptionEvent::DeadLetterFailed { offset: 1, error, .. } = alarm else { panic!("{alarm:?}") };
    assert!(error.contains("MESSAGE_TOO_LARGE"), "{error}");
    bus.publish(&stepped("b", 0)).await.unwrap();
    let held = within("others go on", subscription.wait_for(|status| status.counts.handled == 1)).await.unwrap();
    assert_eq!(held.held_dead_letters, 1);
    until("what is before it is committed", || broker.committed("workers", "steps", 0) == Some(1)).await;
    // Its alarm is cleared when it is nobody's any more here.
    subscription.seek("steps", 0, milena::SeekTo::End).await.unwrap();
    wait_for_event(&mut events, |event| matches!(event, SubscriptionEvent::DeadLetterReleased { offset: 1, .. })).await;
    assert!(within("close", bus.close(Duration::from_secs(10))).await.is_complete());
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_topic_that_its_reader_makes_takes_what_only_just_fitted() {
    // One's own name tells nobody what the topic is for.
    for (name, letters_policy) in [("steps.dead-letters", policy()), ("morgue", policy().dead_letter_topic("morgue"))] {
        let broker = Broker::builder().topic("steps", 1).auto_create(false).build();
        let bus = bus_on(&broker).await;
        let stop = FailurePolicy::attempts(1).then(Then::Stop);
        let reader = bus.subscribe(stop, |_: Envelope| async {}).topic(name).group("readers").await.unwrap();
        within("ready", reader.ready()).await.unwrap();
        let subscription = bus.subscribe(letters_policy, fails).group("workers").await.unwrap();
        bus.publish_envelope("steps", &nearly_too_large(400)).await.unwrap();
        within("written", subscription.wait_for(|status| status.counts.dead_lettered == 1)).await.unwrap();
        let letters = read_all(&broker, name).await;
        assert!(letters[0].headers().last("__dlq.errors.message").is_some(), "with its texts");
        let _ = bus.close(Duration::from_secs(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_topic_is_not_changed_where_its_limit_is_set_or_topics_are_not_the_bus_s_to_make() {
    for (strategy, set, expected) in [
        (TopicStrategy::Create, Some("5000"), "5000"),
        (TopicStrategy::Validate, None, "1048588"),
        (TopicStrategy::Ignore, None, "1048588"),
    ] {
        let broker = Broker::builder().topic("steps", 4).topic("steps.dead-letters", 1).build();
        if let Some(limit) = set {
            limit_dead_letters(&broker, limit).await;
        }
        let bus = Bus::builder().embedded(broker.clone()).topic_strategy(strategy).open().await.unwrap();
        bus.subscribe(policy(), fails).group("workers").await.unwrap();
        let plain = client(&broker).await;
        let topic = ConfigResource::Topic("steps.dead-letters".to_owned());
        let (_, entries) = Admin::new(&plain).describe_configs(&[topic]).await.unwrap().remove(0);
        let limit = entries.unwrap().into_iter().find(|entry| entry.name == "max.message.bytes").unwrap();
        assert_eq!(limit.value.as_deref(), Some(expected), "{strategy:?}");
        let _ = plain.close(Duration::from_secs(5)).await;
        let _ = bus.close(Duration::from_secs(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscription_begins_though_nobody_tells_or_raises_the_limit_of_its_dead_letters() {
    for api in [ApiKey::DescribeConfigs, ApiKey::IncrementalAlterConfigs] {
        let broker = Broker::builder().topic("steps", 1).topic("steps.dead-letters", 1).build();
        let bus = bus_on(&broker).await;
        broker.faults().add(Rule::new(Fault::Error(ErrorCode::TOPIC_AUTHORIZATION_FAILED)).api(api).always());
        let subscription = within("it begins", bus.subscribe(policy(), fails).group("workers").into_future()).await;
        within("ready", subscription.unwrap().ready()).await.unwrap();
        assert!(broker.requests().iter().any(|request| request.api == api), "it has tried");
        let _ = bus.close(Duration::from_secs(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_bus_asks_once_for_the_limit_of_a_dead_letter_topic_and_never_where_it_has_set_it() {
    for (strategy, is_there, expected) in [
        (TopicStrategy::Create, true, 1),
        (TopicStrategy::Create, false, 0),
        (TopicStrategy::Validate, true, 1),
        (TopicStrategy::Ignore, true, 1),
    ] {
        let broker = Broker::builder().nodes(3).topic("steps", 4).topic("others", 2).auto_create(false);
        let broker = if is_there { broker.topic("morgue", 4) } else { broker }.build();
        let bus = Bus::builder().embedded(broker.clone()).topic_strategy(strategy).open().await.unwrap();
        let policy = || policy().dead_letter_topic("morgue");
        for group in ["one", "two", "three"] {
            bus.subscribe(policy(), fails).group(group).await.unwrap();
            // Its topic is declared without partitions, and so are its dead letters.
            bus.subscribe(policy(), |_: Envelope| async {}).topic("others").group(group).await.unwrap();
        }
        let requests = broker.requests().into_iter();
        let asked: u64 = requests.filter(|it| it.api == ApiKey::DescribeConfigs).map(|it| it.count).sum();
        assert_eq!(asked, expected, "{strategy:?}, there: {is_there}");
        let _ = bus.close(Duration::from_secs(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_has_not_heard_of_a_dead_letter_topic_yet_is_asked_again_for_its_limit() {
    let broker = Broker::builder().topic("steps", 1).topic("steps.dead-letters", 1).build();
    let bus = bus_on(&broker).await;
    for api in [ApiKey::DescribeConfigs, ApiKey::IncrementalAlterConfigs] {
        broker.faults().add(Rule::new(Fault::Error(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)).api(api).times(2));
    }
    let subscription = bus.subscribe(policy(), fails).group("workers").await.unwrap();
    bus.publish_envelope("steps", &nearly_too_large(400)).await.unwrap();
    within("written", subscription.wait_for(|status| status.counts.dead_lettered == 1)).await.unwrap();
    let letters = read_all(&broker, "steps.dead-letters").await;
    assert!(letters[0].headers().last("__dlq.errors.message").is_some(), "with its texts");
    let _ = bus.close(Duration::from_secs(10)).await;
}
