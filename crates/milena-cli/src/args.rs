//! The arguments of `milena`, as clap reads them. Holds no logic.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::failure::Failure;
use crate::jsonl::Encoding;

/// Kafka from the command line, in pure Rust.
#[derive(Debug, Parser)]
#[command(name = "milena", version)]
pub(crate) struct Cli {
    /// More log on stderr; again for still more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Replay 20,000 real departures through the event bus and tell what happened.
    ///
    /// Events travel in topic `flights`, dead letters in `flights.dead-letters`; on a cluster both stay, for you to look
    /// at. The group is this run's own and is deleted.
    Demo(DemoArgs),
    /// Run an embedded broker that any Kafka client can use; it keeps everything in memory.
    Broker(BrokerArgs),
    /// List, create, describe and delete topics.
    Topics(TopicsArgs),
    /// List, describe and delete consumer groups.
    Groups(GroupsArgs),
    /// Produce records from stdin, until it ends or Ctrl-C: then what was read is delivered first.
    Produce(ProduceArgs),
    /// Consume records to stdout.
    Consume(ConsumeArgs),
    /// Measure producing, consuming or latency, every record's acknowledgement awaited.
    Bench(BenchArgs),
}

#[derive(Debug, Args)]
pub(crate) struct Bootstrap {
    /// Brokers to start from.
    #[arg(
        short = 'b',
        long = "bootstrap",
        value_name = "HOST:PORT,…",
        env = "KAFKA_BOOTSTRAP_SERVERS",
        hide_env_values = true,
        global = true
    )]
    servers: Option<String>,
}

impl Bootstrap {
    /// The brokers, which these commands can't do without. (clap knows no argument both required and global.)
    pub(crate) fn servers(&self) -> Result<&str, Failure> {
        self.servers.as_deref().ok_or_else(|| {
            Failure::Usage("no brokers to start from: give -b HOST:PORT or set KAFKA_BOOTSTRAP_SERVERS".to_owned())
        })
    }
}

/// For commands that bring a broker of their own where none is named.
#[derive(Debug, Args)]
pub(crate) struct OptionalBootstrap {
    /// Brokers to start from; without them an embedded broker in this process is used.
    #[arg(
        short = 'b',
        long = "bootstrap",
        value_name = "HOST:PORT,…",
        env = "KAFKA_BOOTSTRAP_SERVERS",
        hide_env_values = true
    )]
    pub(crate) servers: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    pub(crate) bootstrap: OptionalBootstrap,
    /// Print the summary as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    /// Departures to replay instead of those built in: one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) flights: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct BrokerArgs {
    /// Where the first node listens; the others take the ports after it. Port 0 picks free ones.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092", value_parser = parse_listen)]
    pub(crate) listen: SocketAddr,
    /// How many nodes.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) nodes: u16,
    /// A topic to create at start; may be given again.
    #[arg(long = "topic", value_name = "NAME:PARTITIONS", value_parser = parse_topic)]
    pub(crate) topics: Vec<(String, u32)>,
    /// Do not create topics for clients that ask for it in passing, as some do when they produce (these commands never
    /// do).
    #[arg(long)]
    pub(crate) no_auto_create: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TopicsArgs {
    #[command(flatten)]
    pub(crate) bootstrap: Bootstrap,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: TopicsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TopicsCommand {
    /// List the topics.
    List,
    /// Create a topic.
    Create {
        /// Its name.
        #[arg(value_parser = parse_topic_name)]
        name: String,
        /// How many partitions.
        #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
        partitions: i32,
        /// How many replicas; the broker's default if not given.
        #[arg(short, long, value_name = "R", value_parser = clap::value_parser!(i16).range(1..))]
        replication: Option<i16>,
        /// A config of the topic; may be given again.
        #[arg(long = "config", value_name = "KEY=VALUE", value_parser = parse_config)]
        configs: Vec<(String, String)>,
    },
    /// Describe a topic: partitions, leaders, replicas, offsets, configs that differ from the default.
    Describe {
        /// Its name.
        #[arg(value_parser = parse_topic_name)]
        name: String,
    },
    /// Delete a topic and all its records.
    Delete {
        /// Its name.
        #[arg(value_parser = parse_topic_name)]
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct GroupsArgs {
    #[command(flatten)]
    pub(crate) bootstrap: Bootstrap,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: GroupsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupsCommand {
    /// List the groups.
    List,
    /// Describe a group: state, members, assignments, committed offsets and lag.
    Describe {
        /// Its id.
        #[arg(value_name = "GROUP", value_parser = parse_group)]
        name: String,
    },
    /// Delete a group that has no members, with its committed offsets.
    Delete {
        /// Its id.
        #[arg(value_name = "GROUP", value_parser = parse_group)]
        name: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InputFormat {
    /// A JSON record a line: {"key":"…","value":"…","headers":[["name","value"]],"partition":0,"timestamp":0}; all but
    /// `value` may be absent; `key` and `value` are strings or null.
    Jsonl,
    /// A value a line.
    Lines,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// A JSON record a line.
    Jsonl,
    /// The value alone, followed by a line feed.
    Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
    /// Chosen for each batch by its size and by how well it compresses.
    Auto,
    /// As auto, for the most records a second.
    Throughput,
    /// As auto, for the fewest bytes.
    Ratio,
    /// By the batch's size alone.
    SizeTable,
}

#[derive(Debug, Args)]
pub(crate) struct ProduceArgs {
    #[command(flatten)]
    pub(crate) bootstrap: Bootstrap,
    /// The topic.
    #[arg(short, long, value_parser = parse_topic_name)]
    pub(crate) topic: String,
    /// What a line of stdin is.
    #[arg(long, value_enum, default_value_t = InputFormat::Jsonl)]
    pub(crate) format: InputFormat,
    /// How bytes are written in the input.
    #[arg(long, value_enum, default_value_t = Encoding::Utf8)]
    pub(crate) encoding: Encoding,
    /// How batches are compressed.
    #[arg(long, value_enum, default_value_t = Codec::None)]
    pub(crate) compression: Codec,
}

#[derive(Debug, Args)]
pub(crate) struct ConsumeArgs {
    #[command(flatten)]
    pub(crate) bootstrap: Bootstrap,
    /// The topic.
    #[arg(short, long, value_parser = parse_topic_name)]
    pub(crate) topic: String,
    /// Consume as a member of this group; without it all partitions are read. What was printed is committed every three
    /// seconds, when partitions are given up and at the end; never more than that.
    #[arg(short, long, value_parser = parse_group)]
    pub(crate) group: Option<String>,
    /// Where to begin: `beginning`, `end` or, without --group, an offset; records before it are left out. A group begins
    /// there only where it has committed nothing.
    #[arg(long, value_name = "beginning|end|OFFSET", default_value = "beginning", value_parser = parse_from, allow_negative_numbers = true)]
    pub(crate) from: From,
    /// End after so many records.
    #[arg(long, value_name = "N")]
    pub(crate) max: Option<u64>,
    /// End when the partitions' ends, as they were at the start, are reached; in a group, those of the partitions that
    /// it is given, if any.
    #[arg(long)]
    pub(crate) exit_at_end: bool,
    /// What is printed of a record.
    #[arg(long, value_enum, default_value_t = OutputFormat::Jsonl)]
    pub(crate) format: OutputFormat,
    /// How bytes are written in the output.
    #[arg(long, value_enum, default_value_t = Encoding::Utf8)]
    pub(crate) encoding: Encoding,
}

/// Where `consume` begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Beginning,
    End,
    Offset(i64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchMode {
    /// As many records as fast as possible.
    Produce,
    /// Read them back by assignment, without a group.
    Consume,
    /// One record at a time, each acknowledgement awaited before the next.
    Latency,
}

impl BenchMode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Consume => "consume",
            Self::Latency => "latency",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure.
    #[arg(value_enum)]
    pub(crate) mode: BenchMode,
    #[command(flatten)]
    pub(crate) bootstrap: OptionalBootstrap,
    /// An existing topic; without it one is made, and deleted however the command ends.
    #[arg(short, long, value_parser = parse_topic_name)]
    pub(crate) topic: Option<String>,
    /// How many records; 1,000,000 unless given, 10,000 for latency.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) records: Option<u64>,
    /// Bytes of a value.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub(crate) size: u32,
    /// How batches are compressed.
    #[arg(long, value_enum, default_value_t = Codec::None)]
    pub(crate) compression: Codec,
    /// Partitions of the topic it makes.
    #[arg(long, value_name = "P", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub(crate) partitions: i32,
    /// Tasks that produce.
    #[arg(long, value_name = "T", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) tasks: u32,
    /// Print one JSON object; its `peak_rss_mib` is null where the system is not Linux.
    #[arg(long)]
    pub(crate) json: bool,
    /// Give up after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = parse_seconds)]
    pub(crate) timeout: Duration,
}

fn parse_topic(text: &str) -> Result<(String, u32), String> {
    let (name, partitions) = text.rsplit_once(':').ok_or("expected NAME:PARTITIONS, such as orders:3")?;
    let partitions = partitions.parse().ok().filter(|n| *n > 0).ok_or("PARTITIONS must be a number of 1 or more")?;
    Ok((parse_topic_name(name)?, partitions))
}

/// Kafka's rule. A broker that is asked about such a name answers each time something else, if at all.
fn parse_topic_name(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if matches!(text, "." | "..") || !(1..=249).contains(&text.len()) || !text.bytes().all(allowed) {
        return Err(
            "a topic's name is 1 to 249 ASCII letters, digits, `.`, `_` and `-`, but not `.` or `..`".to_owned()
        );
    }
    Ok(text.to_owned())
}

/// Kafka's only rule for it.
fn parse_group(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("a group's id is not empty".to_owned()) } else { Ok(text.to_owned()) }
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let mut found = text.to_socket_addrs().map_err(|error| format!("expected HOST:PORT of this machine: {error}"))?;
    found.next().ok_or_else(|| "that host has no address".to_owned())
}

fn parse_config(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .ok_or("expected KEY=VALUE, such as retention.ms=60000")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn parse_from(text: &str) -> Result<From, String> {
    match text {
        "beginning" => Ok(From::Beginning),
        "end" => Ok(From::End),
        offset => offset
            .parse()
            .ok()
            .filter(|offset| *offset >= 0)
            .map(From::Offset)
            .ok_or_else(|| "expected beginning, end or an offset of 0 or more".to_owned()),
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| *seconds > 0);
    seconds.map(Duration::from_secs).ok_or_else(|| "expected whole seconds, 1 or more".to_owned())
}
