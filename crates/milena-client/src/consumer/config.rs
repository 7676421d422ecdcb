//! Settings of a consumer: typed fields, each with Kafka's name for those who configure by pairs.

use std::str::FromStr;
use std::time::Duration;

use milena_core::consumer::positions::OffsetReset;
use milena_core::group::assignor::Assignor;

use crate::config::{ConfigError, nearest};

/// Which records of transactions are handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Only those of committed transactions, and none behind the first open one.
    #[default]
    ReadCommitted,
    /// All.
    ReadUncommitted,
}

/// Settings of a consumer. Fields may be set directly, or by Kafka's names with [`Self::set`]; what does not fit together
/// is refused when the consumer is built.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ConsumerConfig {
    /// `group.id`: needed to subscribe and to commit.
    pub group: Option<String>,
    /// `group.instance.id`: makes a static member, which keeps its partitions through a restart (KIP-345).
    pub instance_id: Option<String>,
    /// `partition.assignment.strategy`, best first. Default range, cooperative-sticky: a group can move from one to the
    /// other member by member.
    pub assignors: Vec<Assignor>,
    /// `auto.offset.reset`: `earliest`, `latest`, `none`, or by duration (KIP-1106), as `by_duration:PT1H`, for the first
    /// record of the last hour. Default latest.
    pub auto_offset_reset: OffsetReset,
    /// `isolation.level`. Default read_committed.
    pub isolation: Isolation,
    /// `session.timeout.ms`: how long the group waits for a member that sends no heartbeats. Default 45 s.
    pub session_timeout: Duration,
    /// `heartbeat.interval.ms`. Default 3 s; at most a third of the session timeout makes sense.
    pub heartbeat_interval: Duration,
    /// `max.poll.interval.ms`: how long the application may take between two calls of `next`, and to give up revoked
    /// partitions. Default 5 min.
    pub max_poll_interval: Duration,
    /// `fetch.min.bytes`. Default 1.
    pub fetch_min_bytes: i32,
    /// `fetch.max.wait.ms`: how long a broker may wait for that much, at most. Default 500 ms. After an answer that brought
    /// nothing it is less by what that was late, so that what all brokers hold ends together: behind a round trip of up to
    /// an eighth of it (62 ms), an idle broker is asked once each 500 ms, and not each 500 ms and a round trip. By no more
    /// than a quarter at a time, which up to four polls in a row need after an answer that brought something.
    pub fetch_max_wait: Duration,
    /// `fetch.max.bytes`: most of one answer. Default 50 MiB.
    pub fetch_max_bytes: usize,
    /// `max.partition.fetch.bytes`: most of one partition in one answer. Default 1 MiB.
    pub max_partition_fetch_bytes: usize,
    /// Most that one batch may hold once inflated. Default 64 MiB.
    pub max_batch_bytes: usize,
    /// `check.crcs`. Default true.
    pub check_crcs: bool,
    /// `client.rack`.
    pub rack: Option<String>,
    /// Commits, by itself, what lies before the first record set that was not yet dropped. Default false: commits are
    /// the application's.
    pub commit_on_drop: bool,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            group: None,
            instance_id: None,
            assignors: vec![Assignor::Range, Assignor::CooperativeSticky],
            auto_offset_reset: OffsetReset::Latest,
            isolation: Isolation::ReadCommitted,
            session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(3),
            max_poll_interval: Duration::from_secs(300),
            fetch_min_bytes: 1,
            fetch_max_wait: Duration::from_millis(500),
            fetch_max_bytes: 50 << 20,
            max_partition_fetch_bytes: 1 << 20,
            max_batch_bytes: 64 << 20,
            check_crcs: true,
            rack: None,
            commit_on_drop: false,
        }
    }
}

type Setter = fn(&mut ConsumerConfig, &str) -> Option<()>;

const MILLIS: &str = "a number of milliseconds";
const BYTES: &str = "a number of bytes";
const YES_NO: &str = "`true` or `false`";

/// Every setting by Kafka's name, what its value may be, and how it is set.
const KEYS: &[(&str, &str, Setter)] = &[
    ("group.id", "a name", |config, value| set_some(&mut config.group, value)),
    ("group.instance.id", "a name", |config, value| set_some(&mut config.instance_id, value)),
    ("partition.assignment.strategy", "names of assignors, separated by commas", |config, value| {
        config.assignors = value.split(',').map(|name| name.parse().ok()).collect::<Option<_>>()?;
        Some(())
    }),
    ("auto.offset.reset", "`earliest`, `latest`, `none` or `by_duration:PnDTnHnMn.nS`", |config, value| {
        config.auto_offset_reset = offset_reset(value)?;
        Some(())
    }),
    ("isolation.level", "`read_committed` or `read_uncommitted`", |config, value| {
        config.isolation = match value {
            "read_committed" => Isolation::ReadCommitted,
            "read_uncommitted" => Isolation::ReadUncommitted,
            _ => return None,
        };
        Some(())
    }),
    ("session.timeout.ms", MILLIS, |config, value| millis(&mut config.session_timeout, value)),
    ("heartbeat.interval.ms", MILLIS, |config, value| millis(&mut config.heartbeat_interval, value)),
    ("max.poll.interval.ms", MILLIS, |config, value| millis(&mut config.max_poll_interval, value)),
    ("fetch.min.bytes", BYTES, |config, value| parse(&mut config.fetch_min_bytes, value)),
    ("fetch.max.wait.ms", MILLIS, |config, value| millis(&mut config.fetch_max_wait, value)),
    ("fetch.max.bytes", BYTES, |config, value| parse(&mut config.fetch_max_bytes, value)),
    ("max.partition.fetch.bytes", BYTES, |config, value| parse(&mut config.max_partition_fetch_bytes, value)),
    ("check.crcs", YES_NO, |config, value| parse(&mut config.check_crcs, value)),
    ("client.rack", "a name", |config, value| set_some(&mut config.rack, value)),
];

fn set_some(field: &mut Option<String>, value: &str) -> Option<()> {
    *field = (!value.is_empty()).then(|| value.to_owned());
    Some(())
}

fn parse<T: FromStr>(field: &mut T, value: &str) -> Option<()> {
    *field = value.parse().ok()?;
    Some(())
}

fn millis(field: &mut Duration, value: &str) -> Option<()> {
    *field = Duration::from_millis(value.parse().ok()?);
    Some(())
}

fn offset_reset(value: &str) -> Option<OffsetReset> {
    Some(match value {
        "earliest" => OffsetReset::Earliest,
        "latest" => OffsetReset::Latest,
        "none" => OffsetReset::None,
        _ => OffsetReset::ByDuration(iso_duration(value.strip_prefix("by_duration:")?)?),
    })
}

/// ISO 8601 as Java's `Duration.parse` takes it, without signs: `P2DT3H4M5.6S`, in either case, fractions of seconds only.
fn iso_duration(text: &str) -> Option<Duration> {
    let text = text.to_ascii_uppercase();
    let rest = text.strip_prefix('P')?;
    let (days, time) = rest.split_once('T').unwrap_or((rest, ""));
    if days.is_empty() && time.is_empty() || rest.ends_with('T') {
        return None;
    }
    let mut total = Duration::ZERO;
    let mut number = String::new();
    for (part, units) in [(days, &[('D', 86_400)][..]), (time, &[('H', 3600), ('M', 60), ('S', 1)][..])] {
        let mut left = units;
        for letter in part.chars() {
            if letter.is_ascii_digit() || letter == '.' {
                number.push(letter);
                continue;
            }
            let at = left.iter().position(|(unit, _)| *unit == letter)?;
            let (whole, fraction) = match number.split_once('.') {
                Some(parted) if letter == 'S' => parted,
                Some(_) => return None,
                None => (&*number, ""),
            };
            let seconds = whole.parse::<u64>().ok()?.checked_mul(left[at].1)?;
            // Nanoseconds are the least that there is; the digits are few enough for them to be exact.
            let nanos = if fraction.len() <= 9 { format!("{fraction:0<9}").parse().ok()? } else { return None };
            total = total.checked_add(Duration::new(seconds, nanos))?;
            left = &left[at + 1..];
            number.clear();
        }
        if !number.is_empty() {
            return None;
        }
    }
    Some(total)
}

impl ConsumerConfig {
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

    /// Checks what a single setter cannot see; `prefetch` is the client's.
    pub(super) fn validate(&self, prefetch: usize) -> Result<(), ConfigError> {
        let contradiction = |text: &str| Err(ConfigError::Contradiction(text.to_owned()));
        if self.assignors.is_empty() {
            return contradiction("`partition.assignment.strategy` must name at least one assignor");
        }
        if self.heartbeat_interval >= self.session_timeout {
            return contradiction("`heartbeat.interval.ms` must be below `session.timeout.ms`");
        }
        if self.instance_id.is_some() && self.group.is_none() {
            return contradiction("`group.instance.id` needs a `group.id`");
        }
        if self.commit_on_drop && self.group.is_none() {
            return contradiction("commit_on_drop needs a `group.id`");
        }
        if self.fetch_min_bytes < 0 || self.max_partition_fetch_bytes == 0 || self.fetch_max_bytes == 0 {
            return contradiction("`fetch.max.bytes` and `max.partition.fetch.bytes` must be more than 0");
        }
        if prefetch < self.max_partition_fetch_bytes {
            return contradiction("the client's prefetch must not be below `max.partition.fetch.bytes`");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafka_names_set_typed_fields_and_unknown_ones_are_refused() {
        let mut config = ConsumerConfig::default();
        for (key, value) in [
            ("group.id", "g"),
            ("partition.assignment.strategy", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor,range"),
            ("auto.offset.reset", "by_duration:P1DT2H3M4.5S"),
            ("session.timeout.ms", "6000"),
        ] {
            config.set(key, value).unwrap();
        }
        assert_eq!(config.assignors, vec![Assignor::CooperativeSticky, Assignor::Range]);
        assert_eq!(config.auto_offset_reset, OffsetReset::ByDuration(Duration::from_millis(93_784_500)));
        config.validate(64 << 20).unwrap();
        let error = config.set("enable.auto.commit", "true").unwrap_err();
        assert!(error.to_string().contains("unknown setting `enable.auto.commit`"));
        for (text, seconds) in [("PT1H", 3600), ("pt1m", 60), ("P7D", 7 * 86_400), ("PT0S", 0)] {
            config.set("auto.offset.reset", &format!("by_duration:{text}")).unwrap();
            assert_eq!(config.auto_offset_reset, OffsetReset::ByDuration(Duration::from_secs(seconds)), "{text}");
        }
        // Exact, where a floating point number is not.
        for (text, seconds, nanos) in [
            ("PT0.000000001S", 0, 1),
            ("PT2.675S", 2, 675_000_000),
            ("P30000DT0.000000001S", 30_000 * 86_400, 1),
            ("PT9007199254740993.1S", 9_007_199_254_740_993, 100_000_000),
        ] {
            config.set("auto.offset.reset", &format!("by_duration:{text}")).unwrap();
            assert_eq!(config.auto_offset_reset, OffsetReset::ByDuration(Duration::new(seconds, nanos)), "{text}");
        }
        for wrong in [
            "PT",
            "P",
            "1h",
            "PT-1S",
            "-PT1S",
            "P1.5D",
            "PT1.5H",
            "PT1S1M",
            "P1H",
            "",
            "PT1e3S",
            "PT.5S",
            "PT1.1.1S",
            "PT0.1234567891S",
            "P99999999999999999999D",
            "P300000000000000D",
        ] {
            assert!(config.set("auto.offset.reset", &format!("by_duration:{wrong}")).is_err(), "{wrong}");
        }
        assert!(config.set("auto.offset.reset", "smallest").is_err());
    }

    #[test]
    fn contradictions_are_refused() {
        let config = ConsumerConfig { instance_id: Some("i".to_owned()), ..ConsumerConfig::default() };
        assert!(config.validate(64 << 20).is_err());
        let config = ConsumerConfig { heartbeat_interval: Duration::from_secs(45), ..ConsumerConfig::default() };
        assert!(config.validate(64 << 20).is_err());
        let config = ConsumerConfig::default();
        assert!(config.validate(config.max_partition_fetch_bytes).is_ok());
        assert!(config.validate(config.max_partition_fetch_bytes - 1).is_err());
    }
}
