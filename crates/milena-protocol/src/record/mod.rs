//! Record batches (magic 2).
//!
//! Out: [`BatchEncoder`] takes records and becomes a [`SealedBatch`].

mod crc;
mod encoder;
mod error;
mod sealed;
mod varint;

pub use encoder::{BatchEncoder, RecordHeader};
pub use error::{AppendError, CorruptBatch, CorruptRecord, RecordError};
pub use sealed::SealedBatch;
pub use varint::{BATCH_HEADER_LEN, MAX_HEADERS, MIN_RECORD_LEN, NO_TIMESTAMP};
