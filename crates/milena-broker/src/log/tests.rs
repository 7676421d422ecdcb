use milena_protocol::{
    compress::Compression,
    record::{BatchEncoder, RecordBatch, RecordBatches},
};

use super::{batch::MOST_NAMED, *};

const RULES: BatchRules = BatchRules {
    max_bytes: 1 << 20,
    needs_keys: false,
    log_append_time: false,
    earliest_timestamp: i64::MIN,
    latest_timestamp: i64::MAX,
};

/// A batch of `count` records with timestamps from `timestamp` on; with a producer id and sequence if given.
fn batch(count: i32, timestamp: i64, producer: Option<(i64, i32, bool)>) -> CheckedBatch {
    let mut encoder = BatchEncoder::new(Vec::new(), timestamp);
    for index in 0..count {
        encoder.append(timestamp + i64::from(index), None, Some(b"value"), &[]).expect("it fits");
    }
    let mut sealed = encoder.seal(Compression::None, None).expect("nothing to compress");
    if let Some((producer_id, sequence, transactional)) = producer {
        sealed.stamp(producer_id, 0, sequence, transactional);
    }
    let mut bytes = BytesMut::from(&sealed.header()[..]);
    bytes.extend_from_slice(&sealed.records());
    check_produced(bytes.freeze(), &RULES, "t-0").expect("a good batch")
}

fn log_of(batches: impl IntoIterator<Item = CheckedBatch>) -> Log {
    let mut log = Log::default();
    log.begin_epoch(0);
    for batch in batches {
        log.append(batch, 0, None).expect("in order");
    }
    log
}

fn offsets(result: &ReadResult) -> Vec<(i64, i64)> {
    RecordBatches::new(result.records.to_bytes())
        .map(|batch| batch.expect("a whole batch"))
        .inspect(|batch| batch.verify_crc().expect("the CRC survives the patching"))
        .map(|batch| (batch.base_offset(), batch.last_offset()))
        .collect()
}

fn read(log: &Log, offset: i64) -> ReadResult {
    log.read(offset, Isolation::ReadUncommitted, usize::MAX, true).expect("in range")
}

#[test]
fn offsets_and_epochs_are_patched_and_the_rest_is_kept() {
    let mut log = log_of([batch(3, 100, None), batch(2, 200, None)]);
    log.begin_epoch(4);
    log.append(batch(1, 300, None), 4, None).expect("appended");
    assert_eq!(offsets(&read(&log, 0)), [(0, 2), (3, 4), (5, 5)]);
    assert_eq!(offsets(&read(&log, 4)), [(3, 4), (5, 5)], "a fetch within a batch gets the whole batch");
    let last = RecordBatch::parse(read(&log, 5).records.to_bytes()).expect("one batch");
    assert_eq!(last.partition_leader_epoch(), 4);
    assert_eq!(log.end_offset_for_epoch(0), (0, 5));
}

#[test]
fn a_read_is_cut_at_the_byte_but_never_within_a_first_batch_that_must_go() {
    let log = log_of([batch(3, 100, None), batch(3, 200, None)]);
    let whole = read(&log, 0).records.len();
    let one = whole / 2;
    let at = |max, at_least_one| {
        let result = log.read(0, Isolation::ReadUncommitted, max, at_least_one).expect("in range");
        (result.records.len(), result.records.to_bytes().len())
    };
    assert_eq!(at(1, true), (one, one));
    assert_eq!(at(1, false), (0, 0), "nothing rather than a part of the first batch");
    assert_eq!(at(one + 10, false), (one + 10, one + 10), "the second batch is cut");
    assert_eq!(at(whole + 10, false), (whole, whole));
}

#[test]
fn log_append_time_rewrites_timestamps_and_crc() {
    let mut log = Log::default();
    let appended = log.append(batch(2, 100, None), 0, Some(5_000)).expect("appended");
    assert_eq!(appended.log_append_time, 5_000);
    let stored = RecordBatch::parse(read(&log, 0).records.to_bytes()).expect("one batch");
    stored.verify_crc().expect("the CRC was recomputed");
    assert_eq!(stored.max_timestamp(), 5_000);
    let records = stored.records(1 << 20).expect("not compressed");
    assert!(records.iter().all(|record| record.expect("well-formed").timestamp == 5_000));
}

#[test]
fn deleting_records_moves_the_start_and_drops_whole_batches_only() {
    let mut log = log_of([batch(3, 100, None), batch(3, 200, None)]);
    assert_eq!(log.delete_before(4), Ok(4));
    assert_eq!(offsets(&read(&log, 4)), [(3, 5)]);
    assert_eq!(log.read(3, Isolation::ReadUncommitted, 100, true).err(), Some(ErrorCode::OFFSET_OUT_OF_RANGE));
    assert_eq!(log.delete_before(2), Ok(4), "never backwards");
    assert_eq!(log.delete_before(7), Err(ErrorCode::OFFSET_OUT_OF_RANGE));
}

#[test]
fn an_open_transaction_holds_the_stable_offset_back_and_an_abort_is_indexed() {
    let mut log = log_of([batch(1, 0, None), batch(2, 0, Some((7, 0, true))), batch(1, 0, None)]);
    assert_eq!((log.high_watermark(), log.last_stable_offset()), (4, 1));
    let committed = log.read(0, Isolation::ReadCommitted, usize::MAX, true).expect("in range");
    assert_eq!(offsets(&committed), [(0, 0)], "nothing at or after the stable offset");
    log.append_marker(7, 0, false, 0, 0).expect("not fenced");
    assert_eq!(log.last_stable_offset(), 5);
    let committed = log.read(0, Isolation::ReadCommitted, usize::MAX, true).expect("in range");
    let aborted = committed.aborted.expect("asked for");
    assert_eq!(aborted.iter().map(|txn| (txn.producer_id, txn.first_offset)).collect::<Vec<_>>(), [(7, 1)]);
    let after = log.read(4, Isolation::ReadCommitted, usize::MAX, true).expect("in range").aborted;
    assert_eq!(after.map(|list| list.len()), Some(1), "the marker is still to be read");
    let uncommitted = read(&log, 0).aborted;
    assert_eq!(uncommitted, None);
}

#[test]
fn truncation_forgets_what_it_cuts_off() {
    let mut log = log_of([batch(2, 0, Some((7, 0, false))), batch(2, 0, Some((7, 2, false)))]);
    log.truncate_to(3);
    assert_eq!(log.end_offset(), 2, "at the batch boundary");
    let again = log.append(batch(2, 0, Some((7, 2, false))), 1, None).expect("its sequence was forgotten");
    assert_eq!((again.base_offset, again.duplicate), (2, false));
}

#[test]
fn truncation_within_the_first_batch_leaves_no_hole() {
    let mut log = log_of([batch(3, 0, None), batch(2, 0, None)]);
    log.truncate_to(1);
    assert_eq!((log.start_offset(), log.end_offset()), (0, 0), "the batch of offset 1 begins at 0");
    log.append(batch(1, 0, None), 0, None).expect("appended");
    assert_eq!(offsets(&read(&log, 0)), [(0, 0)]);

    // What was deleted from the front stays deleted.
    let mut log = log_of([batch(3, 0, None), batch(2, 0, None)]);
    log.delete_before(1).expect("in range");
    log.truncate_to(2);
    assert_eq!((log.start_offset(), log.end_offset()), (1, 1));
    log.truncate_to(0);
    assert_eq!((log.start_offset(), log.end_offset()), (0, 0), "a shorter log starts where it ends");
}

/// Each record is judged by itself: a producer sends what is not named again.
#[test]
fn records_of_a_wrong_time_are_named_wherever_they_stand() {
    let judge = |timestamps: &[i64]| {
        let mut encoder = BatchEncoder::new(Vec::new(), timestamps[0]);
        for timestamp in timestamps {
            encoder.append(*timestamp, None, None, &[]).expect("it fits");
        }
        let bytes = encoder.seal(Compression::None, None).expect("nothing to compress").to_bytes();
        let rules = BatchRules { max_bytes: usize::MAX, earliest_timestamp: 1_000, latest_timestamp: 2_000, ..RULES };
        check_produced(bytes, &rules, "t-0").map(|_| ()).map_err(|rejected| {
            assert_eq!(rejected.code, ErrorCode::INVALID_TIMESTAMP);
            rejected.records.into_iter().map(|(index, _)| index).collect::<Vec<_>>()
        })
    };
    assert_eq!(judge(&[1_000, 2_000, -1]), Ok(()), "no time is no wrong time");
    assert_eq!(judge(&[-1, 1_500]), Ok(()));
    assert_eq!(judge(&[1_500, 999, 1_500]), Err(vec![1]), "too old, behind one that is not");
    assert_eq!(judge(&[1_500, 2_001, -1, 0, 1_500]), Err(vec![1, 3]));
    let many = vec![0; 2 * MOST_NAMED];
    assert_eq!(judge(&many).map_err(|named| named.len()), Err(MOST_NAMED), "a bomb is not answered by another");
}

#[test]
fn a_stored_batch_holds_on_to_nothing_but_itself() {
    let mut encoder = BatchEncoder::new(Vec::new(), 100);
    encoder.append(100, None, Some(b"value"), &[]).expect("it fits");
    let sent = encoder.seal(Compression::None, None).expect("nothing to compress").to_bytes();
    for append_time in [None, Some(5_000)] {
        // As it comes: a slice of a read buffer, in which other batches may lie.
        let mut read_buffer = BytesMut::zeroed(4096);
        read_buffer[1000..1000 + sent.len()].copy_from_slice(&sent);
        let frame = read_buffer.freeze();
        let checked = check_produced(frame.slice(1000..1000 + sent.len()), &RULES, "t-0").expect("a good batch");
        let mut log = Log::default();
        log.append(checked, 0, append_time).expect("appended");
        assert!(frame.is_unique(), "the log has let go of the buffer");
        assert_eq!(offsets(&read(&log, 0)), [(0, 0)]);
    }
}

#[test]
fn a_duplicate_gets_the_offset_of_the_first_time() {
    let mut log = log_of([batch(2, 0, Some((7, 0, false))), batch(3, 0, Some((7, 2, false)))]);
    let again = log.append(batch(3, 0, Some((7, 2, false))), 0, None).expect("recognised");
    assert_eq!((again.base_offset, again.duplicate, log.end_offset()), (2, true, 5));
}

#[test]
fn records_are_found_by_time() {
    let log = log_of([batch(3, 100, None), batch(3, 200, None)]);
    let find = |timestamp| log.batch_for_timestamp(timestamp, 0).and_then(|batch| batch.find_timestamp(timestamp, 0));
    assert_eq!(find(0), Some((100, 0)));
    assert_eq!(find(102), Some((102, 2)));
    assert_eq!(find(103), Some((200, 3)));
    assert_eq!(find(203), None);
    assert_eq!(log.batch_with_max_timestamp().map(|batch| batch.max_timestamp()), Some(202));
}

#[test]
fn bad_batches_are_told_apart() {
    let good = read(&log_of([batch(2, 100, None)]), 0).records.to_bytes();
    let code = |change: &dyn Fn(&mut BytesMut), rules: &BatchRules| {
        let mut bytes = BytesMut::from(&good[..]);
        change(&mut bytes);
        let checked = only_batch(Some(bytes.freeze()), true).and_then(|batch| check_produced(batch, rules, "t-0"));
        checked.map(|_| ()).map_err(|rejected| rejected.code)
    };
    assert_eq!(code(&|_| {}, &RULES), Ok(()));
    assert_eq!(code(&|bytes| bytes[70] ^= 1, &RULES), Err(ErrorCode::CORRUPT_MESSAGE));
    assert_eq!(code(&|bytes| bytes.truncate(80), &RULES), Err(ErrorCode::INVALID_RECORD));
    assert_eq!(code(&|bytes| bytes[11] = 48, &RULES), Err(ErrorCode::CORRUPT_MESSAGE));
    assert_eq!(code(&|bytes| bytes[7] = 7, &RULES), Err(ErrorCode::INVALID_RECORD));
    assert_eq!(code(&|bytes| bytes[16] = 3, &RULES), Err(ErrorCode::CORRUPT_MESSAGE));
    assert_eq!(code(&|bytes| bytes[16] = 1, &RULES), Err(ErrorCode::INVALID_RECORD));
    let twice = |bytes: &mut BytesMut| bytes.extend_from_slice(&good);
    assert_eq!(code(&twice, &RULES), Err(ErrorCode::INVALID_RECORD));
    let small = BatchRules { max_bytes: good.len() - 1, ..RULES };
    assert_eq!(code(&|_| {}, &small), Err(ErrorCode::MESSAGE_TOO_LARGE));
    let compacted = BatchRules { needs_keys: true, ..RULES };
    assert_eq!(code(&|_| {}, &compacted), Err(ErrorCode::INVALID_RECORD));
    let past = BatchRules { latest_timestamp: 100, ..RULES };
    assert_eq!(code(&|_| {}, &past), Err(ErrorCode::INVALID_TIMESTAMP));
    assert_eq!(only_batch(None, true).map_err(|rejected| rejected.code), Err(ErrorCode::INVALID_RECORD));
}
