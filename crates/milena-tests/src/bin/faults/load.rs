//! The producers: each task has keys of its own and numbers their records, so that every value is unique and its order
//! known.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use milena_client::producer::{Delivery, Outcome as ProduceOutcome, Producer, Record};
use milena_tests::history::{Sent, Value};
use milena_tests::kafka::Outcome;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::Run;

/// Producers with a connection each; an idempotent producer is the unit that the broker's promises speak of.
const PRODUCERS: u32 = 2;
const TASKS_PER_PRODUCER: u32 = 4;
const KEYS_PER_TASK: u32 = 8;
/// Between two bursts of a task.
const PAUSE: Duration = Duration::from_millis(40);
/// Records of a burst, so that batches of one partition are often in flight together.
const BURST: u32 = 4;
/// Unacknowledged records of a task.
const WINDOW: usize = 2_000;

/// Produces until told to stop, waits for every outcome; returns the longest time without an acknowledgement.
pub(crate) async fn run(run: Arc<Run>, stopped: watch::Receiver<bool>) -> Outcome<Duration> {
    let mut tasks = JoinSet::new();
    for index in 0..PRODUCERS {
        let client = run.client().await?;
        let producer = Producer::builder(&client).build()?;
        for task in 0..TASKS_PER_PRODUCER {
            let first_key = (index * TASKS_PER_PRODUCER + task) * KEYS_PER_TASK;
            tasks.spawn(produce(Arc::clone(&run), producer.clone(), first_key, stopped.clone()));
        }
    }
    let mut longest = Duration::ZERO;
    while let Some(finished) = tasks.join_next().await {
        longest = longest.max(finished??);
    }
    Ok(longest)
}

/// The bytes of a record's value: its number, and filling that tells it.
fn write(value: Value) -> String {
    format!("{}:{:>80}", value.number, value.number)
}

/// The value that a record's bytes stand for.
pub(crate) fn read(key: Option<&[u8]>, value: Option<&[u8]>) -> Outcome<Value> {
    let key = std::str::from_utf8(key.ok_or("a record without a key")?)?.parse()?;
    let text = std::str::from_utf8(value.ok_or("a record without a value")?)?;
    let (number, filling) = text.split_once(':').ok_or("a value without a colon")?;
    let value = Value { key, number: number.parse()? };
    if filling.trim() != number {
        return Err(format!("a damaged value: {text}").into());
    }
    Ok(value)
}

async fn produce(
    run: Arc<Run>,
    producer: Producer,
    first_key: u32,
    stopped: watch::Receiver<bool>,
) -> Outcome<Duration> {
    let mut settling =
        Settling { run: Arc::clone(&run), waiting: VecDeque::new(), last: Instant::now(), longest: Duration::ZERO };
    let mut numbers = [0_u64; KEYS_PER_TASK as usize];
    let mut ticks = tokio::time::interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut turn = 0;
    while !*stopped.borrow() {
        ticks.tick().await;
        for _ in 0..BURST {
            let index = turn % KEYS_PER_TASK;
            turn += 1;
            let value = Value { key: first_key + index, number: numbers[index as usize] };
            let (key, bytes) = (value.key.to_string(), write(value));
            match producer.send(Record::to(&run.topic).key(&key).value(&bytes)).await {
                Ok(delivery) => {
                    numbers[index as usize] += 1;
                    settling.waiting.push_back((value, delivery));
                }
                // Nothing was queued: the number is used again.
                Err(error) => run.say(format_args!("a send was refused: {error}")),
            }
        }
        settling.take_ready().await;
        while settling.waiting.len() > WINDOW {
            settling.settle_oldest().await;
        }
    }
    while !settling.waiting.is_empty() {
        settling.settle_oldest().await;
    }
    // What was never acknowledged counts, too.
    Ok(settling.longest.max(settling.last.elapsed()))
}

struct Settling {
    run: Arc<Run>,
    waiting: VecDeque<(Value, Delivery)>,
    last: Instant,
    longest: Duration,
}

impl Settling {
    /// Notes the outcomes that are known already.
    async fn take_ready(&mut self) {
        while let Some((value, delivery)) = self.waiting.front_mut() {
            let value = *value;
            let ready = std::future::poll_fn(|cx| {
                std::task::Poll::Ready(match std::pin::Pin::new(&mut *delivery).poll(cx) {
                    std::task::Poll::Ready(outcome) => Some(outcome),
                    std::task::Poll::Pending => None,
                })
            })
            .await;
            let Some(outcome) = ready else { return };
            self.waiting.pop_front();
            self.note(value, outcome);
        }
    }

    async fn settle_oldest(&mut self) {
        if let Some((value, delivery)) = self.waiting.pop_front() {
            let outcome = delivery.await;
            self.note(value, outcome);
        }
    }

    fn note(
        &mut self,
        value: Value,
        outcome: Result<milena_client::producer::RecordMetadata, milena_client::producer::ProduceError>,
    ) {
        let sent = match outcome {
            Ok(written) => {
                self.longest = self.longest.max(self.last.elapsed());
                self.last = Instant::now();
                Sent::Acknowledged(written.partition(), written.offset())
            }
            Err(error) => {
                self.run.say(format_args!("{value:?}: {error} ({:?})", error.outcome()));
                match error.outcome() {
                    ProduceOutcome::Failed => Sent::Failed,
                    ProduceOutcome::PossiblyWritten => Sent::PossiblyWritten,
                }
            }
        };
        self.run.history().sent(value, sent);
    }
}
