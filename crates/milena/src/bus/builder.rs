//! Opening a bus: where, as whom, and how events lie on the wire. Everything is checked before anything is sent.

use std::env;
use std::fmt;

use milena_client::Client;
use milena_client::producer::{Producer, ProducerConfig};

use super::close::Closing;
use super::dead_letters::DeadLetters;
use super::error::OpenError;
use super::registry::Registry;
use super::topics::Topics;
use super::{Bus, BusSettings, Inner};
use crate::envelope::{EventIds, WireShape};
use crate::topic::TopicStrategy;

/// The environment variable that names the cluster.
const BOOTSTRAP_VARIABLE: &str = "KAFKA_BOOTSTRAP_SERVERS";
/// The environment variable that names the group of subscriptions that name none.
const GROUP_VARIABLE: &str = "MILENA_GROUP";

/// Settings of the producer that the bus's promises rest on.
const RESERVED: [&str; 3] = ["acks", "enable.idempotence", "partitioner"];

/// Everything that can be said about a bus before it is opened.
#[derive(Default)]
#[must_use = "a bus is opened by `open`"]
pub struct BusBuilder {
    place: Place,
    group: Option<String>,
    source: Option<String>,
    client_id: Option<String>,
    shape: WireShape,
    strategy: TopicStrategy,
    seed: Option<u64>,
    properties: Vec<(String, String)>,
    producer: Vec<(String, String)>,
}

#[derive(Default)]
enum Place {
    #[default]
    Unknown,
    Kafka(String),
    #[cfg(feature = "embedded")]
    Embedded(milena_broker::Broker),
}

impl BusBuilder {
    /// On a Kafka cluster: `host:port`, several separated by commas.
    pub fn kafka(mut self, bootstrap_servers: impl Into<String>) -> Self {
        self.place = Place::Kafka(bootstrap_servers.into());
        self
    }

    /// On an embedded broker. Several buses may share one, as services share a cluster.
    #[cfg(feature = "embedded")]
    pub fn embedded(mut self, broker: milena_broker::Broker) -> Self {
        self.place = Place::Embedded(broker);
        self
    }

    /// On the cluster that `KAFKA_BOOTSTRAP_SERVERS` names, with the group of `MILENA_GROUP`, if set.
    ///
    /// # Errors
    /// [`OpenError::NoBootstrapServers`] when the first is not set.
    pub fn env(self) -> Result<Self, OpenError> {
        self.variables(|name| env::var(name).ok())
    }

    /// The same from any source of variables.
    fn variables(self, variable: impl Fn(&str) -> Option<String>) -> Result<Self, OpenError> {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let servers = set(BOOTSTRAP_VARIABLE).ok_or(OpenError::NoBootstrapServers)?;
        let group = self.group.clone().or_else(|| set(GROUP_VARIABLE));
        Ok(Self { place: Place::Kafka(servers), group, ..self })
    }

    /// The group of subscriptions that name none.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Who publishes: the `source` of every envelope made by this bus. Default: `/milena`.
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The name in the brokers' logs and quotas. Default: `milena`.
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = Some(client_id.into());
        self
    }

    /// How published events lie on the wire. Both shapes are always read.
    pub fn wire_shape(mut self, shape: WireShape) -> Self {
        self.shape = shape;
        self
    }

    /// What to do about topics that are missing. Default: create them as declared.
    pub fn topic_strategy(mut self, strategy: TopicStrategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Makes ids, waits and choices repeatable, for tests and simulation.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// A setting of the client, by Kafka's name. An unknown one is an error when the bus is opened.
    pub fn set(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.push((key.into(), value.into()));
        self
    }

    /// A setting of the producer of events, by Kafka's name, such as `linger.ms` or `max.request.size`. An unknown one is
    /// an error when the bus is opened, and so is one that would break what the bus promises: `acks`,
    /// `enable.idempotence`, `partitioner`.
    ///
    /// Dead letters are written with the same settings, and room for their headers beyond `max.request.size`.
    pub fn set_producer(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.producer.push((key.into(), value.into()));
        self
    }

    /// Opens the bus.
    ///
    /// # Errors
    /// [`OpenError`]: a wrong setting, or nobody who answers at the address, within a time limit.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened.
    pub async fn open(self) -> Result<Bus, OpenError> {
        if self.group.as_deref().is_some_and(|group| group.trim().is_empty()) {
            return Err(OpenError::BlankGroup);
        }
        let source = self.source.unwrap_or_else(|| "/milena".to_owned());
        if source.trim().is_empty() {
            return Err(OpenError::BlankSource);
        }
        let mut client = Client::builder();
        #[cfg(feature = "embedded")]
        let mut broker = None;
        client = match self.place {
            Place::Unknown => return Err(OpenError::NoBootstrapServers),
            Place::Kafka(servers) => client.bootstrap(servers)?,
            #[cfg(feature = "embedded")]
            Place::Embedded(embedded) => {
                let connector = super::embedded::EmbeddedConnector::new(embedded.clone());
                let client = client.bootstrap(embedded.bootstrap())?.connector(std::sync::Arc::new(connector));
                broker = Some(embedded);
                client
            }
        };
        if let Some(client_id) = self.client_id {
            client = client.client_id(client_id);
        }
        if let Some(seed) = self.seed {
            client = client.seed(seed);
        }
        for (key, value) in &self.properties {
            client = client.set(key, value)?;
        }
        // Idempotent, acknowledged by all in-sync replicas, in order: the client's defaults are the bus's.
        let mut publishing = ProducerConfig::default();
        for (key, value) in &self.producer {
            if let Some(key) = RESERVED.iter().find(|reserved| *reserved == key) {
                return Err(OpenError::Reserved { key });
            }
            publishing.set(key, value)?;
        }
        let client = client.build().await?;
        let dead_letters = std::sync::Arc::new(DeadLetters::new(client.clone(), &publishing));
        let producer = Producer::builder(&client).config(publishing).build()?;
        let rng = self.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        let settings = BusSettings { group: self.group, source, shape: self.shape, seed: self.seed };
        Ok(Bus(std::sync::Arc::new(Inner {
            topics: Topics::new(client.clone(), self.strategy, dead_letters.max_bytes()),
            dead_letters,
            client,
            producer,
            settings,
            ids: EventIds::new(rng),
            registry: Registry::default(),
            closing: Closing::default(),
            #[cfg(feature = "embedded")]
            broker,
        })))
    }
}

impl fmt::Debug for BusBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match &self.place {
            Place::Unknown => "unknown",
            Place::Kafka(servers) => servers,
            #[cfg(feature = "embedded")]
            Place::Embedded(_) => "embedded",
        };
        f.debug_struct("BusBuilder").field("place", &place).field("group", &self.group).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_the_cluster_and_the_group() {
        let variables = |name: &str| match name {
            "KAFKA_BOOTSTRAP_SERVERS" => Some("one:9092,two:9092".to_owned()),
            "MILENA_GROUP" => Some("billing".to_owned()),
            _ => None,
        };
        let builder = Bus::builder().variables(variables).unwrap();
        assert!(matches!(&builder.place, Place::Kafka(servers) if servers == "one:9092,two:9092"));
        assert_eq!(builder.group.as_deref(), Some("billing"));
        let said = Bus::builder().group("said").variables(variables).unwrap();
        assert_eq!(said.group.as_deref(), Some("said"), "what the program says comes before the environment");
    }

    #[test]
    fn a_missing_or_blank_address_is_an_error_not_a_guess() {
        for value in [None, Some(" ".to_owned())] {
            assert!(matches!(Bus::builder().variables(|_| value.clone()), Err(OpenError::NoBootstrapServers)));
        }
    }
}
