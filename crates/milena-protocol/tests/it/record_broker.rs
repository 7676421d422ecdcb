//! What a broker does to batches: judge those of producers, number them, set their timestamps.

use bytes::Bytes;
use milena_protocol::compress::Compression;
use milena_protocol::record::{
    CorruptBatch, Patch, ProducedBatch, RecordBatch, RecordError, TimestampType, Timestamps,
};
use proptest::prelude::*;

use crate::record_source::{RawBatch, TIME, compression, crc32c, flights, raw_record, records, repair_crc, seal};

const LIMIT: usize = 1 << 20;

fn validate(bytes: Vec<u8>) -> Result<ProducedBatch, RecordError> {
    ProducedBatch::validate(Bytes::from(bytes), LIMIT)
}

fn reason(bytes: Vec<u8>) -> CorruptBatch {
    match validate(bytes) {
        Err(RecordError::CorruptBatch { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn what_a_producer_seals_is_valid(records in records(), codec in compression()) {
        let mut sealed = seal(&records, codec);
        for transactional in [false, true] {
            let valid = ProducedBatch::validate(sealed.to_bytes(), LIMIT).unwrap();
            let max = records.iter().map(|record| record.timestamp).max().unwrap();
            prop_assert_eq!(valid.max_timestamp, max);
            let first = records.iter().position(|record| record.timestamp == max).unwrap();
            prop_assert_eq!(valid.max_timestamp_delta as usize, first);
            sealed.stamp(7, 0, 12, !transactional);
        }
    }

    #[test]
    fn a_patched_batch_differs_in_what_was_patched(
        records in records(), codec in compression(), base in 0..i64::MAX / 2, epoch: i32, time in 0..i64::MAX,
    ) {
        let batch = RecordBatch::parse(seal(&records, codec).to_bytes()).unwrap();
        for timestamps in [Timestamps::Keep, Timestamps::Max(time), Timestamps::LogAppend(time)] {
            let patch = Patch { base_offset: base, partition_leader_epoch: epoch, timestamps };
            let patched = patch.apply(&batch).unwrap();
            patched.verify_crc().unwrap();
            prop_assert_eq!(patched.crc(), crc32c(&patched.bytes()[21..]));
            prop_assert_eq!(patched.base_offset(), base);
            prop_assert_eq!(patched.partition_leader_epoch(), epoch);
            prop_assert_eq!(&patched.bytes()[61..], &batch.bytes()[61..]);
            let (kind, max) = match timestamps {
                Timestamps::Keep => (TimestampType::CreateTime, batch.max_timestamp()),
                Timestamps::Max(time) => (TimestampType::CreateTime, time),
                Timestamps::LogAppend(time) => (TimestampType::LogAppendTime, time),
            };
            prop_assert_eq!((patched.timestamp_type(), patched.max_timestamp()), (kind, max));
            let read = patched.records(LIMIT).unwrap();
            for (index, (record, written)) in read.iter().zip(&records).enumerate() {
                let record = record.unwrap();
                prop_assert_eq!(record.offset, base + index as i64);
                let expected = if kind == TimestampType::LogAppendTime { time } else { written.timestamp };
                prop_assert_eq!(record.timestamp, expected);
            }
        }
    }
}

#[test]
fn patching_away_the_log_append_time_gives_the_timestamps_back() {
    let batch = RecordBatch::parse(seal(&flights(3), Compression::None).to_bytes()).unwrap();
    let patch = |timestamps| Patch { base_offset: 0, partition_leader_epoch: -1, timestamps };
    let appended = patch(Timestamps::LogAppend(5)).apply(&batch).unwrap();
    let back = patch(Timestamps::Max(batch.max_timestamp())).apply(&appended).unwrap();
    assert_eq!(back.bytes(), batch.bytes());
}

#[test]
fn what_kafka_takes_from_no_producer_is_refused() {
    let with = |attributes| {
        let mut batch = RawBatch::new(1, raw_record(&[0, 0, 0, 1, 1, 0]));
        batch.attributes = attributes;
        batch.bytes()
    };
    for attributes in [0b10_0000, 0b1_0000] {
        assert_eq!(reason(with(attributes)), CorruptBatch::NotFromProducer, "{attributes:#b}");
    }
    // Log append time and delete horizon are a broker's to set as well, but Kafka takes them.
    for attributes in [0, 0b1000, 0b100_0000] {
        assert!(validate(with(attributes)).is_ok(), "{attributes:#b}");
    }
    assert_eq!(reason(RawBatch::new(0, Vec::new()).bytes()), CorruptBatch::NotFromProducer);
    // A producer id without a sequence.
    let mut batch = RawBatch::new(1, raw_record(&[0, 0, 0, 1, 1, 0])).bytes();
    batch[43..53].fill(0);
    repair_crc(&mut batch);
    assert_eq!(reason(batch), CorruptBatch::NotFromProducer);
}

#[test]
fn offsets_with_gaps_are_refused() {
    let mut batch = RawBatch::new(1, raw_record(&[0, 0, 0, 1, 1, 0]));
    batch.last_offset_delta = 1;
    assert_eq!(reason(batch.bytes()), CorruptBatch::SparseOffsets { records: 1, last_offset_delta: 1 });
}

#[test]
fn exactly_one_batch_is_expected() {
    let batch = seal(&flights(2), Compression::None).to_bytes();
    let two = [batch.as_ref(), &batch].concat();
    assert_eq!(reason(two), CorruptBatch::NotAlone(batch.len()));
    assert!(matches!(reason(Vec::new()), CorruptBatch::Length(_)));
    let mut damaged = batch.to_vec();
    damaged[70] ^= 1;
    assert!(matches!(validate(damaged), Err(RecordError::BadCrc { .. })));
}

#[test]
fn a_header_with_a_wrong_maximum_is_corrected() {
    let mut bytes = seal(&flights(3), Compression::None).to_bytes().to_vec();
    bytes[35..43].copy_from_slice(&5i64.to_be_bytes());
    repair_crc(&mut bytes);
    let valid = validate(bytes).unwrap();
    assert_eq!(valid.batch.max_timestamp(), 5);
    assert_eq!((valid.max_timestamp, valid.max_timestamp_delta), (TIME + 2, 2));
}
