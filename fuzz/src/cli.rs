//! Lines of JSON, as the command line reads and writes them.

use super::jsonl::{Encoding, OutputRecord, format, parse};

/// The first byte chooses the encoding, the rest is a line.
pub fn jsonl(data: &[u8]) {
    let [encoding, line @ ..] = data else { return };
    let encoding = if encoding % 2 == 0 { Encoding::Utf8 } else { Encoding::Base64 };
    let Ok(line) = std::str::from_utf8(line) else { return };
    let Ok(record) = parse(line, encoding) else { return };
    let headers: Vec<_> = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    let output = OutputRecord {
        partition: record.partition.unwrap_or(0),
        offset: 7,
        timestamp: record.timestamp.unwrap_or(0),
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: &headers,
    };
    let line = format(output, encoding).expect("what came as text can be written as text");
    let again = parse(&line, encoding).expect("what was written can be read");
    assert_eq!((again.key, again.value, again.headers), (record.key, record.value, record.headers));
    assert!(!line.contains('\n'), "one record, one line");
}
