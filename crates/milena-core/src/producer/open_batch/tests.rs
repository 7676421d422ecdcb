use milena_protocol::compress::Compression;

use super::*;
use crate::producer::budget::ByteBudget;

fn pool() -> Arc<BufferPool> {
    BufferPool::new(ByteBudget::new(1 << 20))
}

fn open(pool: &Arc<BufferPool>, bytes: usize) -> OpenBatch {
    let charge = pool.budget().try_reserve(BufferPool::capacity_for(bytes)).expect("room");
    OpenBatch::new(pool, charge, Completion::new("t".into(), 0), Instant::now(), 1_000)
}

fn filled(pool: &Arc<BufferPool>, records: u32) -> OpenBatch {
    let mut batch = open(pool, 8_192);
    for record in 0..records {
        let value = format!("value {record} of a batch");
        let headers = [RecordHeader { key: "a", value: Some(b"1") }, RecordHeader { key: "a", value: None }];
        let index = batch.append(usize::MAX, 1_000 + i64::from(record), Some(b"key"), Some(value.as_bytes()), &headers);
        assert_eq!(index.unwrap(), Some(record));
    }
    batch
}

impl OpenBatch {
    /// Seals it as one that is alone does.
    fn seal_now(self, choice: CompressionChoice, pool: &Arc<BufferPool>) -> Result<ProducerBatch, CompressError> {
        let turn = if choice.codec == Compression::None { None } else { pool.try_copy(self.copy_plan()) };
        self.seal(choice, turn, pool)
    }
}

/// Values of a batch, after its CRC was checked.
fn values(batch: &ProducerBatch) -> Vec<String> {
    let parsed = RecordBatches::new(batch.sealed().to_bytes()).next().unwrap().unwrap();
    parsed.verify_crc().unwrap();
    let records = parsed.records(1 << 20).unwrap();
    records
        .iter()
        .map(|record| {
            let record = record.unwrap();
            assert_eq!((record.key, record.headers.len()), (Some(&b"key"[..]), 2));
            assert_eq!(record.headers.last("a").unwrap().value, None);
            String::from_utf8(record.value.unwrap().to_vec()).unwrap()
        })
        .collect()
}

#[test]
fn buffer_goes_back_when_the_batch_is_done_and_nothing_stays_charged() {
    for codec in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let pool = pool();
        let batch = filled(&pool, 100);
        let sealed = batch.seal_now(CompressionChoice::fixed(codec, None), &pool).unwrap();
        assert!(pool.budget().used() >= sealed.sealed().wire_len() - BATCH_HEADER_LEN);
        let frame = sealed.sealed().records();
        drop(frame);
        drop(sealed);
        assert_eq!(pool.budget().used(), 0, "{codec}");
        assert!(pool.idle() > 0, "{codec}");
    }
}

#[test]
fn batch_that_a_frame_still_shares_gives_its_charge_back_and_not_its_bytes() {
    let pool = pool();
    let sealed = filled(&pool, 10).seal_now(CompressionChoice::fixed(Compression::None, None), &pool).unwrap();
    let frame = sealed.sealed().records();
    let before = frame.to_vec();
    drop(sealed);
    assert_eq!((pool.budget().used(), pool.idle()), (0, 0));
    let _other = filled(&pool, 50);
    assert_eq!(frame, before, "never overwritten while it is written to a socket (CVE-2026-35554)");
}

#[test]
fn cut_keeps_records_headers_and_codec_and_leaves_out_the_rest() {
    for codec in [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let pool = pool();
        let batch = filled(&pool, 60).seal_now(CompressionChoice::fixed(codec, None), &pool).unwrap();
        let parts = batch.cut(&[0..20, 21..60]).unwrap();
        let all: Vec<_> = (0..60).map(|record| format!("value {record} of a batch")).collect();
        assert_eq!(values(&batch), all);
        assert_eq!(values(&parts[0]), all[..20]);
        assert_eq!(values(&parts[1]), all[21..]);
        for part in &parts {
            assert_eq!(part.sealed().compression(), codec);
        }
        drop(batch);
        let kept: usize = parts.iter().map(|part| part.sealed().wire_len() - BATCH_HEADER_LEN).sum();
        assert_eq!(pool.budget().used(), kept, "{codec}: each part is charged its own length");
        drop(parts);
        assert_eq!(pool.budget().used(), 0, "{codec}");
    }
}

#[test]
fn stamp_numbers_the_batch_anew_each_time() {
    let pool = pool();
    let mut batch = filled(&pool, 3).seal_now(CompressionChoice::fixed(Compression::None, None), &pool).unwrap();
    for (epoch, sequence) in [(0, 7), (1, 0)] {
        batch.stamp(Some((ProducerIdentity { id: 42, epoch }, sequence)));
        let parsed = RecordBatches::new(batch.sealed().to_bytes()).next().unwrap().unwrap();
        parsed.verify_crc().unwrap();
        assert_eq!((parsed.producer_id(), parsed.producer_epoch(), parsed.base_sequence()), (42, epoch, sequence));
    }
}

#[test]
fn room_is_exact_and_growth_is_paid_for() {
    let pool = pool();
    let mut batch = open(&pool, 1_024);
    let value = [0; 100];
    let length = batch.encoded_len(1_000, None, Some(&value), &[]);
    while batch.room_for(length, 4_000) == Room::Fits {
        assert!(batch.append(4_000, 1_000, None, Some(&value), &[]).unwrap().is_some());
    }
    assert_eq!(batch.append(4_000, 1_000, None, Some(&value), &[]), Ok(None), "the buffer does not grow by itself");
    assert_eq!(pool.budget().used(), 1_024);
    assert_eq!(batch.room_for(length, 4_000), Room::Grow(2_048));
    let records = batch.records().to_vec();
    assert!(batch.try_grow(2_048, &pool));
    assert_eq!((pool.budget().used(), pool.idle(), batch.records()), (2_048, 1_024, &records[..]));
    assert!(batch.append(4_000, 1_000, None, Some(&value), &[]).unwrap().is_some());
    assert_eq!(batch.append(1_200, 1_000, None, Some(&value), &[]), Ok(None), "above the limit");
    assert_eq!(batch.room_for(3_000, 4_000), Room::Full);
    assert_eq!(open(&pool, 1_024).room_for(1_000_000, 4_000), Room::Grow(1 << 20), "a first record always may");
}

#[test]
fn batches_that_grow_leave_no_more_buffers_behind_than_they_needed_at_a_time() {
    let pool = BufferPool::new(ByteBudget::new(16 << 20));
    for _ in 0..100 {
        let mut batch = open(&pool, 8_192);
        for capacity in [16_384, 32_768, 65_536] {
            assert!(batch.try_grow(capacity, &pool));
        }
        drop(batch.seal_now(CompressionChoice::fixed(Compression::None, None), &pool));
    }
    assert_eq!((pool.budget().used(), pool.idle()), (0, 8_192 + 16_384 + 32_768 + 65_536));
}

#[test]
fn hardly_smaller_batch_is_sent_as_it_was_where_the_choice_says_so() {
    let pool = pool();
    let mut rng = fastrand::Rng::with_seed(9);
    // Nine tenths noise: zstd takes off a little.
    let value: Vec<_> = (0..4_000).map(|at| if at % 40 < 37 { rng.u8(..) } else { b'x' }).collect();
    let seal = |keep_percent| {
        let mut batch = open(&pool, 8_192);
        batch.append(usize::MAX, 1_000, None, Some(&value), &[]).unwrap();
        let choice = CompressionChoice { keep_percent, ..CompressionChoice::fixed(Compression::Zstd, Some(1)) };
        batch.seal_now(choice, &pool).unwrap()
    };
    let compressed = seal(100);
    let raw = compressed.sealed().raw_len() - BATCH_HEADER_LEN;
    let percent = (compressed.sealed().wire_len() - BATCH_HEADER_LEN) * 100 / raw;
    assert!((90..100).contains(&percent), "{percent} %");
    assert_eq!(compressed.sealed().compression(), Compression::Zstd);
    assert_eq!(seal(percent + 1).sealed().compression(), Compression::Zstd);
    let sent_raw = seal(percent);
    assert_eq!(
        (sent_raw.sealed().compression(), sent_raw.sealed().wire_len()),
        (Compression::None, compressed.sealed().raw_len())
    );
    drop((compressed, sent_raw));
    assert_eq!(pool.budget().used(), 0);
}

#[test]
fn sealing_allocates_nothing_per_byte_once_the_codec_is_warm() {
    let pool = pool();
    // Full to the last byte but a few, where a codec's bound is above the buffer.
    let full = || {
        let mut batch = open(&pool, 128 * 1024);
        let mut number = 0;
        loop {
            let value = format!("{{\"event\":{number},\"name\":\"order placed\",\"amount\":{}}}", number * 7_919);
            if batch.room_for(batch.encoded_len(1_000, None, Some(value.as_bytes()), &[]), 128 * 1024) != Room::Fits {
                return batch;
            }
            batch.append(usize::MAX, 1_000, None, Some(value.as_bytes()), &[]).unwrap();
            number += 1;
        }
    };
    for codec in Compression::ALL {
        let choice = CompressionChoice::fixed(codec, (codec == Compression::Zstd).then_some(1));
        for _ in 0..2 {
            drop(full().seal_now(choice, &pool).unwrap());
        }
        let batch = full();
        let mut sealed = None;
        let allocated = allocation_counter::measure(|| sealed = Some(batch.seal_now(choice, &pool).unwrap()));
        assert_eq!(sealed.unwrap().sealed().compression(), codec);
        // What the batch shares with the frames that are made of it.
        assert!(allocated.count_total <= 2 && allocated.bytes_total <= 256, "{codec}: {allocated:?}");
        assert_eq!(pool.budget().used(), 0, "{codec}");
    }
}

#[test]
fn batch_that_fills_its_buffer_is_compressed_into_one_of_the_same_size() {
    let pool = pool();
    let mut batch = open(&pool, 4_096);
    while batch.append(usize::MAX, 1_000, None, Some(b"twenty bytes of text"), &[]).unwrap().is_some() {}
    assert!(batch.len() > 4_096, "with its header it is larger than its buffer: {}", batch.len());
    let sealed = batch.seal_now(CompressionChoice::fixed(Compression::Lz4, None), &pool).unwrap();
    assert_eq!(sealed.sealed().compression(), Compression::Lz4);
    assert_eq!(pool.budget().used(), 4_096);
}

/// Fills a budget of 64 KiB with the batches of many partitions, seals them all and drops the oldest ones, over and over;
/// returns how many were sealed, and how many of them were compressed.
fn under_pressure(codec: Compression, headroom: usize, noise: bool) -> (usize, usize) {
    let pool = BufferPool::new(ByteBudget::new(64 * 1024));
    let _headroom = pool.budget().keep_headroom(headroom);
    let mut rng = fastrand::Rng::with_seed(7);
    let mut in_flight = std::collections::VecDeque::new();
    let (mut sealed, mut compressed) = (0, 0);
    for _ in 0..20 {
        let mut opened = Vec::new();
        while let Some(charge) = pool.budget().try_reserve(BufferPool::capacity_for(rng.usize(600..9_000))) {
            let mut batch = OpenBatch::new(&pool, charge, Completion::new("t".into(), 0), Instant::now(), 1_000);
            let mut values = Vec::new();
            loop {
                let text = format!("{{\"event\":{},\"name\":\"order placed\"}}", rng.u32(..));
                let value = if noise { (0..90).map(|_| rng.u8(..)).collect() } else { text.into_bytes() };
                if batch.append(usize::MAX, 1_000, None, Some(&value), &[]).unwrap().is_none() {
                    break;
                }
                values.push(value);
            }
            opened.push((batch, values));
        }
        for (batch, values) in opened {
            let batch = batch.seal_now(CompressionChoice::fixed(codec, None), &pool).unwrap();
            let is_compressed = batch.sealed().compression() == codec;
            assert!(is_compressed || noise || batch.lacked_room(), "{codec}: it said nothing of what it lacked");
            sealed += 1;
            compressed += usize::from(is_compressed);
            in_flight.push_back((batch, values));
        }
        while in_flight.len() > 3 {
            let (batch, values) = in_flight.pop_front().unwrap();
            let parsed = RecordBatches::new(batch.sealed().to_bytes()).next().unwrap().unwrap();
            let records = parsed.records(1 << 20).unwrap();
            let found: Vec<_> = records.iter().map(|record| record.unwrap().value.unwrap().to_vec()).collect();
            assert_eq!(found, values);
            let charged = batch.charge.as_ref().unwrap().bytes();
            let mut batch = batch;
            let buffer = batch.sealed.take().unwrap().into_buffer().expect("no frame shares it");
            assert!(buffer.capacity() <= charged, "{codec}: {} bytes, {charged} charged", buffer.capacity());
        }
    }
    let peak = pool.budget().peak.load(std::sync::atomic::Ordering::SeqCst);
    assert!(peak <= 64 * 1024, "{codec}: {peak} bytes of 65536");
    in_flight.clear();
    assert_eq!(pool.budget().used(), 0);
    (sealed, compressed)
}

#[test]
fn compressing_never_passes_the_budget_however_full_it_is() {
    for codec in Compression::ALL.into_iter().filter(|codec| *codec != Compression::None) {
        let (sealed, compressed) = under_pressure(codec, 16 * 1024, false);
        assert_eq!(compressed, sealed, "{codec}: the headroom is for that");
        let (sealed, compressed) = under_pressure(codec, 0, false);
        assert!(sealed > 100 && compressed < sealed, "{codec}: a full budget can send: {compressed} of {sealed}");
        let (sealed, _) = under_pressure(codec, 16 * 1024, true);
        assert!(sealed > 100, "{codec}: {sealed}");
    }
}

/// It can't be split, and the broker may refuse it as it is.
#[test]
fn batch_of_one_record_is_compressed_even_where_there_is_no_room() {
    let pool = BufferPool::new(ByteBudget::new(8_192));
    let mut batch = open(&pool, 8_192);
    batch.append(usize::MAX, 1_000, None, Some(&[b'x'; 8_000]), &[]).unwrap().expect("room");
    let sealed = batch.seal_now(CompressionChoice::fixed(Compression::Lz4, None), &pool).unwrap();
    assert_eq!((sealed.sealed().compression(), sealed.lacked_room()), (Compression::Lz4, false));
    assert_eq!(pool.budget().used(), 8_192);
    drop(sealed);
    assert_eq!(pool.budget().used(), 0);
}
