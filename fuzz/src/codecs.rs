//! Decompressors: no panic, no endless loop, never more than the limit; and what is compressed comes back.

use milena_protocol::compress::{CompressError, Compression};

/// Gzip.
pub fn gzip(data: &[u8]) {
    obeys(Compression::Gzip, data);
}

/// Snappy, raw and framed.
pub fn snappy(data: &[u8]) {
    obeys(Compression::Snappy, data);
}

/// LZ4 frames.
pub fn lz4(data: &[u8]) {
    obeys(Compression::Lz4, data);
}

/// Zstandard frames.
pub fn zstd(data: &[u8]) {
    obeys(Compression::Zstd, data);
}

/// The first two bytes are the limit in units of 16 bytes, the rest is compressed.
fn obeys(codec: Compression, data: &[u8]) {
    let [a, b, input @ ..] = data else { return };
    let limit = usize::from(u16::from_be_bytes([*a, *b])) * 16;
    let mut output = Vec::new();
    match codec.decompress(input, limit, &mut output) {
        Ok(()) => {
            assert!(output.len() <= limit, "{} bytes beyond a limit of {limit}", output.len());
            // With that as the limit it must come out the same, with less not at all.
            let mut exact = Vec::new();
            codec.decompress(input, output.len(), &mut exact).expect("the limit is what it needs");
            assert_eq!(exact, output);
            if let Some(less) = output.len().checked_sub(1) {
                let error = codec.decompress(input, less, &mut Vec::new()).expect_err("the limit is too low");
                assert!(matches!(error, CompressError::TooLarge { .. }), "{error}");
            }
        }
        Err(CompressError::TooLarge { limit: named, .. }) => assert_eq!(named, limit),
        Err(_) => {}
    }
    assert!(output.capacity() <= limit.max(64), "{} bytes kept under a limit of {limit}", output.capacity());

    let mut small = Vec::new();
    codec.compress(None, input, &mut small).expect("any input can be compressed");
    let mut again = Vec::new();
    codec.decompress(&small, input.len(), &mut again).expect("what was compressed can be decompressed");
    assert_eq!(again, input);
}
