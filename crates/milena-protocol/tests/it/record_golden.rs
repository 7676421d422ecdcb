//! Batches written by Kafka's Java client, read as Kafka's Java client reads them (testdata/batches/README.md).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use bytes::Bytes;
use milena_protocol::record::{ControlType, RecordBatch, RecordBatches, RecordError, TimestampType};

use crate::record_source::crc32c;

const LIMIT: usize = 1 << 20;

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/batches"))
}

fn golden(name: &str) -> Bytes {
    Bytes::from(std::fs::read(folder().join(format!("{name}.bin"))).unwrap())
}

fn only(name: &str) -> RecordBatch {
    RecordBatch::parse(golden(name)).unwrap()
}

fn hex(bytes: Option<&[u8]>) -> String {
    let Some(bytes) = bytes else { return "null".to_owned() };
    if bytes.len() > 64 {
        return format!("#{}:{}", bytes.len(), crc32c(bytes));
    }
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// The lines that the Java program would have written of this file.
fn described(name: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in RecordBatches::new(golden(name)) {
        let batch = match batch {
            Ok(batch) => batch,
            Err(RecordError::UnsupportedMagic { magic }) => {
                lines.push(format!("legacy\t{name}\t{magic}"));
                break;
            }
            Err(error) => panic!("{name}: {error}"),
        };
        batch.verify_crc().unwrap();
        let timestamp_type = match batch.timestamp_type() {
            TimestampType::CreateTime => "CreateTime",
            TimestampType::LogAppendTime => "LogAppendTime",
        };
        lines.push(
            [
                "batch".to_owned(),
                name.to_owned(),
                batch.base_offset().to_string(),
                batch.last_offset().to_string(),
                batch.record_count().to_string(),
                batch.compression().to_string(),
                timestamp_type.to_owned(),
                batch.max_timestamp().to_string(),
                batch.partition_leader_epoch().to_string(),
                batch.producer_id().to_string(),
                batch.producer_epoch().to_string(),
                batch.base_sequence().to_string(),
                batch.is_transactional().to_string(),
                batch.is_control().to_string(),
                batch.delete_horizon().unwrap_or(-1).to_string(),
                batch.crc().to_string(),
            ]
            .join("\t"),
        );
        for record in &batch.records(LIMIT).unwrap() {
            let record = record.unwrap();
            let headers: Vec<_> = record
                .headers
                .iter()
                .map(|header| format!("{}={}", hex(Some(header.key)), hex(header.value)))
                .collect();
            lines.push(format!(
                "record\t{name}\t{}\t{}\t{}\t{}\t{}",
                record.offset,
                record.timestamp,
                hex(record.key),
                hex(record.value),
                headers.join(",")
            ));
        }
    }
    lines
}

#[test]
fn every_batch_of_the_java_client_reads_as_the_java_client_reads_it() {
    let expected = std::fs::read_to_string(folder().join("expected.tsv")).unwrap();
    let mut by_file = BTreeMap::<&str, Vec<&str>>::new();
    for line in expected.lines() {
        by_file.entry(line.split('\t').nth(1).unwrap()).or_default().push(line);
    }
    assert_eq!(by_file.len(), 19);
    for (name, lines) in by_file {
        assert_eq!(described(name), lines, "{name}");
    }
}

#[test]
fn markers_say_what_became_of_the_transaction() {
    let control_type = |name| only(name).records(LIMIT).unwrap().control_type().unwrap();
    assert_eq!(control_type("commit-marker"), Some(ControlType::Commit));
    assert_eq!(control_type("abort-marker"), Some(ControlType::Abort));
    assert_eq!(control_type("none"), None);
}

#[test]
fn a_compacted_batch_keeps_its_range() {
    let batch = only("compacted");
    assert_eq!((batch.base_offset(), batch.next_offset(), batch.record_count()), (600, 700, 67));
    let empty = only("empty");
    assert_eq!((empty.next_offset(), empty.records(LIMIT).unwrap().iter().count()), (110, 0));
}

#[test]
fn our_batch_of_the_same_records_is_the_same_bytes() {
    use milena_protocol::compress::Compression;
    use milena_protocol::record::BatchEncoder;
    let java = only("none");
    let records = java.records(LIMIT).unwrap();
    let mut ours = BatchEncoder::new(Vec::new(), java.base_timestamp());
    for record in &records {
        let record = record.unwrap();
        let headers: Vec<_> = record.headers.iter().map(|header| header.try_into().unwrap()).collect();
        ours.append(record.timestamp, record.key, record.value, &headers).unwrap();
    }
    assert_eq!(ours.seal(Compression::None, None).unwrap().to_bytes(), java.bytes());
}
