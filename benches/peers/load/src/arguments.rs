//! The command line, the same for all clients.

use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Bytes that may be outstanding: 5 batches of 1 MB in flight, one open, and as much again.
const WINDOW_BYTES: usize = 16 * 1024 * 1024;
/// However small the records are.
const WINDOW_RECORDS: usize = 50_000;
/// How long a record may wait for others under load.
const LINGER: Duration = Duration::from_millis(5);
/// Bytes of a record's key.
pub(crate) const KEY_BYTES: usize = 16;

/// Which direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Send records and await every acknowledgement.
    Produce,
    /// Read partition 0 from its beginning.
    Consume,
    /// Send one record at a time, and await its acknowledgement before the next.
    Latency,
}

/// How batches are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Codec {
    /// Not at all.
    None,
    /// LZ4 frames.
    Lz4,
    /// zstd at level 3: the level of Kafka, and the only one that every client has.
    Zstd,
}

impl Codec {
    /// By Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// How a consumer hands records over, where it offers the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Variant {
    /// As slices of what came in.
    Borrowed,
    /// Each with bytes of its own.
    Owned,
    /// Each with a share in what came in: what the other clients written in Rust hand over.
    Sliced,
}

/// Tokio's runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RuntimeKind {
    /// A worker for each core, tokio's default.
    Multi,
    /// All on one thread.
    Current,
}

/// What to do.
#[derive(Clone, Debug, Parser)]
pub struct Arguments {
    /// Which direction
    pub mode: Mode,
    /// The broker
    #[arg(short, long)]
    pub bootstrap: String,
    /// The topic, which must exist
    #[arg(short, long)]
    pub topic: String,
    /// Records that are measured
    #[arg(long, default_value_t = 1_000_000)]
    pub records: usize,
    /// Records before that
    #[arg(long, default_value_t = 200_000)]
    pub warm_up: usize,
    /// Bytes of a value; a key has 16
    #[arg(long, default_value_t = 100)]
    pub size: usize,
    /// Tasks, or threads, that send
    #[arg(long, default_value_t = 1)]
    pub tasks: usize,
    /// Partitions that records go to, in turn
    #[arg(long, default_value_t = 1)]
    pub partitions: usize,
    /// Codec of the batches sent
    #[arg(long, value_enum, default_value_t = Codec::None)]
    pub compression: Codec,
    /// Bytes of a batch before compression
    #[arg(long, default_value_t = 1_000_000)]
    pub batch_bytes: usize,
    /// How records are handed over, where the client offers the choice
    #[arg(long, value_enum, default_value_t = Variant::Borrowed)]
    pub variant: Variant,
    /// Tokio's runtime, for those that run on it
    #[arg(long, value_enum, default_value_t = RuntimeKind::Multi)]
    pub runtime: RuntimeKind,
}

impl Arguments {
    /// Records that may be sent and not yet acknowledged, of all tasks together.
    pub fn window(&self) -> usize {
        (WINDOW_BYTES / (self.size + KEY_BYTES)).clamp(self.tasks, WINDOW_RECORDS)
    }

    /// How long a record may wait for others: not at all, where one is sent at a time.
    pub fn linger(&self) -> Duration {
        if self.mode == Mode::Latency { Duration::ZERO } else { LINGER }
    }

    /// The share of `records` that task `number` sends.
    pub fn share(&self, records: usize, number: usize) -> usize {
        records / self.tasks + usize::from(number < records % self.tasks)
    }

    /// The partitions of a task's records: all in turn, each task beginning at another.
    pub fn partitions_from(&self, task: usize) -> impl Iterator<Item = i32> + Send + use<> {
        (0..self.partitions as i32).cycle().skip(task % self.partitions)
    }
}
