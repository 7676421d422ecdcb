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
/// A block of 4 bytes can stand for 128 KiB.
const MAX_EXPANSION: u64 = 128 * 1024 / 4;
/// The first size of an output of which the frame says nothing.
const CHUNK: usize = 16 * 1024;
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
    let start = output.len();
    let mut source = InBuffer::around(input);
    while source.pos() < input.len() {
        let frame = &input[source.pos()..];
        let magic = frame.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        if !magic.is_some_and(|magic| magic == MAGIC || SKIPPABLE.contains(&magic)) {
            return Err(CompressError::corrupt(Compression::Zstd, "not a frame of the current format"));
        }
        let produced = output.len() - start;
        // Skippable frames declare 0; an unreadable header is reported by the decoder itself.
        let declared = get_frame_content_size(frame).ok().flatten().unwrap_or(0);
        if declared > (limit - produced) as u64 {
            return Err(CompressError::TooLarge { codec: Compression::Zstd, limit });
        }
        if declared > (frame.len() as u64).saturating_mul(MAX_EXPANSION) {
            return Err(CompressError::ImpossibleSize { codec: Compression::Zstd, declared, compressed: frame.len() });
        }
        // With room for all of it, libzstd decodes straight into the output, without a window of its own.
        output.reserve_exact(declared as usize);
        one_frame(context, &mut source, start, limit, output)?;
    }
    Ok(())
}

fn one_frame(
    context: &mut DCtx<'static>,
    source: &mut InBuffer<'_>,
    start: usize,
    limit: usize,
    output: &mut Vec<u8>,
) -> Result<(), CompressError> {
    loop {
        let before = (source.pos(), output.len());
        let room = output.capacity() - before.1;
        let mut out = OutBuffer::around_pos(&mut *output, before.1);
        let hint = context.decompress_stream(&mut out, source).map_err(corrupt)?;
        let produced = output.len() - start;
        if produced > limit {
            return Err(CompressError::TooLarge { codec: Compression::Zstd, limit });
        }
        if hint == 0 {
            return Ok(());
        }
        if output.len() - before.1 == room {
            // Out of room. One byte more than allowed, so that an excess shows.
            let wanted = (produced * 2).max(CHUNK).min(limit.saturating_add(1));
            output.reserve_exact(wanted - produced);
        } else if (source.pos(), output.len()) == before || source.pos() == source.src.len() {
            return Err(CompressError::corrupt(Compression::Zstd, "cut off inside a frame"));
        }
    }
}

fn corrupt(code: usize) -> CompressError {
    CompressError::corrupt(Compression::Zstd, get_error_name(code))
}

fn no_context() -> CompressError {
    CompressError::Failed { codec: Compression::Zstd, reason: "no memory for a context".to_owned() }
}
