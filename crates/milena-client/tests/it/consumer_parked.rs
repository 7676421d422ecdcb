//! A partition that becomes fetchable while its broker holds the long poll of the others, in real time over TCP.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::{Duration, Instant};

use milena_client::consumer::{Consumer, Start};
use milena_protocol::compress::Compression;
use tokio::time::timeout;

use crate::cluster::{Cluster, on_every_cluster};
use crate::consumer_rig::{assert_quiet, produce, records, tp, values};

/// Far longer than the test may take: whoever waits for it is found out.
const PARKED: Duration = Duration::from_secs(60);
const ROUNDS: i64 = 12;

on_every_cluster!(first_record_comes_within_ten_milliseconds_and_a_round_trip);

/// Sought, resumed or assigned; the machine may be busy with other things, so that the best of some rounds counts, and none
/// may come near the poll's time.
async fn first_record_comes_within_ten_milliseconds_and_a_round_trip(cluster: Cluster) {
    let client = cluster.client().await;
    let topic = cluster.topic(&client, "parked", 2).await;
    for partition in 0..2 {
        produce(&client, &topic, partition, 0..100, None, Compression::None).await;
    }
    let consumer = Consumer::builder(&client).fetch_max_wait(PARKED).build().unwrap();
    let (idle, moved) = (tp(&topic, 0), tp(&topic, 1));
    let assign = |of_moved: Option<Start>| {
        let moved = of_moved.map(|start| (&*moved.topic, moved.partition, start));
        consumer.assign([(&*idle.topic, 0, Start::Offset(100))].into_iter().chain(moved)).unwrap();
    };
    assign(Some(Start::Offset(100)));
    assert_quiet(&consumer, Duration::from_millis(300)).await;
    for kind in ["sought", "resumed", "assigned"] {
        let mut best = PARKED;
        let mut trip = PARKED;
        for round in 0..ROUNDS {
            match kind {
                "resumed" => {
                    consumer.pause(&moved).unwrap();
                    consumer.seek(&moved, Start::Offset(round)).unwrap();
                }
                "assigned" => assign(None),
                _ => {}
            }
            let began = Instant::now();
            consumer.end_offsets([moved.clone()]).await.unwrap();
            trip = trip.min(began.elapsed());
            let began = Instant::now();
            match kind {
                "sought" => consumer.seek(&moved, Start::Offset(round)).unwrap(),
                "resumed" => consumer.resume(&moved).unwrap(),
                _ => assign(Some(Start::Offset(round))),
            }
            let set = timeout(PARKED / 4, records(&consumer)).await.expect("not behind the parked poll");
            best = best.min(began.elapsed());
            assert_eq!((set.partition(), values(&set)[0]), (1, round));
        }
        assert!(best <= Duration::from_millis(10) + trip, "{kind}: {best:?} with a round trip of {trip:?}");
    }
    consumer.close(Duration::from_secs(5)).await.unwrap();
}
