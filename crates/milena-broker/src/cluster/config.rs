//! Broker and topic configs: Kafka's names, types and defaults, what was set, and what the broker acts on.
//!
//! Every key of the tables is accepted and described. Acted upon are those read by [`TopicSettings`] and by the
//! callers of [`BrokerConfig::int`] and its like; retention, compaction and segment settings are accepted only.

use std::{collections::BTreeMap, sync::Arc};

use crate::lock::Shared;

/// The type of a config value, with its number in DescribeConfigs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConfigType {
    Boolean = 1,
    String = 2,
    Int = 3,
    Long = 5,
    Double = 6,
    List = 7,
}

/// One known config key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConfigKey {
    pub(crate) name: &'static str,
    pub(crate) kind: ConfigType,
    pub(crate) default: &'static str,
    /// For a topic's key: the broker's key of which it takes its default.
    pub(crate) broker_name: Option<&'static str>,
}

const fn key(name: &'static str, kind: ConfigType, default: &'static str) -> ConfigKey {
    ConfigKey { name, kind, default, broker_name: None }
}

const fn inherits(name: &'static str, kind: ConfigType, default: &'static str, broker_name: &'static str) -> ConfigKey {
    ConfigKey { name, kind, default, broker_name: Some(broker_name) }
}

use ConfigType::{Boolean, Double, Int, List, Long, String as Text};

const LONG_MAX: &str = "9223372036854775807";

/// Topic configs of Kafka 4.4, by name.
pub(crate) const TOPIC_KEYS: &[ConfigKey] = &[
    inherits("cleanup.policy", List, "delete", "log.cleanup.policy"),
    inherits("compression.gzip.level", Int, "-1", "compression.gzip.level"),
    inherits("compression.lz4.level", Int, "9", "compression.lz4.level"),
    inherits("compression.type", Text, "producer", "compression.type"),
    inherits("compression.zstd.level", Int, "3", "compression.zstd.level"),
    inherits("delete.retention.ms", Long, "86400000", "log.cleaner.delete.retention.ms"),
    key("errors.deadletterqueue.group.enable", Boolean, "false"),
    inherits("file.delete.delay.ms", Long, "60000", "log.segment.delete.delay.ms"),
    inherits("flush.messages", Long, LONG_MAX, "log.flush.interval.messages"),
    key("flush.ms", Long, LONG_MAX),
    key("follower.replication.throttled.replicas", List, ""),
    inherits("index.interval.bytes", Int, "4096", "log.index.interval.bytes"),
    key("leader.replication.throttled.replicas", List, ""),
    inherits("local.retention.bytes", Long, "-2", "log.local.retention.bytes"),
    inherits("local.retention.ms", Long, "-2", "log.local.retention.ms"),
    inherits("max.compaction.lag.ms", Long, LONG_MAX, "log.cleaner.max.compaction.lag.ms"),
    inherits("max.decompressed.message.bytes", Int, "2147483639", "max.decompressed.message.bytes"),
    inherits("max.message.bytes", Int, "1048588", "message.max.bytes"),
    inherits("message.timestamp.after.max.ms", Long, "3600000", "log.message.timestamp.after.max.ms"),
    inherits("message.timestamp.before.max.ms", Long, LONG_MAX, "log.message.timestamp.before.max.ms"),
    inherits("message.timestamp.type", Text, "CreateTime", "log.message.timestamp.type"),
    inherits("min.cleanable.dirty.ratio", Double, "0.5", "log.cleaner.min.cleanable.ratio"),
    inherits("min.compaction.lag.ms", Long, "0", "log.cleaner.min.compaction.lag.ms"),
    inherits("min.insync.replicas", Int, "1", "min.insync.replicas"),
    inherits("preallocate", Boolean, "false", "log.preallocate"),
    inherits("remote.copy.lag.bytes", Long, "-1", "log.remote.copy.lag.bytes"),
    inherits("remote.copy.lag.ms", Long, "0", "log.remote.copy.lag.ms"),
    key("remote.log.copy.disable", Boolean, "false"),
    key("remote.log.delete.on.disable", Boolean, "false"),
    key("remote.storage.enable", Boolean, "false"),
    inherits("retention.bytes", Long, "-1", "log.retention.bytes"),
    inherits("retention.ms", Long, "604800000", "log.retention.ms"),
    inherits("segment.bytes", Int, "1073741824", "log.segment.bytes"),
    inherits("segment.index.bytes", Int, "10485760", "log.index.size.max.bytes"),
    key("segment.jitter.ms", Long, "0"),
    key("segment.ms", Long, "604800000"),
    inherits("unclean.leader.election.enable", Boolean, "false", "unclean.leader.election.enable"),
];

/// Broker configs that can be set at build or altered, by name.
pub(crate) const BROKER_KEYS: &[ConfigKey] = &[
    key("auto.create.topics.enable", Boolean, "true"),
    key("compression.gzip.level", Int, "-1"),
    key("compression.lz4.level", Int, "9"),
    key("compression.type", Text, "producer"),
    key("compression.zstd.level", Int, "3"),
    key("connections.max.idle.ms", Long, "600000"),
    key("default.replication.factor", Int, "1"),
    key("delete.topic.enable", Boolean, "true"),
    key("fetch.max.bytes", Int, "57671680"),
    key("group.initial.rebalance.delay.ms", Int, "0"),
    key("group.max.session.timeout.ms", Int, "1800000"),
    key("group.max.size", Int, "2147483647"),
    key("group.min.session.timeout.ms", Int, "6000"),
    key("log.cleaner.delete.retention.ms", Long, "86400000"),
    key("log.cleaner.max.compaction.lag.ms", Long, LONG_MAX),
    key("log.cleaner.min.cleanable.ratio", Double, "0.5"),
    key("log.cleaner.min.compaction.lag.ms", Long, "0"),
    key("log.cleanup.policy", List, "delete"),
    key("log.flush.interval.messages", Long, LONG_MAX),
    key("log.index.interval.bytes", Int, "4096"),
    key("log.index.size.max.bytes", Int, "10485760"),
    key("log.local.retention.bytes", Long, "-2"),
    key("log.local.retention.ms", Long, "-2"),
    key("log.message.timestamp.after.max.ms", Long, "3600000"),
    key("log.message.timestamp.before.max.ms", Long, LONG_MAX),
    key("log.message.timestamp.type", Text, "CreateTime"),
    key("log.preallocate", Boolean, "false"),
    key("log.remote.copy.lag.bytes", Long, "-1"),
    key("log.remote.copy.lag.ms", Long, "0"),
    key("log.retention.bytes", Long, "-1"),
    key("log.retention.ms", Long, "604800000"),
    key("log.segment.bytes", Int, "1073741824"),
    key("log.segment.delete.delay.ms", Long, "60000"),
    key("max.decompressed.message.bytes", Int, "2147483639"),
    key("max.incremental.fetch.session.cache.slots", Int, "1000"),
    key("message.max.bytes", Int, "1048588"),
    key("min.insync.replicas", Int, "1"),
    key("num.partitions", Int, "1"),
    key("offset.metadata.max.bytes", Int, "4096"),
    key("offsets.topic.num.partitions", Int, "50"),
    key("replica.selector.class", Text, ""),
    key("socket.request.max.bytes", Int, "104857600"),
    key("transaction.max.timeout.ms", Int, "900000"),
    key("unclean.leader.election.enable", Boolean, "false"),
];

/// The entry for `name` in one of the tables.
pub(crate) fn find(keys: &'static [ConfigKey], name: &str) -> Option<&'static ConfigKey> {
    keys.binary_search_by(|key| key.name.cmp(name)).ok().map(|index| &keys[index])
}

/// Checks a value as Kafka's `ConfigDef` does; the message is Kafka's in substance.
pub(crate) fn validate(key: &ConfigKey, value: &str) -> Result<(), String> {
    let refuse = |why: &str| Err(format!("Invalid value {value} for configuration {}: {why}", key.name));
    let number = value.trim().parse::<i64>();
    match key.kind {
        Boolean if !value.eq_ignore_ascii_case("true") && !value.eq_ignore_ascii_case("false") => {
            return refuse("Expected value to be either true or false");
        }
        Int if value.trim().parse::<i32>().is_err() => return refuse("Not a number of type INT"),
        Long if number.is_err() => return refuse("Not a number of type LONG"),
        Double if value.trim().parse::<f64>().is_err() => return refuse("Not a number of type DOUBLE"),
        _ => {}
    }
    let allowed: &[&str] = match key.name {
        "message.timestamp.type" | "log.message.timestamp.type" => &["CreateTime", "LogAppendTime"],
        "compression.type" => &["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"],
        "cleanup.policy" | "log.cleanup.policy" => &["compact", "delete"],
        _ => &[],
    };
    let at_least: i64 = match key.name {
        "min.insync.replicas" | "num.partitions" | "default.replication.factor" => 1,
        "retention.ms" | "log.retention.ms" => -1,
        "max.message.bytes"
        | "message.max.bytes"
        | "message.timestamp.before.max.ms"
        | "message.timestamp.after.max.ms"
        | "delete.retention.ms" => 0,
        _ => i64::MIN,
    };
    let items: Vec<&str> = if key.kind == List { split_list(value) } else { vec![value] };
    if !allowed.is_empty() && !items.iter().all(|item| allowed.contains(item)) {
        return refuse(&format!("String must be one of: {}", allowed.join(", ")));
    }
    if number.is_ok_and(|number| number < at_least) {
        return refuse(&format!("Value must be at least {at_least}"));
    }
    Ok(())
}

/// The items of a list value.
pub(crate) fn split_list(value: &str) -> Vec<&str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty()).collect()
}

/// The brokers' configs, alike on all nodes.
#[derive(Debug, Default)]
pub(crate) struct BrokerConfig {
    set: Shared<BTreeMap<String, String>>,
}

impl BrokerConfig {
    pub(crate) fn new(set: BTreeMap<String, String>) -> Self {
        Self { set: Shared::new(set) }
    }

    /// What was set, by name.
    pub(crate) fn set_values(&self) -> BTreeMap<String, String> {
        self.set.read().clone()
    }

    pub(crate) fn replace(&self, set: BTreeMap<String, String>) {
        *self.set.write() = set;
    }

    /// The value in force.
    pub(crate) fn value(&self, name: &str) -> String {
        let set = self.set.read().get(name).cloned();
        set.unwrap_or_else(|| find(BROKER_KEYS, name).map_or_else(String::new, |key| key.default.to_owned()))
    }

    pub(crate) fn int(&self, name: &str) -> i32 {
        self.value(name).trim().parse().unwrap_or_default()
    }

    pub(crate) fn long(&self, name: &str) -> i64 {
        self.value(name).trim().parse().unwrap_or_default()
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.value(name).eq_ignore_ascii_case("true")
    }
}

/// What the broker acts on, of one topic's configs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TopicSettings {
    pub(crate) max_message_bytes: usize,
    pub(crate) min_insync_replicas: usize,
    pub(crate) log_append_time: bool,
    pub(crate) timestamp_before_max_ms: i64,
    pub(crate) timestamp_after_max_ms: i64,
    pub(crate) compacted: bool,
    /// Whether old records may go: retention does so, and DeleteRecords on a client's behalf.
    pub(crate) deletes: bool,
}

/// One topic's configs.
#[derive(Debug, Clone)]
pub(crate) struct TopicConfigs {
    set: BTreeMap<String, String>,
    broker: Arc<BrokerConfig>,
}

/// One config in force and where it comes from.
#[derive(Debug, Clone)]
pub(crate) struct EffectiveConfig {
    pub(crate) key: &'static ConfigKey,
    pub(crate) value: String,
    pub(crate) source: i8,
}

/// `ConfigSource` numbers of DescribeConfigs.
pub(crate) mod source {
    pub(crate) const TOPIC: i8 = 1;
    pub(crate) const STATIC_BROKER: i8 = 4;
    pub(crate) const DEFAULT: i8 = 5;
}

impl TopicConfigs {
    pub(crate) fn new(set: BTreeMap<String, String>, broker: Arc<BrokerConfig>) -> Self {
        Self { set, broker }
    }

    pub(crate) fn set_values(&self) -> &BTreeMap<String, String> {
        &self.set
    }

    pub(crate) fn replace(&mut self, set: BTreeMap<String, String>) {
        self.set = set;
    }

    /// Every topic config in force.
    pub(crate) fn effective(&self) -> Vec<EffectiveConfig> {
        TOPIC_KEYS.iter().map(|key| self.effective_of(key)).collect()
    }

    fn effective_of(&self, key: &'static ConfigKey) -> EffectiveConfig {
        if let Some(value) = self.set.get(key.name) {
            return EffectiveConfig { key, value: value.clone(), source: source::TOPIC };
        }
        let inherited = key.broker_name.and_then(|name| self.broker.set.read().get(name).cloned());
        match inherited {
            Some(value) => EffectiveConfig { key, value, source: source::STATIC_BROKER },
            None => EffectiveConfig { key, value: key.default.to_owned(), source: source::DEFAULT },
        }
    }

    pub(crate) fn settings(&self) -> TopicSettings {
        let value = |name: &str| find(TOPIC_KEYS, name).map_or_else(String::new, |key| self.effective_of(key).value);
        let number = |name: &str| value(name).trim().parse::<i64>().unwrap_or_default();
        TopicSettings {
            max_message_bytes: usize::try_from(number("max.message.bytes")).unwrap_or_default(),
            min_insync_replicas: usize::try_from(number("min.insync.replicas")).unwrap_or(1),
            log_append_time: value("message.timestamp.type") == "LogAppendTime",
            timestamp_before_max_ms: number("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: number("message.timestamp.after.max.ms"),
            compacted: split_list(&value("cleanup.policy")).contains(&"compact"),
            deletes: split_list(&value("cleanup.policy")).contains(&"delete"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_and_defaults_are_valid() {
        for keys in [TOPIC_KEYS, BROKER_KEYS] {
            assert!(keys.is_sorted_by(|a, b| a.name < b.name));
            for key in keys {
                assert_eq!(validate(key, key.default), Ok(()), "{}", key.name);
                if let Some(name) = key.broker_name {
                    assert!(find(BROKER_KEYS, name).is_some(), "{name}");
                }
            }
        }
    }

    #[test]
    fn values_are_checked_by_type_range_and_choice() {
        for (name, value) in [
            ("retention.ms", "soon"),
            ("retention.ms", "-2"),
            ("min.insync.replicas", "0"),
            ("cleanup.policy", "compact,shred"),
            ("message.timestamp.type", "createtime"),
            ("preallocate", "yes"),
        ] {
            let key = find(TOPIC_KEYS, name).expect("a known key");
            assert!(validate(key, value).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn a_topic_inherits_from_the_broker_what_it_does_not_set() {
        let broker = Arc::new(BrokerConfig::new([("message.max.bytes".to_owned(), "5000".to_owned())].into()));
        let mut configs = TopicConfigs::new(BTreeMap::new(), broker);
        assert_eq!(configs.settings().max_message_bytes, 5000);
        configs.replace([("max.message.bytes".to_owned(), "70".to_owned())].into());
        assert_eq!(configs.settings().max_message_bytes, 70);
    }
}
