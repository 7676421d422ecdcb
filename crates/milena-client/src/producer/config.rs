//! The producer's settings, typed, with Kafka's names and defaults.

use std::time::Duration;

use milena_core::producer::compression_choice::{AutoCompression, CompressionPolicy, SizeTable};
use milena_core::producer::partitioner::Partitioner;
use milena_protocol::compress::Compression as Codec;

use crate::config::{ConfigError, nearest};

/// Who must have a record before it counts as written: `acks`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acks {
    /// All replicas in sync: `all`, or `-1`.
    #[default]
    All,
    /// The leader alone: `1`. What it alone has is lost with it.
    Leader,
    /// Nobody: `0`. A delivery resolves when the record was handed to the connection, without an offset.
    None,
}

impl Acks {
    pub(crate) fn wire(self) -> i16 {
        match self {
            Self::All => -1,
            Self::Leader => 1,
            Self::None => 0,
        }
    }
}

/// How batches are compressed: `compression.type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip, level 1 to 9.
    Gzip(Option<i32>),
    /// snappy.
    Snappy,
    /// lz4.
    Lz4,
    /// zstd, level -131,072 to 22.
    Zstd(Option<i32>),
    /// By what it brings: nothing for small or incompressible batches, zstd level 1 for the others, lz4 while the CPU
    /// can't keep up.
    Auto,
    /// By the batch's size: below 1 KB none, to 100 KB snappy, above zstd.
    BySize,
}

impl Compression {
    fn policy(self) -> CompressionPolicy {
        match self {
            Self::None => CompressionPolicy::Fixed(Codec::None, None),
            Self::Gzip(level) => CompressionPolicy::Fixed(Codec::Gzip, level),
            Self::Snappy => CompressionPolicy::Fixed(Codec::Snappy, None),
            Self::Lz4 => CompressionPolicy::Fixed(Codec::Lz4, None),
            Self::Zstd(level) => CompressionPolicy::Fixed(Codec::Zstd, level),
            Self::Auto => CompressionPolicy::Auto(AutoCompression::default()),
            Self::BySize => CompressionPolicy::BySize(SizeTable::default()),
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "none" => Self::None,
            "gzip" => Self::Gzip(None),
            "snappy" => Self::Snappy,
            "lz4" => Self::Lz4,
            "zstd" => Self::Zstd(None),
            "auto" => Self::Auto,
            "by-size" => Self::BySize,
            _ => return None,
        })
    }
}

/// Settings of a [`Producer`](super::Producer).
///
/// Fields may be set directly, or by Kafka's names with [`Self::set`]. What does not fit together is refused when the
/// producer is built.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProducerConfig {
    /// `acks`. Default all.
    pub acks: Acks,
    /// `enable.idempotence`: no record is written twice by a retry, and a partition's order survives it. Needs
    /// `acks=all`. Default true.
    pub idempotence: bool,
    /// `linger.ms`: how long a record may wait for company. A producer that is not busy never waits. Where the broker is
    /// behind, a batch that has lingered takes records until it can be sent. Default 5 ms.
    pub linger: Duration,
    /// `batch.size`: how many bytes a batch is closed at, before compression. Default 128 KiB.
    pub batch_size: usize,
    /// `buffer.memory`: how many bytes all batches together may hold. Default 64 MiB.
    pub buffer_memory: usize,
    /// `max.block.ms`: how long a send may wait for metadata or memory. Default 60 s.
    pub max_block: Duration,
    /// `max.request.size`: the longest record and the longest produce request, in bytes. Default 1 MiB.
    pub max_request_size: usize,
    /// `max.in.flight.requests.per.connection` of one partition, 1 to 5. Default 5; without idempotence 1, since order
    /// would not survive a retry.
    pub max_in_flight: usize,
    /// `delivery.timeout.ms`: from a batch's opening to its report. A batch that can't be sent takes records for at most
    /// an eighth of what this leaves beside `linger.ms` and `request.timeout.ms`, so that none has much less. Default
    /// 120 s.
    pub delivery_timeout: Duration,
    /// `request.timeout.ms`: how long a broker may take to answer. Default 30 s.
    pub request_timeout: Duration,
    /// `retry.backoff.ms`. Default 100 ms.
    pub retry_backoff: Duration,
    /// `retry.backoff.max.ms`. Default 1 s.
    pub retry_backoff_max: Duration,
    /// `compression.type`. Default none.
    pub compression: Compression,
    /// How records that name no partition are spread. Default as Java's.
    pub partitioner: Partitioner,
    /// Whether a batch never waits for a request allowance: as soon as nothing of its partition is in flight it is
    /// sent. Costs CPU on client and broker under steady load. Default false: at most 2,000 such requests a second and
    /// broker.
    pub low_latency: bool,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            idempotence: true,
            linger: Duration::from_millis(5),
            batch_size: 128 * 1024,
            buffer_memory: 64 * 1024 * 1024,
            max_block: Duration::from_secs(60),
            max_request_size: 1024 * 1024,
            max_in_flight: 5,
            delivery_timeout: Duration::from_secs(120),
            request_timeout: Duration::from_secs(30),
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(1),
            compression: Compression::None,
            partitioner: Partitioner::Default,
            low_latency: false,
        }
    }
}

type Setter = fn(&mut ProducerConfig, &str) -> Option<()>;

const MILLIS: &str = "a number of milliseconds";
const BYTES: &str = "a number of bytes";

/// Every setting by Kafka's name, what its value may be, and how it is set.
const KEYS: &[(&str, &str, Setter)] = &[
    ("acks", "`all`, `-1`, `1` or `0`", |config, value| {
        config.acks = match value {
            "all" | "-1" => Acks::All,
            "1" => Acks::Leader,
            "0" => Acks::None,
            _ => return None,
        };
        Some(())
    }),
    ("enable.idempotence", "`true` or `false`", |config, value| put(&mut config.idempotence, value)),
    ("linger.ms", MILLIS, |config, value| millis(&mut config.linger, value)),
    ("batch.size", BYTES, |config, value| put(&mut config.batch_size, value)),
    ("buffer.memory", BYTES, |config, value| put(&mut config.buffer_memory, value)),
    ("max.block.ms", MILLIS, |config, value| millis(&mut config.max_block, value)),
    ("max.request.size", BYTES, |config, value| put(&mut config.max_request_size, value)),
    ("max.in.flight.requests.per.connection", "a number from 1 to 5", |config, value| {
        put(&mut config.max_in_flight, value)
    }),
    ("delivery.timeout.ms", MILLIS, |config, value| millis(&mut config.delivery_timeout, value)),
    ("request.timeout.ms", MILLIS, |config, value| millis(&mut config.request_timeout, value)),
    ("retry.backoff.ms", MILLIS, |config, value| millis(&mut config.retry_backoff, value)),
    ("retry.backoff.max.ms", MILLIS, |config, value| millis(&mut config.retry_backoff_max, value)),
    ("compression.type", "`none`, `gzip`, `snappy`, `lz4`, `zstd`, `auto` or `by-size`", |config, value| {
        config.compression = Compression::parse(value)?;
        Some(())
    }),
    ("compression.gzip.level", "a number from 1 to 9", |config, value| {
        config.compression = Compression::Gzip(Some(value.parse().ok()?));
        Some(())
    }),
    ("compression.zstd.level", "a number from -131072 to 22", |config, value| {
        config.compression = Compression::Zstd(Some(value.parse().ok()?));
        Some(())
    }),
    ("partitioner", "the name of a partitioner, such as `default` or `consistent_random`", |config, value| {
        put(&mut config.partitioner, value)
    }),
];

fn put<T: std::str::FromStr>(field: &mut T, value: &str) -> Option<()> {
    *field = value.parse().ok()?;
    Some(())
}

fn millis(field: &mut Duration, value: &str) -> Option<()> {
    *field = Duration::from_millis(value.parse().ok()?);
    Some(())
}

impl ProducerConfig {
    /// Settings by Kafka's names.
    ///
    /// # Errors
    /// [`ConfigError`] for the first one that is unknown or cannot be read.
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
    /// [`ConfigError::UnknownKey`] naming the nearest known setting, or [`ConfigError::InvalidValue`].
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        let Some((key, expected, setter)) = KEYS.iter().find(|(known, ..)| *known == key) else {
            let nearest = nearest::nearest(key, KEYS.iter().map(|(known, ..)| *known));
            return Err(ConfigError::UnknownKey { key: key.to_owned(), nearest });
        };
        let value = value.trim();
        setter(self, value).ok_or_else(|| ConfigError::InvalidValue { key, value: value.to_owned(), expected })
    }

    /// Names of all settings that [`Self::set`] knows.
    pub fn keys() -> impl Iterator<Item = &'static str> {
        KEYS.iter().map(|(key, ..)| *key)
    }

    pub(crate) fn compression_policy(&self) -> CompressionPolicy {
        self.compression.policy()
    }

    /// How long a batch that can't be sent takes records: a small part of what `delivery.timeout.ms` leaves beside one
    /// request, since its records run out of time together.
    pub(crate) fn patience(&self) -> Duration {
        self.linger + self.delivery_timeout.saturating_sub(self.linger + self.request_timeout) / 8
    }

    /// How many of a partition's batches may be in flight.
    pub(crate) fn in_flight(&self) -> usize {
        if self.idempotence { self.max_in_flight } else { 1 }
    }

    /// Checks what a single setter cannot see.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let contradiction = |text: String| Err(ConfigError::Contradiction(text));
        if self.idempotence && self.acks != Acks::All {
            return contradiction("`enable.idempotence` needs `acks=all`: set it to false, or leave acks alone".into());
        }
        if !(1..=5).contains(&self.max_in_flight) {
            return contradiction("`max.in.flight.requests.per.connection` must be from 1 to 5".into());
        }
        if self.request_timeout.is_zero() {
            return contradiction("`request.timeout.ms` must be more than 0".into());
        }
        if self.delivery_timeout < self.linger.saturating_add(self.request_timeout) {
            return contradiction("`delivery.timeout.ms` must not be below `linger.ms` + `request.timeout.ms`".into());
        }
        if self.batch_size == 0 || self.max_request_size < 1_024 {
            return contradiction("`batch.size` must be more than 0 and `max.request.size` at least 1024".into());
        }
        let largest = self.max_request_size.max(self.batch_size).checked_next_power_of_two();
        if largest.is_none_or(|largest| largest > self.buffer_memory) {
            return contradiction(
                "`buffer.memory` must hold one batch and one record of the largest size: at least `batch.size` and \
                 `max.request.size`, each rounded up to a power of two"
                    .into(),
            );
        }
        if self.retry_backoff > self.retry_backoff_max {
            return contradiction("`retry.backoff.ms` must not be above `retry.backoff.max.ms`".into());
        }
        if let CompressionPolicy::Fixed(codec, level) = self.compression_policy() {
            if !codec.is_available() {
                return contradiction(format!("`compression.type={codec}` is not in this build: enable its feature"));
            }
            if let (Some(level), Some((min, max))) = (level, codec.levels())
                && !(min..=max).contains(&level)
            {
                return contradiction(format!("the level of {codec} must be from {min} to {max}, not {level}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafka_names_set_typed_fields() {
        let pairs = [("acks", "1"), ("enable.idempotence", "false"), ("linger.ms", "20"), ("compression.type", "zstd")];
        let config = ProducerConfig::from_pairs(pairs).expect("known settings");
        assert_eq!((config.acks, config.linger), (Acks::Leader, Duration::from_millis(20)));
        assert_eq!(config.compression, Compression::Zstd(None));
        config.validate().expect("nothing contradicts");
    }

    #[test]
    fn every_name_is_known_once_and_takes_a_value() {
        for key in ProducerConfig::keys() {
            let mut config = ProducerConfig::default();
            let taken = ["1", "true", "none", "random"].iter().any(|value| config.set(key, value).is_ok());
            assert!(taken, "{key}");
            assert_eq!(ProducerConfig::keys().filter(|other| *other == key).count(), 1, "{key}");
        }
    }

    #[test]
    fn unknown_names_and_contradictions_are_refused_by_name() {
        let error = ProducerConfig::from_pairs([("linger", "5")]).expect_err("a typo").to_string();
        assert!(error.contains("`linger.ms`"), "{error}");
        for (key, value, wanted) in [
            ("acks", "1", "acks=all"),
            ("max.in.flight.requests.per.connection", "6", "from 1 to 5"),
            ("delivery.timeout.ms", "1000", "must not be below"),
            ("buffer.memory", "1000", "must hold one batch"),
            ("compression.gzip.level", "12", "from 1 to 9"),
            ("retry.backoff.ms", "2000", "retry.backoff.max.ms"),
        ] {
            let error = ProducerConfig::from_pairs([(key, value)]).expect("readable").validate();
            let error = error.expect_err(key).to_string();
            assert!(error.contains(wanted), "{key}={value}: {error}");
        }
    }
}
