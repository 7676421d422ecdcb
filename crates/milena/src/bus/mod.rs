//! The bus: one client and one producer, shared by all that is published and subscribed through it.
//!
//! Publishing is in `publish`, opening in `builder`, closing in `close`, what must exist in the cluster in `topics`. Nothing here reads a
//! record: that is a subscription's.

mod builder;
mod close;
mod dead_letters;
#[cfg(feature = "embedded")]
mod embedded;
mod error;
mod publish;
pub(crate) mod registry;
mod topics;

pub use builder::BusBuilder;
pub use error::{OpenError, PublishError, StartError, SubscribeError, TopicError};
pub use publish::Receipt;

use std::fmt;
use std::sync::Arc;

use milena_client::Client;
use milena_client::producer::Producer;

use crate::envelope::{EventIds, WireShape};
use crate::handler::{FromDelivery, IntoOutcome};
use crate::policy::FailurePolicy;
use crate::subscription::Subscribe;
use close::Closing;
use dead_letters::DeadLetters;
use registry::Registry;
use topics::Topics;

/// An event bus on Kafka.
///
/// Clones share one client. When the last one is dropped without [`close`](Self::close), subscriptions that nobody holds
/// a [`Subscription`](crate::Subscription) of close by themselves in the background; the others when that is dropped.
#[derive(Clone)]
pub struct Bus(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) client: Client,
    pub(crate) producer: Producer,
    pub(crate) dead_letters: Arc<DeadLetters>,
    pub(crate) topics: Topics,
    pub(crate) settings: BusSettings,
    ids: EventIds,
    pub(crate) registry: Registry,
    closing: Closing,
    /// Keeps the broker alive that this bus runs on, if it is embedded.
    #[cfg(feature = "embedded")]
    broker: Option<milena_broker::Broker>,
}

/// What a bus was told when it was opened.
#[derive(Debug, Clone)]
pub(crate) struct BusSettings {
    pub(crate) group: Option<String>,
    pub(crate) source: String,
    pub(crate) shape: WireShape,
    pub(crate) seed: Option<u64>,
}

impl Bus {
    /// Opens a bus on a broker of its own, inside this process. Nothing needs to be installed, and nothing outlives it.
    ///
    /// # Errors
    /// [`OpenError`], when there is no runtime to run on.
    #[cfg(feature = "embedded")]
    pub async fn embedded() -> Result<Self, OpenError> {
        Self::builder().embedded(milena_broker::Broker::builder().build()).open().await
    }

    /// Opens a bus on a Kafka cluster: `host:port`, several separated by commas.
    ///
    /// # Errors
    /// [`OpenError`], naming the address and what to try, when it is wrong or nobody answers there in time.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened.
    pub async fn kafka(bootstrap_servers: impl Into<String>) -> Result<Self, OpenError> {
        Self::builder().kafka(bootstrap_servers).open().await
    }

    /// Opens a bus on the cluster that `KAFKA_BOOTSTRAP_SERVERS` names, with the group of `MILENA_GROUP` for
    /// subscriptions that name none.
    ///
    /// # Errors
    /// [`OpenError::NoBootstrapServers`] without the first; otherwise as [`kafka`](Self::kafka).
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened.
    pub async fn from_env() -> Result<Self, OpenError> {
        Self::builder().env()?.open().await
    }

    /// Everything that can be said about a bus before it is opened.
    pub fn builder() -> BusBuilder {
        BusBuilder::default()
    }

    /// Subscribes `handler`, with `policy` for what it can't handle. Await it to begin.
    ///
    /// The handler is an async function of an [`Event`](crate::Event), a [`Delivery`](crate::Delivery) of one, or an
    /// [`Envelope`](crate::Envelope); it returns nothing or a `Result`. The group is said with
    /// [`group`](Subscribe::group) or by `MILENA_GROUP`; there is no default. Events of one aggregate are handled one
    /// at a time, in order; what is handled is committed; delivery is at least once.
    ///
    /// ```
    /// # use milena::{Bus, Event, FailurePolicy, Then};
    /// # #[derive(serde::Serialize, serde::Deserialize, Event)]
    /// # #[event(type = "orders.placed", topic = "orders", aggregate = order_id)]
    /// # struct OrderPlaced { order_id: String }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let bus = Bus::embedded().await?;
    /// let policy = FailurePolicy::attempts(3).then(Then::DeadLetter);
    /// let subscription = bus
    ///     .subscribe(policy, |order: OrderPlaced| async move { println!("{}", order.order_id) })
    ///     .group("billing")
    ///     .await?;
    /// subscription.ready().await?;
    /// # let _ = bus.close(std::time::Duration::from_secs(5)).await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn subscribe<A, F, Fut>(&self, policy: FailurePolicy, handler: F) -> Subscribe
    where
        A: FromDelivery,
        F: Fn(A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoOutcome> + Send + 'static,
    {
        Subscribe::new(self.clone(), policy).on(handler)
    }

    /// The broker that this bus runs on, if it is embedded: for other clients to join, and for tests to disturb.
    #[cfg(feature = "embedded")]
    pub fn broker(&self) -> Option<&milena_broker::Broker> {
        self.0.broker.as_ref()
    }

    /// Number of tasks that run for this bus.
    pub fn task_count(&self) -> usize {
        self.0.client.task_count() + self.0.registry.running()
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }
}

impl Inner {
    /// A random source for one part of the bus: repeatable when the bus was given a seed.
    pub(crate) fn fork_rng(&self) -> fastrand::Rng {
        self.settings.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed)
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus")
            .field("client", &self.0.client)
            .field("settings", &self.0.settings)
            .finish_non_exhaustive()
    }
}
