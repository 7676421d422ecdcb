//! Zstandard. Frames are decoded one by one, so that each one's magic and declared size are checked first; legacy and
//! unknown frames never reach the library. Each is decoded in one go, straight into the output: libzstd's streaming
//! decoder would allocate the window that a frame declares, whatever comes of it.

use std::cell::RefCell;
use std::io::Cursor;

use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;
use zstd::zstd_safe::{CCtx, CParameter, DCtx};
use zstd::zstd_safe::{compress_bound, get_error_name, get_frame_content_size};

use crate::compress::{CompressError, Compression};

/// Kafka's default for `compression.zstd.level`.
const DEFAULT_LEVEL: i32 = 3;
/// The window descriptor of 128 MiB: what level 22 declares, and the most that streaming readers such as Java's take.
const WIDEST_WINDOW: u8 = 17 << 3;
/// No block stands for more, nor for more than the window.
const MAX_BLOCK: u64 = 128 * 1024;
/// A context for compressing above this size is given back after use: one high level must not stay for ever. Those for
/// decompressing never grow.
const KEPT_CONTEXT: usize = 4 * 1024 * 1024;

/// The bit of a frame's descriptor that says: no window descriptor follows, the window is the content.
const SINGLE_SEGMENT: u8 = 0b10_0000;
/// What libzstd answers when a frame doesn't fit into the output.
const TOO_SMALL: usize = (ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize).wrapping_neg();

const MAGIC: u32 = 0xfd2f_b528;
const SKIPPABLE: std::ops::RangeInclusive<u32> = 0x184d_2a50..=0x184d_2a5f;

thread_local! {
    // Making a context costs more than compressing a small batch with it.
    static COMPRESSOR: RefCell<Option<CCtx<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

/// Appends at most `at_most` bytes; false if there would be more, and nothing of use is appended then.
pub(super) fn compress(
    level: Option<i32>,
    input: &[u8],
    output: &mut Vec<u8>,
    at_most: usize,
) -> Result<bool, CompressError> {
    let failed = |code| CompressError::Failed { codec: Compression::Zstd, reason: get_error_name(code).to_owned() };
    COMPRESSOR.with_borrow_mut(|slot| {
        let context = match slot {
            Some(context) => context,
            None => slot.insert(CCtx::try_create().ok_or_else(no_context)?),
        };
        context.set_parameter(CParameter::CompressionLevel(level.unwrap_or(DEFAULT_LEVEL))).map_err(failed)?;
        output.reserve(compress_bound(input.len()).min(at_most));
        let start = output.len();
        let mut out = Cursor::new(&mut *output);
        out.set_position(start as u64);
        // All at once: the frame declares its size, and the library needs no buffers of its own.
        let result = context.compress2(&mut out, input);
        let oversized = context.sizeof() > KEPT_CONTEXT;
        let does_not_fit = result == Err(TOO_SMALL);
        if oversized || (result.is_err() && !does_not_fit) {
            *slot = None;
        }
        if does_not_fit {
            output.truncate(start);
            return Ok(false);
        }
        result.map_err(failed)?;
        Ok(output.len() - start <= at_most)
    })
}

pub(super) fn decompress(input: &[u8], limit: usize, output: &mut Vec<u8>) -> Result<(), CompressError> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        let context = match slot {
            Some(context) => context,
            None => slot.insert(DCtx::try_create().ok_or_else(no_context)?),
        };
        frames(context, input, limit, output)
    })
}

fn frames(context: &mut DCtx<'static>, input: &[u8], limit: usize, output: &mut Vec<u8>) -> Result<(), CompressError> {
    // Once, for everything: a buffer that grows on the way is held twice as it moves.
    let bound = size_bound(input, limit)?;
    output.reserve_exact(bound);
    let end = output.len() + limit;
    let mut rest = input;
    while !rest.is_empty() {
        let Frame { bytes, behind, .. } = Frame::at_front(rest)?;
        rest = behind;
        if SKIPPABLE.contains(&check_magic(bytes)?) {
            continue;
        }
        let mut out = Cursor::new(&mut *output);
        out.set_position(out.get_ref().len() as u64);
        context.decompress(&mut out, bytes).map_err(|code| {
            // A frame that doesn't fit into less than the limit has lied about its size.
            if code == TOO_SMALL && bound == limit { too_large(limit) } else { corrupt(code) }
        })?;
        if output.len() > end {
            return Err(too_large(limit));
        }
    }
    Ok(())
}

fn check_magic(frame: &[u8]) -> Result<u32, CompressError> {
    let magic = frame.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    magic
        .filter(|magic| *magic == MAGIC || SKIPPABLE.contains(magic))
        .ok_or_else(|| corrupt_text("not a frame of the current format"))
}

/// How much all frames together can decompress to, at most `limit`: what each declares, or else the most that its
/// blocks can stand for.
fn size_bound(input: &[u8], limit: usize) -> Result<usize, CompressError> {
    let mut rest = input;
    let mut total = 0u64;
    while !rest.is_empty() {
        let skippable = SKIPPABLE.contains(&check_magic(rest)?);
        let declared = if skippable { None } else { get_frame_content_size(rest).ok().flatten() };
        if declared.is_some_and(|declared| total.saturating_add(declared) > limit as u64) {
            return Err(too_large(limit));
        }
        let frame = Frame::at_front(rest)?;
        if let Some(declared) = declared
            && declared > frame.possible_size
        {
            let compressed = frame.bytes.len();
            return Err(CompressError::ImpossibleSize { codec: Compression::Zstd, declared, compressed });
        }
        total = total.saturating_add(declared.unwrap_or(frame.possible_size));
        rest = frame.behind;
    }
    Ok(total.min(limit as u64) as usize)
}

/// The frame at the front of some bytes.
struct Frame<'a> {
    bytes: &'a [u8],
    behind: &'a [u8],
    /// The most that it can decompress to, by the headers of its blocks.
    possible_size: u64,
}

impl<'a> Frame<'a> {
    fn at_front(bytes: &'a [u8]) -> Result<Self, CompressError> {
        let skippable = SKIPPABLE.contains(&check_magic(bytes)?);
        let walked = if skippable { skip(bytes) } else { walk(bytes) };
        let (possible_size, behind) = walked.ok_or_else(|| corrupt_text("cut off inside a frame"))?;
        let bytes = &bytes[..bytes.len() - behind.len()];
        if !skippable && is_too_wide(bytes) {
            return Err(corrupt_text("its window is larger than 128 MiB"));
        }
        Ok(Self { bytes, behind, possible_size })
    }
}

/// What follows a skippable frame, which stands for nothing.
fn skip(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let length = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
    Some((0, bytes.get(8..)?.get(length as usize..)?))
}

/// The most that the frame at the front of `bytes` can decompress to, by the headers of its blocks, and what follows
/// it.
fn walk(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let descriptor = *bytes.get(4)?;
    let single_segment = descriptor & SINGLE_SEGMENT != 0;
    let content_size_len = match (descriptor >> 6, single_segment) {
        (0, false) => 0,
        (0, true) => 1,
        (flag, _) => 1 << flag,
    };
    let dictionary_id_len = [0, 1, 2, 4][usize::from(descriptor & 0b11)];
    let checksum_len = if descriptor & 0b100 != 0 { 4 } else { 0 };
    let window_len = usize::from(!single_segment);
    let mut rest = bytes.get(5 + window_len + dictionary_id_len + content_size_len..)?;
    let mut size = 0;
    loop {
        let ([a, b, c], behind) = rest.split_first_chunk::<3>()?;
        let header = u32::from_le_bytes([*a, *b, *c, 0]);
        let length = header >> 3;
        let (stands_for, taken) = match header >> 1 & 0b11 {
            0 => (u64::from(length), length),
            1 => (u64::from(length), 1),
            2 => (MAX_BLOCK, length),
            _ => return None,
        };
        size += stands_for.min(MAX_BLOCK);
        rest = behind.get(taken as usize..)?;
        if header & 1 == 1 {
            return Some((size, rest.get(checksum_len..)?));
        }
    }
}

/// Whether a reader that must keep the frame's window would refuse it.
fn is_too_wide(frame: &[u8]) -> bool {
    let [descriptor, window] = [frame[4], frame[5]];
    descriptor & SINGLE_SEGMENT == 0 && window > WIDEST_WINDOW
}

fn corrupt(code: usize) -> CompressError {
    corrupt_text(get_error_name(code))
}

fn corrupt_text(reason: &str) -> CompressError {
    CompressError::corrupt(Compression::Zstd, reason)
}

fn too_large(limit: usize) -> CompressError {
    CompressError::TooLarge { codec: Compression::Zstd, limit }
}

fn no_context() -> CompressError {
    CompressError::Failed { codec: Compression::Zstd, reason: "no memory for a context".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much memory the decompressing context of this thread takes.
    fn context_size() -> usize {
        DECOMPRESSOR.with_borrow(|slot| slot.as_ref().expect("the context is kept").sizeof())
    }

    #[test]
    fn no_window_is_allocated_that_a_frame_only_declares() {
        let mut output = Vec::new();
        // Without a content size, a raw block of one byte: a window of 1 KiB, then one of 128 MiB.
        let frame = |window: u8| [&MAGIC.to_le_bytes()[..], &[0, window, 9, 0, 0, b'x']].concat();
        decompress(&frame(0), 1, &mut output).unwrap();
        let before = context_size();
        decompress(&frame(WIDEST_WINDOW), 1, &mut output).unwrap();
        assert_eq!((output.as_slice(), context_size()), (&b"xx"[..], before));
        // The same where the frame does not fit.
        let too_small = decompress(&frame(WIDEST_WINDOW), 0, &mut output);
        assert!(matches!(too_small, Err(CompressError::TooLarge { limit: 0, .. })), "{too_small:?}");
        assert_eq!(context_size(), before);
    }
}
