//! What a broker changes in a batch that it otherwise keeps as its producer sent it.

use bytes::BytesMut;

use crate::record::batch::RecordBatch;
use crate::record::crc::{self, Shift};
use crate::record::error::RecordError;
use crate::record::layout::{BATCH_HEADER_LEN, CRC_START, at, attributes};

/// The changes to one batch.
///
/// Base offset and leader epoch lie outside of the CRC; a change of the timestamps is folded into it without reading
/// the payload. So the batch's CRC must have been verified before, or damage would stay hidden no better than it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patch {
    /// The offset that its first record gets.
    pub base_offset: i64,
    /// The epoch of the leader that appends it.
    pub partition_leader_epoch: i32,
    /// What happens to its timestamps.
    pub timestamps: Timestamps,
}

/// What a broker does about a batch's timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timestamps {
    /// They stay, and their maximum with them.
    Keep,
    /// They stay, but the header's maximum was wrong and is this.
    Max(i64),
    /// All become the time of the append (`message.timestamp.type=LogAppendTime`).
    LogAppend(i64),
}

impl Patch {
    /// The batch's header with the changes; nothing else of a batch changes.
    pub fn header(&self, batch: &RecordBatch) -> [u8; BATCH_HEADER_LEN] {
        let mut header = *batch.bytes().first_chunk().expect("a parsed batch has a whole header");
        put(&mut header, at::BASE_OFFSET, self.base_offset.to_be_bytes());
        put(&mut header, at::PARTITION_LEADER_EPOCH, self.partition_leader_epoch.to_be_bytes());
        let (log_append_time, max_timestamp) = match self.timestamps {
            Timestamps::Keep => return header,
            Timestamps::Max(timestamp) => (false, timestamp),
            Timestamps::LogAppend(timestamp) => (true, timestamp),
        };
        let before = crc::crc32c(&header[CRC_START..]);
        let bits = i16::from_be_bytes([header[at::ATTRIBUTES], header[at::ATTRIBUTES + 1]]);
        let bits =
            if log_append_time { bits | attributes::LOG_APPEND_TIME } else { bits & !attributes::LOG_APPEND_TIME };
        put(&mut header, at::ATTRIBUTES, bits.to_be_bytes());
        put(&mut header, at::MAX_TIMESTAMP, max_timestamp.to_be_bytes());
        let after = crc::crc32c(&header[CRC_START..]);
        // crc = shift·header ⊕ section, so replacing the header adds shift·(before ⊕ after).
        let shift = Shift::by(batch.bytes().len() - BATCH_HEADER_LEN);
        let crc = shift.combine(before ^ after, batch.crc());
        put(&mut header, at::CRC, crc.to_be_bytes());
        header
    }

    /// A changed copy of `batch`.
    ///
    /// # Errors
    /// [`RecordError::CorruptBatch`] if the new base offset is negative or overflows.
    pub fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch, RecordError> {
        let mut bytes = BytesMut::from(batch.bytes().as_ref());
        put(&mut bytes, 0, self.header(batch));
        RecordBatch::parse(bytes.freeze())
    }
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}
