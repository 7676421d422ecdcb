//! What one topic has otherwise than the rest of a producer's, and what comes of both.

use std::sync::Arc;
use std::time::Duration;

use milena_core::producer::compression_choice::CompressionPolicy;
use milena_core::producer::partition_queue::QueueConfig;
use milena_core::producer::partitioner::Partitioner;
use milena_core::retry::Backoff;

use super::config::{Compression, CompressionLevels, Ordering, ProducerConfig};
use crate::config::{ConfigError, nearest};

/// What nobody writes to for so long is idle.
const IDLE: Duration = Duration::from_secs(5);

/// Settings of one topic, in place of the producer's: for a topic whose records are larger, rarer or harder to compress
/// than the others'. What isn't set is as the producer has it.
///
/// What concerns a whole request, such as `acks` or `max.request.size`, is the producer's alone: a request carries
/// batches of many topics.
///
/// ```
/// # use std::time::Duration;
/// # use milena_client::producer::{Compression, TopicConfig};
/// let pictures = TopicConfig::new().compression(Compression::None).batch_size(1024 * 1024);
/// let audit = TopicConfig::from_pairs([("linger.ms", "200"), ("compression.type", "ratio")])?;
/// assert_eq!(audit.linger, Some(Duration::from_millis(200)));
/// # let _ = pictures;
/// # Ok::<(), milena_client::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TopicConfig {
    /// `linger.ms`.
    pub linger: Option<Duration>,
    /// `batch.size`, in bytes.
    pub batch_size: Option<usize>,
    /// `delivery.timeout.ms`.
    pub delivery_timeout: Option<Duration>,
    /// `compression.type`.
    pub compression: Option<Compression>,
    /// `compression.gzip.level` and `compression.zstd.level`.
    pub compression_levels: CompressionLevels,
    /// `partitioner`. Another than the default one has no use for `partitioner.ignore.keys` and
    /// `partitioner.rack.aware`: they don't apply to the topic then.
    pub partitioner: Option<Partitioner>,
    /// `ordering`.
    pub ordering: Option<Ordering>,
}

type Setter = fn(&mut TopicConfig, ProducerConfig);

/// Every setting that a topic may have by itself, by Kafka's name; the values are read as the producer's.
const KEYS: &[(&str, Setter)] = &[
    ("linger.ms", |topic, read| topic.linger = Some(read.linger)),
    ("batch.size", |topic, read| topic.batch_size = Some(read.batch_size)),
    ("delivery.timeout.ms", |topic, read| topic.delivery_timeout = Some(read.delivery_timeout)),
    ("compression.type", |topic, read| topic.compression = Some(read.compression)),
    ("compression.gzip.level", |topic, read| topic.compression_levels.gzip = read.compression_levels.gzip),
    ("compression.zstd.level", |topic, read| topic.compression_levels.zstd = read.compression_levels.zstd),
    ("partitioner", |topic, read| topic.partitioner = Some(read.partitioner)),
    ("ordering", |topic, read| topic.ordering = Some(read.ordering)),
];

impl TopicConfig {
    /// All as the producer has it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Settings by Kafka's names.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn from_pairs<K: AsRef<str>, V: AsRef<str>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for (key, value) in pairs {
            config.set(key.as_ref(), value.as_ref())?;
        }
        Ok(config)
    }

    /// Sets one setting by Kafka's name.
    ///
    /// # Errors
    /// [`ConfigError::UnknownKey`], also for what only a whole producer has, or [`ConfigError::InvalidValue`].
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        let Some((_, setter)) = KEYS.iter().find(|(known, _)| *known == key) else {
            let nearest = nearest::nearest(key, Self::keys());
            return Err(ConfigError::UnknownKey { key: key.to_owned(), nearest });
        };
        let mut read = ProducerConfig::default();
        read.set(key, value)?;
        setter(self, read);
        Ok(())
    }

    /// Names of all settings that [`Self::set`] knows.
    pub fn keys() -> impl Iterator<Item = &'static str> {
        KEYS.iter().map(|(key, _)| *key)
    }

    /// `linger.ms`.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = Some(linger);
        self
    }

    /// `batch.size`, in bytes.
    #[must_use]
    pub fn batch_size(mut self, bytes: usize) -> Self {
        self.batch_size = Some(bytes);
        self
    }

    /// `delivery.timeout.ms`.
    #[must_use]
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.delivery_timeout = Some(timeout);
        self
    }

    /// `compression.type`.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = Some(compression);
        self
    }

    /// How records that name no partition are spread.
    #[must_use]
    pub fn partitioner(mut self, partitioner: Partitioner) -> Self {
        self.partitioner = Some(partitioner);
        self
    }

    /// `ordering`.
    #[must_use]
    pub fn ordering(mut self, ordering: Ordering) -> Self {
        self.ordering = Some(ordering);
        self
    }

    /// The producer's settings as they are for the topic.
    pub(super) fn over(&self, producer: &ProducerConfig) -> ProducerConfig {
        let mut config = producer.clone();
        config.topics.clear();
        config.linger = self.linger.unwrap_or(config.linger);
        config.batch_size = self.batch_size.unwrap_or(config.batch_size);
        config.delivery_timeout = self.delivery_timeout.unwrap_or(config.delivery_timeout);
        config.compression = self.compression.unwrap_or(config.compression);
        config.compression_levels.gzip = self.compression_levels.gzip.or(config.compression_levels.gzip);
        config.compression_levels.zstd = self.compression_levels.zstd.or(config.compression_levels.zstd);
        config.ordering = self.ordering.unwrap_or(config.ordering);
        if let Some(partitioner) = &self.partitioner {
            config.partitioner = partitioner.clone();
            let is_default = matches!(partitioner, Partitioner::Default);
            config.ignore_keys &= is_default;
            config.rack_aware &= is_default;
        }
        config
    }
}

/// What the partitions of a topic go by.
#[derive(Debug)]
pub(super) struct Settings {
    /// Bounded by `max.request.size`: no batch but that of a single record is larger than a request may be.
    pub(super) batch_size: usize,
    pub(super) linger: Duration,
    pub(super) patience: Duration,
    /// So often a partition is looked at: whether anything is out of time, or nothing was opened since.
    pub(super) look_after: Duration,
    pub(super) queue: QueueConfig,
    pub(super) compression: CompressionPolicy,
    pub(super) partitioner: Partitioner,
    pub(super) adaptive: bool,
    pub(super) ignore_keys: bool,
    pub(super) rack_aware: bool,
    pub(super) ordering: Ordering,
}

impl Settings {
    pub(super) fn new(config: &ProducerConfig) -> Arc<Self> {
        Arc::new(Self {
            batch_size: config.batch_size.min(config.max_request_size),
            linger: config.linger,
            patience: config.patience(),
            // Not before the lingers of what it had are over: such a timer would be taken for one of the next batch.
            look_after: IDLE.max(config.linger).min(config.delivery_timeout),
            queue: QueueConfig {
                max_in_flight: config.in_flight(),
                delivery_timeout: config.delivery_timeout,
                idempotent: config.idempotence,
                retry: Backoff::new(config.retry_backoff, config.retry_backoff_max),
            },
            compression: config.compression_policy(),
            partitioner: config.partitioner.clone(),
            adaptive: config.adaptive_partitioning,
            ignore_keys: config.ignore_keys,
            rack_aware: config.rack_aware,
            ordering: config.ordering,
        })
    }
}
