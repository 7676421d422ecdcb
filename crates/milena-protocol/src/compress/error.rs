//! What can go wrong while compressing and decompressing.

use crate::compress::Compression;

/// Why data could not be compressed or decompressed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompressError {
    /// This build has no support for the codec.
    #[error("{codec} is not part of this build: enable the feature `{codec}` of milena-protocol")]
    Unavailable {
        /// The codec, which is also the feature's name.
        codec: Compression,
    },
    /// The level is outside the codec's range.
    #[error("{codec} has no level {level}: choose one from {min} to {max}")]
    Level {
        /// The codec.
        codec: Compression,
        /// The level asked for.
        level: i32,
        /// The lowest level of the codec.
        min: i32,
        /// The highest level of the codec.
        max: i32,
    },
    /// The data would grow beyond the limit; nothing beyond it was allocated.
    #[error("{codec} data decompresses to more than {limit} bytes: raise the limit or skip the batch")]
    TooLarge {
        /// The codec.
        codec: Compression,
        /// The limit given.
        limit: usize,
    },
    /// The data declares a size that no input of its length can have.
    #[error("{codec} data declares {declared} bytes, more than {compressed} compressed bytes can hold")]
    ImpossibleSize {
        /// The codec.
        codec: Compression,
        /// The declared size.
        declared: u64,
        /// The length of the compressed input.
        compressed: usize,
    },
    /// The data is not what its codec says.
    #[error("{codec} data is damaged: {reason}")]
    Corrupt {
        /// The codec.
        codec: Compression,
        /// What is wrong with it.
        reason: String,
    },
    /// The codec itself failed, for example for want of memory.
    #[error("{codec} failed: {reason}")]
    Failed {
        /// The codec.
        codec: Compression,
        /// What it reported.
        reason: String,
    },
}

impl CompressError {
    /// Shorthand for [`Self::Corrupt`].
    #[allow(dead_code, reason = "unused only in a build without any codec")]
    pub(crate) fn corrupt(codec: Compression, reason: impl ToString) -> Self {
        Self::Corrupt { codec, reason: reason.to_string() }
    }
}
