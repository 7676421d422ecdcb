//! Batches that lie, each rejected by name and without a panic.

use bytes::Bytes;
use milena_protocol::compress::{CompressError, Compression};
use milena_protocol::record::{CorruptBatch, CorruptRecord, RecordBatch, RecordBatches, RecordError, RecordHeader};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::record_source::{RawBatch, TIME, available, flights, raw_record, repair_crc, seal, zigzag};

/// attributes, timestamp delta 0, offset delta 0, key null, value null, no headers.
const SMALLEST: [u8; 6] = [0, 0, 0, 1, 1, 0];

fn batch_error(bytes: Vec<u8>) -> CorruptBatch {
    match RecordBatch::parse(Bytes::from(bytes)) {
        Err(RecordError::CorruptBatch { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

/// What reading all records says.
fn read_error(batch: &RawBatch) -> RecordError {
    let batch = RecordBatch::parse(batch.frozen()).unwrap();
    batch.verify_crc().unwrap();
    let records = batch.records(1 << 20).unwrap();
    let mut errors = records.iter().filter_map(Result::err);
    let error = errors.next().expect("an error");
    assert!(errors.next().is_none(), "nothing follows an error");
    error
}

fn record_error(body: &[u8]) -> CorruptRecord {
    // What follows lets the shortest record pass as one; it is never reached.
    match read_error(&RawBatch::new(1, [raw_record(body), vec![0; 7]].concat())) {
        RecordError::CorruptRecord { reason, index: 0, .. } => reason,
        other => panic!("{other}"),
    }
}

fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut batch = RawBatch::new(1, raw_record(&SMALLEST)).bytes();
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    repair_crc(&mut batch);
    batch
}

#[test]
fn the_smallest_record_is_read() {
    let batch = RecordBatch::parse(RawBatch::new(1, raw_record(&SMALLEST)).frozen()).unwrap();
    let records = batch.records(0).unwrap();
    let record = records.iter().next().unwrap().unwrap();
    assert_eq!((record.offset, record.timestamp, record.key, record.value), (0, TIME, None, None));
    assert_eq!(records.iter().count(), 1);
}

#[test]
fn lengths_of_batches_are_checked() {
    for length in [i32::MIN, -1, 0, 48] {
        assert_eq!(batch_error(patched(8, &length.to_be_bytes())), CorruptBatch::Length(length));
        let error = RecordBatches::new(Bytes::from(patched(8, &length.to_be_bytes()))).next().unwrap().unwrap_err();
        assert!(matches!(error, RecordError::CorruptBatch { reason: CorruptBatch::Length(_), .. }), "{error}");
    }
    // One byte longer than there are: alone it is damaged, in a fetch it is cut off.
    let longer = patched(8, &57i32.to_be_bytes());
    assert_eq!(batch_error(longer.clone()), CorruptBatch::Length(57));
    assert!(RecordBatches::new(Bytes::from(longer)).next().is_none());
    assert_eq!(batch_error(patched(8, &55i32.to_be_bytes())), CorruptBatch::NotAlone(1));
}

#[test]
fn old_and_unknown_formats_are_refused_by_name() {
    for magic in [0, 1, 3, -1] {
        let bytes = Bytes::from(patched(16, &[magic as u8]));
        for error in
            [RecordBatch::parse(bytes.clone()).unwrap_err(), RecordBatches::new(bytes).next().unwrap().unwrap_err()]
        {
            assert!(matches!(error, RecordError::UnsupportedMagic { magic: found } if found == magic), "{error}");
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_under_the_crc_is_seen() {
    let bytes = seal(&flights(3), Compression::None).to_bytes();
    for bit in 17 * 8..bytes.len() * 8 {
        let mut damaged = bytes.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        if let Ok(batch) = RecordBatch::parse(Bytes::from(damaged)) {
            let error = batch.verify_crc().unwrap_err();
            assert!(matches!(error, RecordError::BadCrc { .. }), "bit {bit}: {error}");
        }
    }
}

#[test]
fn attributes_without_a_meaning_are_refused() {
    for codec in 5..8u8 {
        assert_eq!(batch_error(patched(21, &[0, codec])), CorruptBatch::Codec(codec));
    }
    for bit in 7..16 {
        let attributes = 1i16 << bit;
        assert_eq!(batch_error(patched(21, &attributes.to_be_bytes())), CorruptBatch::Attributes(attributes));
    }
}

#[test]
fn offsets_that_overflow_or_contradict_are_refused() {
    for delta in [-1, i32::MIN] {
        assert_eq!(batch_error(patched(23, &delta.to_be_bytes())), CorruptBatch::LastOffsetDelta(delta));
    }
    for base in [-1, i64::MIN, i64::MAX] {
        assert_eq!(batch_error(patched(0, &base.to_be_bytes())), CorruptBatch::BaseOffset(0));
    }
    assert!(RecordBatch::parse(Bytes::from(patched(0, &(i64::MAX - 1).to_be_bytes()))).is_ok());
}

#[test]
fn record_counts_are_held_against_the_bytes() {
    for count in [-1, i32::MIN, 2] {
        assert_eq!(batch_error(patched(57, &count.to_be_bytes())), CorruptBatch::RecordCount(count));
    }
    let mut batch = RawBatch::new(2, raw_record(&SMALLEST));
    assert_eq!(batch_error(batch.bytes()), CorruptBatch::RecordCount(2));
    batch.record_count = i32::MAX;
    batch.last_offset_delta = i32::MAX - 1;
    assert_eq!(batch_error(batch.bytes()), CorruptBatch::RecordCount(i32::MAX));
    // Fewer than there are bytes for.
    let two = RawBatch::new(1, [raw_record(&SMALLEST), raw_record(&SMALLEST)].concat());
    let error = read_error(&two);
    assert!(matches!(error, RecordError::CorruptBatch { reason: CorruptBatch::TrailingBytes(7), .. }), "{error}");
}

#[test]
fn a_compressed_count_is_held_against_the_inflated_bytes() {
    for codec in available().into_iter().filter(|codec| *codec != Compression::None) {
        let mut section = Vec::new();
        codec.compress(None, &raw_record(&SMALLEST), &mut section).unwrap();
        let mut batch = RawBatch::new(i32::MAX, section);
        batch.attributes = i16::from(codec.id());
        let batch = RecordBatch::parse(batch.frozen()).unwrap();
        let error = batch.records(1 << 20).unwrap_err();
        let expected = CorruptBatch::RecordCount(i32::MAX);
        assert!(matches!(error, RecordError::CorruptBatch { reason, .. } if reason == expected), "{codec}: {error}");
    }
}

#[test]
fn a_batch_beyond_the_limit_is_named_and_what_follows_is_still_there() {
    for codec in available().into_iter().filter(|codec| *codec != Compression::None) {
        let sealed = seal(&flights(100), codec);
        let both = Bytes::from([sealed.to_bytes(), sealed.to_bytes()].concat());
        let mut batches = RecordBatches::new(both);
        let limit = sealed.raw_len() - 61;
        let first = batches.next().unwrap().unwrap();
        let error = first.records(limit - 1).unwrap_err();
        let RecordError::Compression { source: CompressError::TooLarge { limit: named, .. }, .. } = error else {
            panic!("{codec}: {error}")
        };
        assert_eq!(named, limit - 1, "{codec}");
        assert_eq!(first.next_offset(), 100);
        assert_eq!(batches.next().unwrap().unwrap().records(limit).unwrap().iter().count(), 100, "{codec}");
    }
}

#[test]
fn offset_deltas_must_rise_within_the_batch() {
    let mut delta_1 = SMALLEST.to_vec();
    delta_1[2] = 2;
    let mut minus_1 = SMALLEST.to_vec();
    minus_1[2] = 1;
    assert_eq!(record_error(&delta_1), CorruptRecord::OffsetDelta(1), "above the last");
    assert_eq!(record_error(&minus_1), CorruptRecord::OffsetDelta(-1));
    let twice = RawBatch::new(2, [raw_record(&SMALLEST), raw_record(&SMALLEST)].concat());
    let error = read_error(&twice);
    assert!(
        matches!(error, RecordError::CorruptRecord { index: 1, reason: CorruptRecord::OffsetDelta(0), .. }),
        "{error}"
    );
    let huge = [&[0, 0][..], &zigzag(i64::from(i32::MAX)), &[1, 1, 0]].concat();
    assert_eq!(record_error(&huge), CorruptRecord::OffsetDelta(i32::MAX));
}

#[test]
fn timestamps_that_overflow_are_refused() {
    for delta in [i64::MAX, i64::MAX - TIME + 1] {
        let body = [&[0][..], &zigzag(delta), &[0, 1, 1, 0]].concat();
        assert_eq!(record_error(&body), CorruptRecord::TimestampDelta(delta));
    }
    // Where the broker has set them, the delta has no meaning.
    let body = [&[0][..], &zigzag(i64::MAX), &[0, 1, 1, 0]].concat();
    let mut batch = RawBatch::new(1, raw_record(&body));
    batch.attributes = 0b1000;
    let batch = RecordBatch::parse(batch.frozen()).unwrap();
    let records = batch.records(0).unwrap();
    assert_eq!(records.iter().next().unwrap().unwrap().timestamp, TIME + 9);
}

#[test]
fn varints_beyond_their_width_are_refused() {
    let eleven = [&[0][..], &[0xff; 10], &[0, 0, 1, 1, 0]].concat();
    assert_eq!(record_error(&eleven), CorruptRecord::VarintOverflow);
    let six = [&[0, 0][..], &[0x80; 5], &[0, 1, 1, 0]].concat();
    assert_eq!(record_error(&six), CorruptRecord::VarintOverflow);
    assert_eq!(record_error(&[0, 0, 0x80]), CorruptRecord::Truncated);
    // The fifth byte of 32 bits has room for four.
    let wide = [&[0, 0][..], &[0x80, 0x80, 0x80, 0x80, 0x10], &[1, 1, 0]].concat();
    assert_eq!(record_error(&wide), CorruptRecord::VarintOverflow);
}

#[test]
fn lengths_inside_records_are_checked() {
    assert_eq!(record_error(&[]), CorruptRecord::Truncated);
    for length in [3, i32::MAX] {
        let lie = zigzag(i64::from(length));
        let key = [&[0, 0, 0][..], &lie, &[1, 0]].concat();
        let value = [&[0, 0, 0, 1][..], &lie, &[0]].concat();
        assert_eq!(record_error(&key), CorruptRecord::KeyLength(length));
        assert_eq!(record_error(&value), CorruptRecord::ValueLength(length));
    }
    let behind = [&SMALLEST[..], &[9, 9]].concat();
    assert_eq!(record_error(&behind), CorruptRecord::TrailingBytes(2));
    for length in [-1i64, 7, i64::from(i32::MAX)] {
        let section = [zigzag(length), SMALLEST.to_vec()].concat();
        let batch = RawBatch::new(1, section);
        // A short length still takes seven bytes here, so that the count passes.
        let error = read_error(&batch);
        assert!(
            matches!(error, RecordError::CorruptRecord { reason: CorruptRecord::Length(found), .. } if i64::from(found) == length),
            "{error}"
        );
    }
}

#[test]
fn header_counts_are_held_against_the_bytes() {
    for count in [-1, 1, i32::MAX, i32::MIN] {
        let body = [&[0, 0, 0, 1, 1][..], &zigzag(i64::from(count))].concat();
        assert_eq!(record_error(&body), CorruptRecord::HeaderCount(count));
    }
}

#[test]
fn malformed_headers_are_refused() {
    let header = |bytes: &[u8]| record_error(&[&[0, 0, 0, 1, 1, 2][..], bytes].concat());
    assert_eq!(header(&[1, 1]), CorruptRecord::Header, "a null name");
    assert_eq!(header(&[0, 40]), CorruptRecord::Header, "a value beyond the record");
    assert_eq!(header(&[40, 0]), CorruptRecord::Header, "a name beyond the record");
}

#[test]
fn what_kafka_stores_is_read_however_odd() {
    let read = |body: &[u8]| {
        let batch = RecordBatch::parse(Bytes::from(RawBatch::new(1, raw_record(body)).bytes())).unwrap();
        batch.records(1 << 20).unwrap()
    };
    let records = read(&[&[0, 0, 0, 1, 1][..], &zigzag(20_000), &[0, 1].repeat(20_000)].concat());
    let record = records.iter().next().unwrap().unwrap();
    assert_eq!(record.headers.iter().filter(|header| header.key.is_empty()).count(), 20_000);

    // "über", written by a client that speaks Latin-1.
    let records = read(&[0, 0, 0, 1, 1, 2, 8, 0xfc, b'b', b'e', b'r', 2, b'v']);
    let record = records.iter().next().unwrap().unwrap();
    let header = record.headers.iter().next().unwrap();
    assert_eq!((header.key, header.value), (&b"\xfcber"[..], Some(&b"v"[..])));
    assert_eq!(header.name(), "\u{fffd}ber");
    assert!(RecordHeader::try_from(header).is_err(), "it is never written as another name");

    // Java takes any negative length for null, not -1 alone.
    let odd = zigzag(-2);
    let records = read(&[&[0, 0, 0][..], &odd, &odd, &[2, 0], &zigzag(i64::from(i32::MIN))].concat());
    let record = records.iter().next().unwrap().unwrap();
    assert_eq!((record.key, record.value, record.headers.last("").unwrap().value), (None, None, None));
}

#[test]
fn a_control_batch_must_say_something() {
    let control = |key: Option<&[u8]>| {
        let key = key.map_or(vec![1], |key| [zigzag(key.len() as i64), key.to_vec()].concat());
        let mut batch = RawBatch::new(1, raw_record(&[&[0, 0, 0][..], &key, &[1, 0]].concat()));
        batch.attributes = 0b10_0000;
        RecordBatch::parse(batch.frozen()).unwrap().records(0).unwrap().control_type()
    };
    use milena_protocol::record::ControlType::{Abort, Commit, Other};
    assert_eq!(control(Some(&[0, 0, 0, 0])).unwrap(), Some(Abort));
    assert_eq!(control(Some(&[0, 1, 0, 1, 7])).unwrap(), Some(Commit));
    assert_eq!(control(Some(&[0, 0, 0, 3])).unwrap(), Some(Other(3)));
    for key in [None, Some(&[0, 0, 0][..]), Some(&[0xff, 0, 0, 0])] {
        let error = control(key).unwrap_err();
        assert!(matches!(error, RecordError::CorruptBatch { reason: CorruptBatch::ControlRecord, .. }), "{error}");
    }
    let mut empty = RawBatch::new(0, Vec::new());
    empty.attributes = 0b10_0000;
    let error = RecordBatch::parse(empty.frozen()).unwrap().records(0).unwrap().control_type().unwrap_err();
    assert!(matches!(error, RecordError::CorruptBatch { reason: CorruptBatch::ControlRecord, .. }), "{error}");
}

/// Reads everything there is; what it is does not matter.
fn read_all(bytes: &Bytes, limit: usize) -> usize {
    let mut seen = 0;
    for batch in RecordBatches::new(bytes.clone()) {
        let Ok(batch) = batch else { break };
        let Ok(records) = batch.records(limit) else { continue };
        let _ = records.control_type();
        for record in &records {
            let Ok(record) = record else { break };
            seen += record.headers.iter().map(|header| header.key.len()).sum::<usize>() + 1;
        }
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn random_sections_never_panic_nor_allocate(section in vec(any::<u8>(), 0..300), count in 0i32..50) {
        let bytes = RawBatch::new(count, section).frozen();
        let meter = allocation_counter::measure(|| {
            read_all(&bytes, 0);
        });
        prop_assert!(meter.bytes_max <= 8 * bytes.len() as u64, "{meter:?}");
    }

    #[test]
    fn mutated_batches_never_panic_nor_allocate(at in 0usize..10_000, byte: u8, repair: bool) {
        let mut bytes = seal(&flights(20), Compression::None).to_bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        // A codec has tables of its own, whatever the batch's size: they are metered with the codecs.
        prop_assume!(bytes[22] & 7 == 0);
        if repair {
            repair_crc(&mut bytes);
        }
        let bytes = Bytes::from(bytes);
        let meter = allocation_counter::measure(|| {
            read_all(&bytes, 0);
        });
        prop_assert!(meter.bytes_max <= 8 * bytes.len() as u64, "{meter:?}");
    }

    #[test]
    fn mutated_compressed_batches_stay_within_the_limit(
        codec in crate::record_source::compression(), at in 0usize..10_000, byte: u8,
    ) {
        let mut bytes = seal(&flights(50), codec).to_bytes().to_vec();
        let at = 61 + at % (bytes.len() - 61);
        bytes[at] = byte;
        repair_crc(&mut bytes);
        let bytes = Bytes::from(bytes);
        let limit = 1 << 20;
        let meter = allocation_counter::measure(|| {
            read_all(&bytes, limit);
        });
        prop_assert!(meter.bytes_max <= limit as u64 + (256 << 10), "{codec}: {meter:?}");
    }
}
