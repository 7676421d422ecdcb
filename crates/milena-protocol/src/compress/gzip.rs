//! Gzip, as `java.util.zip.GZIPOutputStream` writes it and `GZIPInputStream` reads it: concatenated members are one.

use std::io::{Read, Write};

use flate2::Compression as Level;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use crate::compress::{CompressError, Compression};

/// How much the output grows at a time while nothing is known of its size.
const CHUNK: usize = 16 * 1024;

pub(super) fn compress(level: Option<i32>, input: &[u8], output: &mut Vec<u8>) -> Result<(), CompressError> {
    let level = level.map_or_else(Level::default, |level| Level::new(level.unsigned_abs()));
    let failed = |error: std::io::Error| CompressError::Failed { codec: Compression::Gzip, reason: error.to_string() };
    let mut encoder = GzEncoder::new(output, level);
    encoder.write_all(input).map_err(failed)?;
    encoder.finish().map_err(failed)?;
    Ok(())
}

pub(super) fn decompress(input: &[u8], limit: usize, output: &mut Vec<u8>) -> Result<(), CompressError> {
    let start = output.len();
    let mut decoder = MultiGzDecoder::new(input);
    loop {
        // One byte more than allowed, so that an excess shows.
        let filled = output.len();
        let room = (limit - (filled - start)).saturating_add(1).min(CHUNK.max(filled - start));
        grow(output, room, start, limit);
        output.resize(filled + room, 0);
        let read =
            decoder.read(&mut output[filled..]).map_err(|error| CompressError::corrupt(Compression::Gzip, error));
        output.truncate(filled + *read.as_ref().unwrap_or(&0));
        if read? == 0 {
            return Ok(());
        }
        if output.len() - start > limit {
            return Err(CompressError::TooLarge { codec: Compression::Gzip, limit });
        }
    }
}

/// Makes room by doubling, but never beyond the limit and the one byte that shows its excess.
fn grow(output: &mut Vec<u8>, room: usize, start: usize, limit: usize) {
    if output.capacity() - output.len() >= room {
        return;
    }
    let produced = output.len() - start;
    let wanted = (produced * 2).max(produced + room).min(limit.saturating_add(1));
    output.reserve_exact(wanted - produced);
}
