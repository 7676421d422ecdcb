//! Where records without a partition go, told by where they arrive.

use std::collections::BTreeMap;
use std::time::Duration;

use milena_broker::{Broker, Fault, Rule};
use milena_client::producer::{Delivery, Partitioner, Producer, ProducerConfig, Record, TopicConfig};
use milena_protocol::ApiKey;
use tokio::time::Instant;

use crate::producer_log::client;

const VALUE: [u8; 100] = [b'v'; 100];

/// The partitions of `records` keyless records, sent without a pause.
async fn partitions(producer: &Producer, records: u32) -> Vec<i32> {
    let mut deliveries = Vec::new();
    for _ in 0..records {
        deliveries.push(producer.send(Record::to("t").value(&VALUE)).await.unwrap());
    }
    let mut partitions = Vec::new();
    for delivery in deliveries {
        partitions.push(delivery.await.unwrap().partition());
    }
    partitions
}

fn share(of: &[i32], partition: i32) -> f64 {
    of.iter().filter(|other| **other == partition).count() as f64 / of.len() as f64
}

#[tokio::test(start_paused = true)]
async fn keyless_records_fill_a_batch_before_they_go_elsewhere() {
    let broker = Broker::builder().topic("t", 4).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).batch_size(2_000).build().unwrap();
    let went = partitions(&producer, 4_000).await;
    // A record takes 108 to 111 bytes: 2,000 are 18 or 19 of them, and twice that is the most.
    let mut runs: Vec<_> = went.chunk_by(|one, next| one == next).map(<[i32]>::len).collect();
    runs.pop();
    assert!(runs.iter().all(|run| *run >= 18), "{runs:?}");
    let mean = runs.iter().sum::<usize>() as f64 / runs.len() as f64;
    assert!(mean < 37.0 * 1.5, "one draw in four is the same partition again: {mean}");
    for partition in 0..4 {
        assert!((0.18..0.32).contains(&share(&went, partition)), "{} on {partition}", share(&went, partition));
    }
}

#[tokio::test(start_paused = true)]
async fn topic_of_small_batches_is_switched_by_its_own_size() {
    let broker = Broker::builder().topic("t", 4).seed(1).build();
    let client = client(&broker).await;
    let small = TopicConfig::new().batch_size(400);
    let producer = Producer::builder(&client).topic("t", small).build().unwrap();
    let went = partitions(&producer, 1_000).await;
    // Eight records a draw at the most.
    let runs = went.chunk_by(|one, next| one == next).count();
    assert!(runs > 80, "{runs} runs");
}

/// How the load is shared when the broker of partition 0 takes 100 ms for each request, and the others 1 ms.
async fn shares_beside_a_slow_broker(adaptive: bool) -> (f64, f64, f64) {
    let broker = Broker::builder().nodes(3).topic("t", 3).seed(1).build();
    for partition in 0..3 {
        let delay = Duration::from_millis(if partition == 0 { 100 } else { 1 });
        let node = broker.leader("t", partition).unwrap().unwrap();
        broker.faults().add(Rule::new(Fault::Delay(delay)).api(ApiKey::Produce).node(node).always());
    }
    let client = client(&broker).await;
    let mut config = ProducerConfig::default();
    config.batch_size = 1_000;
    config.adaptive_partitioning = adaptive;
    let producer = Producer::builder(&client).config(config).build().unwrap();
    let mut deliveries = Vec::new();
    let mut every = tokio::time::interval(Duration::from_millis(1));
    for _ in 0..2_000 {
        every.tick().await;
        for _ in 0..5 {
            deliveries.push(producer.send(Record::to("t").value(&VALUE)).await.unwrap());
        }
    }
    let mut went = Vec::new();
    for delivery in deliveries {
        went.push(delivery.await.unwrap().partition());
    }
    (share(&went, 0), share(&went, 1), share(&went, 2))
}

#[tokio::test(start_paused = true)]
async fn slow_broker_gets_less_where_that_is_wanted() {
    let (slow, one, other) = shares_beside_a_slow_broker(true).await;
    assert!(slow < 0.2 && one > 0.35 && other > 0.35, "{slow}, {one}, {other}");
    let (slow, one, other) = shares_beside_a_slow_broker(false).await;
    assert!(slow > 0.27 && one > 0.27 && other > 0.27, "not adaptive: {slow}, {one}, {other}");
}

/// Of 200 keyless records sent while the broker of partition 0 has not answered for 2 s, how many go there; and again
/// once it answers.
async fn went_to_a_silent_broker(availability_timeout: Duration) -> (f64, f64) {
    let broker = Broker::builder().nodes(2).topic("t", 2).seed(1).build();
    let client = client(&broker).await;
    let mut config = ProducerConfig::default();
    config.batch_size = 1_000;
    config.partition_availability_timeout = availability_timeout;
    let producer = Producer::builder(&client).config(config).build().unwrap();
    partitions(&producer, 100).await;
    let node = broker.leader("t", 0).unwrap().unwrap();
    let silence = Rule::new(Fault::Delay(Duration::from_secs(5))).api(ApiKey::Produce).node(node).always();
    let silence = broker.faults().add(silence);
    // More than may be in flight.
    let mut waiting: Vec<Delivery> = Vec::new();
    for _ in 0..100 {
        waiting.push(producer.send(Record::to("t").partition(0).value(&VALUE)).await.unwrap());
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut deliveries = Vec::new();
    for _ in 0..200 {
        deliveries.push(producer.send(Record::to("t").value(&VALUE)).await.unwrap());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    broker.faults().remove(silence);
    let mut went = Vec::new();
    for delivery in deliveries {
        went.push(delivery.await.unwrap().partition());
    }
    for delivery in waiting {
        delivery.await.unwrap();
    }
    (share(&went, 0), share(&partitions(&producer, 400).await, 0))
}

#[tokio::test(start_paused = true)]
async fn broker_that_keeps_records_waiting_is_avoided_until_it_takes_some() {
    let (silent, later) = went_to_a_silent_broker(Duration::from_secs(1)).await;
    // What was drawn before stays until its batch is full.
    assert!(silent < 0.11, "{silent}");
    assert!(later > 0.3, "{later}");
    let (silent, _) = went_to_a_silent_broker(Duration::ZERO).await;
    assert!(silent > 0.11, "without a limit none is avoided altogether: {silent}");
}

#[tokio::test(start_paused = true)]
async fn keys_are_ignored_where_that_is_wanted() {
    let broker = Broker::builder().topic("t", 8).seed(1).build();
    let client = client(&broker).await;
    for (ignored, expected) in [(true, 1), (false, 8)] {
        let builder = Producer::builder(&client).set("partitioner.ignore.keys", &ignored.to_string()).unwrap();
        let producer = builder.build().unwrap();
        let mut by_partition = BTreeMap::new();
        for number in 0..200 {
            let key = number.to_string();
            let metadata = producer.send(Record::to("t").key(&key)).await.unwrap().await.unwrap();
            *by_partition.entry(metadata.partition()).or_insert(0) += 1;
        }
        assert_eq!(by_partition.len(), expected, "{by_partition:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn keyless_records_stay_in_the_rack_while_somebody_leads_there() {
    let racks = |builder: milena_broker::BrokerBuilder| builder.racks(["a", "b", "b"]);
    let broker = racks(Broker::builder().nodes(3).topic("t", 6).seed(1)).build();
    let client = client(&broker).await;
    let mut config = ProducerConfig::default();
    config.batch_size = 1_000;
    let anywhere = Producer::builder(&client).config(config.clone()).build().unwrap();
    config.rack = Some("b".into());
    config.rack_aware = true;
    let aware = Producer::builder(&client).config(config.clone()).build().unwrap();
    config.rack = Some("elsewhere".into());
    let alone = Producer::builder(&client).config(config).build().unwrap();

    let in_b = |went: &[i32]| {
        let led = |partition: i32| broker.leader("t", partition).unwrap() != Some(0);
        went.iter().filter(|partition| led(**partition)).count() as f64 / went.len() as f64
    };
    let went = partitions(&anywhere, 2_000).await;
    assert!((0.5..0.9).contains(&in_b(&went)), "{}", in_b(&went));
    let went = partitions(&aware, 2_000).await;
    assert_eq!(in_b(&went), 1.0);
    let mut used = went.clone();
    used.sort_unstable();
    used.dedup();
    assert_eq!(used.len(), 4, "all of the rack: {used:?}");
    assert!(in_b(&partitions(&alone, 2_000).await) < 0.9, "nobody leads there: anywhere");

    for partition in used {
        broker.move_leader("t", partition, 0).unwrap();
    }
    client.refresh_metadata().await.unwrap();
    // The producer hears of it.
    aware.send(Record::to("t").partition(0)).await.unwrap().await.unwrap();
    let went = partitions(&aware, 2_000).await;
    let shares: Vec<_> = (0..6).map(|partition| share(&went, partition)).collect();
    assert!(shares.iter().all(|share| *share > 0.05), "all leaders are in the other rack now: {shares:?}");
}

#[tokio::test(start_paused = true)]
async fn round_robin_takes_turns_and_passes_over_what_nobody_leads() {
    let broker = Broker::builder().topic("t", 4).seed(1).build();
    let client = client(&broker).await;
    let producer = Producer::builder(&client).partitioner(Partitioner::RoundRobin).build().unwrap();
    assert_eq!(partitions(&producer, 12).await, [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]);
    broker.remove_leader("t", 2).unwrap();
    client.refresh_metadata().await.unwrap();
    producer.send(Record::to("t").partition(0)).await.unwrap().await.unwrap();
    assert_eq!(partitions(&producer, 9).await, [0, 1, 3, 0, 1, 3, 0, 1, 3]);
}

#[tokio::test(start_paused = true)]
async fn topic_has_its_own_partitioner() {
    let broker = Broker::builder().topic("t", 4).topic("u", 4).seed(1).build();
    let client = client(&broker).await;
    let last = Partitioner::Custom(std::sync::Arc::new(|_, _, _, partitions| partitions - 1));
    let producer = Producer::builder(&client).topic("u", TopicConfig::new().partitioner(last)).build().unwrap();
    let place = async |topic| producer.send(Record::to(topic).key("kafka")).await.unwrap().await.unwrap().partition();
    assert_eq!((place("t").await, place("u").await), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn topic_lingers_and_gives_up_by_its_own_times() {
    let broker = Broker::builder().topic("t", 1).topic("u", 1).seed(1).build();
    let client = client(&broker).await;
    let patient = TopicConfig::new().linger(Duration::from_millis(700)).delivery_timeout(Duration::from_secs(40));
    let producer = Producer::builder(&client).topic("u", patient).build().unwrap();
    for (topic, linger, timeout) in [("t", 5, 120), ("u", 700, 40)] {
        producer.send(Record::to(topic)).await.unwrap().await.unwrap();
        // The first is on its way for a second: what comes meanwhile lingers, and may go beside it.
        let slow = broker.faults().add(Rule::new(Fault::Delay(Duration::from_secs(1))).api(ApiKey::Produce));
        let first = producer.send(Record::to(topic)).await.unwrap();
        let requests = producer.metrics().requests;
        let start = Instant::now();
        let second = producer.send(Record::to(topic)).await.unwrap();
        while producer.metrics().requests == requests {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let waited = start.elapsed().as_millis();
        assert!((linger..linger + 10).contains(&waited), "{topic}: {waited} ms");
        first.await.unwrap();
        second.await.unwrap();
        broker.faults().remove(slow);

        broker.remove_leader(topic, 0).unwrap();
        let start = Instant::now();
        let lost = producer.send(Record::to(topic)).await.unwrap().await;
        assert!(lost.is_err());
        assert!((timeout..=timeout + 1).contains(&start.elapsed().as_secs()), "{topic}: {:?}", start.elapsed());
    }
}
