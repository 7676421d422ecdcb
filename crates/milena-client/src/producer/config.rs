//! The producer's settings, typed, with Kafka's names and defaults.

use std::collections::BTreeMap;
use std::time::Duration;

use milena_core::producer::compression_choice::{AutoCompression, CompressionPolicy, SizeTable};
use milena_core::producer::partitioner::Partitioner;
use milena_protocol::compress::Compression as Codec;

use super::topic_config::TopicConfig;
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

/// Which records of a partition are written in the order in which they were sent: `ordering`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ordering {
    /// All, whichever clone of the producer they came from, as Kafka's own producer has it.
    #[default]
    Partition,
    /// Those with the same key; and those without one that came from the same clone. Where many tasks write to one
    /// partition at once it then takes their records into several batches, by key, and they are in each other's way less
    /// (see [`ProducerMetrics::spreads`](super::ProducerMetrics::spreads)). From then on the order of the partition is not
    /// kept, though only one task be left: rely on that of keys alone.
    Key,
}

/// How batches are compressed: `compression.type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip, level 1 to 9; without one [`CompressionLevels::gzip`], else 6.
    Gzip(Option<i32>),
    /// snappy.
    Snappy,
    /// lz4.
    Lz4,
    /// zstd, level -131,072 to 22; without one [`CompressionLevels::zstd`], else 3.
    Zstd(Option<i32>),
    /// By what it brings: nothing for batches below 512 B and for data that a sample shows to be incompressible, zstd
    /// level 1 for the rest, and lz4 while compressing takes more than 70 % of a core. What comes out at more than 95 %
    /// of what went in is sent as it was.
    Auto,
    /// As [`Self::Auto`], for the most records a second: lz4 in place of zstd.
    Throughput,
    /// As [`Self::Auto`], for the fewest bytes: zstd level 6, and level 1 while compressing takes too much of a core.
    Ratio,
    /// By the batch's size: below 1 KB none, to 100 KB snappy, above zstd.
    SizeTable,
    /// As [`Self::Auto`], with thresholds of one's own.
    AutoBy(AutoCompression),
    /// As [`Self::SizeTable`], with sizes and codecs of one's own.
    SizeTableBy(SizeTable),
}

/// Levels for codecs that are named without one: `compression.gzip.level` and `compression.zstd.level`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompressionLevels {
    /// Of gzip, 1 to 9. Default 6.
    pub gzip: Option<i32>,
    /// Of zstd, -131,072 to 22. Default 3.
    pub zstd: Option<i32>,
}

impl Compression {
    fn policy(self, levels: CompressionLevels) -> CompressionPolicy {
        match self {
            Self::None => CompressionPolicy::Fixed(Codec::None, None),
            Self::Gzip(level) => CompressionPolicy::Fixed(Codec::Gzip, level.or(levels.gzip)),
            Self::Snappy => CompressionPolicy::Fixed(Codec::Snappy, None),
            Self::Lz4 => CompressionPolicy::Fixed(Codec::Lz4, None),
            Self::Zstd(level) => CompressionPolicy::Fixed(Codec::Zstd, level.or(levels.zstd)),
            Self::Auto => CompressionPolicy::Auto(AutoCompression::default()),
            Self::Throughput => CompressionPolicy::Auto(AutoCompression::throughput()),
            Self::Ratio => CompressionPolicy::Auto(AutoCompression::ratio()),
            Self::SizeTable => CompressionPolicy::BySize(SizeTable::default()),
            Self::AutoBy(auto) => CompressionPolicy::Auto(auto),
            Self::SizeTableBy(table) => CompressionPolicy::BySize(table),
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
            "throughput" => Self::Throughput,
            "ratio" => Self::Ratio,
            "size-table" => Self::SizeTable,
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
    /// `linger.ms`: how long a record may wait for company. A producer that is not busy does not wait, nor, but for a few
    /// milliseconds now and then, does one whose callers wait for their acknowledgements. A busy one waits while a batch is
    /// about to be full, and asks a broker for no more than some 2,000 requests a second that could have waited. Where the
    /// broker is behind, a batch that has lingered takes records until it can be sent. Default 5 ms; below 2 ms the 2,000
    /// requests are all that counts.
    pub linger: Duration,
    /// `batch.size`: how many bytes a batch is closed at, before compression. Default 128 KiB. Above `max.request.size`
    /// it is that, as Kafka's documentation has it: a request is at least one batch.
    pub batch_size: usize,
    /// `buffer.memory`: how many bytes all batches together may hold. Default 64 MiB. With compression, room for two
    /// batches, or for one per core if that is more, is kept for what they are compressed into, but no more than a
    /// quarter. A batch of one record is compressed even where that passes it.
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
    /// `compression.gzip.level` and `compression.zstd.level`.
    pub compression_levels: CompressionLevels,
    /// How records that name no partition are spread. Default as Java's.
    pub partitioner: Partitioner,
    /// `partitioner.adaptive.partitioning.enable`: records without a key go the less often to a partition, the more of
    /// its batches wait (KIP-794). Default true; else each partition gets its equal share.
    pub adaptive_partitioning: bool,
    /// `partitioner.availability.timeout.ms`: records without a key avoid a broker that has kept others waiting for so
    /// long, until it takes some again. Needs `adaptive_partitioning`. Default 0: none is avoided.
    pub partition_availability_timeout: Duration,
    /// `partitioner.ignore.keys`: records with a key are spread as those without. For the default partitioner. Default
    /// false.
    pub ignore_keys: bool,
    /// `client.rack`: where the producer runs, as brokers name it in `broker.rack`.
    pub rack: Option<String>,
    /// `partitioner.rack.aware`: records without a key go to partitions whose leader is in the producer's `rack`, while
    /// there are any (KIP-1123): no traffic between zones, at the price of uneven partitions. Default false.
    pub rack_aware: bool,
    /// Which records of a partition keep their order; not a setting of Kafka's. Default all.
    pub ordering: Ordering,
    /// What single topics have otherwise.
    pub topics: BTreeMap<String, TopicConfig>,
    /// Whether a batch never waits for a request allowance: as soon as nothing of its partition is in flight it is
    /// sent. Costs CPU on client and broker under steady load. Default false: at most 2,000 such requests a second and
    /// broker, while waiting brings company, and none for a batch that will be full within 2 ms.
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
            compression_levels: CompressionLevels::default(),
            partitioner: Partitioner::Default,
            adaptive_partitioning: true,
            partition_availability_timeout: Duration::ZERO,
            ignore_keys: false,
            rack: None,
            rack_aware: false,
            ordering: Ordering::Partition,
            topics: BTreeMap::new(),
            low_latency: false,
        }
    }
}

type Setter = fn(&mut ProducerConfig, &str) -> Option<()>;

const MILLIS: &str = "a number of milliseconds";
const BYTES: &str = "a number of bytes";
const YES_NO: &str = "`true` or `false`";

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
    ("enable.idempotence", YES_NO, |config, value| put(&mut config.idempotence, value)),
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
    (
        "compression.type",
        "`none`, `gzip`, `snappy`, `lz4`, `zstd`, `auto`, `throughput`, `ratio` or `size-table`",
        |config, value| {
            config.compression = Compression::parse(value)?;
            Some(())
        },
    ),
    ("compression.gzip.level", "a number from 1 to 9", |config, value| {
        config.compression_levels.gzip = Some(value.parse().ok()?);
        Some(())
    }),
    ("compression.zstd.level", "a number from -131072 to 22", |config, value| {
        config.compression_levels.zstd = Some(value.parse().ok()?);
        Some(())
    }),
    ("partitioner", "the name of a partitioner, such as `default` or `consistent_random`", |config, value| {
        put(&mut config.partitioner, value)
    }),
    ("partitioner.adaptive.partitioning.enable", YES_NO, |config, value| put(&mut config.adaptive_partitioning, value)),
    ("partitioner.availability.timeout.ms", MILLIS, |config, value| {
        millis(&mut config.partition_availability_timeout, value)
    }),
    ("partitioner.ignore.keys", YES_NO, |config, value| put(&mut config.ignore_keys, value)),
    ("partitioner.rack.aware", YES_NO, |config, value| put(&mut config.rack_aware, value)),
    ("ordering", "`partition` or `key`", |config, value| {
        config.ordering = match value {
            "partition" => Ordering::Partition,
            "key" => Ordering::Key,
            _ => return None,
        };
        Some(())
    }),
    ("client.rack", "a name", |config, value| {
        config.rack = (!value.is_empty()).then(|| value.to_owned());
        Some(())
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
        self.compression.policy(self.compression_levels)
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
        if self.batch_size.max(self.max_request_size) > i32::MAX as usize {
            return contradiction(
                "`batch.size` and `max.request.size` must be below 2 GiB: the format holds no more".into(),
            );
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
        if self.rack_aware && self.rack.as_ref().is_none_or(|rack| rack.trim().is_empty()) {
            return contradiction("`partitioner.rack.aware` needs `client.rack`: say where the producer runs".into());
        }
        if (self.rack_aware || self.ignore_keys) && !matches!(self.partitioner, Partitioner::Default) {
            return contradiction(
                "`partitioner.rack.aware` and `partitioner.ignore.keys` are for the default partitioner: leave \
                 `partitioner` alone, or them"
                    .into(),
            );
        }
        if !self.partition_availability_timeout.is_zero() && !self.adaptive_partitioning {
            return contradiction(
                "`partitioner.availability.timeout.ms` needs `partitioner.adaptive.partitioning.enable`".into(),
            );
        }
        self.validate_compression()?;
        for (topic, overrides) in &self.topics {
            overrides.over(self).validate().map_err(|error| match error {
                ConfigError::Contradiction(text) => ConfigError::Contradiction(format!("topic {topic:?}: {text}")),
                error => error,
            })?;
        }
        Ok(())
    }

    fn validate_compression(&self) -> Result<(), ConfigError> {
        let policy = self.compression_policy();
        let named = [(Codec::Gzip, self.compression_levels.gzip), (Codec::Zstd, self.compression_levels.zstd)];
        for (codec, level) in policy.codecs().into_iter().chain(named) {
            if let (Some(level), Some((min, max))) = (level, codec.levels())
                && !(min..=max).contains(&level)
            {
                let text = format!("the level of {codec} must be from {min} to {max}, not {level}");
                return Err(ConfigError::Contradiction(text));
            }
        }
        if let Some((codec, _)) = policy.codecs().into_iter().find(|(codec, _)| !codec.is_available()) {
            let text = format!("`compression.type={codec}` is not in this build: enable its feature");
            return Err(ConfigError::Contradiction(text));
        }
        if let CompressionPolicy::Auto(auto) = policy
            && (auto.sample == 0 || auto.probe_every == 0 || auto.probe_at_most_every < auto.probe_every)
        {
            let text = "automatic compression needs a sample of at least a byte, and `probe_at_most_every` at or above \
                        `probe_every`, at or above 1";
            return Err(ConfigError::Contradiction(text.into()));
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
            let taken = ["1", "true", "none", "random", "key"].iter().any(|value| config.set(key, value).is_ok());
            assert!(taken, "{key}");
            assert_eq!(ProducerConfig::keys().filter(|other| *other == key).count(), 1, "{key}");
        }
    }

    #[test]
    fn level_belongs_to_its_codec_whichever_is_set_first() {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let pairs =
                [("compression.zstd.level", "7"), ("compression.gzip.level", "2"), ("compression.type", "zstd")];
            let config = ProducerConfig::from_pairs(order.map(|at| pairs[at])).expect("known settings");
            assert_eq!(config.compression_policy(), CompressionPolicy::Fixed(Codec::Zstd, Some(7)));
        }
        let config = ProducerConfig::from_pairs([("compression.gzip.level", "2")]).expect("known");
        assert_eq!(config.compression_policy(), CompressionPolicy::default(), "a level alone compresses nothing");
    }

    #[test]
    fn topic_has_its_own_where_it_says_so() {
        let config = ProducerConfig::from_pairs([("linger.ms", "7"), ("batch.size", "1000")]).expect("known");
        let topic = TopicConfig::from_pairs([("batch.size", "2000"), ("compression.type", "ratio")]).expect("known");
        let over = topic.over(&config);
        assert_eq!((over.linger, over.batch_size), (Duration::from_millis(7), 2_000));
        assert_eq!(over.compression, Compression::Ratio);
        for key in TopicConfig::keys() {
            assert!(ProducerConfig::keys().any(|known| known == key), "{key}");
        }
        let error = TopicConfig::from_pairs([("acks", "1")]).expect_err("of a whole request").to_string();
        assert!(error.contains("acks"), "{error}");
        let mut config = ProducerConfig::default();
        config.topics.insert("t".into(), TopicConfig::new().delivery_timeout(Duration::from_secs(1)));
        let error = config.validate().expect_err("too short").to_string();
        assert!(error.contains("\"t\"") && error.contains("delivery.timeout.ms"), "{error}");
    }

    #[test]
    fn partitioner_settings_that_would_do_nothing_are_refused() {
        for pairs in [
            [("partitioner", "random"), ("partitioner.ignore.keys", "true")],
            [("partitioner.adaptive.partitioning.enable", "false"), ("partitioner.availability.timeout.ms", "50")],
        ] {
            ProducerConfig::from_pairs(pairs).expect("readable").validate().expect_err("refused");
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
            ("compression.zstd.level", "23", "from -131072 to 22"),
            ("retry.backoff.ms", "2000", "retry.backoff.max.ms"),
            ("partitioner.rack.aware", "true", "needs `client.rack`"),
        ] {
            let error = ProducerConfig::from_pairs([(key, value)]).expect("readable").validate();
            let error = error.expect_err(key).to_string();
            assert!(error.contains(wanted), "{key}={value}: {error}");
        }
    }
}
