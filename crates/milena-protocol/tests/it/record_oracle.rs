//! Batches against the crate kafka-protocol: it reads ours, we read its, where the two mean the same. It drops duplicate
//! header names and the last offset delta, so neither is compared; its codecs are left out, so nothing is compressed.

use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression as TheirCompression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use milena_protocol::compress::Compression;
use milena_protocol::record::RecordBatch;
use proptest::prelude::*;

use crate::record_source::{OwnedRecord, records, seal};

/// One header of each name: the oracle's map has no more.
fn without_duplicates(mut records: Vec<OwnedRecord>) -> Vec<OwnedRecord> {
    for record in &mut records {
        let mut names = Vec::new();
        record.headers.retain(|(name, _)| {
            let first = !names.contains(name);
            names.push(name.clone());
            first
        });
    }
    records
}

fn theirs(records: &[OwnedRecord]) -> Vec<Record> {
    let bytes = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|bytes| Bytes::copy_from_slice(bytes));
    records
        .iter()
        .enumerate()
        .map(|(index, record)| Record {
            transactional: true,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id: 9,
            producer_epoch: 1,
            timestamp_type: TimestampType::Creation,
            offset: index as i64,
            sequence: 70 + index as i32,
            timestamp: record.timestamp,
            key: bytes(&record.key),
            value: bytes(&record.value),
            headers: record
                .headers
                .iter()
                .map(|(name, value)| (StrBytes::from_string(name.clone()), bytes(value)))
                .collect(),
        })
        .collect()
}

proptest! {
    #[test]
    fn the_oracle_reads_what_we_write(records in records()) {
        let records = without_duplicates(records);
        let mut sealed = seal(&records, Compression::None);
        sealed.stamp(9, 1, 70, true);
        let read = RecordBatchDecoder::decode(&mut sealed.to_bytes()).unwrap();
        prop_assert_eq!(read.records, theirs(&records));
    }

    #[test]
    fn we_read_what_the_oracle_writes(records in records()) {
        let records = without_duplicates(records);
        // It stores deltas to the lowest timestamp and can't tell what lies further away.
        let lowest = records.iter().map(|record| record.timestamp).min().unwrap();
        prop_assume!(records.iter().all(|record| record.timestamp.checked_sub(lowest).is_some()));
        let mut buffer = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: TheirCompression::None };
        RecordBatchEncoder::encode(&mut buffer, &theirs(&records), &options).unwrap();
        let batch = RecordBatch::parse(buffer.freeze()).unwrap();
        batch.verify_crc().unwrap();
        prop_assert_eq!((batch.producer_id(), batch.producer_epoch(), batch.base_sequence()), (9, 1, 70));
        prop_assert!(batch.is_transactional() && !batch.is_control());
        let read: Vec<OwnedRecord> = batch.records(0).unwrap().iter().map(|record| record.unwrap().into()).collect();
        prop_assert_eq!(read, records);
    }
}
