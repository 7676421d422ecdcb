//! How commands reach a cluster.

use std::time::Duration;

use milena_client::producer::{Compression, Producer};
use milena_client::{Client, ConfigError, TopicPartition};

use crate::args::Codec;
use crate::failure::{Failure, Trying as _, told};

/// How long a command that is done waits for its connections to close.
const CLOSE: Duration = Duration::from_secs(5);

/// How long a connection, and the first word on it, may take: less than the ten seconds in which the first broker must
/// have answered, so that what is said when none has tells of the connection. Enough for any broker that works.
pub(crate) const PATIENCE: [(&str, &str); 2] =
    [("socket.connection.setup.timeout.ms", "4000"), ("socket.connection.setup.timeout.max.ms", "8000")];

pub(crate) async fn client(bootstrap: &str) -> Result<Client, Failure> {
    let wrong = |error: ConfigError| Failure::Usage(error.to_string());
    let mut builder = Client::builder().bootstrap(bootstrap).map_err(wrong)?.client_id("milena-cli");
    for (key, value) in PATIENCE {
        builder = builder.set(key, value).map_err(wrong)?;
    }
    builder
        .build()
        .await
        // It names the servers itself, how long they were waited for and what to try.
        .map_err(|error| Failure::Failed(told(&error)))
}

pub(crate) fn producer(client: &Client, codec: Codec) -> Result<Producer, Failure> {
    let compression = match codec {
        Codec::None => Compression::None,
        Codec::Gzip => Compression::Gzip(None),
        Codec::Snappy => Compression::Snappy,
        Codec::Lz4 => Compression::Lz4,
        Codec::Zstd => Compression::Zstd(None),
        Codec::Auto => Compression::Auto,
    };
    Producer::builder(client).compression(compression).build().map_err(|error| Failure::Usage(error.to_string()))
}

/// Closes in good order; what could not be closed in time is not worth failing for.
pub(crate) async fn close(client: &Client) {
    let report = client.close(CLOSE).await;
    tracing::debug!(?report, "client closed");
}

/// The partitions of a topic that must exist.
pub(crate) async fn partitions(client: &Client, topic: &str) -> Result<Vec<TopicPartition>, Failure> {
    let partitions = client.partitions(topic).await.trying(format_args!("cannot find topic {topic}"))?;
    Ok(partitions.iter().map(|partition| TopicPartition::new(topic, partition.index)).collect())
}
