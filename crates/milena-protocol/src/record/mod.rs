//! Record batches (magic 2).
//!
//! Out: [`BatchEncoder`] takes records and becomes a [`SealedBatch`]. In: [`RecordBatches`] yields each [`RecordBatch`],
//! whose [`Records`] are borrowed. A broker checks what it is sent by [`ProducedBatch`] and numbers it by [`Patch`].

mod batch;
mod crc;
mod encoder;
mod error;
mod layout;
mod patch;
mod produced;
mod records;
mod sealed;
mod varint;

pub use batch::{RecordBatch, RecordBatches, TimestampType};
pub use crc::crc32c;
pub use encoder::{BatchEncoder, RecordHeader};
pub use error::{AppendError, CorruptBatch, CorruptRecord, RecordError};
pub use layout::{BATCH_HEADER_LEN, MAX_HEADERS, MIN_RECORD_LEN, NO_TIMESTAMP};
pub use patch::{Patch, Timestamps};
pub use produced::ProducedBatch;
pub use records::{ControlType, HeaderIter, HeaderRef, Headers, RecordIter, RecordRef, Records};
pub use sealed::SealedBatch;
