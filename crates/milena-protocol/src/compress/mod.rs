//! Compression of record batches, one file per codec.
//!
//! Every codec appends to a buffer of the caller's. Decompressing never produces more than the limit given: declared
//! sizes are checked before they are allocated, and what no size declares is counted while it is inflated.

mod error;
#[cfg(feature = "gzip")]
mod gzip;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(feature = "snappy")]
mod snappy;
#[cfg(feature = "zstd")]
mod zstd;

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;

pub use error::CompressError;

/// A larger scratch is given back: samples are small.
const KEPT_SCRATCH: usize = 16 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How a batch's records are compressed; the numbers are those of the batch's attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    #[default]
    None = 0,
    /// RFC 1952, one or more members.
    Gzip = 1,
    /// Written in snappy-java's ("xerial") framing, which every Kafka client reads; raw blocks are read too.
    Snappy = 2,
    /// The LZ4 frame format.
    Lz4 = 3,
    /// RFC 8878, one or more frames (Kafka 2.1 and later).
    Zstd = 4,
}

impl Compression {
    /// All of them, in the order of their ids.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The number in a batch's attributes.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// The codec with this number in a batch's attributes.
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Kafka's name for it, as in `compression.type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Whether this build can compress and decompress with it.
    pub const fn is_available(self) -> bool {
        match self {
            Self::None => true,
            Self::Gzip => cfg!(feature = "gzip"),
            Self::Snappy => cfg!(feature = "snappy"),
            Self::Lz4 => cfg!(feature = "lz4"),
            Self::Zstd => cfg!(feature = "zstd"),
        }
    }

    /// The levels that [`compress`](Self::compress) takes, lowest and highest; `None` where the codec has none.
    pub const fn levels(self) -> Option<(i32, i32)> {
        match self {
            Self::Gzip => Some((1, 9)),
            Self::Lz4 => Some((1, 17)),
            // The lowest is libzstd's ZSTD_minCLevel(); Kafka allows the same.
            Self::Zstd => Some((-131_072, 22)),
            Self::None | Self::Snappy => None,
        }
    }

    /// Appends `input`, compressed, to `output`.
    ///
    /// Without a level the codec's default in Kafka is used. Levels of lz4 are checked and then make no difference: the
    /// encoder has one. Codecs without levels ignore it.
    ///
    /// # Errors
    /// [`CompressError::Level`] and [`CompressError::Unavailable`] are the caller's to prevent; nothing else is to be
    /// expected. `output` may hold a part of the result then.
    pub fn compress(self, level: Option<i32>, input: &[u8], output: &mut Vec<u8>) -> Result<(), CompressError> {
        self.compress_within(level, input, output, usize::MAX).map(drop)
    }

    /// As [`compress`](Self::compress), where more than `at_most` bytes are of no use; says whether it is no more. If it
    /// is, `output` may hold anything behind what it held. Where `output` has room for `at_most` bytes, it never grows.
    ///
    /// # Errors
    /// As [`compress`](Self::compress).
    pub fn compress_within(
        self,
        level: Option<i32>,
        input: &[u8],
        output: &mut Vec<u8>,
        at_most: usize,
    ) -> Result<bool, CompressError> {
        if let (Some(level), Some((min, max))) = (level, self.levels())
            && !(min..=max).contains(&level)
        {
            return Err(CompressError::Level { codec: self, level, min, max });
        }
        match self {
            Self::None if input.len() > at_most => Ok(false),
            Self::None => {
                output.extend_from_slice(input);
                Ok(true)
            }
            #[cfg(feature = "gzip")]
            Self::Gzip => gzip::compress(level, input, output, at_most),
            #[cfg(feature = "snappy")]
            Self::Snappy => snappy::compress(input, output, at_most),
            #[cfg(feature = "lz4")]
            Self::Lz4 => lz4::compress(input, output, at_most),
            #[cfg(feature = "zstd")]
            Self::Zstd => zstd::compress(level, input, output, at_most),
            #[allow(unreachable_patterns, reason = "reached only where a codec's feature is off")]
            codec => Err(CompressError::Unavailable { codec }),
        }
    }

    /// How many bytes `input` would take, compressed: for a sample of what is to be compressed. Allocates nothing once
    /// the thread has done so before.
    ///
    /// # Errors
    /// As [`compress`](Self::compress).
    pub fn compressed_len(self, level: Option<i32>, input: &[u8]) -> Result<usize, CompressError> {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            self.compress(level, input, scratch)?;
            let length = scratch.len();
            scratch.shrink_to(KEPT_SCRATCH);
            Ok(length)
        })
    }

    /// Appends `input`, decompressed, to `output`; at most `limit` bytes.
    ///
    /// # Errors
    /// [`CompressError::TooLarge`] if there would be more than `limit`, [`CompressError::Corrupt`] or
    /// [`CompressError::ImpossibleSize`] if the data are damaged or lie. `output` may hold a part of the result then.
    pub fn decompress(self, input: &[u8], limit: usize, output: &mut Vec<u8>) -> Result<(), CompressError> {
        match self {
            Self::None if input.len() > limit => Err(CompressError::TooLarge { codec: self, limit }),
            Self::None => {
                output.extend_from_slice(input);
                Ok(())
            }
            #[cfg(feature = "gzip")]
            Self::Gzip => gzip::decompress(input, limit, output),
            #[cfg(feature = "snappy")]
            Self::Snappy => snappy::decompress(input, limit, output),
            #[cfg(feature = "lz4")]
            Self::Lz4 => lz4::decompress(input, limit, output),
            #[cfg(feature = "zstd")]
            Self::Zstd => zstd::decompress(input, limit, output),
            #[allow(unreachable_patterns, reason = "reached only where a codec's feature is off")]
            codec => Err(CompressError::Unavailable { codec }),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The name is none of Kafka's codecs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is no compression type: use none, gzip, snappy, lz4 or zstd")]
pub struct UnknownCompression {
    name: String,
}

impl FromStr for Compression {
    type Err = UnknownCompression;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|codec| codec.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| UnknownCompression { name: name.to_owned() })
    }
}
