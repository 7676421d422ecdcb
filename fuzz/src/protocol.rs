//! Frames, record batches, and the two messages that are framed by hand.

use bytes::Bytes;
use milena_protocol::compress::Compression;
use milena_protocol::fetch::{self, FetchReply};
use milena_protocol::frame::{FrameDecoder, decode_request_header};
use milena_protocol::messages::{FetchResponse, ProduceRequest};
use milena_protocol::produce::{self, ProduceEntry, ProduceSettings, encode_produce};
use milena_protocol::record::{BatchEncoder, ProducedBatch, RecordBatch, RecordBatches, RecordHeader};
use milena_protocol::{Decode as _, Uuid};

/// Decompressed batches may be this large.
const LIMIT: usize = 1 << 20;

/// The first byte is how many bytes come at a time: frames must be the same as if all came at once.
pub fn frames(data: &[u8]) {
    let [step, stream @ ..] = data else { return };
    let cut = |step: usize| {
        let mut decoder = FrameDecoder::new(1 << 16);
        let mut frames = Vec::new();
        for piece in stream.chunks(step) {
            decoder.push(piece);
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
        }
        (frames, None)
    };
    let pieces = cut(usize::from(*step) + 1);
    assert_eq!(pieces, cut(stream.len().max(1)));
    for mut frame in pieces.0 {
        let _ = decode_request_header(&mut frame);
    }
}

/// A records field as it is, then with the CRC of its first batch repaired.
pub fn records(data: &[u8]) {
    read(&Bytes::copy_from_slice(data));
    let mut repaired = data.to_vec();
    if let Some(length) = data.get(8..12) {
        let length = i32::from_be_bytes(length.try_into().expect("four bytes"));
        let end = usize::try_from(length).map_or(0, |length| length.saturating_add(12)).min(data.len());
        if end > 61 {
            // The only format there is, so that every input reaches what is behind that check.
            repaired[16] = 2;
            let crc = crc32c(&repaired[21..end]);
            repaired[17..21].copy_from_slice(&crc.to_be_bytes());
            read(&Bytes::from(repaired));
        }
    }
}

fn read(bytes: &Bytes) {
    let mut batches = RecordBatches::new(bytes.clone());
    let mut read = 0;
    for batch in batches.by_ref() {
        let Ok(batch) = batch else { return };
        read += batch.bytes().len();
        assert!(batch.next_offset() > batch.base_offset());
        let _ = (batch.verify_crc(), ProducedBatch::validate(batch.bytes().clone(), LIMIT));
        let Ok(records) = batch.records(LIMIT) else { continue };
        let _ = records.control_type();
        let mut last = batch.base_offset() - 1;
        let mut whole = 0;
        for record in &records {
            let Ok(record) = record else { break };
            assert!(record.offset > last && record.offset <= batch.last_offset());
            last = record.offset;
            whole += 1;
            assert_eq!(record.headers.iter().count(), record.headers.len());
        }
        assert!(whole <= records.len());
    }
    assert_eq!(read + batches.rest().len(), bytes.len());
}

/// The bytes make records and the codec; what is written must be valid and read the same.
pub fn encode(data: &[u8]) {
    let [codec, at_most, rest @ ..] = data else { return };
    let mut batch = BatchEncoder::new(Vec::new(), 1_700_000_000_000);
    let mut written = Vec::new();
    for piece in rest.chunks(usize::from(*at_most) + 9) {
        let (time, body) = piece.split_at(piece.len().min(8));
        let time = time.iter().fold(0i64, |time, byte| time << 8 | i64::from(*byte));
        let (key, value) = body.split_at(body.len() / 3);
        let key = (key.first() != Some(&0)).then_some(key);
        let value = (value.first() != Some(&0)).then_some(value);
        let text = String::from_utf8_lossy(body).into_owned();
        let header = [RecordHeader { key: &text, value }];
        let headers = &header[..usize::from(body.len() % 2 == 1)];
        let added = batch.encoded_len(time, key, value, headers);
        let before = batch.len();
        if batch.append(time, key, value, headers).is_ok() {
            assert_eq!(batch.len(), before + added);
            written.push((time, key, value, headers.len()));
        }
    }
    if written.is_empty() {
        return;
    }
    let codec = Compression::from_id(codec % 5).expect("there are five");
    let mut sealed = batch.seal(codec, None).expect("every codec is part of this build");
    sealed.stamp(7, 1, 42, codec == Compression::Gzip);
    let valid = ProducedBatch::validate(sealed.to_bytes(), sealed.raw_len()).expect("we write what a broker takes");
    let records = valid.batch.records(sealed.raw_len()).expect("it was read once");
    let read = records.iter().map(|record| record.expect("it was read once"));
    assert!(read.map(|r| (r.timestamp, r.key, r.value, r.headers.len())).eq(written));
    let pieces = sealed.split(usize::from(*at_most) + 61).expect("it can be read");
    let count: i32 = pieces.iter().map(|piece| piece.record_count()).sum();
    assert_eq!(count, sealed.record_count());
}

/// The bytes make a request; by hand it must be what the generated codec reads.
pub fn produce_framing(data: &[u8]) {
    let [version, acks, timeout, rest @ ..] = data else { return };
    let range = produce::VERSIONS;
    let version = range.min + i16::from(*version) % (range.max - range.min + 1);
    let names: Vec<String> = rest.chunks(5).map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    let mut batch = BatchEncoder::new(Vec::new(), 0);
    batch.append(1, Some(rest), None, &[]).expect("it is small");
    let batch = batch.seal(Compression::None, None).expect("nothing is compressed");
    let entries: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(index, topic)| ProduceEntry {
            topic,
            topic_id: Uuid::from_u128(topic.bytes().map(u128::from).sum()),
            partition: index as i32,
            batch: &batch,
        })
        .collect();
    let settings = ProduceSettings {
        transactional_id: names.first().map(String::as_str),
        acks: i16::from(*acks),
        timeout_ms: i32::from(*timeout),
    };
    let parts = encode_produce(version, settings, &entries).expect("names are short");
    let request = ProduceRequest::decode_exact(version, Bytes::from(parts.concat())).expect("it can be read");
    let read = request.topic_data.iter().flat_map(|topic| {
        topic.partition_data.iter().map(|partition| (topic.name.to_string(), topic.topic_id, partition.index))
    });
    let by_name = version < 13;
    assert!(read.eq(entries.iter().map(|entry| {
        let name = if by_name { entry.topic.to_owned() } else { String::new() };
        (name, if by_name { Uuid::ZERO } else { entry.topic_id }, entry.partition)
    })));
    for topic in &request.topic_data {
        for partition in &topic.partition_data {
            let records = partition.records.clone().expect("every entry has records");
            RecordBatch::parse(records).and_then(|batch| batch.verify_crc()).expect("the batch came through");
        }
    }
}

/// The first byte is the version, the rest a body: by hand and generated must agree.
pub fn fetch_decoding(data: &[u8]) {
    let [version, body @ ..] = data else { return };
    let range = fetch::VERSIONS;
    let version = range.min + i16::from(*version) % (range.max - range.min + 1);
    let body = Bytes::copy_from_slice(body);
    let by_hand = FetchReply::decode(version, body.clone());
    let generated = FetchResponse::decode_exact(version, body);
    match (by_hand, generated) {
        (Ok(by_hand), Ok(generated)) => {
            let count: usize = generated.responses.iter().map(|topic| topic.partitions.len()).sum();
            assert_eq!(by_hand.partitions.len(), count);
            let records = generated.responses.iter().flat_map(|topic| &topic.partitions);
            let records = records.map(|partition| partition.records.clone().unwrap_or_default());
            assert!(by_hand.partitions.iter().map(|partition| partition.records.clone()).eq(records));
            for partition in by_hand.partitions {
                read(&partition.records);
            }
        }
        (Err(_), Err(_)) => {}
        // By hand, a snapshot id is skipped, whatever is in it.
        (Ok(_), Err(_)) if version >= 12 => {}
        (by_hand, generated) => panic!("{by_hand:?} but {generated:?}"),
    }
}

/// By a table, independent of what is tested.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut crc = index as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
                bit += 1;
            }
            table[index] = crc;
            index += 1;
        }
        table
    };
    !bytes.iter().fold(!0u32, |crc, byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)])
}
