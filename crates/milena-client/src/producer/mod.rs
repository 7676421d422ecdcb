//! The producer: records go in borrowed, are encoded at once into their partition's open batch, and every one is
//! answered for.
//!
//! In reading order: [`Producer`] here, `topic` and `partition` are the way in, `seal` and `wave` the way out,
//! `answers` the way back, `driver` everything that waits.

mod answers;
mod company;
mod config;
mod delivery;
mod driver;
mod error;
mod idle;
mod metrics;
mod node;
mod partition;
mod record;
mod seal;
mod shared;
mod taking;
mod timers;
mod topic;
mod topic_config;
mod wave;

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use milena_core::producer::budget::{ByteBudget, Reservation};
use milena_core::producer::buffers::BufferPool;
use milena_core::producer::completion::{Completion, WaitSlot};
use milena_core::producer::failure::ProduceFailure;
use tokio::time::{Instant, timeout_at};

pub use self::config::{Acks, Compression, CompressionLevels, Ordering, ProducerConfig};
pub use self::delivery::Delivery;
pub use self::error::{Outcome, ProduceError, SendError};
pub use self::metrics::{CompressionMetrics, CompressionUse, ProducerMetrics};
pub use self::record::{Record, RecordHeader, RecordMetadata};
pub use self::topic_config::TopicConfig;
pub use milena_core::producer::compression_choice::{AutoCompression, CompressionReason, SizeTable};
pub use milena_core::producer::failure::Hindrance;
pub use milena_core::producer::partitioner::Partitioner;
pub use milena_protocol::compress::Compression as Codec;

use self::delivery::Appended;
use self::driver::Driver;
use self::partition::{After, Stop};
use self::shared::Shared;
use self::topic::Resolved;
use crate::client::Client;
use crate::config::ConfigError;
use crate::topic_name;

/// Sends records to a cluster.
///
/// Clones share everything: batches, memory, order. Records of one partition are written in the order in which they
/// were appended, whichever clone appended them (or with [`Ordering::Key`] those of one key); with `enable.idempotence`, the default, no retry changes that or
/// writes a record twice.
///
/// When the last clone is gone, what was appended is still sent, in the background. [`Self::close`] waits for that and
/// says how it went.
pub struct Producer {
    handle: Arc<Handle>,
    /// The topic of the last record, to find it without a look-up. A clone has its own.
    last: ArcSwapOption<Resolved>,
    /// Which clone it is.
    number: u64,
}

struct Handle {
    shared: Arc<Shared>,
    /// Kept open for as long as there is a producer, or something to send.
    client: Client,
}

/// A memory that several producers share: `buffer.memory` of all of them together.
#[derive(Clone, Debug)]
pub struct BufferMemory {
    pool: Arc<BufferPool>,
}

impl BufferMemory {
    /// A memory of `bytes`.
    pub fn new(bytes: usize) -> Self {
        Self { pool: BufferPool::new(ByteBudget::new(bytes)) }
    }
}

/// Describes a [`Producer`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ProducerBuilder {
    client: Client,
    config: ProducerConfig,
    memory: Option<BufferMemory>,
}

/// How a producer closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReport {
    /// Whether every record was answered for before the deadline.
    pub clean: bool,
    /// Records that failed for certain during the close.
    pub failed: u64,
    /// Records given up during the close that may have been written.
    pub possibly_written: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl ProducerBuilder {
    /// Takes all settings at once.
    pub fn config(mut self, config: ProducerConfig) -> Self {
        self.config = config;
        self
    }

    /// Sets one setting by Kafka's name.
    ///
    /// # Errors
    /// [`ConfigError`]: the name is unknown, or the value can't be read.
    pub fn set(mut self, key: &str, value: &str) -> Result<Self, ConfigError> {
        self.config.set(key, value)?;
        Ok(self)
    }

    /// `linger.ms`.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.config.linger = linger;
        self
    }

    /// `batch.size`, in bytes.
    pub fn batch_size(mut self, bytes: usize) -> Self {
        self.config.batch_size = bytes;
        self
    }

    /// `buffer.memory`, in bytes.
    pub fn buffer_memory(mut self, bytes: usize) -> Self {
        self.config.buffer_memory = bytes;
        self
    }

    /// A memory shared with other producers, in place of one of its own.
    pub fn shared_memory(mut self, memory: &BufferMemory) -> Self {
        self.config.buffer_memory = memory.pool.budget().limit();
        self.memory = Some(memory.clone());
        self
    }

    /// `compression.type`.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.config.compression = compression;
        self
    }

    /// `acks`. Anything but all turns idempotence off.
    pub fn acks(mut self, acks: Acks) -> Self {
        self.config.acks = acks;
        self.config.idempotence &= acks == Acks::All;
        self
    }

    /// How records that name no partition are spread.
    pub fn partitioner(mut self, partitioner: Partitioner) -> Self {
        self.config.partitioner = partitioner;
        self
    }

    /// Which records of a partition keep their order.
    pub fn ordering(mut self, ordering: Ordering) -> Self {
        self.config.ordering = ordering;
        self
    }

    /// What `topic` has otherwise than the producer's other topics.
    pub fn topic(mut self, topic: impl Into<String>, config: TopicConfig) -> Self {
        self.config.topics.insert(topic.into(), config);
        self
    }

    /// `delivery.timeout.ms`.
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.config.delivery_timeout = timeout;
        self
    }

    /// `request.timeout.ms`.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.config.request_timeout = timeout;
        self
    }

    /// `max.block.ms`.
    pub fn max_block(mut self, limit: Duration) -> Self {
        self.config.max_block = limit;
        self
    }

    /// See [`ProducerConfig::low_latency`].
    pub fn low_latency(mut self, low_latency: bool) -> Self {
        self.config.low_latency = low_latency;
        self
    }

    /// Builds the producer. Connects to nothing yet.
    ///
    /// # Errors
    /// [`ConfigError`]: settings contradict each other, or the client is closed.
    pub fn build(self) -> Result<Producer, ConfigError> {
        self.config.validate()?;
        let limit = self.config.buffer_memory;
        let pool = self.memory.map_or_else(|| BufferPool::new(ByteBudget::new(limit)), |memory| memory.pool);
        let shared = Shared::new(Arc::clone(self.client.inner()), self.config, pool);
        let driver = Driver::new(Arc::clone(&shared));
        let started = self.client.inner().tasks.spawn("producer", driver.run());
        started.map_err(|closed| ConfigError::Contradiction(closed.to_string()))?;
        let number = shared.next_number();
        Ok(Producer { handle: Arc::new(Handle { shared, client: self.client }), last: ArcSwapOption::empty(), number })
    }
}

impl Producer {
    /// Starts to describe a producer on `client`.
    pub fn builder(client: &Client) -> ProducerBuilder {
        ProducerBuilder { client: client.clone(), config: ProducerConfig::default(), memory: None }
    }

    /// Appends `record` to its partition's open batch; the [`Delivery`] resolves when the broker has acknowledged it.
    ///
    /// Waits, up to `max.block.ms`, for the topic's metadata at its first record and for room in `buffer.memory`, in
    /// turn with all others who wait. What has been appended is sent soon, whether the delivery is awaited or not.
    ///
    /// # Errors
    /// [`SendError`]: nothing was appended.
    ///
    /// # Cancel safety
    /// Dropped while it waits, nothing was appended and nothing is sent. It does not wait after the append.
    ///
    /// # Ordering
    /// Of one partition, in the order of the appends; with [`Ordering::Key`] of one key.
    pub async fn send(&self, record: Record<'_>) -> Result<Delivery, SendError> {
        let stop = {
            let mut after = After::default();
            match self.append(&record, &mut None, &mut after) {
                Some(appended) => return Ok(Delivery::new(appended, after.timestamp)),
                None => after.stop,
            }
        };
        self.send_later(record, stop).await
    }

    /// As [`Self::send`], without waiting.
    ///
    /// # Errors
    /// [`SendError::BufferFull`] and [`SendError::TopicNotReady`] in place of a wait; else as [`Self::send`].
    pub fn try_send(&self, record: Record<'_>) -> Result<Delivery, SendError> {
        let mut after = After::default();
        if let Some(appended) = self.append(&record, &mut None, &mut after) {
            return Ok(Delivery::new(appended, after.timestamp));
        }
        Err(match after.stop {
            Stop::Error(error) => error,
            Stop::Memory(_) => SendError::BufferFull { limit: self.buffers().budget().limit() },
            Stop::Topic => match topic_name::fault(record.topic) {
                Some(reason) => SendError::InvalidTopicName { topic: record.topic.to_owned(), reason },
                None => {
                    self.handle.shared.client.metadata.want(record.topic);
                    SendError::TopicNotReady { topic: record.topic.to_owned() }
                }
            },
        })
    }

    /// Sends all `records`, in their order, and waits for all answers: one per record, in the same order. A record that
    /// can't be appended does not keep the others back.
    ///
    /// # Cancel safety
    /// What has been appended is sent; what has not is not.
    pub async fn send_batch(&self, records: &[Record<'_>]) -> Vec<Result<RecordMetadata, ProduceError>> {
        let mut deliveries = Vec::with_capacity(records.len());
        for record in records {
            deliveries.push(self.send(*record).await);
        }
        let mut results = Vec::with_capacity(records.len());
        for delivery in deliveries {
            results.push(match delivery {
                Ok(delivery) => delivery.await,
                Err(error) => Err(ProduceError::NotSent(error)),
            });
        }
        results
    }

    /// Sends what has been appended without waiting for linger, and resolves when every record appended before the call
    /// has been answered for, in whatever way.
    ///
    /// # Cancel safety
    /// The sending goes on.
    pub async fn flush(&self) {
        for completion in self.handle.shared.start_flush() {
            let mut all = Answers { completion, slot: WaitSlot::default() };
            poll_fn(|context| all.completion.poll_all(&mut all.slot, context)).await;
        }
    }

    /// Refuses further records, flushes, and ends the producer. What is not answered for within `limit` is given up and
    /// reported: as failed where it was never sent, else as possibly written.
    ///
    /// # Cancel safety
    /// Further records are refused, and what was appended is still sent.
    pub async fn close(&self, limit: Duration) -> CloseReport {
        let shared = &self.handle.shared;
        let start = Instant::now();
        let before = shared.counters.read();
        shared.refuse();
        let clean = timeout_at(start + limit.min(Duration::from_secs(24 * 3600)), self.flush()).await.is_ok();
        if !clean {
            shared.abort(&ProduceFailure::Closed);
        }
        shared.end();
        let after = shared.counters.read();
        CloseReport {
            clean,
            failed: after.records_failed - before.records_failed,
            possibly_written: after.records_possibly_written - before.records_possibly_written,
            elapsed: start.elapsed(),
        }
    }

    /// What has been counted so far.
    pub fn metrics(&self) -> ProducerMetrics {
        let budget = self.buffers().budget();
        ProducerMetrics {
            buffer_used: budget.used() as u64,
            buffer_limit: budget.limit() as u64,
            buffer_idle: self.buffers().idle() as u64,
            waiting_for_buffer: budget.waiting() as u64,
            ..self.handle.shared.counters.read()
        }
    }

    /// The settings it was built with.
    pub fn config(&self) -> &ProducerConfig {
        &self.handle.shared.config
    }

    /// The client it was built on.
    pub fn client(&self) -> &Client {
        &self.handle.client
    }

    fn buffers(&self) -> &Arc<BufferPool> {
        &self.handle.shared.buffers
    }

    /// Leaves in `granted` what it does not need of it.
    #[inline]
    fn append(&self, record: &Record<'_>, granted: &mut Option<Reservation>, after: &mut After) -> Option<Appended> {
        let last = self.last.load();
        match &*last {
            Some(resolved) if resolved.is_current(record.topic) => self.append_to(resolved, record, granted, after),
            _ => self.append_elsewhere(record, granted, after),
        }
    }

    /// To another topic than the last, or one whose partitions have changed.
    #[cold]
    fn append_elsewhere(
        &self,
        record: &Record<'_>,
        granted: &mut Option<Reservation>,
        after: &mut After,
    ) -> Option<Appended> {
        let Some(resolved) = self.handle.shared.resolve(record.topic) else { return after.stop(Stop::Topic) };
        let appended = self.append_to(&resolved, record, granted, after);
        self.last.store(Some(resolved));
        appended
    }

    #[inline]
    fn append_to(
        &self,
        resolved: &Resolved,
        record: &Record<'_>,
        granted: &mut Option<Reservation>,
        after: &mut After,
    ) -> Option<Appended> {
        let shared = &self.handle.shared;
        let partitions = resolved.partitions.present();
        if partitions.is_empty() {
            return after.stop(Stop::Topic);
        }
        let (partition, is_sticky) = match resolved.topic.choose(shared, record, partitions) {
            Ok(chosen) => chosen,
            Err(error) => return after.stop(error),
        };
        let appended = partition.append(shared, record, self.number, granted, after);
        if is_sticky {
            resolved.topic.appended(shared, partition.index, after, partitions);
        }
        if after.is_due() {
            shared.follow_up(partition, after);
        }
        appended
    }

    /// The way of the few: waits for what is missing, then appends.
    async fn send_later(&self, record: Record<'_>, first: Stop) -> Result<Delivery, SendError> {
        let shared = &self.handle.shared;
        let limit = shared.config.max_block;
        let deadline = Instant::now() + limit.min(Duration::from_secs(24 * 3600));
        let mut stop = first;
        loop {
            let mut granted = match stop {
                Stop::Topic => {
                    self.resolve(record.topic, deadline).await?;
                    None
                }
                Stop::Memory(bytes) => {
                    let granted = timeout_at(deadline, self.buffers().budget().reserve(bytes)).await;
                    Some(granted.map_err(|_| SendError::Blocked { waited: limit })?)
                }
                Stop::Error(error) => return Err(error),
            };
            let mut after = After::default();
            if let Some(appended) = self.append(&record, &mut granted, &mut after) {
                return Ok(Delivery::new(appended, after.timestamp));
            }
            stop = after.stop;
        }
    }

    async fn resolve(&self, topic: &str, deadline: Instant) -> Result<(), SendError> {
        let shared = &self.handle.shared;
        if let Some(reason) = topic_name::fault(topic) {
            return Err(SendError::InvalidTopicName { topic: topic.to_owned(), reason });
        }
        if shared.is_closed() {
            return Err(SendError::Closed);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let metadata = shared.client.metadata.topic(topic, left).await;
        let metadata =
            metadata.map_err(|source| SendError::Topic { topic: topic.to_owned(), source: Box::new(source) })?;
        shared.resolved(&metadata);
        Ok(())
    }
}

/// Waits for the answers to a whole batch.
struct Answers {
    completion: Arc<Completion>,
    slot: WaitSlot,
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.completion.leave(&mut self.slot);
    }
}

impl Shared {
    /// Lets the driver end once nothing is left.
    fn end(&self) {
        self.ending.store(true, SeqCst);
        self.wake.notify_one();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let shared = Arc::clone(&self.shared);
        shared.refuse();
        shared.end();
        if !shared.has_work() {
            return;
        }
        // What was appended is still sent: the client stays open until then, bounded by `delivery.timeout.ms`.
        let client = self.client.clone();
        let flush = async move {
            for completion in shared.start_flush() {
                let mut slot = WaitSlot::default();
                poll_fn(|context| completion.poll_all(&mut slot, context)).await;
            }
            shared.end();
            drop(client);
        };
        let _ = self.client.inner().tasks.spawn("flush after drop", flush);
    }
}

impl Clone for Producer {
    fn clone(&self) -> Self {
        Self {
            handle: Arc::clone(&self.handle),
            last: ArcSwapOption::new(self.last.load_full()),
            number: self.handle.shared.next_number(),
        }
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("config", &self.handle.shared.config).finish_non_exhaustive()
    }
}
