//! When an outage is told, step by step.

use milena_core::consumer::positions::Start;

use super::*;
use crate::consumer::config::ConsumerConfig;
use crate::consumer::test_rig::{shared, tp};

const LIMIT: Duration = Duration::from_secs(60);
const AWAITED: Awaited = Awaited::Broker(0);

fn told(shared: &Shared) -> Option<Awaited> {
    match shared.state().events.pop_front()? {
        Err(ConsumeError::Unreachable { outage, .. }) => Some(outage.awaited),
        other => panic!("{other:?}"),
    }
}

fn fail(shared: &Shared) -> Instant {
    let now = shared.client.clock.now();
    shared.failed(AWAITED, now, &RequestError::NoBroker);
    now
}

#[tokio::test(start_paused = true)]
async fn broker_that_was_not_tried_again_is_told_of_when_it_fails_again_and_not_before() {
    let (shared, _client) = shared(ConsumerConfig::default()).await;
    {
        let mut state = shared.state();
        state.assign([(tp(0), Start::Beginning)]);
        state.positions.set_leader(&tp(0), Some((0, 0)));
    }
    let since = fail(&shared);
    assert_eq!(shared.tell_outages(since), Some(since + LIMIT));
    tokio::time::advance(2 * LIMIT).await;
    // The application is busy: there is no room to fetch into.
    assert_eq!(shared.tell_outages(shared.client.clock.now()), None, "a time that has passed is none to wake up at");
    assert_eq!(told(&shared), None);
    let now = fail(&shared);
    assert_eq!(shared.tell_outages(now), None);
    assert_eq!(told(&shared), Some(AWAITED));
}

#[tokio::test(start_paused = true)]
async fn broker_that_metadata_has_forgotten_is_told_of_though_nobody_can_try_it() {
    let (shared, _client) = shared(ConsumerConfig::default()).await;
    shared.state().assign([(tp(0), Start::Beginning)]);
    let since = fail(&shared);
    assert_eq!(shared.tell_outages(since), Some(since + LIMIT));
    assert_eq!((shared.tell_outages(since + LIMIT), told(&shared)), (None, Some(AWAITED)));
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_records_is_woken_for_news_alone() {
    let (shared, _client) = shared(ConsumerConfig::default()).await;
    shared.state().assign([(tp(0), Start::Beginning)]);
    let mut since = shared.client.clock.now();
    let wakes = async |at: Instant| {
        let waiting = shared.app.notified();
        tokio::pin!(waiting);
        waiting.as_mut().enable();
        shared.tell_outages(at);
        tokio::time::timeout(Duration::ZERO, waiting).await.is_ok()
    };
    for turn in 0..3 {
        since = fail(&shared).min(since);
        assert!(!wakes(since + LIMIT / 2).await, "turn {turn} has nothing to tell");
    }
    assert!(wakes(since + LIMIT).await);
    assert!(!wakes(since + 2 * LIMIT).await, "it is told");
    shared.state().give_up(&tp(0));
    assert!(wakes(since + 2 * LIMIT).await, "it is over");
}
