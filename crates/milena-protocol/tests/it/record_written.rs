//! What is written is what is read, in any codec, stamped in any way, and no append costs an allocation.

use bytes::Bytes;
use milena_protocol::compress::{CompressError, Compression};
use milena_protocol::record::{
    AppendError, BatchEncoder, MAX_HEADERS, RecordBatch, RecordBatches, RecordHeader, SealedBatch,
};
use proptest::prelude::*;

use crate::record_source::{OwnedRecord, TIME, available, compression, crc32c, encode, flights, record, records, seal};

fn read(batch: &RecordBatch) -> Vec<OwnedRecord> {
    batch.records(usize::MAX >> 1).unwrap().iter().map(|record| record.unwrap().into()).collect()
}

fn parse(sealed: &SealedBatch) -> RecordBatch {
    let batch = RecordBatch::parse(sealed.to_bytes()).unwrap();
    batch.verify_crc().unwrap();
    batch
}

proptest! {
    #[test]
    fn written_records_are_read_back(records in records(), codec in compression()) {
        let sealed = seal(&records, codec);
        let batch = parse(&sealed);
        prop_assert_eq!(read(&batch), records.clone());
        prop_assert_eq!(batch.record_count() as usize, records.len());
        prop_assert_eq!(batch.next_offset(), records.len() as i64);
        prop_assert_eq!(batch.max_timestamp(), records.iter().map(|record| record.timestamp).max().unwrap());
        prop_assert_eq!(batch.compression(), sealed.compression());
        prop_assert_eq!(sealed.wire_len(), sealed.to_bytes().len());
        prop_assert!(sealed.wire_len() <= sealed.raw_len());
    }

    #[test]
    fn the_size_is_known_before_the_append(records in records(), next in record()) {
        let mut batch = encode(&records);
        let before = batch.len();
        let (key, value, headers) = (next.key.as_deref(), next.value.as_deref(), next.headers());
        let added = batch.encoded_len(next.timestamp, key, value, &headers);
        batch.append(next.timestamp, key, value, &headers).unwrap();
        prop_assert_eq!(batch.len(), before + added);
        let expected = batch.len();
        prop_assert_eq!(batch.seal(Compression::None, None).unwrap().wire_len(), expected);
    }

    #[test]
    fn a_stamp_leaves_the_crc_right(
        records in records(), codec in compression(), id: i64, epoch: i16, sequence: i32, transactional: bool,
    ) {
        let mut sealed = seal(&records, codec);
        let payload = sealed.records();
        for (id, epoch, sequence, transactional) in [(1, 2, 3, !transactional), (id, epoch, sequence, transactional)] {
            sealed.stamp(id, epoch, sequence, transactional);
            let bytes = sealed.to_bytes();
            prop_assert_eq!(&bytes[17..21], crc32c(&bytes[21..]).to_be_bytes());
            let batch = parse(&sealed);
            prop_assert_eq!(batch.producer_id(), id);
            prop_assert_eq!(batch.producer_epoch(), epoch);
            prop_assert_eq!(batch.base_sequence(), sequence);
            prop_assert_eq!(batch.is_transactional(), transactional);
            prop_assert_eq!(batch.compression(), sealed.compression());
        }
        prop_assert_eq!(payload.as_ptr(), sealed.records().as_ptr());
        prop_assert_eq!(read(&parse(&sealed)), records);
    }

    #[test]
    fn a_split_keeps_records_order_and_bound(records in records(), codec in compression(), at_most in 62usize..4000) {
        let sealed = seal(&records, codec);
        let pieces = sealed.split(at_most).unwrap();
        let again: Vec<_> = pieces.iter().flat_map(|piece| read(&parse(piece))).collect();
        prop_assert_eq!(again, records);
        for piece in &pieces {
            prop_assert!(piece.raw_len() <= at_most || piece.record_count() == 1);
        }
        // Each is as full as can be: the first record of the next would not have fitted.
        for pair in pieces.windows(2) {
            let (mut full, next) = (read(&parse(&pair[0])), read(&parse(&pair[1])));
            full.push(next[0].clone());
            prop_assert!(encode(&full).len() > at_most);
        }
    }

    #[test]
    fn a_cut_off_last_batch_is_the_end(records in records(), codec in compression(), cut in 0usize..100_000) {
        let whole = seal(&records, codec).to_bytes();
        let both = [whole.as_ref(), &whole].concat();
        let cut = whole.len() + cut % whole.len();
        let mut batches = RecordBatches::new(Bytes::from(both).slice(..cut));
        prop_assert_eq!(read(&batches.next().unwrap().unwrap()), records);
        prop_assert!(batches.next().is_none());
        prop_assert_eq!(batches.rest().len(), cut - whole.len());
    }
}

#[test]
fn nothing_of_a_recycled_buffer_shows() {
    let records = flights(50);
    let mut dirty = BatchEncoder::new(vec![0xff; 64 * 1024], TIME);
    for record in &records {
        dirty.append(record.timestamp, record.key.as_deref(), record.value.as_deref(), &record.headers()).unwrap();
    }
    let fresh = seal(&records, Compression::None);
    assert_eq!(dirty.seal(Compression::None, None).unwrap().to_bytes(), fresh.to_bytes());
}

#[test]
fn compressing_that_does_not_pay_is_dropped() {
    let mut noise = 1u64;
    let value: Vec<u8> = (0..2000)
        .map(|_| {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise as u8
        })
        .collect();
    let records = [OwnedRecord { timestamp: TIME, key: None, value: Some(value), headers: Vec::new() }];
    for codec in available() {
        let sealed = seal(&records, codec);
        assert_eq!(sealed.compression(), Compression::None, "{codec}");
        assert_eq!(sealed.wire_len(), sealed.raw_len(), "{codec}");
        assert_eq!(read(&parse(&sealed)), records, "{codec}");
    }
}

#[test]
fn the_free_buffer_comes_back() {
    for codec in available() {
        let records = flights(200);
        let (sealed, free) = encode(&records).seal_into(codec, None, Vec::with_capacity(7)).unwrap();
        assert_eq!(free.capacity() > 7, codec != Compression::None, "{codec}");
        let shared = sealed.records();
        assert!(sealed.clone().into_buffer().is_none(), "a frame still has it");
        drop(shared);
        let capacity = sealed.into_buffer().expect("nobody else has it").capacity();
        assert!(capacity > 0);
    }
}

#[test]
fn levels_reach_the_codec_and_wrong_ones_are_refused() {
    for codec in available() {
        let Some((min, max)) = codec.levels() else { continue };
        let records = flights(300);
        for level in [min.max(-5), max] {
            let sealed = encode(&records).seal(codec, Some(level)).unwrap();
            assert_eq!(read(&parse(&sealed)), records, "{codec} {level}");
        }
        let error = encode(&records).seal(codec, Some(max + 1)).unwrap_err();
        assert!(matches!(error, CompressError::Level { level, .. } if level == max + 1), "{error}");
    }
}

#[test]
fn records_that_no_batch_can_hold_are_refused() {
    let mut batch = BatchEncoder::new(Vec::new(), TIME);
    assert_eq!(batch.append(-2, None, None, &[]), Err(AppendError::Timestamp { timestamp: -2 }));
    let headers = vec![RecordHeader { key: "", value: None }; MAX_HEADERS + 1];
    let error = AppendError::TooManyHeaders { count: MAX_HEADERS + 1, max: MAX_HEADERS };
    assert_eq!(batch.append(TIME, None, None, &headers), Err(error));
    assert!(batch.is_empty());
    assert_eq!(batch.len(), 61);
    assert_eq!(batch.append(TIME, None, None, &headers[1..]), Ok(0));
    assert_eq!(batch.append(i64::MAX, None, None, &[]), Ok(1));
}

#[test]
fn appending_into_a_recycled_buffer_allocates_nothing() {
    let records = flights(1000);
    let headers = [RecordHeader { key: "trace", value: Some(b"0123456789") }];
    let mut buffer = Vec::with_capacity(256 * 1024);
    for round in 0..3 {
        let mut batch = BatchEncoder::new(buffer, TIME);
        let meter = allocation_counter::measure(|| {
            for record in &records {
                batch.append(record.timestamp, record.key.as_deref(), record.value.as_deref(), &headers).unwrap();
            }
        });
        assert_eq!(meter.count_total, 0, "round {round}");
        let mut sealed = batch.seal(Compression::None, None).unwrap();
        let meter = allocation_counter::measure(|| sealed.stamp(1, 2, 3, true));
        assert_eq!(meter.count_total, 0, "round {round}");
        buffer = sealed.into_buffer().expect("nobody else has it");
        assert_eq!(buffer.capacity(), 256 * 1024);
    }
}

#[test]
fn reading_allocates_nothing_per_record() {
    let records = flights(1000);
    let batch = parse(&seal(&records, Compression::None));
    let mut bytes = 0;
    let meter = allocation_counter::measure(|| {
        let records = batch.records(0).unwrap();
        for record in &records {
            let record = record.unwrap();
            bytes += record.value.map_or(0, <[u8]>::len) + record.headers.len();
        }
    });
    assert!(bytes > 40_000);
    assert!(meter.count_total <= 1, "{meter:?}");
}
