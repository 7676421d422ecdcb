//! Batches that we write, judged by Kafka's own `DumpLogSegments`.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use milena_protocol::compress::Compression;
use milena_protocol::record::{Patch, RecordBatch, SealedBatch, Timestamps};

use crate::record_source::{OwnedRecord, TIME, available, flights, seal};

/// In the run with one real node, since Kafka's Java tools are at hand then.
mod one_node {
    use super::*;

    #[test]
    #[ignore = "needs Kafka's Java tools: run `cargo xtask test`"]
    fn dump_log_segments_finds_our_batches_valid() {
        let class_path = env::var("MILENA_KAFKA_CP").expect(
            "MILENA_KAFKA_CP isn't set: run `cargo xtask test`, or set it to what `cargo xtask kafka tools-class-path` prints",
        );
        let batches = batches();
        let dump = dump(&class_path, &batches);
        let batch_lines: Vec<_> = dump.lines().filter(|line| line.starts_with("baseOffset: ")).collect();
        assert_eq!(batch_lines.len(), batches.len(), "{dump}");
        let mut records = 0;
        for (line, batch) in batch_lines.iter().zip(&batches) {
            for expected in [
                format!(
                    "baseOffset: {} lastOffset: {} count: {} ",
                    records,
                    records + i64::from(batch.record_count()) - 1,
                    batch.record_count()
                ),
                format!("compresscodec: {} ", batch.compression()),
                format!("producerId: {} producerEpoch: {} ", field(batch, 43, 51), field(batch, 51, 53)),
                format!("isTransactional: {} ", batch.header_bytes()[22] & 0x10 != 0),
                "magic: 2 ".to_owned(),
                "isvalid: true".to_owned(),
            ] {
                assert!(line.contains(&expected), "no `{expected}` in `{line}`");
            }
            records += i64::from(batch.record_count());
        }
        let record_lines: Vec<_> = dump.lines().filter(|line| line.starts_with("| offset: ")).collect();
        assert_eq!(record_lines.len() as i64, records, "{dump}");
        for (offset, line) in record_lines.iter().enumerate() {
            assert!(line.starts_with(&format!("| offset: {offset} ")), "{line}");
        }
        assert!(
            dump.contains("key: airport-3 payload: {\"origin\":\"ORD\",\"destination\":\"SFO\",\"delay\":3}"),
            "{dump}"
        );
        assert!(dump.contains("headerKeys: [name,name,none]"), "{dump}");
        assert!(!dump.contains("Found"), "{dump}");
    }
}

/// Every codec, small and large, with all that records and producers can have.
fn batches() -> Vec<SealedBatch> {
    let odd = OwnedRecord {
        timestamp: TIME - 5,
        key: None,
        value: Some(b"odd".to_vec()),
        headers: vec![("name".into(), Some(b"1".to_vec())), ("name".into(), Some(Vec::new())), ("none".into(), None)],
    };
    let tombstone = OwnedRecord { timestamp: TIME, key: Some(b"gone".to_vec()), value: None, headers: Vec::new() };
    let mut batches = Vec::new();
    for codec in available() {
        for count in [3, 40, 4000] {
            let mut records = flights(count);
            records.push(odd.clone());
            records.push(tombstone.clone());
            let plain = seal(&records, codec);
            let mut idempotent = plain.clone();
            idempotent.stamp(4711, 3, count as i32, false);
            let mut transactional = plain.clone();
            transactional.stamp(i64::MAX, i16::MAX, i32::MAX, true);
            batches.extend([plain, idempotent, transactional]);
        }
        batches.extend(seal(&flights(500), codec).split(4096).unwrap());
        if codec != Compression::None {
            assert_eq!(batches.last().unwrap().compression(), codec);
        }
    }
    batches
}

/// Writes `batches` as a broker's log and lets Kafka read it.
fn dump(class_path: &str, batches: &[SealedBatch]) -> String {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("dump-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let log = folder.join("00000000000000000000.log");
    let mut bytes = Vec::new();
    let mut base_offset = 0;
    for batch in batches {
        let parsed = RecordBatch::parse(batch.to_bytes()).unwrap();
        let patch = Patch { base_offset, partition_leader_epoch: 2, timestamps: Timestamps::Keep };
        let numbered = patch.apply(&parsed).unwrap();
        base_offset = numbered.next_offset();
        bytes.extend_from_slice(numbered.bytes());
    }
    fs::write(&log, bytes).unwrap();
    let java = env::var_os("JAVA_HOME").map_or("java".into(), |home| PathBuf::from(home).join("bin/java"));
    let output = Command::new(java)
        .args(["-XX:TieredStopAtLevel=1", "-cp", class_path, "org.apache.kafka.tools.DumpLogSegments"])
        .args(["--print-data-log", "--deep-iteration", "--files"])
        .arg(&log)
        .output()
        .unwrap();
    fs::remove_dir_all(&folder).unwrap();
    let dump = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{dump}{}", String::from_utf8_lossy(&output.stderr));
    dump
}

/// The number in the header from `from` to `to`.
fn field(batch: &SealedBatch, from: usize, to: usize) -> i64 {
    batch.header_bytes()[from..to].iter().fold(0, |number, byte| number << 8 | i64::from(*byte))
        << (64 - (to - from) * 8)
        >> (64 - (to - from) * 8)
}
