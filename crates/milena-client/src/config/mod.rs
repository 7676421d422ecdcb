//! The client's own settings, typed, with Kafka's names and defaults. Producer and consumer have theirs beside them.

pub(crate) mod nearest;

use std::time::Duration;

use milena_net::{AddressError, BrokerAddress};

/// Settings of a [`Client`](crate::Client).
///
/// Fields may be set directly, or by Kafka's names with [`Self::set`]. What does not fit together is refused when the
/// client is built.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ClientConfig {
    /// `bootstrap.servers`: where to find the cluster, as `host:port`, several separated by commas. Required.
    pub bootstrap_servers: String,
    /// `client.id`: the name in the broker's logs and quotas. Default `milena`.
    pub client_id: String,
    /// `request.timeout.ms`: how long one request may take before its connection is given up. Default 30 s.
    pub request_timeout: Duration,
    /// `default.api.timeout.ms`: how long an operation may take with all its retries, and how long a consumer waits for a
    /// broker, a leader or its coordinator before it says so. Default 60 s.
    pub api_timeout: Duration,
    /// How long building a client may look for a first broker that answers. Default 10 s.
    pub bootstrap_timeout: Duration,
    /// How long brokers may go on saying that a topic does not exist before that is believed; one that has just been
    /// created is not known to all of them at once. Default 5 s.
    pub unknown_topic_timeout: Duration,
    /// `socket.connection.setup.timeout.ms`: how long one address may take to accept a connection. Default 10 s.
    pub connection_setup_timeout: Duration,
    /// `socket.connection.setup.timeout.max.ms`: how long all addresses of a broker and the handshake may take.
    /// Default 30 s.
    pub connection_setup_timeout_max: Duration,
    /// `connections.max.idle.ms`: idle time after which a connection is closed. Default 540 s, below the broker's own
    /// 600 s.
    pub connections_max_idle: Duration,
    /// `max.in.flight.requests.per.connection`: for produce requests, 1 to 5. Default 5.
    pub max_in_flight: usize,
    /// `reconnect.backoff.ms`: wait after a failed connection attempt, and between two to a broker that hung up soon after
    /// the first. Doubled each time. Default 50 ms.
    pub reconnect_backoff: Duration,
    /// `reconnect.backoff.max.ms`: the longest such wait. Default 1 s.
    pub reconnect_backoff_max: Duration,
    /// `retry.backoff.ms`: wait before a failed request is sent again. Default 100 ms.
    pub retry_backoff: Duration,
    /// `retry.backoff.max.ms`: the longest such wait. Default 1 s.
    pub retry_backoff_max: Duration,
    /// `metadata.max.age.ms`: age at which metadata is refreshed though nothing went wrong. Default 5 min.
    pub metadata_max_age: Duration,
    /// `metadata.max.idle.ms`: time after which an unused topic's metadata is forgotten. Default 5 min.
    pub metadata_max_idle: Duration,
    /// `metadata.recovery.rebootstrap.trigger.ms`: time without metadata after which the bootstrap servers are asked
    /// again. Default 5 min.
    pub rebootstrap_trigger: Duration,
    /// `allow.auto.create.topics`: whether using a topic may create it. Default false: a typo stays an error.
    pub allow_auto_create_topics: bool,
    /// The longest answer that is accepted from a broker, in bytes. Default 100 MiB.
    pub max_response_size: usize,
    /// Bytes that all consumers of the client together fetch ahead, or hold in record sets not yet dropped. Each broker
    /// that a consumer reads from has an equal share. Default 64 MiB.
    pub prefetch: usize,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            bootstrap_servers: String::new(),
            client_id: "milena".to_owned(),
            request_timeout: Duration::from_secs(30),
            api_timeout: Duration::from_secs(60),
            bootstrap_timeout: Duration::from_secs(10),
            unknown_topic_timeout: Duration::from_secs(5),
            connection_setup_timeout: Duration::from_secs(10),
            connection_setup_timeout_max: Duration::from_secs(30),
            connections_max_idle: Duration::from_secs(540),
            max_in_flight: 5,
            reconnect_backoff: Duration::from_millis(50),
            reconnect_backoff_max: Duration::from_secs(1),
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(1),
            metadata_max_age: Duration::from_secs(300),
            metadata_max_idle: Duration::from_secs(300),
            rebootstrap_trigger: Duration::from_secs(300),
            allow_auto_create_topics: false,
            max_response_size: 100 * 1024 * 1024,
            prefetch: 64 << 20,
        }
    }
}

/// What is wrong with a setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no such setting.
    #[error("unknown setting `{key}`{}", nearest.map(|near| format!(": did you mean `{near}`?")).unwrap_or_default())]
    UnknownKey {
        /// As given.
        key: String,
        /// The setting that was probably meant.
        nearest: Option<&'static str>,
    },
    /// The value cannot be read.
    #[error("`{key}` cannot be `{value}`: give {expected}")]
    InvalidValue {
        /// The setting.
        key: &'static str,
        /// As given.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// Two settings contradict each other, or one is outside its range.
    #[error("{0}")]
    Contradiction(String),
    /// `bootstrap.servers` is missing or holds something that is no address.
    #[error("`bootstrap.servers` is wrong: {0}")]
    BootstrapServers(String),
}

type Setter = fn(&mut ClientConfig, &str) -> Option<()>;

/// Every setting by Kafka's name, what its value may be, and how it is set.
const KEYS: &[(&str, &str, Setter)] = &[
    ("bootstrap.servers", "host:port, several separated by commas", |config, value| {
        config.bootstrap_servers = value.to_owned();
        Some(())
    }),
    ("client.id", "a name", |config, value| {
        config.client_id = value.to_owned();
        Some(())
    }),
    ("request.timeout.ms", MILLIS, |config, value| millis(&mut config.request_timeout, value)),
    ("default.api.timeout.ms", MILLIS, |config, value| millis(&mut config.api_timeout, value)),
    ("socket.connection.setup.timeout.ms", MILLIS, |config, value| millis(&mut config.connection_setup_timeout, value)),
    ("socket.connection.setup.timeout.max.ms", MILLIS, |config, value| {
        millis(&mut config.connection_setup_timeout_max, value)
    }),
    ("connections.max.idle.ms", MILLIS, |config, value| millis(&mut config.connections_max_idle, value)),
    ("max.in.flight.requests.per.connection", "a number from 1 to 5", |config, value| {
        config.max_in_flight = value.parse().ok()?;
        Some(())
    }),
    ("reconnect.backoff.ms", MILLIS, |config, value| millis(&mut config.reconnect_backoff, value)),
    ("reconnect.backoff.max.ms", MILLIS, |config, value| millis(&mut config.reconnect_backoff_max, value)),
    ("retry.backoff.ms", MILLIS, |config, value| millis(&mut config.retry_backoff, value)),
    ("retry.backoff.max.ms", MILLIS, |config, value| millis(&mut config.retry_backoff_max, value)),
    ("metadata.max.age.ms", MILLIS, |config, value| millis(&mut config.metadata_max_age, value)),
    ("metadata.max.idle.ms", MILLIS, |config, value| millis(&mut config.metadata_max_idle, value)),
    ("metadata.recovery.rebootstrap.trigger.ms", MILLIS, |config, value| {
        millis(&mut config.rebootstrap_trigger, value)
    }),
    ("allow.auto.create.topics", "`true` or `false`", |config, value| {
        config.allow_auto_create_topics = value.parse().ok()?;
        Some(())
    }),
];

const MILLIS: &str = "a number of milliseconds";

fn millis(field: &mut Duration, value: &str) -> Option<()> {
    *field = Duration::from_millis(value.parse().ok()?);
    Some(())
}

impl ClientConfig {
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

    /// Checks what a single setter cannot see.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let contradiction = |text: &str| Err(ConfigError::Contradiction(text.to_owned()));
        if self.client_id.len() > 255 {
            return contradiction("`client.id` must not be longer than 255 bytes");
        }
        if !(1..=5).contains(&self.max_in_flight) {
            return contradiction("`max.in.flight.requests.per.connection` must be from 1 to 5");
        }
        if self.request_timeout.is_zero() || self.api_timeout.is_zero() {
            return contradiction("`request.timeout.ms` and `default.api.timeout.ms` must be more than 0");
        }
        if self.api_timeout < self.request_timeout {
            return contradiction("`default.api.timeout.ms` must not be below `request.timeout.ms`");
        }
        if self.connection_setup_timeout > self.connection_setup_timeout_max {
            return contradiction(
                "`socket.connection.setup.timeout.ms` must not be above `socket.connection.setup.timeout.max.ms`",
            );
        }
        if self.reconnect_backoff > self.reconnect_backoff_max {
            return contradiction("`reconnect.backoff.ms` must not be above `reconnect.backoff.max.ms`");
        }
        if self.retry_backoff > self.retry_backoff_max {
            return contradiction("`retry.backoff.ms` must not be above `retry.backoff.max.ms`");
        }
        if self.max_response_size < 1024 {
            return contradiction("the longest accepted response must be at least 1 KiB");
        }
        self.bootstrap_addresses().map(drop)
    }

    pub(crate) fn bootstrap_addresses(&self) -> Result<Vec<BrokerAddress>, ConfigError> {
        let parts = self.bootstrap_servers.split(',').map(str::trim).filter(|part| !part.is_empty());
        let addresses = parts.map(str::parse).collect::<Result<Vec<BrokerAddress>, AddressError>>();
        match addresses {
            Ok(addresses) if addresses.is_empty() => {
                Err(ConfigError::BootstrapServers("it is empty: give at least one host:port".to_owned()))
            }
            Ok(addresses) => Ok(addresses),
            Err(error) => Err(ConfigError::BootstrapServers(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafka_names_set_typed_fields() {
        let pairs = [("bootstrap.servers", "a:1, b:2"), ("request.timeout.ms", "1500"), ("client.id", "x")];
        let config = ClientConfig::from_pairs(pairs).expect("known settings");
        assert_eq!(config.bootstrap_addresses().expect("two addresses").len(), 2);
        assert_eq!((config.request_timeout, &*config.client_id), (Duration::from_millis(1_500), "x"));
        config.validate().expect("nothing contradicts");
    }

    #[test]
    fn every_name_is_known_once_and_takes_a_value() {
        for key in ClientConfig::keys() {
            let mut config = ClientConfig::default();
            let taken = ["1", "true"].iter().any(|value| config.set(key, value).is_ok());
            assert!(taken, "{key}");
            assert_eq!(ClientConfig::keys().filter(|other| *other == key).count(), 1, "{key}");
        }
    }

    #[test]
    fn unknown_names_and_bad_values_are_refused_by_name() {
        let mut config = ClientConfig::default();
        let error = config.set("bootstrap.server", "a:1").expect_err("a typo").to_string();
        assert_eq!(error, "unknown setting `bootstrap.server`: did you mean `bootstrap.servers`?");
        let error = config.set("request.timeout.ms", "30s").expect_err("not a number").to_string();
        assert_eq!(error, "`request.timeout.ms` cannot be `30s`: give a number of milliseconds");
        assert!(config.set("allow.auto.create.topics", "yes").is_err());
    }

    #[test]
    fn contradictions_are_named_when_the_client_is_built() {
        for (key, value, wanted) in [
            ("default.api.timeout.ms", "10", "must not be below `request.timeout.ms`"),
            ("max.in.flight.requests.per.connection", "6", "from 1 to 5"),
            ("retry.backoff.ms", "2000", "must not be above `retry.backoff.max.ms`"),
            ("bootstrap.servers", "localhost", "has no port"),
            ("bootstrap.servers", " , ", "is empty"),
        ] {
            let mut config = ClientConfig { bootstrap_servers: "a:1".to_owned(), ..ClientConfig::default() };
            config.set(key, value).expect("readable");
            let error = config.validate().expect_err(key).to_string();
            assert!(error.contains(wanted), "{key}={value}: {error}");
        }
    }
}
