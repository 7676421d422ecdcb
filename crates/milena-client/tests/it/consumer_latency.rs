//! How long a record takes from its producer to its consumer, while another broker has nothing to say.

use std::time::Duration;

use milena_broker::{Fault, Rule};
use milena_client::consumer::Start;
use milena_client::producer::{Producer, Record};
use milena_protocol::ApiKey;
use tokio::time::{Instant, interval, timeout};

use crate::consumer_rig::{LIMIT, Rig, records, tp};

const RECORDS: usize = 1000;
/// One way of each request, beside nothing at all.
const HOP: Duration = Duration::from_millis(1);

/// A topic of two partitions whose leaders are two nodes; the records go to the first, so that the other's poll is parked for
/// as long as `wait` says.
#[tokio::test(start_paused = true)]
async fn records_at_a_thousand_a_second_never_wait_for_an_idle_brokers_poll() {
    for wait in [Duration::from_millis(500), Duration::from_secs(60)] {
        let rig = Rig::new(2, "t", 2).await;
        let [busy, idle] = [0, 1].map(|partition| rig.broker.leader("t", partition).unwrap());
        assert_ne!(busy, idle);
        for api in [ApiKey::Produce, ApiKey::Fetch] {
            rig.broker.faults().add(Rule::new(Fault::Delay(HOP)).api(api).always());
        }
        let consumer = rig.consumer().fetch_max_wait(wait).build().unwrap();
        consumer.assign([("t", 0, Start::End), ("t", 1, Start::End)]).unwrap();
        consumer.positioned(&[("t", 0), ("t", 1)].map(|(topic, partition)| tp(topic, partition))).await.unwrap();
        let other = rig.another(9).await;
        let producer = Producer::builder(&other.client).linger(Duration::ZERO).build().unwrap();
        let began = Instant::now();
        let produce = async {
            let mut ticks = interval(Duration::from_millis(1));
            let mut deliveries = Vec::with_capacity(RECORDS);
            for _ in 0..RECORDS {
                ticks.tick().await;
                let sent = began.elapsed().as_micros().to_string();
                deliveries.push(producer.send(Record::to("t").partition(0).value(&sent)).await.unwrap());
            }
            for delivery in deliveries {
                delivery.await.unwrap();
            }
        };
        let consume = async {
            let mut latencies = Vec::with_capacity(RECORDS);
            while latencies.len() < RECORDS {
                let set = timeout(LIMIT, records(&consumer)).await.expect("goes on");
                let now = began.elapsed();
                for record in &set {
                    let sent = std::str::from_utf8(record.value.unwrap()).unwrap().parse().unwrap();
                    latencies.push(now.saturating_sub(Duration::from_micros(sent)));
                }
            }
            latencies.sort_unstable();
            latencies
        };
        let ((), latencies) = tokio::join!(produce, consume);
        let p99 = latencies[RECORDS * 99 / 100];
        // A produce and a fetch, each behind at most one that is on its way, and 2 ms.
        assert!(p99 <= 4 * HOP + Duration::from_millis(2), "p99 {p99:?} with a poll of {wait:?}");
        let worst = latencies[RECORDS - 1];
        assert!(worst <= Duration::from_millis(20), "worst {worst:?} with a poll of {wait:?}");
    }
}
