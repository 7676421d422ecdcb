//! Making a broker.

use std::{collections::BTreeMap, sync::Arc};

use milena_protocol::{ApiKey, VersionRange};

use crate::{
    broker::Broker,
    clock::Clock,
    cluster::{
        Cluster, NewTopic,
        config::{self, BROKER_KEYS, BrokerConfig},
    },
    core::Core,
};

/// The most nodes one broker may have.
const MAX_NODES: u16 = 100;

/// Settings of a broker to be.
#[derive(Debug, Clone)]
pub struct BrokerBuilder {
    nodes: u16,
    seed: Option<u64>,
    wall_clock_ms: Option<i64>,
    topics: Vec<NewTopic>,
    configs: BTreeMap<String, String>,
    version_limits: BTreeMap<i16, VersionRange>,
    racks: Vec<String>,
}

/// Why a broker can't be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The number of nodes is out of range.
    #[error("{0} nodes: use 1 to {MAX_NODES}")]
    Nodes(u16),
    /// A broker config is unknown or its value is illegal.
    #[error("config {name}: {reason}")]
    Config {
        /// The config's name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A topic can't be created.
    #[error("topic {name}: {reason}")]
    Topic {
        /// The topic's name.
        name: String,
        /// Why not.
        reason: String,
    },
}

impl Default for BrokerBuilder {
    fn default() -> Self {
        Self {
            nodes: 1,
            seed: None,
            wall_clock_ms: None,
            topics: Vec::new(),
            configs: BTreeMap::new(),
            version_limits: BTreeMap::new(),
            racks: Vec::new(),
        }
    }
}

impl BrokerBuilder {
    /// How many nodes, with ids from 0. Default: 1.
    #[must_use]
    pub fn nodes(mut self, nodes: u16) -> Self {
        self.nodes = nodes;
        self
    }

    /// Adds a topic, replicated on up to three nodes.
    #[must_use]
    pub fn topic(mut self, name: impl Into<String>, partitions: i32) -> Self {
        let name = name.into().into();
        self.topics.push(NewTopic { name, partitions, replication_factor: 0, ..Default::default() });
        self
    }

    /// Whether a topic is created when a client first asks for it (`auto.create.topics.enable`). Default: yes, as Kafka.
    #[must_use]
    pub fn auto_create(self, auto_create: bool) -> Self {
        self.config("auto.create.topics.enable", auto_create.to_string())
    }

    /// Sets a broker config by Kafka's name for it, e.g. `message.max.bytes` or `num.partitions`.
    #[must_use]
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.insert(name.into(), value.into());
        self
    }

    /// Fixes all random choices: cluster id, topic ids, session ids. Default: another seed each time.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Fixes the wall clock at the start, in milliseconds since 1970. From there on it follows tokio's clock, which may
    /// be paused. Default: the system's time.
    #[must_use]
    pub fn wall_clock(mut self, start_ms: i64) -> Self {
        self.wall_clock_ms = Some(start_ms);
        self
    }

    /// Offers only these versions of an API, as an older broker would; none at all if the range is empty.
    #[must_use]
    pub fn versions(mut self, api: ApiKey, min: i16, max: i16) -> Self {
        self.version_limits.insert(api.into(), VersionRange::new(min, max));
        self
    }

    /// The racks of the nodes (`broker.rack`), in their order; nodes beyond have none. Clients that name their rack read from
    /// a replica in it where `replica.selector.class` is Kafka's `RackAwareReplicaSelector` (KIP-392).
    #[must_use]
    pub fn racks<T: Into<String>>(mut self, racks: impl IntoIterator<Item = T>) -> Self {
        self.racks = racks.into_iter().map(Into::into).collect();
        self
    }

    /// Builds and starts the broker.
    ///
    /// # Errors
    /// [`BuildError`] names the setting that is wrong.
    pub fn try_build(self) -> Result<Broker, BuildError> {
        if !(1..=MAX_NODES).contains(&self.nodes) {
            return Err(BuildError::Nodes(self.nodes));
        }
        for (name, value) in &self.configs {
            let checked = match config::find(BROKER_KEYS, name) {
                Some(key) => config::validate(key, value),
                None => Err("unknown broker config".to_owned()),
            };
            checked.map_err(|reason| BuildError::Config { name: name.clone(), reason })?;
        }
        let seed = self.seed.unwrap_or_else(|| fastrand::u64(..));
        let nodes = i32::from(self.nodes);
        let cluster = Cluster::new(nodes, BrokerConfig::new(self.configs), seed).with_racks(self.racks);
        for topic in self.topics {
            let new = NewTopic { replication_factor: nodes.min(3) as i16, ..topic };
            cluster
                .create_topic(&new, false)
                .map_err(|refusal| BuildError::Topic { name: new.name.to_string(), reason: refusal.message })?;
        }
        let clock = Clock::new(self.wall_clock_ms);
        Ok(Broker::new(Arc::new(Core::new(cluster, clock, self.version_limits))))
    }

    /// Builds and starts the broker.
    ///
    /// # Panics
    /// If a setting is wrong; where settings come from outside use [`BrokerBuilder::try_build`].
    #[must_use]
    pub fn build(self) -> Broker {
        self.try_build().expect("the settings of a broker are written down in the program")
    }
}
