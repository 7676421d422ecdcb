//! Producing as fast as possible from some tasks; latency from send to acknowledgement, one record in 1,024.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use hdrhistogram::Histogram;
use milena_client::Client;
use milena_client::producer::{Delivery, Producer, Record};
use tokio::task::JoinSet;

use super::payload::Payload;
use super::{Measured, histogram, micros};
use crate::args::BenchArgs;
use crate::connect;
use crate::failure::{Failure, Trying as _};
use crate::usage::CpuMeter;

/// Deliveries a task holds before it awaits the oldest.
const WINDOW: usize = 16 * 1024;
const SAMPLE_EVERY: u64 = 1024;

pub(crate) async fn run(client: &Client, args: &BenchArgs, topic: &str, records: u64) -> Result<Measured, Failure> {
    let producer = connect::producer(client, args.compression)?;
    let payload = Arc::new(Payload::new(args.size as usize));
    let tasks = u64::from(args.tasks);
    let cpu = CpuMeter::start();
    let started = Instant::now();
    let mut running = JoinSet::new();
    for task in 0..tasks {
        let share = records / tasks + u64::from(task < records % tasks);
        let first = task * (records / tasks) + task.min(records % tasks);
        let (producer, payload, topic) = (producer.clone(), Arc::clone(&payload), topic.to_owned());
        running.spawn(async move { produce(&producer, &payload, &topic, first, share).await });
    }
    let mut done = 0;
    let mut latency = histogram();
    while let Some(finished) = running.join_next().await {
        let (acked, sampled) = finished.trying("a producing task died")??;
        done += acked;
        latency.add(sampled).expect("the bounds are the same");
    }
    let measured = Measured { done, wall: started.elapsed(), cpu: cpu.elapsed(), latency };
    producer.close(args.timeout).await;
    Ok(measured)
}

async fn produce(
    producer: &Producer,
    payload: &Payload,
    topic: &str,
    first: u64,
    count: u64,
) -> Result<(u64, Histogram<u64>), Failure> {
    let mut waiting: VecDeque<Delivery> = VecDeque::with_capacity(WINDOW);
    let mut samples = JoinSet::new();
    let mut acked = 0;
    for index in first..first + count {
        if waiting.len() == WINDOW {
            acked += settle(&mut waiting).await?;
        }
        let key = Payload::key(index);
        let record = Record::to(topic).key(&key).value(payload.value(index));
        if index.is_multiple_of(SAMPLE_EVERY) {
            let sent = Instant::now();
            let delivery = producer.send(record).await.trying("cannot send")?;
            samples.spawn(async move { delivery.await.map(|_| sent.elapsed()) });
        } else {
            waiting.push_back(producer.send(record).await.trying("cannot send")?);
        }
    }
    while !waiting.is_empty() {
        acked += settle(&mut waiting).await?;
    }
    let mut latency = histogram();
    while let Some(sample) = samples.join_next().await {
        let elapsed = sample.trying("a sampling task died")?.trying("a record was not acknowledged")?;
        latency.saturating_record(micros(elapsed));
        acked += 1;
    }
    Ok((acked, latency))
}

async fn settle(waiting: &mut VecDeque<Delivery>) -> Result<u64, Failure> {
    match waiting.pop_front() {
        None => Ok(0),
        Some(delivery) => delivery.await.trying("a record was not acknowledged").map(|_| 1),
    }
}
