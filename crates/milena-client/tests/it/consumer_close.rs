//! Several callers who close one consumer share its close: the nearest deadline holds, and each hears how it went.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::Duration;

use milena_broker::{Fault, Rule};
use milena_client::consumer::{ConsumeError, Consumer, ConsumerEvent};
use milena_protocol::ApiKey;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::consumer_rig::{LIMIT, Rig, next};

const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(60);

/// A member of a group whose coordinator takes that long to let it go.
async fn member(leaves_within: Duration) -> (Rig, Consumer) {
    let rig = Rig::new(1, "t", 1).await;
    rig.broker.faults().add(Rule::new(Fault::Delay(leaves_within)).api(ApiKey::LeaveGroup).always());
    let consumer = rig.member("g").build().unwrap();
    consumer.subscribe(["t"]).unwrap();
    while !matches!(next(&consumer).await, ConsumerEvent::Assigned(_)) {}
    (rig, consumer)
}

/// Closes it, and says how that went and how long after `start`. Has begun when this returns.
async fn close(
    consumer: &Consumer,
    limit: Duration,
    start: Instant,
) -> JoinHandle<(Result<(), ConsumeError>, Duration)> {
    let consumer = consumer.clone();
    let closing = tokio::spawn(async move { (consumer.close(limit).await, start.elapsed()) });
    tokio::task::yield_now().await;
    closing
}

#[tokio::test(start_paused = true)]
async fn callers_of_close_share_the_nearest_deadline_and_hear_that_it_passed() {
    for limits in [[LONG, SHORT, LONG], [SHORT, LONG, LONG]] {
        let (_rig, consumer) = member(LONG * 10).await;
        let start = Instant::now();
        let mut callers = Vec::new();
        for limit in limits {
            callers.push(close(&consumer, limit, start).await);
        }
        for caller in callers {
            let (closed, took) = timeout(LIMIT, caller).await.expect("it is answered").unwrap();
            assert!(matches!(closed, Err(ConsumeError::CloseTimedOut)), "{limits:?}: {closed:?} after {took:?}");
            assert!((SHORT..SHORT * 2).contains(&took), "{limits:?}: {took:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn callers_of_close_all_wait_until_the_group_is_left() {
    let leaves_within = Duration::from_secs(1);
    let (rig, consumer) = member(leaves_within).await;
    let start = Instant::now();
    let callers = [close(&consumer, LONG, start).await, close(&consumer, SHORT, start).await];
    for caller in callers {
        let (closed, took) = timeout(LIMIT, caller).await.expect("it is answered").unwrap();
        assert!(closed.is_ok() && took >= leaves_within && took < SHORT, "{closed:?} after {took:?}");
    }
    assert!(rig.broker.members("g").is_empty());
    assert!(consumer.close(LONG).await.is_ok(), "one who comes later finds it closed");
}

/// That the client is closed stays true for as long as the consumer has something to say to its group. A driver that
/// saw to it again and again would never let go of its thread, nor let the clock of this test go on: it has a thread of
/// its own.
#[test]
fn consumer_whose_client_closes_too_sleeps_while_its_group_lets_it_go() {
    let (told, outcome) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        let outcome = runtime.block_on(async {
            let (rig, consumer) = member(SHORT).await;
            let start = Instant::now();
            let closing = close(&consumer, LONG, start).await;
            while rig.broker.requests().iter().all(|count| count.api != ApiKey::LeaveGroup) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let report = rig.client.close(LONG).await;
            (report.clean, closing.await.unwrap(), rig.broker.members("g"))
        });
        // Whoever waited may have given up.
        drop(told.send(outcome));
    });
    let outcome = outcome.recv_timeout(Duration::from_secs(20)).expect("the driver lets others run");
    let (clean, (closed, took), members) = outcome;
    assert!(clean && closed.is_ok() && (SHORT..2 * SHORT).contains(&took), "{clean} {closed:?} {took:?}");
    assert!(members.is_empty());
}
