//! Gzip, as `java.util.zip.GZIPOutputStream` writes it and `GZIPInputStream` reads it: concatenated members are one.

use std::cell::RefCell;
use std::io::Read;

use flate2::bufread::MultiGzDecoder;
use flate2::{Compress, Compression as Level, Crc, FlushCompress, Status};

use crate::compress::{CompressError, Compression};

/// The most that deflate makes of one byte.
const MAX_EXPANSION: usize = 1032;
/// The scratch that sizes are counted in.
const SCRATCH: usize = 8 * 1024;

/// Magic, deflate, no flags, no time, no hint about the level, an unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// CRC and size.
const TRAILER_LEN: usize = 8;
/// What deflate adds at most: five bytes for each stored block, a little around them, and the trailer.
const fn bound(length: usize) -> usize {
    HEADER.len() + length + length / 16_000 * 5 + 64
}

thread_local! {
    // The state is a few hundred KiB; it is kept for the level that was used last.
    static COMPRESSOR: RefCell<Option<(u32, Compress)>> = const { RefCell::new(None) };
}

/// Appends at most `at_most` bytes; false if there would be more.
pub(super) fn compress(
    level: Option<i32>,
    input: &[u8],
    output: &mut Vec<u8>,
    at_most: usize,
) -> Result<bool, CompressError> {
    let Some(most) = at_most.checked_sub(HEADER.len() + TRAILER_LEN) else { return Ok(false) };
    let most = output.len().saturating_add(HEADER.len()).saturating_add(most);
    let level = level.map_or_else(Level::default, |level| Level::new(level.unsigned_abs()));
    let failed = |reason: String| CompressError::Failed { codec: Compression::Gzip, reason };
    COMPRESSOR.with_borrow_mut(|slot| {
        let compressor = match slot {
            Some((of, compressor)) if *of == level.level() => {
                compressor.reset();
                compressor
            }
            _ => &mut slot.insert((level.level(), Compress::new(level, false))).1,
        };
        output.extend_from_slice(&HEADER);
        loop {
            // It writes into what is reserved, and says how far it came.
            let read = compressor.total_in() as usize;
            // Not a byte beyond what is of use.
            let room = most.saturating_sub(output.len());
            output.reserve(room.min(64));
            match compressor.compress_vec(&input[read..], output, FlushCompress::Finish) {
                Ok(Status::StreamEnd) => break,
                Ok(Status::Ok | Status::BufError) => {
                    if output.len() >= most {
                        return Ok(false);
                    }
                    let left = bound(input.len() - compressor.total_in() as usize);
                    output.reserve(left.min(most - output.len()));
                }
                Err(error) => return Err(failed(error.to_string())),
            }
        }
        if output.len() > most {
            return Ok(false);
        }
        let mut crc = Crc::new();
        crc.update(input);
        output.extend_from_slice(&crc.sum().to_le_bytes());
        output.extend_from_slice(&(input.len() as u32).to_le_bytes());
        Ok(true)
    })
}

pub(super) fn decompress(input: &[u8], limit: usize, output: &mut Vec<u8>) -> Result<(), CompressError> {
    let start = output.len();
    // A member ends with its size, so that one allocation does: a buffer that grows would be held twice as it moves.
    let declared = input.last_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize);
    let likely = declared.min(limit).min(input.len().saturating_mul(MAX_EXPANSION));
    if !inflate(input, likely, output)? {
        // Several members, or a lie. To count first costs time where nobody writes such data, not memory.
        output.truncate(start);
        let size = count(input, limit)?;
        output.shrink_to(start);
        inflate(input, size, output)?;
    }
    Ok(())
}

/// Appends up to `room` bytes to `output`; says whether that was all there are.
fn inflate(input: &[u8], room: usize, output: &mut Vec<u8>) -> Result<bool, CompressError> {
    let mut decoder = MultiGzDecoder::new(input);
    let mut filled = output.len();
    output.reserve_exact(room);
    output.resize(filled + room, 0);
    while filled < output.len() {
        match decoder.read(&mut output[filled..]).map_err(corrupt)? {
            0 => break,
            read => filled += read,
        }
    }
    output.truncate(filled);
    // Reading once more than there is room for also checks the last trailer.
    Ok(decoder.read(&mut [0]).map_err(corrupt)? == 0)
}

/// The size of what `input` inflates to.
fn count(input: &[u8], limit: usize) -> Result<usize, CompressError> {
    let mut decoder = MultiGzDecoder::new(input);
    let mut scratch = [0; SCRATCH];
    let mut size = 0;
    loop {
        match decoder.read(&mut scratch).map_err(corrupt)? {
            0 => return Ok(size),
            read => size += read,
        }
        if size > limit {
            return Err(CompressError::TooLarge { codec: Compression::Gzip, limit });
        }
    }
}

fn corrupt(error: std::io::Error) -> CompressError {
    CompressError::corrupt(Compression::Gzip, error)
}
