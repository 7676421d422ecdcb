//! The client: what producers, consumers and administration share.
//!
//! Two types: [`Client`] is what users hold, and closing follows from dropping the last one; [`ClientInner`] is what
//! tasks hold. A task that held a `Client` would keep it from ever closing.

mod builder;
mod chance;
mod close;
pub(crate) mod cluster;
pub(crate) mod coordinators;
pub(crate) mod metadata;
mod routing;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use milena_core::retry::Backoff;
use milena_net::{Pool, TaskSet};

pub use self::builder::ClientBuilder;
pub(crate) use self::chance::Chance;
pub use self::close::CloseReport;
pub use self::cluster::{Cluster, Node, Partition, Topic};
use self::coordinators::Coordinators;
use self::metadata::MetadataKeeper;
use crate::clock::TimeSource;
use crate::config::ClientConfig;
use crate::consumer::Prefetch;
use crate::error::RequestError;
use crate::raw::RawClient;
use crate::runtime::NetworkRuntime;
use crate::stall::Stakes;

/// A connection to a Kafka cluster: metadata, connections, coordinators. Clones share it; producers and consumers are
/// built on one.
///
/// When the last clone and the last producer or consumer on it are gone, what is left is closed in the background,
/// within five seconds. [`Self::close`] does the same and says how it went.
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

struct Handle {
    inner: Arc<ClientInner>,
}

/// What the parts of a client share. For its own tasks and those of producers and consumers, which all run in `tasks`.
///
/// - Read `metadata.snapshot()` for one decision; wait on `metadata.changes()` for the next.
/// - A broker that says its metadata is stale, or that cannot be reached: `metadata.request_refresh()`, each time.
/// - A coordinator that says it is none, or that cannot be reached: `coordinators.invalidate(..)` with its node id.
/// - Time is `clock`, chance is `chance`; nothing else is. Timers are tokio's.
/// - Versions are those of the connection at hand: `connection.versions().highest(..)`.
/// - Every task is spawned by `tasks.spawn(name, ..)` and holds this, never a [`Client`].
#[derive(Debug)]
pub(crate) struct ClientInner {
    pub(crate) config: ClientConfig,
    pub(crate) clock: TimeSource,
    pub(crate) chance: Chance,
    pub(crate) tasks: TaskSet,
    pub(crate) pool: Pool,
    pub(crate) metadata: Arc<MetadataKeeper>,
    pub(crate) coordinators: Coordinators,
    pub(crate) stakes: Stakes,
    pub(crate) prefetch: Prefetch,
    // Last: the tasks end before the thread that runs them.
    runtime: NetworkRuntime,
}

impl Client {
    /// Starts to describe a client.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = milena_client::Client::builder().bootstrap("localhost:9092")?.build().await?;
    /// println!("{} brokers", client.metadata().nodes.len());
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> ClientBuilder {
        ClientBuilder::new()
    }

    /// The cluster as it was seen last: its brokers, and the topics in use.
    pub fn metadata(&self) -> Cluster {
        Cluster::read(&self.inner().metadata.snapshot())
    }

    /// Asks the cluster for its metadata anew, and returns it.
    ///
    /// # Errors
    /// [`RequestError`] when no broker gives any within `default.api.timeout.ms`.
    ///
    /// # Cancel safety
    /// The refresh goes on.
    pub async fn refresh_metadata(&self) -> Result<Cluster, RequestError> {
        self.inner().metadata.refresh(self.inner().config.api_timeout).await?;
        Ok(self.metadata())
    }

    /// The partitions of a topic, by rising index.
    ///
    /// # Errors
    /// [`RequestError::InvalidTopicName`] or [`RequestError::UnknownTopic`], or what keeps the client from finding out
    /// within `default.api.timeout.ms`.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn partitions(&self, topic: &str) -> Result<Vec<Partition>, RequestError> {
        let topic = self.inner().metadata.topic(topic, self.inner().config.api_timeout).await?;
        Ok(Topic::read(&topic).partitions)
    }

    /// Requests of Kafka's protocol as they are. Exempt from semantic versioning.
    #[doc(hidden)]
    pub fn raw(&self) -> RawClient {
        RawClient::new(self.clone())
    }

    /// The settings it was built with.
    pub fn config(&self) -> &ClientConfig {
        &self.inner().config
    }

    /// Where it gets its time from.
    pub fn time(&self) -> &TimeSource {
        &self.inner().clock
    }

    /// Number of tasks that run for this client, its producers and its consumers.
    pub fn task_count(&self) -> usize {
        self.inner().tasks.len()
    }

    /// Closes the client: nothing new may start, requests in flight may end, then connections are closed and every
    /// task is awaited. At the deadline what is left is ended. Close producers and consumers first: what they still
    /// hold is not sent.
    ///
    /// # Cancel safety
    /// Dropped half-way, the client refuses everything but may leave tasks until its last handle is dropped.
    pub async fn close(&self, deadline: Duration) -> CloseReport {
        close::close(self.inner(), deadline).await
    }

    pub(crate) fn inner(&self) -> &Arc<ClientInner> {
        &self.handle.inner
    }
}

impl ClientInner {
    /// The wait between attempts of one operation.
    pub(crate) fn retry_backoff(&self) -> Backoff {
        Backoff::new(self.config.retry_backoff, self.config.retry_backoff_max)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("bootstrap_servers", &self.config().bootstrap_servers).finish_non_exhaustive()
    }
}
