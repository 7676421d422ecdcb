use milena_core::consumer::positions::{EARLIEST, LATEST, Unresolved};

use super::*;
use crate::consumer::config::ConsumerConfig;
use crate::consumer::test_rig::{shared, tp};

#[tokio::test(start_paused = true)]
async fn leader_that_names_no_end_of_its_log_is_asked_again_after_a_while() {
    let (shared, _client) = shared(ConsumerConfig::default()).await;
    let (_commands, to_do) = mpsc::channel(1);
    let mut driver = Driver::new(Arc::clone(&shared), to_do);
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
