//! Zstandard. Frames are decoded one by one, so that each one's magic and declared size are checked first; legacy and
//! unknown frames never reach the library.

use std::cell::RefCell;

use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};
use zstd::zstd_safe::{compress_bound, get_error_name, get_frame_content_size};

use crate::compress::{CompressError, Compression};

/// Kafka's default for `compression.zstd.level`.
const DEFAULT_LEVEL: i32 = 3;
/// Windows up to 128 MiB: what level 22 declares, and libzstd's own limit.
const WINDOW_LOG_MAX: u32 = 27;
/// No block stands for more, nor for more than the window.
const MAX_BLOCK: u64 = 128 * 1024;
/// A context above this size is given back after use: one high level or wide window must not stay for ever.
const KEPT_CONTEXT: usize = 4 * 1024 * 1024;

const MAGIC: u32 = 0xfd2f_b528;
const SKIPPABLE: std::ops::RangeInclusive<u32> = 0x184d_2a50..=0x184d_2a5f;

thread_local! {
    // Making a context costs more than compressing a small batch with it.
    static COMPRESSOR: RefCell<Option<CCtx<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

pub(super) fn compress(level: Option<i32>, input: &[u8], output: &mut Vec<u8>) -> Result<(), CompressError> {
    let failed = |code| CompressError::Failed { codec: Compression::Zstd, reason: get_error_name(code).to_owned() };
    COMPRESSOR.with_borrow_mut(|slot| {
        let context = match slot {
            Some(context) => context,
            None => slot.insert(CCtx::try_create().ok_or_else(no_context)?),
        };
        context.set_parameter(CParameter::CompressionLevel(level.unwrap_or(DEFAULT_LEVEL))).map_err(failed)?;
        output.reserve(compress_bound(input.len()));
        let start = output.len();
        let mut out = OutBuffer::around_pos(output, start);
        let mut source = InBuffer::around(input);
        // With all of the input and room for the whole result, one call ends the frame, its size declared.
        let result =
            context.compress_stream2(&mut out, &mut source, zstd::zstd_safe::zstd_sys::ZSTD_EndDirective::ZSTD_e_end);
        let oversized = context.sizeof() > KEPT_CONTEXT;
        if result.is_err() || oversized {
            *slot = None;
        }
        match result.map_err(failed)? {
            0 => Ok(()),
            left => Err(CompressError::Failed {
                codec: Compression::Zstd,
                reason: format!("{left} bytes did not fit into the bound it gave"),
            }),
        }
    })
}

pub(super) fn decompress(input: &[u8], limit: usize, output: &mut Vec<u8>) -> Result<(), CompressError> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        let context = match slot {
            Some(context) => context,
            None => {
                let mut context = DCtx::try_create().ok_or_else(no_context)?;
                context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(corrupt)?;
                slot.insert(context)
            }
        };
        let result = frames(context, input, limit, output);
        if context.sizeof() > KEPT_CONTEXT || context.reset(ResetDirective::SessionOnly).is_err() {
            *slot = None;
        }
        result
    })
}

fn frames(context: &mut DCtx<'static>, input: &[u8], limit: usize, output: &mut Vec<u8>) -> Result<(), CompressError> {
    // Once, for everything: a buffer that grows on the way is held twice as it moves. And with room for all of a frame,
    // libzstd decodes straight into the output, without a window of its own.
    output.reserve_exact(size_bound(input, limit)?);
    let start = output.len();
    let mut source = InBuffer::around(input);
    while source.pos() < input.len() {
        check_magic(&input[source.pos()..])?;
        one_frame(context, &mut source, start + limit, limit, output)?;
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
        let walked = if skippable { skip(rest) } else { possible_size(rest) };
        let (possible, behind) = walked.ok_or_else(|| corrupt_text("cut off inside a frame"))?;
        if let Some(declared) = declared
            && declared > possible
        {
            let compressed = rest.len() - behind.len();
            return Err(CompressError::ImpossibleSize { codec: Compression::Zstd, declared, compressed });
        }
        total = total.saturating_add(declared.unwrap_or(possible));
        rest = behind;
    }
    Ok(total.min(limit as u64) as usize)
}

/// Decodes one frame; `output` may come to have the length `end`.
fn one_frame(
    context: &mut DCtx<'static>,
    source: &mut InBuffer<'_>,
    end: usize,
    limit: usize,
    output: &mut Vec<u8>,
) -> Result<(), CompressError> {
    loop {
        let before = (source.pos(), output.len());
        let mut out = OutBuffer::around_pos(&mut *output, before.1);
        let hint = context.decompress_stream(&mut out, source).map_err(corrupt)?;
        if output.len() > end {
            return Err(too_large(limit));
        }
        if hint == 0 {
            return Ok(());
        }
        if (source.pos(), output.len()) == before {
            // Nothing moves any more, for want of room or of input.
            return Err(if output.len() == end { too_large(limit) } else { corrupt_text("cut off inside a frame") });
        }
    }
}

/// What follows a skippable frame, which stands for nothing.
fn skip(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let length = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
    Some((0, bytes.get(8..)?.get(length as usize..)?))
}

/// The most that the frame at the front of `bytes` can decompress to, by the headers of its blocks, and what follows
/// it.
fn possible_size(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let descriptor = *bytes.get(4)?;
    let single_segment = descriptor & 0b10_0000 != 0;
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
