//! Offsets by time: what a leader is asked, and whom it keeps waiting.

use std::collections::BTreeSet;
use std::time::Duration;

use milena_broker::{Fault, Rule};
use milena_protocol::ApiKey;
use tokio::time::{Instant, timeout};

use crate::consumer_rig::{LIMIT, Rig, tp};

#[tokio::test(start_paused = true)]
async fn offsets_of_one_leader_are_told_without_waiting_for_another() {
    let rig = Rig::new(3, "t", 6).await;
    let consumer = rig.consumer().build().unwrap();
    let delay = Duration::from_millis(300);
    let delayed = rig.broker.faults().add(Rule::new(Fault::Delay(delay)).api(ApiKey::ListOffsets).always());
    let begun = Instant::now();
    assert_eq!(timeout(LIMIT, consumer.end_offsets((0..6).map(|it| tp("t", it)))).await.unwrap().unwrap().len(), 6);
    assert!(begun.elapsed() < delay + Duration::from_millis(50), "all at once: {:?}", begun.elapsed());
    rig.broker.faults().remove(delayed);
    let silence = Fault::Delay(Duration::from_secs(3_600));
    let silent = rig.broker.faults().add(Rule::new(silence).api(ApiKey::ListOffsets).node(2).always());
    rig.broker.clear_requests();
    let begun = Instant::now();
    // One is no partition of the topic, and that keeps no other back either.
    let asked = (0..7).map(|partition| (tp("t", partition), partition % 2 == 0));
    let mut listing = consumer.list_offsets(asked);
    let mut told = BTreeSet::new();
    let is_silent = |partition: i32| partition < 6 && rig.broker.leader("t", partition).unwrap() == Some(2);
    let expected: BTreeSet<_> = (0..7).filter(|it| !is_silent(*it)).map(|it| tp("t", it)).collect();
    assert!(expected.len() < 7, "one leader is silent");
    while told != expected {
        for (partition, offset) in timeout(LIMIT, listing.next()).await.unwrap().expect("there is more") {
            assert_eq!(offset.is_ok(), partition != tp("t", 6), "{partition}: {offset:?}");
            told.insert(partition);
        }
    }
    assert!(begun.elapsed() < Duration::from_millis(50), "{:?}", begun.elapsed());
    rig.broker.faults().remove(silent);
    while let Some(found) = timeout(LIMIT, listing.next()).await.unwrap() {
        told.extend(found.into_iter().map(|(partition, offset)| (partition, offset.unwrap()).0));
    }
    assert_eq!(told.len(), 7, "the silent one's in the end");
    let asked = rig.broker.requests().into_iter().filter(|it| it.api == ApiKey::ListOffsets);
    let others: Vec<_> = asked.filter(|it| it.node != 2).map(|it| it.count).collect();
    assert_eq!(others, [1, 1], "of each leader once");
}
