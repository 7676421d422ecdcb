//! The control batch that ends a transaction (Kafka's `EndTransactionMarker`), which no encoder for records makes.

use bytes::{BufMut as _, Bytes, BytesMut};
use milena_protocol::record::crc32c;

/// Transactional and control bits of the attributes.
const ATTRIBUTES: i16 = 0b0011_0000;
/// From where on the CRC covers the batch: the attributes.
const CRC_START: usize = 21;
/// Where the CRC is.
const CRC: std::ops::Range<usize> = 17..21;

/// A marker for base offset 0 and leader epoch 0; who stores it patches both.
pub(super) fn end_txn_marker(producer_id: i64, producer_epoch: i16, committed: bool, now_ms: i64) -> Bytes {
    let mut record = BytesMut::with_capacity(17);
    record.put_u8(16 << 1); // length
    record.put_bytes(0, 3); // attributes, timestamp delta, offset delta
    record.put_u8(4 << 1); // key: version 0 and type
    record.put_i16(0);
    record.put_i16(i16::from(committed));
    record.put_u8(6 << 1); // value: version 0 and coordinator epoch
    record.put_i16(0);
    record.put_i32(0);
    record.put_u8(0); // headers

    let mut batch = BytesMut::with_capacity(61 + record.len());
    batch.put_i64(0); // base offset
    batch.put_i32(49 + record.len() as i32); // a handful of bytes
    batch.put_i32(0); // leader epoch
    batch.put_u8(2); // magic
    batch.put_u32(0); // CRC, below
    batch.put_i16(ATTRIBUTES);
    batch.put_i32(0); // last offset delta
    batch.put_i64(now_ms);
    batch.put_i64(now_ms);
    batch.put_i64(producer_id);
    batch.put_i16(producer_epoch);
    batch.put_i32(-1); // base sequence: markers have none
    batch.put_i32(1); // records
    batch.extend_from_slice(&record);
    let crc = crc32c(&batch[CRC_START..]);
    batch[CRC].copy_from_slice(&crc.to_be_bytes());
    batch.freeze()
}

#[cfg(test)]
mod tests {
    use milena_protocol::record::{ControlType, RecordBatch};

    use super::*;

    #[test]
    fn a_marker_is_a_control_batch_with_a_right_crc() {
        for (committed, expected) in [(true, ControlType::Commit), (false, ControlType::Abort)] {
            let batch = RecordBatch::parse(end_txn_marker(7, 3, committed, 1234)).expect("a whole batch");
            batch.verify_crc().expect("the CRC is right");
            assert!(batch.is_control() && batch.is_transactional());
            assert_eq!((batch.producer_id(), batch.producer_epoch(), batch.max_timestamp()), (7, 3, 1234));
            let records = batch.records(1024).expect("not compressed");
            assert_eq!(records.control_type().expect("well-formed"), Some(expected));
        }
    }
}
