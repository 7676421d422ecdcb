//! Puts a client together.

use std::sync::Arc;
use std::time::SystemTime;

use milena_core::handshake::Software;
use milena_core::metadata::MetadataConfig;
use milena_core::retry::Backoff;
use milena_net::{ConnectionConfig, Connector, Pool, PoolConfig, TaskSet, TcpConnector};

use super::chance::Chance;
use super::coordinators::Coordinators;
use super::metadata::{MetadataKeeper, MetadataKeeperConfig};
use super::{Client, ClientInner, Handle};
use crate::clock::{self, TimeSource};
use crate::config::{ClientConfig, ConfigError};
use crate::consumer::Prefetch;
use crate::error::{ClientError, RequestError};
use crate::runtime::{NetworkRuntime, RuntimeChoice};
use crate::stall::{self, Stakes};

/// Describes a [`Client`]. Only the bootstrap servers are required.
#[derive(Debug, Default)]
pub struct ClientBuilder {
    config: ClientConfig,
    connector: Option<Arc<dyn Connector>>,
    runtime: RuntimeChoice,
    clock: Option<TimeSource>,
    seed: Option<u64>,
}

impl ClientBuilder {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Where to find the cluster: `host:port`, several separated by commas.
    ///
    /// # Errors
    /// [`ConfigError::BootstrapServers`] when one of them is no address.
    pub fn bootstrap(mut self, servers: impl Into<String>) -> Result<Self, ConfigError> {
        self.config.bootstrap_servers = servers.into();
        self.config.bootstrap_addresses()?;
        Ok(self)
    }

    /// The name in the broker's logs and quotas.
    #[must_use]
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.config.client_id = client_id.into();
        self
    }

    /// All settings at once, in place of those made so far.
    #[must_use]
    pub fn config(mut self, config: ClientConfig) -> Self {
        self.config = config;
        self
    }

    /// One setting by Kafka's name, such as `request.timeout.ms`.
    ///
    /// # Errors
    /// [`ConfigError`] when there is no such setting or the value cannot be read.
    pub fn set(mut self, key: &str, value: &str) -> Result<Self, ConfigError> {
        self.config.set(key, value)?;
        Ok(self)
    }

    /// Bytes that all consumers of the client together fetch ahead, or hold in record sets not yet dropped.
    #[must_use]
    pub fn prefetch(mut self, bytes: usize) -> Self {
        self.config.prefetch = bytes;
        self
    }

    /// How streams to brokers are opened. Default: TCP.
    #[must_use]
    pub fn connector(mut self, connector: Arc<dyn Connector>) -> Self {
        self.connector = Some(connector);
        self
    }

    /// Where the client's tasks run. Default: on the runtime that builds it.
    #[must_use]
    pub fn runtime(mut self, runtime: RuntimeChoice) -> Self {
        self.runtime = runtime;
        self
    }

    /// Where the client gets its time from. Default: the system, and under a paused clock a wall clock that follows it.
    #[must_use]
    pub fn clock(mut self, clock: TimeSource) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Makes all of the client's choices repeatable.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Builds the client and waits for the first broker to answer.
    ///
    /// # Errors
    /// [`ClientError::Config`] when settings contradict each other; [`ClientError::PausedClock`] when the clock is
    /// paused but the connector is a real network; [`ClientError::Bootstrap`] when no bootstrap server answers within
    /// the bootstrap timeout, at once if what answers is no Kafka broker.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened.
    pub async fn build(self) -> Result<Client, ClientError> {
        let bootstrap_timeout = self.config.bootstrap_timeout;
        let client = self.start()?;
        match client.inner().metadata.first(bootstrap_timeout).await {
            Ok(()) => Ok(client),
            Err(source) => {
                let servers = client.config().bootstrap_servers.clone();
                Err(ClientError::Bootstrap { servers, timeout: bootstrap_timeout, source })
            }
        }
    }

    /// As [`Self::build`], without waiting for a broker: operations wait instead, each within its own limit.
    ///
    /// # Errors
    /// As [`Self::build`], but for [`ClientError::Bootstrap`].
    pub fn start(self) -> Result<Client, ClientError> {
        self.config.validate()?;
        let config = self.config;
        let bootstrap = config.bootstrap_addresses()?;
        let connector = self.connector.unwrap_or_else(|| Arc::new(TcpConnector::new(config.connection_setup_timeout)));
        let runtime = NetworkRuntime::new(&self.runtime).map_err(|source| ClientError::Runtime(Arc::new(source)))?;
        let paused = {
            // Only the runtime's own context shows its clock.
            let _context = runtime.handle().enter();
            clock::is_paused()
        };
        let clock = match self.clock {
            _ if paused && !connector.is_virtual() => return Err(ClientError::PausedClock),
            Some(clock) => clock,
            None if paused => TimeSource::virtual_from(SystemTime::now()),
            None => TimeSource::system(),
        };
        let chance = Chance::new(self.seed);
        let tasks = TaskSet::new(runtime.handle().clone());
        let pool = Pool::new(connector, pool_config(&config), tasks.clone(), chance.fork());
        let keeper = MetadataKeeperConfig {
            machine: metadata_config(&config),
            bootstrap,
            request_timeout: config.request_timeout,
            unknown_topic_timeout: config.unknown_topic_timeout,
        };
        let metadata = Arc::new(MetadataKeeper::new(keeper, clock.clone(), chance.clone(), pool.clone()));
        let keep = Arc::clone(&metadata).run();
        let stakes = Stakes::default();
        // A paused clock tells nothing of stalls.
        let spawned = if runtime.is_shared() && !paused {
            // In one task, so that the watch ends with the client.
            let watch = stall::watch(stakes.clone());
            tasks.spawn("metadata", async {
                tokio::select! { () = keep => {}, () = watch => {} }
            })
        } else {
            tasks.spawn("metadata", keep)
        };
        spawned.map_err(|_| ClientError::Runtime(Arc::new(RequestError::Closed)))?;
        let coordinators = Coordinators::default();
        let prefetch = Prefetch::new(config.prefetch);
        let inner =
            ClientInner { config, clock, chance, tasks, pool, metadata, coordinators, stakes, prefetch, runtime };
        Ok(Client { handle: Arc::new(Handle { inner: Arc::new(inner) }) })
    }
}

fn pool_config(config: &ClientConfig) -> PoolConfig {
    PoolConfig {
        connection: ConnectionConfig {
            client_id: Some((&*config.client_id).into()),
            software: Software::default(),
            max_in_flight: config.max_in_flight,
            max_idle: config.connections_max_idle,
            setup_timeout: config.connection_setup_timeout_max,
            max_frame: config.max_response_size,
        },
        reconnect_backoff: Backoff::new(config.reconnect_backoff, config.reconnect_backoff_max),
        ..PoolConfig::default()
    }
}

fn metadata_config(config: &ClientConfig) -> MetadataConfig {
    MetadataConfig {
        backoff: Backoff::new(config.retry_backoff, config.retry_backoff_max),
        max_age: config.metadata_max_age,
        max_idle: config.metadata_max_idle,
        rebootstrap_after: config.rebootstrap_trigger,
        allow_auto_create: config.allow_auto_create_topics,
        ..MetadataConfig::default()
    }
}
