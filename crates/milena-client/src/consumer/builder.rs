//! Puts a consumer together.

use std::time::Duration;

use milena_core::consumer::positions::OffsetReset;
use milena_core::group::assignor::Assignor;
use std::sync::Arc;
use tokio::sync::mpsc;

use super::config::{ConsumerConfig, Isolation};
use super::driver::Driver;
use super::shared::Shared;
use super::{Consumer, Handle};
use crate::client::Client;
use crate::config::ConfigError;
use crate::error::{ClientError, RequestError};

/// Commits and closings that may wait for the driver; more wait with their callers.
const COMMANDS: usize = 64;

/// Describes a [`Consumer`].
#[derive(Debug)]
pub struct ConsumerBuilder {
    client: Client,
    config: ConsumerConfig,
}

impl ConsumerBuilder {
    pub(super) fn new(client: Client) -> Self {
        Self { client, config: ConsumerConfig::default() }
    }

    /// All settings at once, in place of those made so far.
    #[must_use]
    pub fn config(mut self, config: ConsumerConfig) -> Self {
        self.config = config;
        self
    }

    /// One setting by Kafka's name, such as `session.timeout.ms`.
    ///
    /// # Errors
    /// [`ConfigError`] when there is no such setting or the value cannot be read.
    pub fn set(mut self, key: &str, value: &str) -> Result<Self, ConfigError> {
        self.config.set(key, value)?;
        Ok(self)
    }

    /// `group.id`
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.config.group = Some(group.into());
        self
    }

    /// `group.instance.id`: a static member.
    #[must_use]
    pub fn instance_id(mut self, instance_id: impl Into<String>) -> Self {
        self.config.instance_id = Some(instance_id.into());
        self
    }

    /// `partition.assignment.strategy`, best first.
    #[must_use]
    pub fn assignors(mut self, assignors: impl IntoIterator<Item = Assignor>) -> Self {
        self.config.assignors = assignors.into_iter().collect();
        self
    }

    /// `auto.offset.reset`
    #[must_use]
    pub fn auto_offset_reset(mut self, reset: OffsetReset) -> Self {
        self.config.auto_offset_reset = reset;
        self
    }

    /// `isolation.level`
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.config.isolation = isolation;
        self
    }

    /// `session.timeout.ms`
    #[must_use]
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.config.session_timeout = timeout;
        self
    }

    /// `heartbeat.interval.ms`
    #[must_use]
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.config.heartbeat_interval = interval;
        self
    }

    /// `max.poll.interval.ms`
    #[must_use]
    pub fn max_poll_interval(mut self, interval: Duration) -> Self {
        self.config.max_poll_interval = interval;
        self
    }

    /// `fetch.max.wait.ms`
    #[must_use]
    pub fn fetch_max_wait(mut self, wait: Duration) -> Self {
        self.config.fetch_max_wait = wait;
        self
    }

    /// `max.partition.fetch.bytes`
    #[must_use]
    pub fn max_partition_fetch_bytes(mut self, bytes: usize) -> Self {
        self.config.max_partition_fetch_bytes = bytes;
        self
    }

    /// `client.rack`
    #[must_use]
    pub fn rack(mut self, rack: impl Into<String>) -> Self {
        self.config.rack = Some(rack.into());
        self
    }

    /// Commits, by itself, what lies before the first record set that was not yet dropped.
    #[must_use]
    pub fn commit_on_drop(mut self, yes: bool) -> Self {
        self.config.commit_on_drop = yes;
        self
    }

    /// Builds the consumer; it does nothing before it is assigned or subscribed.
    ///
    /// # Errors
    /// [`ClientError::Config`] when settings contradict each other; [`ClientError::Runtime`] when the client is closed.
    pub fn build(self) -> Result<Consumer, ClientError> {
        let client = self.client;
        self.config.validate(client.config().prefetch)?;
        let shared = Shared::new(Arc::clone(client.inner()), self.config);
        let (commands, to_do) = mpsc::channel(COMMANDS);
        let driver = Driver::new(Arc::clone(&shared), to_do);
        let spawned = client.inner().tasks.spawn("consumer", driver.run());
        spawned.map_err(|_| ClientError::Runtime(Arc::new(RequestError::Closed)))?;
        Ok(Consumer { handle: Arc::new(Handle { shared, commands, client }) })
    }
}
