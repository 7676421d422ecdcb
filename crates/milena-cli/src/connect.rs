//! How commands reach a cluster.

use std::io::IsTerminal as _;
use std::time::Duration;

use milena_admin::{Admin, RequestError};
use milena_client::producer::{Compression, Producer};
use milena_client::{Client, ConfigError, TopicPartition};

use crate::args::Codec;
use crate::failure::{Failure, Trying as _, told};
use crate::interrupt::interrupted;

/// How long a command that is done waits for its connections to close.
const CLOSE: Duration = Duration::from_secs(5);
/// How long a command tries to remove what it has made.
const CLEAN_UP: Duration = Duration::from_secs(10);

/// How long a connection, and the first word on it, may take: less than the ten seconds in which the first broker must
/// have answered, so that what is said when none has tells of the connection. Enough for any broker that works.
pub(crate) const PATIENCE: [(&str, &str); 2] =
    [("socket.connection.setup.timeout.ms", "4000"), ("socket.connection.setup.timeout.max.ms", "8000")];

/// The name in the broker's logs. Its length is one that is written as a line feed: the first request has one in it, so
/// that a server that reads lines, as those of HTTP do, answers at once and is known by its answer.
pub(crate) const CLIENT_ID: &str = "milena-cli";

pub(crate) async fn client(bootstrap: &str) -> Result<Client, Failure> {
    let wrong = |error: ConfigError| Failure::Usage(error.to_string());
    let mut builder = Client::builder().bootstrap(bootstrap).map_err(wrong)?.client_id(CLIENT_ID);
    for (key, value) in PATIENCE {
        builder = builder.set(key, value).map_err(wrong)?;
    }
    builder
        .build()
        .await
        // It names the servers itself, how long they were waited for and what to try.
        .map_err(|error| Failure::Failed(told(&error)))
}

/// A command that may bring its own broker says which it uses: at once to a person, else in the log.
pub(crate) fn say_where(place: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("on {place}");
    } else {
        tracing::info!("on {place}");
    }
}

/// Removes what a command has made on the cluster, by a client of its own: that of the command is closed, so that
/// nothing makes it anew. Not for ever, and a second Ctrl-C ends it; what may be left is named on stderr.
pub(crate) async fn clean_up(bootstrap: &str, what: &str, remove: impl AsyncFnOnce(Admin) -> Result<(), RequestError>) {
    let removed = async {
        let client = client(bootstrap).await?;
        let removed = remove(Admin::new(&client).with_timeout(CLEAN_UP)).await;
        close(&client).await;
        removed.map_err(|error| Failure::Failed(told(&error)))
    };
    let outcome = tokio::select! {
        outcome = removed => outcome,
        _ = interrupted() => Err(Failure::Failed("interrupted".to_owned())),
    };
    if let Err(Failure::Failed(why) | Failure::Usage(why)) = outcome {
        eprintln!("warning: {what} may be left behind: {why}");
    }
}

pub(crate) fn producer(client: &Client, codec: Codec) -> Result<Producer, Failure> {
    let compression = match codec {
        Codec::None => Compression::None,
        Codec::Gzip => Compression::Gzip(None),
        Codec::Snappy => Compression::Snappy,
        Codec::Lz4 => Compression::Lz4,
        Codec::Zstd => Compression::Zstd(None),
        Codec::Auto => Compression::Auto,
        Codec::Throughput => Compression::Throughput,
        Codec::Ratio => Compression::Ratio,
        Codec::SizeTable => Compression::SizeTable,
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
