//! Polls that bring nothing: however far their brokers are, and whenever each began, they end together, one of each broker
//! for each `fetch.max.wait.ms`.

use std::time::Duration;

use milena_broker::{Fault, Rule};
use milena_client::consumer::Start;
use milena_protocol::ApiKey;
use tokio::time::{Instant, sleep};

use crate::consumer_rig::Rig;

const MS: Duration = Duration::from_millis(1);
const WAIT: Duration = Duration::from_millis(500);
/// The way to each broker.
const WAYS: [Duration; 3] = [Duration::from_millis(1), Duration::from_millis(7), Duration::from_millis(20)];

/// Where brokers keep no sessions, each answer names all partitions, and nothing has come all the same.
#[tokio::test(start_paused = true)]
async fn idle_polls_of_all_brokers_end_together_and_are_no_more_than_one_of_each_in_turn() {
    for sessions in ["1000", "0"] {
        let key = "max.incremental.fetch.session.cache.slots";
        let rig = Rig::of(Rig::broker(3).topic("t", 3).config(key, sessions)).await;
        for (node, way) in WAYS.into_iter().enumerate() {
            let node = i32::try_from(node).unwrap();
            rig.broker.move_leader("t", node, node).unwrap();
            rig.broker.faults().add(Rule::new(Fault::Delay(way)).api(ApiKey::Fetch).node(node).always());
        }
        rig.client.refresh_metadata().await.unwrap();
        let consumer = rig.consumer().fetch_max_wait(WAIT).build().unwrap();
        let began = Instant::now();
        for partitions in 1..=3 {
            consumer.assign((0..partitions).map(|partition| ("t", partition, Start::Offset(0)))).unwrap();
            sleep(130 * MS).await;
        }
        sleep(10 * WAIT).await;
        // When each is asked again, which is when its answer has come.
        let mut asked: [Vec<Duration>; 3] = Default::default();
        let count = || [0, 1, 2].map(|node| rig.asked(node, ApiKey::Fetch));
        let (mut before, from) = (count(), Instant::now());
        while from.elapsed() < 10 * WAIT {
            sleep(MS).await;
            let now = count();
            for node in 0..3 {
                let more = usize::try_from(now[node] - before[node]).unwrap();
                asked[node].extend(std::iter::repeat_n(began.elapsed(), more));
            }
            before = now;
        }
        for (asked, way) in asked.iter().zip(WAYS) {
            assert_eq!(asked.len(), 10, "one in each {WAIT:?}, sessions {sessions}: {asked:?}");
            for at in asked {
                let late = Duration::from_millis(at.as_millis() as u64 % 500);
                assert!(
                    late.abs_diff(way) <= 3 * MS,
                    "{late:?} after its moment, behind {way:?}, sessions {sessions}: {asked:?}"
                );
            }
        }
    }
}
