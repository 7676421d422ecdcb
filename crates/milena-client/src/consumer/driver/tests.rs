use milena_core::consumer::positions::{EARLIEST, LATEST, Unresolved};

use super::*;
use crate::consumer::config::ConsumerConfig;
use crate::consumer::test_rig::{shared, tp};

#[tokio::test(start_paused = true)]
async fn leader_that_names_no_end_of_its_log_is_asked_again_after_a_while() {
    let (shared, _client) = shared(ConsumerConfig::default()).await;
    let (_commands, to_do) = mpsc::channel(1);
    let driver = Driver::new(Arc::clone(&shared), to_do);
    for (start, timestamp, asked_next) in [
        (Start::Beginning, EARLIEST, EARLIEST),
        (Start::End, LATEST, LATEST),
        // Nothing is that young: what comes next is, and is asked for at once.
        (Start::Timestamp(7), 7, LATEST),
    ] {
        let now = driver.now();
        let questions = {
            let mut state = shared.state();
            state.assign([(tp(0), start)]);
            state.positions.set_leader(&tp(0), Some((0, 0)));
            state.positions.questions(now)
        };
        assert_eq!(questions[0].unresolved, Unresolved::Timestamp(timestamp));
        let none = Listed { offset: -1, timestamp: -1, leader_epoch: -1 };
        driver.take_listed(now, questions, Ok(vec![(tp(0), Ok(none))]));
        let mut state = shared.state();
        let again = if timestamp == asked_next {
            assert_eq!(state.positions.questions(now), [], "not at once");
            state.positions.next_timeout().expect("but later")
        } else {
            now
        };
        assert_eq!(state.positions.questions(again)[0].unresolved, Unresolved::Timestamp(asked_next));
    }
}

#[tokio::test(start_paused = true)]
async fn commit_sent_before_the_guard_went_is_waited_for_though_the_driver_learns_of_both_at_once() {
    let (shared, _client) = shared(ConsumerConfig::default()).await;
    let (commands, to_do) = mpsc::channel(1);
    let mut driver = Driver::new(Arc::clone(&shared), to_do);
    driver.revocation = Some(Revocation { number: 1, partitions: vec![tp(0)], over_at: None });
    let epoch = shared.state().assign([(tp(0), Start::Offset(0))]);
    let offset = OffsetToCommit { partition: tp(0), offset: 5, leader_epoch: -1, metadata: None, epoch };
    let (done, _committed) = oneshot::channel();
    commands.send(Command::Commit(vec![offset], done)).await.unwrap();
    shared.revocation_over(1);
    driver.follow_application(driver.now());
    let before = driver.revocation.as_ref().and_then(|revocation| revocation.over_at).expect("its guard is gone");
    assert!(!driver.lane.is_settled(before, &[tp(0)]), "the commit is in the lane, and among those waited for");
}
