//! Snappy. Written in the framing of snappy-java ("xerial"), as Kafka's own client does: every client reads that.
//! Read in both forms, framed and as one raw block (librdkafka writes raw ones).

use std::cell::RefCell;

use crate::compress::{CompressError, Compression};

/// First bytes of the framing; the version and the lowest compatible version follow, big-endian.
const MAGIC: [u8; 8] = *b"\x82SNAPPY\0";
const VERSION: [u8; 4] = 1i32.to_be_bytes();
const HEADER_LEN: usize = 16;
/// The block size Kafka's client asks of snappy-java.
const BLOCK: usize = 32 * 1024;
/// Three bytes (a copy with a 2-byte offset) yield at most 64.
const MAX_EXPANSION: usize = 22;

thread_local! {
    static COMPRESSOR: RefCell<Compressor> =
        RefCell::new(Compressor { encoder: snap::raw::Encoder::new(), block: Vec::new() });
}

/// What is kept between batches: a fresh table is allocated for every batch above a few KiB.
struct Compressor {
    encoder: snap::raw::Encoder,
    /// A block that does not compress needs more room than the output may have.
    block: Vec<u8>,
}

/// Appends at most `at_most` bytes; false if there would be more.
pub(super) fn compress(input: &[u8], output: &mut Vec<u8>, at_most: usize) -> Result<bool, CompressError> {
    COMPRESSOR.with_borrow_mut(|compressor| compress_with(compressor, input, output, at_most))
}

fn compress_with(
    compressor: &mut Compressor,
    input: &[u8],
    output: &mut Vec<u8>,
    at_most: usize,
) -> Result<bool, CompressError> {
    let Compressor { encoder, block: scratch } = compressor;
    let Some(mut left) = at_most.checked_sub(HEADER_LEN) else { return Ok(false) };
    output.extend_from_slice(&MAGIC);
    output.extend_from_slice(&VERSION);
    output.extend_from_slice(&VERSION);
    for block in input.chunks(BLOCK) {
        let bound = snap::raw::max_compress_len(block.len());
        if scratch.len() < bound {
            scratch.resize(bound, 0);
        }
        let length = encoder
            .compress(block, scratch)
            .map_err(|error| CompressError::Failed { codec: Compression::Snappy, reason: error.to_string() })?;
        left = match left.checked_sub(4 + length) {
            Some(left) => left,
            None => return Ok(false),
        };
        let prefix = i32::try_from(length).expect("a block of 32 KiB stays far below 2 GiB");
        output.extend_from_slice(&prefix.to_be_bytes());
        output.extend_from_slice(&scratch[..length]);
    }
    Ok(true)
}

pub(super) fn decompress(input: &[u8], limit: usize, output: &mut Vec<u8>) -> Result<(), CompressError> {
    // Once, for all blocks: a buffer that grows on the way is held twice as it moves.
    let mut size = 0usize;
    blocks(input, |block| {
        size = size.saturating_add(declared_len(block)?);
        if size > limit {
            return Err(CompressError::TooLarge { codec: Compression::Snappy, limit });
        }
        Ok(())
    })?;
    output.reserve_exact(size);
    let mut decoder = snap::raw::Decoder::new();
    blocks(input, |block| {
        let filled = output.len();
        output.resize(filled + declared_len(block)?, 0);
        let written = decoder.decompress(block, &mut output[filled..]).map_err(corrupt)?;
        output.truncate(filled + written);
        Ok(())
    })
}

/// Calls `each` with every raw block, be it one alone or framed ones.
fn blocks(input: &[u8], mut each: impl FnMut(&[u8]) -> Result<(), CompressError>) -> Result<(), CompressError> {
    if !input.starts_with(&MAGIC) {
        return each(input);
    }
    let mut rest = input;
    while !rest.is_empty() {
        // The header stands again where streams were concatenated.
        if rest.starts_with(&MAGIC) {
            rest = rest.get(HEADER_LEN..).ok_or_else(|| corrupt("cut off in its header"))?;
            continue;
        }
        let (prefix, behind) = rest.split_first_chunk().ok_or_else(|| corrupt("cut off in a block's length"))?;
        let length = i32::from_be_bytes(*prefix);
        let (block, behind) = usize::try_from(length)
            .ok()
            .filter(|length| *length > 0)
            .and_then(|length| behind.split_at_checked(length))
            .ok_or_else(|| corrupt(format!("a block of {length} bytes where {} are left", behind.len())))?;
        each(block)?;
        rest = behind;
    }
    Ok(())
}

/// The size that a raw block declares, if a block of its length can have it.
fn declared_len(block: &[u8]) -> Result<usize, CompressError> {
    let declared = snap::raw::decompress_len(block).map_err(corrupt)?;
    if declared > block.len().saturating_mul(MAX_EXPANSION) {
        return Err(CompressError::ImpossibleSize {
            codec: Compression::Snappy,
            declared: declared as u64,
            compressed: block.len(),
        });
    }
    Ok(declared)
}

fn corrupt(reason: impl ToString) -> CompressError {
    CompressError::corrupt(Compression::Snappy, reason)
}
