//! The loop of an asynchronous producer: sends, keeps a bounded window of deliveries, and awaits each.
//!
//! The same for every client on tokio, so that none is helped by a better loop. What it costs itself is a push and a pop
//! per record.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::arguments::{Arguments, Mode};
use crate::meter::{Measured, Meter};
use crate::payload::{Payload, Payloads};
use crate::{Counter, Failure};

/// One record in so many has its latency taken; the others cost no clock.
pub const SAMPLE_EVERY: usize = 1024;

/// A producer, as the loop needs it.
pub trait Sender: Clone + Send + Sync + 'static {
    /// What resolves when the broker has acknowledged.
    type Delivery: Send + 'static;

    /// Hands a record over, to be batched.
    fn send(&self, partition: i32, payload: Payload) -> impl Future<Output = Result<Self::Delivery, Failure>> + Send;

    /// Waits for the acknowledgement.
    fn settle(delivery: Self::Delivery) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Warms up, then sends what the arguments say and awaits all of it.
///
/// # Errors
/// The first send or delivery that failed.
pub async fn produce<S: Sender>(
    arguments: &Arguments,
    sender: S,
    counter: Option<&'static Counter>,
) -> Result<Measured, Failure> {
    let payloads = Payloads::write(arguments.size);
    if arguments.mode == Mode::Latency {
        // In a task, as in a service: what runs outside the runtime's workers is woken by another thread each time.
        tokio::spawn(one_at_a_time(sender.clone(), payloads, arguments.warm_up)).await??;
        let meter = Meter::start(counter);
        let latencies = tokio::spawn(one_at_a_time(sender, payloads, arguments.records)).await??;
        return Ok(meter.acknowledged(latencies.len(), latencies));
    }
    run(arguments, &sender, payloads, arguments.warm_up).await?;
    let meter = Meter::start(counter);
    let (records, latencies) = run(arguments, &sender, payloads, arguments.records).await?;
    Ok(meter.acknowledged(records, latencies))
}

/// Every record's latency.
async fn one_at_a_time<S: Sender>(sender: S, payloads: Payloads, records: usize) -> Result<Vec<Duration>, Failure> {
    let mut latencies = Vec::with_capacity(records);
    for payload in payloads.from_task(0).take(records) {
        let start = Instant::now();
        S::settle(sender.send(0, payload).await?).await?;
        latencies.push(start.elapsed());
    }
    Ok(latencies)
}

async fn run<S: Sender>(
    arguments: &Arguments,
    sender: &S,
    payloads: Payloads,
    records: usize,
) -> Result<(usize, Vec<Duration>), Failure> {
    let mut tasks = JoinSet::new();
    for number in 0..arguments.tasks {
        tasks.spawn(task(arguments.clone(), sender.clone(), payloads, number, arguments.share(records, number)));
    }
    let (mut acknowledged, mut latencies) = (0, Vec::new());
    while let Some(task) = tasks.join_next().await {
        let (records, mut sampled) = task??;
        acknowledged += records;
        latencies.append(&mut sampled);
    }
    Ok((acknowledged, latencies))
}

async fn task<S: Sender>(
    arguments: Arguments,
    sender: S,
    payloads: Payloads,
    number: usize,
    records: usize,
) -> Result<(usize, Vec<Duration>), Failure> {
    let window = (arguments.window() / arguments.tasks).max(2);
    let mut deliveries: VecDeque<S::Delivery> = VecDeque::with_capacity(window);
    let mut samples = JoinSet::new();
    let mut acknowledged = 0;
    let places = arguments.partitions_from(number).zip(payloads.from_task(number));
    for (record, (partition, payload)) in (0..records).zip(places) {
        if deliveries.len() == window {
            // The oldest half: nearly all of it is answered by the time the first is.
            for delivery in deliveries.drain(..window / 2) {
                S::settle(delivery).await?;
                acknowledged += 1;
            }
        }
        if record % SAMPLE_EVERY == 0 {
            // A task of its own awaits it: here it would wait for the window's turn too.
            let start = Instant::now();
            let delivery = sender.send(partition, payload).await?;
            samples.spawn(async move {
                S::settle(delivery).await?;
                Ok::<_, Failure>(start.elapsed())
            });
        } else {
            deliveries.push_back(sender.send(partition, payload).await?);
        }
    }
    for delivery in deliveries {
        S::settle(delivery).await?;
        acknowledged += 1;
    }
    let mut latencies = Vec::with_capacity(records / SAMPLE_EVERY + 1);
    while let Some(sample) = samples.join_next().await {
        latencies.push(sample??);
    }
    Ok((acknowledged + latencies.len(), latencies))
}
