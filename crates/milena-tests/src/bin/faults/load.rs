//! The producers: each task has keys of its own and numbers their records, so that every value is unique and its order
//! known. One has the defaults and compresses, one has little memory and a long linger, and one keeps the order of keys alone
//! and has its tasks meet in few partitions, which may have several open batches then.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use milena_client::Client;
use milena_client::producer::{
    Compression, Delivery, Ordering, Outcome as ProduceOutcome, Producer, ProducerBuilder, Record,
};
use milena_tests::history::{Sent, Value};
use milena_tests::kafka::Outcome;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::Run;

const TASKS_PER_PRODUCER: u32 = 4;
const KEYS_PER_TASK: u32 = 8;
/// Unacknowledged records of a task.
const WINDOW: usize = 2_000;

/// What the load came to.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// The longest time of a task without an acknowledgement.
    pub(crate) longest_gap: Duration,
    /// For each producer.
    pub(crate) memory: Vec<Memory>,
    /// Epochs that were raised, and batches that were sent again.
    pub(crate) bumps: u64,
    pub(crate) retries: u64,
    /// Times that a partition went over to several open batches.
    pub(crate) spreads: u64,
}

/// A producer's memory, in bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// The most that was in use.
    pub(crate) most: u64,
    /// `buffer.memory`.
    pub(crate) limit: u64,
    /// What may be booked beside it: a compressed batch, for each thread that compresses one, until it takes the place of
    /// the whole.
    pub(crate) copies: u64,
}

/// A producer, and what its tasks do.
struct Workload {
    name: &'static str,
    describe: fn(&Client) -> ProducerBuilder,
    /// Between two bursts of a task.
    pause: Duration,
    /// Records of a burst, so that batches of one partition are often in flight together.
    burst: u32,
    /// Only so many partitions are written to, by name; all, and by key, if there is none.
    partitions: Option<i32>,
}

/// An idempotent producer is the unit that the broker's promises speak of: each has a client, and so connections, of its
/// own.
const WORKLOADS: [Workload; 3] = [
    Workload {
        name: "defaults",
        describe: |client| Producer::builder(client).compression(Compression::Lz4),
        pause: Duration::from_millis(40),
        burst: 4,
        partitions: None,
    },
    Workload {
        name: "small",
        describe: |client| {
            let builder = Producer::builder(client).compression(Compression::Zstd(Some(1)));
            let builder = builder.set("max.request.size", "16384").expect("a number of bytes");
            builder.batch_size(8 * 1024).buffer_memory(256 * 1024).linger(Duration::from_millis(200))
        },
        pause: Duration::from_millis(40),
        burst: 4,
        partitions: None,
    },
    Workload {
        name: "keys",
        describe: |client| Producer::builder(client).ordering(Ordering::Key),
        pause: Duration::from_secs(2),
        burst: 500,
        partitions: Some(2),
    },
];

/// Produces until told to stop, and waits for every outcome.
pub(crate) async fn run(run: Arc<Run>, stopped: watch::Receiver<bool>) -> Outcome<Load> {
    let mut tasks = JoinSet::new();
    let mut producers = Vec::new();
    for (index, workload) in (0..).zip(&WORKLOADS) {
        let client = run.client(workload.name).await?;
        let producer = (workload.describe)(&client).build()?;
        producers.push(producer.clone());
        for task in 0..TASKS_PER_PRODUCER {
            let first_key = (index * TASKS_PER_PRODUCER + task) * KEYS_PER_TASK;
            tasks.spawn(produce(Arc::clone(&run), producer.clone(), workload, first_key, stopped.clone()));
        }
    }
    let mut load = Load { memory: vec![Memory::default(); producers.len()], ..Load::default() };
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    loop {
        tokio::select! {
            finished = tasks.join_next() => match finished {
                Some(longest) => load.longest_gap = load.longest_gap.max(longest??),
                None => break,
            },
            _ = looks.tick() => {
                for (memory, producer) in load.memory.iter_mut().zip(&producers) {
                    let metrics = producer.metrics();
                    let threads = std::thread::available_parallelism().map_or(1, usize::from);
                    memory.most = memory.most.max(metrics.buffer_used);
                    memory.limit = metrics.buffer_limit;
                    memory.copies = (producer.config().batch_size * threads) as u64;
                }
            }
        }
    }
    for producer in &producers {
        let metrics = producer.metrics();
        load.bumps += metrics.epoch_bumps;
        load.retries += metrics.retries;
        load.spreads += metrics.spreads;
        if !producer.close(Duration::from_secs(30)).await.clean || producer.metrics().buffer_used > 0 {
            return Err("a producer that had answered for everything did not close, or holds memory".into());
        }
    }
    Ok(load)
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
    workload: &'static Workload,
    first_key: u32,
    stopped: watch::Receiver<bool>,
) -> Outcome<Duration> {
    let mut settling =
        Settling { run: Arc::clone(&run), waiting: VecDeque::new(), last: Instant::now(), longest: Duration::ZERO };
    let mut numbers = [0_u64; KEYS_PER_TASK as usize];
    let mut ticks = tokio::time::interval(workload.pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut turn = 0;
    while !*stopped.borrow() {
        ticks.tick().await;
        let mut appended = Vec::new();
        for _ in 0..workload.burst {
            let index = turn % KEYS_PER_TASK;
            turn += 1;
            let value = Value { key: first_key + index, number: numbers[index as usize] };
            let (key, bytes) = (value.key.to_string(), write(value));
            let partition = workload.partitions.map(|partitions| value.key.cast_signed() % partitions);
            let record = Record { partition, ..Record::to(&run.topic).key(&key).value(&bytes) };
            match producer.send(record).await {
                Ok(delivery) => {
                    appended.push((value, partition));
                    numbers[index as usize] += 1;
                    settling.waiting.push_back((value, Instant::now(), delivery));
                }
                // Nothing was queued: the number is used again.
                Err(error) => run.say(format_args!("a send was refused: {error}")),
            }
        }
        note_appended(&run, &producer, first_key, &appended);
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

/// Noted after a burst: the lock of the history would keep the tasks from meeting in the producer.
fn note_appended(run: &Run, producer: &Producer, task: u32, appended: &[(Value, Option<i32>)]) {
    let mut history = run.history();
    for (value, partition) in appended {
        // A task appends in the order of its sends; which of two tasks came first, nobody knows. The order of a key is that
        // of its numbers.
        if producer.config().ordering == Ordering::Partition {
            history.appended(task, *value);
        }
        if let Some(partition) = partition {
            history.meant_for(*value, *partition);
        }
    }
}

struct Settling {
    run: Arc<Run>,
    waiting: VecDeque<(Value, Instant, Delivery)>,
    last: Instant,
    longest: Duration,
}

impl Settling {
    /// Notes the outcomes that are known already.
    async fn take_ready(&mut self) {
        while let Some((value, sent, delivery)) = self.waiting.front_mut() {
            let (value, sent) = (*value, *sent);
            let ready = std::future::poll_fn(|cx| {
                std::task::Poll::Ready(match std::pin::Pin::new(&mut *delivery).poll(cx) {
                    std::task::Poll::Ready(outcome) => Some(outcome),
                    std::task::Poll::Pending => None,
                })
            })
            .await;
            let Some(outcome) = ready else { return };
            self.waiting.pop_front();
            self.note(value, sent, outcome);
        }
    }

    async fn settle_oldest(&mut self) {
        if let Some((value, sent, delivery)) = self.waiting.pop_front() {
            let outcome = delivery.await;
            self.note(value, sent, outcome);
        }
    }

    fn note(
        &mut self,
        value: Value,
        at: Instant,
        outcome: Result<milena_client::producer::RecordMetadata, milena_client::producer::ProduceError>,
    ) {
        let sent = match outcome {
            Ok(written) => {
                self.longest = self.longest.max(self.last.elapsed());
                self.last = Instant::now();
                self.run.recovery().acknowledged(written.partition(), at);
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
