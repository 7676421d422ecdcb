//! Which partition a record goes to.
//!
//! One rule per file where it has an algorithm of its own; all of them agree bit for bit with the client that they are
//! named after, since a key that moves to another partition loses its order. Holds no clock and no randomness.

mod hash;
mod sticky;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

pub use hash::{crc32, fnv1a, murmur2};
pub use sticky::{LoadTable, PartitionLoad, StickyPartition};

/// A partitioner of the caller's: topic, key, value and the number of partitions, to a partition below that number.
pub type PartitionFn = dyn Fn(&str, Option<&[u8]>, Option<&[u8]>, i32) -> i32 + Send + Sync;

/// How records that name no partition are spread.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Partitioner {
    /// Java's default: murmur2 of the key; without a key sticky and adaptive (KIP-480, KIP-794).
    #[default]
    Default,
    /// librdkafka's `murmur2_random`: as Java's for keys; without a key at random.
    Murmur2Random,
    /// librdkafka's `murmur2`: as Java's for keys; no key counts as an empty one.
    Murmur2,
    /// librdkafka's `consistent`: CRC-32 of the key; no key counts as an empty one.
    Consistent,
    /// librdkafka's default, `consistent_random`: CRC-32 of the key; without a key, or with an empty one, at random.
    ConsistentRandom,
    /// librdkafka's `fnv1a`: FNV-1a of the key; no key counts as an empty one.
    Fnv1a,
    /// librdkafka's `fnv1a_random`, which is Sarama's `NewHashPartitioner`: FNV-1a of the key; without a key at random.
    Fnv1aRandom,
    /// Sarama's `NewReferenceHashPartitioner`: FNV-1a of the key, its sign dropped as Java does; without a key at random.
    SaramaReferenceHash,
    /// Sarama's `NewConsistentCRCHashPartitioner`: CRC-32 of the key; without a key at random. Unlike
    /// [`Self::ConsistentRandom`] it hashes an empty key too.
    SaramaConsistentCrc,
    /// One after the other, whatever the key; those that nobody leads are passed over.
    RoundRobin,
    /// At random, whatever the key.
    Random,
    /// None: every record must name its partition.
    Manual,
    /// The caller's.
    Custom(Arc<PartitionFn>),
}

/// What a partitioner decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This partition.
    Partition(i32),
    /// The topic's sticky partition ([`StickyPartition`]).
    Sticky,
    /// The next in turn.
    Next,
    /// Any.
    Random,
    /// No choice is made for the caller.
    Refused,
}

impl Partitioner {
    /// Chooses for a record of `topic`, which has `partitions` partitions, at least one.
    #[inline]
    pub fn choose(&self, topic: &str, key: Option<&[u8]>, value: Option<&[u8]>, partitions: i32) -> Choice {
        let non_empty = key.filter(|key| !key.is_empty());
        match self {
            Self::Default => key.map_or(Choice::Sticky, |key| Choice::Partition(positive(murmur2(key), partitions))),
            Self::Murmur2Random => {
                key.map_or(Choice::Random, |key| Choice::Partition(positive(murmur2(key), partitions)))
            }
            Self::Murmur2 => Choice::Partition(positive(murmur2(key.unwrap_or_default()), partitions)),
            Self::Consistent => Choice::Partition(unsigned(crc32(key.unwrap_or_default()), partitions)),
            Self::ConsistentRandom => {
                non_empty.map_or(Choice::Random, |key| Choice::Partition(unsigned(crc32(key), partitions)))
            }
            Self::Fnv1a => Choice::Partition(absolute(fnv1a(key.unwrap_or_default()), partitions)),
            Self::Fnv1aRandom => key.map_or(Choice::Random, |key| Choice::Partition(absolute(fnv1a(key), partitions))),
            Self::SaramaReferenceHash => {
                key.map_or(Choice::Random, |key| Choice::Partition(positive(fnv1a(key).cast_signed(), partitions)))
            }
            Self::SaramaConsistentCrc => {
                key.map_or(Choice::Random, |key| Choice::Partition(unsigned(crc32(key), partitions)))
            }
            Self::RoundRobin => Choice::Next,
            Self::Random => Choice::Random,
            Self::Manual => Choice::Refused,
            Self::Custom(partition_of) => Choice::Partition(partition_of(topic, key, value, partitions)),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Murmur2Random => "murmur2_random",
            Self::Murmur2 => "murmur2",
            Self::Consistent => "consistent",
            Self::ConsistentRandom => "consistent_random",
            Self::Fnv1a => "fnv1a",
            Self::Fnv1aRandom => "fnv1a_random",
            Self::SaramaReferenceHash => "sarama_reference_hash",
            Self::SaramaConsistentCrc => "sarama_consistent_crc",
            Self::RoundRobin => "round_robin",
            Self::Random => "random",
            Self::Manual => "manual",
            Self::Custom(_) => "custom",
        }
    }
}

/// Java's way from a hash to a partition: the sign bit is dropped.
fn positive(hash: i32, partitions: i32) -> i32 {
    (hash & i32::MAX) % partitions
}

/// librdkafka's way for CRC-32: the hash is unsigned.
fn unsigned(hash: u32, partitions: i32) -> i32 {
    (hash % partitions.unsigned_abs()) as i32
}

/// Sarama's way: the remainder keeps the hash's sign, and then loses it.
fn absolute(hash: u32, partitions: i32) -> i32 {
    ((hash as i32) % partitions).abs()
}

impl fmt::Debug for Partitioner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No partitioner has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no partitioner is called {0:?}: choose default, murmur2, murmur2_random, consistent, consistent_random, fnv1a, \
     fnv1a_random, sarama_hash, sarama_reference_hash, sarama_consistent_crc, round_robin, random or manual"
)]
pub struct UnknownPartitioner(String);

impl FromStr for Partitioner {
    type Err = UnknownPartitioner;

    fn from_str(name: &str) -> Result<Self, UnknownPartitioner> {
        Ok(match name {
            "default" => Self::Default,
            "murmur2_random" => Self::Murmur2Random,
            "murmur2" => Self::Murmur2,
            "consistent" => Self::Consistent,
            "consistent_random" => Self::ConsistentRandom,
            "fnv1a" => Self::Fnv1a,
            "fnv1a_random" | "sarama_hash" => Self::Fnv1aRandom,
            "sarama_reference_hash" => Self::SaramaReferenceHash,
            "sarama_consistent_crc" => Self::SaramaConsistentCrc,
            "round_robin" => Self::RoundRobin,
            "random" => Self::Random,
            "manual" => Self::Manual,
            other => return Err(UnknownPartitioner(other.to_owned())),
        })
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
