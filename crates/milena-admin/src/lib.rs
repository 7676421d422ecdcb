//! Administration of a Kafka cluster: topics, partitions, records, configs, groups and their offsets.
//!
//! Every operation on several things returns one result per thing, in the order asked for, and fails as a whole only
//! when the cluster cannot be asked at all. What a retry can mend is retried, within the client's
//! `default.api.timeout.ms`. A creation or deletion whose first answer was lost is sent again, so it may report that
//! the thing already exists, or no longer does, although it was this call that made it so.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use milena_admin::{Admin, NewTopic};
//!
//! let client = milena_client::Client::builder().bootstrap("localhost:9092")?.build().await?;
//! let admin = Admin::new(&client);
//! admin.create_topic(NewTopic::new("orders").partitions(6).config("retention.ms", "86400000")).await?;
//! for topic in admin.list_topics().await? {
//!     println!("{} with {} partitions", topic.name, topic.partitions);
//! }
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod cluster;
mod configs;
mod groups;
mod offsets;
mod partitioned;
mod topics;

use std::time::Duration;

use milena_client::Client;
use milena_client::raw::RawClient;

pub use cluster::{ClusterDescription, NodeDescription};
pub use configs::{ConfigChange, ConfigEntry, ConfigResource, ConfigSource};
pub use groups::{GroupDescription, GroupListing, GroupMember};
#[doc(no_inline)]
pub use milena_client::{ErrorClass, RequestError, TopicPartition};
pub use offsets::{GroupOffset, ListedOffset, OffsetSpec};
pub use topics::{CreatedTopic, NewTopic, PartitionDescription, TopicDescription, TopicListing};

/// Administers the cluster of a client.
#[derive(Debug, Clone)]
pub struct Admin {
    client: Client,
    raw: RawClient,
}

impl Admin {
    /// Uses `client`'s connections and settings.
    pub fn new(client: &Client) -> Self {
        Self { client: client.clone(), raw: client.raw() }
    }

    /// With another limit for each operation than the client's `default.api.timeout.ms`.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.raw = self.raw.with_timeout(timeout);
        self
    }

    /// How long a broker may take over an operation, as the requests carry it.
    fn timeout_ms(&self) -> i32 {
        let limit = self.client.config().request_timeout.min(self.raw.timeout());
        i32::try_from(limit.as_millis()).unwrap_or(i32::MAX)
    }
}
