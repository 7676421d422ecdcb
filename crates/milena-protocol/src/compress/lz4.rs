//! The LZ4 frame format over the block functions of `lz4_flex`, so that the hash table is kept between batches and
//! decompression writes straight into the caller's buffer.
//!
//! Written as Kafka's client writes it: independent blocks of 64 KiB, no checksums but the header's. Read in every
//! shape the format has: linked blocks, larger blocks, block and content checksums, a declared size, several frames,
//! skippable ones. Not read: the legacy format and dictionaries, which Kafka doesn't know either.

use std::cell::RefCell;

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into_with_dict, get_maximum_output_size};
use twox_hash::XxHash32;

use crate::compress::{CompressError, Compression};

const MAGIC: u32 = 0x184d_2204;
const SKIPPABLE: std::ops::RangeInclusive<u32> = 0x184d_2a50..=0x184d_2a5f;
/// Magic, flags (version 1, independent blocks), block size (64 KiB), and the hash of the two bytes before it.
const FRAME_HEADER: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
const BLOCK: usize = 64 * 1024;
/// In a block's length: the block is stored as it is.
const UNCOMPRESSED: u32 = 0x8000_0000;
/// How far back a match can reach into the blocks before.
const WINDOW: usize = 64 * 1024;
/// Each further byte of a length stands for at most 255 bytes.
const MAX_EXPANSION: usize = 255;

thread_local! {
    static COMPRESSOR: RefCell<Compressor> = RefCell::new(Compressor { table: CompressTable::large(), block: Vec::new() });
}

/// What is kept between batches.
struct Compressor {
    /// As large as 16 KiB; a fresh one for every batch costs up to a third of compressing it.
    table: CompressTable,
    /// A block that does not compress needs more room than the output may have.
    block: Vec<u8>,
}

/// Appends at most `at_most` bytes; false if there would be more.
pub(super) fn compress(input: &[u8], output: &mut Vec<u8>, at_most: usize) -> Result<bool, CompressError> {
    COMPRESSOR.with_borrow_mut(|Compressor { table, block: scratch }| {
        let Some(mut left) = at_most.checked_sub(FRAME_HEADER.len() + 4) else { return Ok(false) };
        output.extend_from_slice(&FRAME_HEADER);
        for block in input.chunks(BLOCK) {
            let bound = get_maximum_output_size(block.len());
            if scratch.len() < bound {
                scratch.resize(bound, 0);
            }
            let length = compress_into_with_table(block, scratch, table)
                .map_err(|error| CompressError::Failed { codec: Compression::Lz4, reason: error.to_string() })?;
            let (prefix, stored) = match length < block.len() {
                true => (length as u32, &scratch[..length]),
                false => (block.len() as u32 | UNCOMPRESSED, block),
            };
            left = match left.checked_sub(4 + stored.len()) {
                Some(left) => left,
                None => return Ok(false),
            };
            output.extend_from_slice(&prefix.to_le_bytes());
            output.extend_from_slice(stored);
        }
        output.extend_from_slice(&0u32.to_le_bytes());
        Ok(true)
    })
}

pub(super) fn decompress(input: &[u8], limit: usize, output: &mut Vec<u8>) -> Result<(), CompressError> {
    // Once, for everything: a buffer that grows on the way is held twice as it moves.
    let mut possible = 0;
    frames(input, |input| {
        possible += possible_size(input)?;
        Ok(())
    })?;
    output.reserve_exact(possible.min(limit));
    let start = output.len();
    frames(input, |input| frame(input, start, limit, output))
}

/// Calls `each` where a frame's header begins, behind its magic; it moves past the frame.
fn frames(input: &[u8], mut each: impl FnMut(&mut &[u8]) -> Result<(), CompressError>) -> Result<(), CompressError> {
    let mut input = input;
    while !input.is_empty() {
        let magic = take_u32(&mut input)?;
        if SKIPPABLE.contains(&magic) {
            let length = take_u32(&mut input)? as usize;
            take(&mut input, length)?;
        } else if magic == MAGIC {
            each(&mut input)?;
        } else {
            return Err(corrupt(format!("magic {magic:#010x} is not that of a frame")));
        }
    }
    Ok(())
}

/// What a frame's header says.
struct Frame {
    linked: bool,
    block_checksum: bool,
    content_checksum: bool,
    content_size: Option<u64>,
    block_size: usize,
}

fn header(input: &mut &[u8]) -> Result<Frame, CompressError> {
    let descriptor = *input;
    let [flags, block_descriptor] = *take(input, 2)? else { unreachable!("two bytes were asked for") };
    if flags >> 6 != 1 {
        return Err(corrupt(format!("frame version {} is unknown", flags >> 6)));
    }
    if flags & 0b10 != 0 || block_descriptor & 0b1000_1111 != 0 {
        return Err(corrupt("a reserved bit of the header is set"));
    }
    if flags & 0b1 != 0 {
        return Err(corrupt("dictionaries are not supported"));
    }
    let block_size = match block_descriptor >> 4 {
        size @ 4..=7 => 1usize << (8 + 2 * size),
        size => return Err(corrupt(format!("block size {size} is unknown"))),
    };
    let content_size = if flags & 0b1000 != 0 {
        let (low, high) = (take_u32(input)?, take_u32(input)?);
        Some(u64::from(high) << 32 | u64::from(low))
    } else {
        None
    };
    let hashed = &descriptor[..descriptor.len() - input.len()];
    let expected = (XxHash32::oneshot(0, hashed) >> 8) as u8;
    if take(input, 1)? != [expected] {
        return Err(corrupt("the header's hash is wrong"));
    }
    Ok(Frame {
        linked: flags & 0b10_0000 == 0,
        block_checksum: flags & 0b1_0000 != 0,
        content_checksum: flags & 0b100 != 0,
        content_size,
        block_size,
    })
}

fn frame(input: &mut &[u8], start: usize, limit: usize, output: &mut Vec<u8>) -> Result<(), CompressError> {
    let frame = header(input)?;
    let frame_start = output.len();
    if let Some(declared) = frame.content_size {
        if declared > (limit - (frame_start - start)) as u64 {
            return Err(too_large(limit));
        }
        if declared > (input.len() as u64).saturating_mul(MAX_EXPANSION as u64) {
            let compressed = input.len();
            return Err(CompressError::ImpossibleSize { codec: Compression::Lz4, declared, compressed });
        }
    }
    loop {
        let prefix = take_u32(input)?;
        if prefix == 0 {
            break;
        }
        let data = take(input, (prefix & !UNCOMPRESSED) as usize)?;
        if data.len() > frame.block_size {
            return Err(corrupt(format!("a block of {} bytes where {} are allowed", data.len(), frame.block_size)));
        }
        if frame.block_checksum && take_u32(input)? != XxHash32::oneshot(0, data) {
            return Err(corrupt("a block's hash is wrong"));
        }
        let left = limit - (output.len() - start);
        if prefix & UNCOMPRESSED != 0 {
            if data.len() > left {
                return Err(too_large(limit));
            }
            output.extend_from_slice(data);
        } else {
            let history =
                if frame.linked { frame_start.max(output.len().saturating_sub(WINDOW)) } else { output.len() };
            block(data, history, frame.block_size, left, limit, output)?;
        }
    }
    let content = &output[frame_start..];
    if frame.content_checksum && take_u32(input)? != XxHash32::oneshot(0, content) {
        return Err(corrupt("the content's hash is wrong"));
    }
    if frame.content_size.is_some_and(|declared| declared != content.len() as u64) {
        return Err(corrupt("the content is not as long as declared"));
    }
    Ok(())
}

/// The most that the frame can decompress to, by the lengths of its blocks.
fn possible_size(input: &mut &[u8]) -> Result<usize, CompressError> {
    let frame = header(input)?;
    let mut size = 0usize;
    loop {
        let prefix = take_u32(input)?;
        if prefix == 0 {
            break;
        }
        let length = take(input, (prefix & !UNCOMPRESSED) as usize)?.len();
        let expansion = if prefix & UNCOMPRESSED != 0 { 1 } else { MAX_EXPANSION };
        size = size.saturating_add(length.saturating_mul(expansion).min(frame.block_size));
        if frame.block_checksum {
            take(input, 4)?;
        }
    }
    if frame.content_checksum {
        take(input, 4)?;
    }
    Ok(size)
}

/// Decompresses one block behind `output`; matches may reach back to `history`.
fn block(
    data: &[u8],
    history: usize,
    block_size: usize,
    left: usize,
    limit: usize,
    output: &mut Vec<u8>,
) -> Result<(), CompressError> {
    let filled = output.len();
    let possible = block_size.min(data.len().saturating_mul(MAX_EXPANSION));
    let room = possible.min(left);
    output.resize(filled + room, 0);
    let (before, target) = output.split_at_mut(filled);
    match decompress_into_with_dict(data, target, &before[history..]) {
        Ok(written) => {
            output.truncate(filled + written);
            Ok(())
        }
        Err(error) => {
            output.truncate(filled);
            let beyond_limit =
                room < possible && matches!(error, lz4_flex::block::DecompressError::OutputTooSmall { .. });
            Err(if beyond_limit { too_large(limit) } else { corrupt(error) })
        }
    }
}

fn take<'a>(input: &mut &'a [u8], length: usize) -> Result<&'a [u8], CompressError> {
    let (taken, rest) = input.split_at_checked(length).ok_or_else(|| corrupt("cut off inside a frame"))?;
    *input = rest;
    Ok(taken)
}

fn take_u32(input: &mut &[u8]) -> Result<u32, CompressError> {
    let (taken, rest) = input.split_first_chunk().ok_or_else(|| corrupt("cut off inside a frame"))?;
    *input = rest;
    Ok(u32::from_le_bytes(*taken))
}

fn corrupt(reason: impl ToString) -> CompressError {
    CompressError::corrupt(Compression::Lz4, reason)
}

fn too_large(limit: usize) -> CompressError {
    CompressError::TooLarge { codec: Compression::Lz4, limit }
}
