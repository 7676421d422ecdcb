//! Every codec: what goes in comes out, within its limit, and bytes that lie are refused before memory is taken.

use milena_protocol::compress::{CompressError, Compression};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::record_source::available;

/// What a codec may take besides its output: tables and contexts, made once per thread.
const SLACK: u64 = 256 << 10;

fn codecs() -> Vec<Compression> {
    available().into_iter().filter(|codec| *codec != Compression::None).collect()
}

fn compressed(codec: Compression, input: &[u8]) -> Vec<u8> {
    let mut output = Vec::new();
    codec.compress(None, input, &mut output).unwrap();
    output
}

/// Decompresses and holds the memory against the limit.
fn inflate(codec: Compression, input: &[u8], limit: usize) -> Result<Vec<u8>, CompressError> {
    let mut output = Vec::new();
    let mut result = Ok(());
    let meter = allocation_counter::measure(|| result = codec.decompress(input, limit, &mut output));
    assert!(meter.bytes_max <= limit as u64 + SLACK, "{codec}: {meter:?} for a limit of {limit}");
    assert!(output.capacity() <= limit + SLACK as usize, "{codec}: {} bytes kept", output.capacity());
    if result.is_ok() {
        assert!(output.len() <= limit, "{codec}: {} bytes beyond a limit of {limit}", output.len());
    }
    result.map(|()| output)
}

/// Bytes with runs, repeats and noise.
fn text() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![vec(any::<u8>(), 1..50), (any::<u8>(), 1usize..9000).prop_map(|(b, n)| vec![b; n])], 0..20)
        .prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(input in text(), prefix in vec(any::<u8>(), 0..10), level in 1i32..9) {
        for codec in available() {
            // Appended behind what is there.
            let mut small = prefix.clone();
            codec.compress(Some(level), &input, &mut small).unwrap();
            prop_assert_eq!(&small[..prefix.len()], &prefix);
            let mut output = prefix.clone();
            codec.decompress(&small[prefix.len()..], input.len(), &mut output).unwrap();
            prop_assert_eq!(&output[..prefix.len()], &prefix);
            prop_assert_eq!(&output[prefix.len()..], &input);
        }
    }

    #[test]
    fn one_byte_beyond_the_limit_is_too_large(input in text()) {
        prop_assume!(!input.is_empty());
        for codec in available() {
            let small = compressed(codec, &input);
            prop_assert_eq!(&inflate(codec, &small, input.len()).unwrap(), &input);
            for limit in [0, input.len() / 2, input.len() - 1] {
                let error = inflate(codec, &small, limit).unwrap_err();
                let right = matches!(error, CompressError::TooLarge { codec: c, limit: l } if c == codec && l == limit);
                prop_assert!(right, "{}: {}", codec, error);
            }
        }
    }

    #[test]
    fn a_cut_is_noticed(input in text(), cut in any::<prop::sample::Index>()) {
        for codec in codecs() {
            let small = compressed(codec, &input);
            let cut = cut.index(small.len());
            // What was framed may end where a frame or block ends, and nothing is no frame of lz4, zstd or snappy blocks.
            if let Ok(output) = inflate(codec, &small[..cut], 1 << 20) {
                prop_assert!(input.starts_with(&output) && output.len() < input.len().max(1), "{}", codec);
                prop_assert!(cut == 0 || codec == Compression::Snappy, "{}: {} of {}", codec, cut, small.len());
            }
        }
    }

    #[test]
    fn random_bytes_never_panic_nor_pass_the_limit(input in vec(any::<u8>(), 0..400), limit in 0usize..5000) {
        for codec in codecs() {
            let _ = inflate(codec, &input, limit);
        }
    }

    #[test]
    fn mutated_bytes_never_panic_nor_pass_the_limit(input in text(), at in any::<prop::sample::Index>(), byte: u8) {
        for codec in codecs() {
            let mut small = compressed(codec, &input);
            let at = at.index(small.len());
            small[at] = byte;
            let _ = inflate(codec, &small, input.len());
        }
    }
}

/// Whoever paid for so many bytes may not hold more, whether the input compresses or not.
#[test]
fn output_that_has_room_for_what_is_of_use_never_grows() {
    // The high bits of a linear congruential generator: no codec finds anything in them.
    let noise =
        std::iter::successors(Some(5_u64), |seed| Some(seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)));
    let noise: Vec<_> = noise.map(|seed| (seed >> 56) as u8).take(150_000).collect();
    let text: Vec<_> = (0..9_000).flat_map(|n: u32| format!("event {}, ", n * 7_919).into_bytes()).collect();
    for codec in codecs() {
        for input in [&noise[..], &noise[..40_000], &noise[..100], &text, &text[..50_000], b"x", b""] {
            let whole = compressed(codec, input).len();
            for at_most in [0, 1, 8, 20, whole / 2, whole - 1, whole, whole + 1, input.len()] {
                let mut output = Vec::with_capacity(3 + at_most);
                let room = output.capacity();
                output.extend_from_slice(b"...");
                let fits = codec.compress_within(None, input, &mut output, at_most).unwrap();
                assert_eq!(output.capacity(), room, "{codec}: {} bytes to at most {at_most}", input.len());
                assert!(!fits || output.len() - 3 <= at_most, "{codec}: {} of {at_most}", output.len() - 3);
                // Where libzstd and deflate flush depends on the room: a few bytes more or less.
                assert!(fits || at_most < whole + 16, "{codec}: {whole} bytes do not fit {at_most}");
                assert!(!fits || at_most + 16 >= whole, "{codec}: {whole} bytes fit {at_most}");
                if fits {
                    assert_eq!(&output[..3], b"...");
                    let mut back = Vec::new();
                    codec.decompress(&output[3..], input.len(), &mut back).unwrap();
                    assert!(back == input, "{codec}");
                }
            }
        }
    }
}

#[test]
fn a_bomb_is_stopped_at_the_limit() {
    for codec in codecs() {
        let bomb = compressed(codec, &vec![0; 64 << 20]);
        let error = inflate(codec, &bomb, 1 << 20).unwrap_err();
        assert!(matches!(error, CompressError::TooLarge { limit: 0x10_0000, .. }), "{codec}: {error}");
    }
}

#[test]
fn names_and_ids_are_kafkas() {
    for (id, name) in ["none", "gzip", "snappy", "lz4", "zstd"].into_iter().enumerate() {
        let codec = Compression::from_id(id as u8).unwrap();
        assert_eq!((codec.id(), codec.to_string().as_str()), (id as u8, name));
        assert_eq!(name.to_uppercase().parse::<Compression>().unwrap(), codec);
    }
    assert_eq!(Compression::from_id(5), None);
    assert!("brotli".parse::<Compression>().unwrap_err().to_string().contains("zstd"));
}

#[test]
fn a_codec_that_was_left_out_is_named() {
    for codec in Compression::ALL.into_iter().filter(|codec| !codec.is_available()) {
        for error in [
            codec.compress(None, b"x", &mut Vec::new()).unwrap_err(),
            codec.decompress(b"x", 10, &mut Vec::new()).unwrap_err(),
        ] {
            assert!(matches!(error, CompressError::Unavailable { codec: c } if c == codec));
            assert!(error.to_string().contains(&format!("feature `{codec}`")), "{error}");
        }
    }
}

#[cfg(feature = "gzip")]
mod gzip {
    use super::*;

    #[test]
    fn members_one_after_another_are_one() {
        let two = [compressed(Compression::Gzip, b"first "), compressed(Compression::Gzip, b"second")].concat();
        assert_eq!(inflate(Compression::Gzip, &two, 100).unwrap(), b"first second");
        assert!(matches!(inflate(Compression::Gzip, &two, 8), Err(CompressError::TooLarge { .. })));
    }

    #[test]
    fn a_wrong_checksum_is_seen() {
        let mut small = compressed(Compression::Gzip, b"some text");
        let at = small.len() - 6;
        small[at] ^= 1;
        assert!(matches!(inflate(Compression::Gzip, &small, 100), Err(CompressError::Corrupt { .. })));
    }
}

#[cfg(feature = "snappy")]
mod snappy {
    use super::*;

    const HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";

    /// A raw block of one literal.
    fn raw(text: &[u8]) -> Vec<u8> {
        [&[text.len() as u8, (text.len() as u8 - 1) << 2], text].concat()
    }

    fn framed(blocks: &[&[u8]]) -> Vec<u8> {
        let mut bytes = HEADER.to_vec();
        for block in blocks {
            bytes.extend_from_slice(&(block.len() as i32).to_be_bytes());
            bytes.extend_from_slice(block);
        }
        bytes
    }

    fn refused(input: &[u8]) -> CompressError {
        inflate(Compression::Snappy, input, 1 << 20).unwrap_err()
    }

    #[test]
    fn raw_blocks_and_framed_ones_are_read() {
        assert_eq!(inflate(Compression::Snappy, &raw(b"librdkafka"), 10).unwrap(), b"librdkafka");
        let two = framed(&[&raw(b"xerial "), &raw(b"framing")]);
        assert_eq!(inflate(Compression::Snappy, &two, 14).unwrap(), b"xerial framing");
        let streams = [framed(&[&raw(b"a")]), framed(&[]), framed(&[&raw(b"b")])].concat();
        assert_eq!(inflate(Compression::Snappy, &streams, 2).unwrap(), b"ab");
        assert_eq!(inflate(Compression::Snappy, &HEADER, 0).unwrap(), b"");
    }

    #[test]
    fn we_write_the_framing_of_the_java_client() {
        let input = vec![b'x'; 100_000];
        let small = compressed(Compression::Snappy, &input);
        assert_eq!(small[..16], HEADER);
        let mut rest = &small[16..];
        let mut sizes = Vec::new();
        while let Some((length, behind)) = rest.split_first_chunk() {
            let (block, behind) = behind.split_at(i32::from_be_bytes(*length) as usize);
            sizes.push(inflate(Compression::Snappy, block, 1 << 20).unwrap().len());
            rest = behind;
        }
        assert_eq!(sizes, [32_768, 32_768, 32_768, 1696]);
    }

    #[test]
    fn lengths_of_blocks_are_checked() {
        for length in [-1, i32::MIN, 0, 3, i32::MAX] {
            let bytes = [&HEADER[..], &length.to_be_bytes(), &[1, 0]].concat();
            assert!(matches!(refused(&bytes), CompressError::Corrupt { .. }), "{length}");
        }
        // A block without bytes makes no progress worth having, even where it would end well.
        let nothing = [&HEADER[..], &0i32.to_be_bytes()].concat();
        assert!(matches!(refused(&nothing), CompressError::Corrupt { .. }));
        for cut in 8..20 {
            let bytes = framed(&[&raw(b"text")]);
            if cut != 16 {
                assert!(matches!(refused(&bytes[..cut]), CompressError::Corrupt { .. }), "{cut} bytes");
            }
        }
    }

    #[test]
    fn declared_sizes_are_checked_before_they_are_allocated() {
        // 4 GiB in seven bytes, 1 MiB in five.
        let huge = [0xff, 0xff, 0xff, 0xff, 0x0f, 0, b'x'];
        assert!(matches!(refused(&huge), CompressError::ImpossibleSize { declared: 0xffff_ffff, .. }));
        let lie = [0x80, 0x80, 0x40, 0, b'x'];
        assert!(matches!(refused(&lie), CompressError::ImpossibleSize { declared: 0x10_0000, compressed: 5, .. }));
        // The blocks together pass the limit, none of them alone.
        let sum = framed(&[&raw(b"12345"), &raw(b"6789")]);
        assert!(matches!(inflate(Compression::Snappy, &sum, 8), Err(CompressError::TooLarge { limit: 8, .. })));
    }
}

#[cfg(feature = "lz4")]
mod lz4 {
    use std::io::Write as _;

    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

    use super::*;

    /// A frame of another encoder, with everything that ours leaves out.
    fn foreign(input: &[u8], info: FrameInfo) -> Vec<u8> {
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        // In pieces, so that there are several blocks.
        for piece in input.chunks(3000) {
            encoder.write_all(piece).unwrap();
            encoder.flush().unwrap();
        }
        encoder.finish().unwrap()
    }

    fn input() -> Vec<u8> {
        (0..200_000u32).flat_map(|n| (n % 1000).to_le_bytes()).collect()
    }

    #[test]
    fn every_shape_of_frame_is_read() {
        let input = input();
        for mode in [BlockMode::Independent, BlockMode::Linked] {
            for size in [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max1MB, BlockSize::Max4MB] {
                for checksums in [false, true] {
                    for content_size in [None, Some(input.len() as u64)] {
                        let info = FrameInfo::new()
                            .block_mode(mode)
                            .block_size(size)
                            .block_checksums(checksums)
                            .content_checksum(checksums)
                            .content_size(content_size);
                        let frame = foreign(&input, info.clone());
                        assert_eq!(inflate(Compression::Lz4, &frame, input.len()).unwrap(), input, "{info:?}");
                        let error = inflate(Compression::Lz4, &frame, input.len() - 1).unwrap_err();
                        assert!(matches!(error, CompressError::TooLarge { .. }), "{info:?}: {error}");
                    }
                }
            }
        }
    }

    #[test]
    fn linked_blocks_reach_back_as_far_as_the_window() {
        // Noise, twice: what matches lies 60,000 bytes back, in another block.
        let mut state = 1u32;
        let noise: Vec<u8> = (0..60_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        let input = [&noise[..], &noise].concat();
        let frame = foreign(&input, FrameInfo::new().block_mode(BlockMode::Linked));
        assert!(frame.len() < 80_000, "{} bytes: nothing matched", frame.len());
        assert_eq!(inflate(Compression::Lz4, &frame, input.len()).unwrap(), input);
    }

    #[test]
    fn our_frames_are_read_by_another_decoder() {
        use std::io::Read as _;
        for input in [Vec::new(), b"x".to_vec(), input()] {
            let small = compressed(Compression::Lz4, &input);
            let mut output = Vec::new();
            lz4_flex::frame::FrameDecoder::new(&small[..]).read_to_end(&mut output).unwrap();
            assert_eq!(output, input);
        }
    }

    #[test]
    fn checksums_are_checked() {
        let info = FrameInfo::new().block_checksums(true).content_checksum(true);
        let frame = foreign(&input()[..5000], info);
        // Magic, flags, block size, header hash, a block's length: the last byte is the content's hash.
        for at in [4, 6, 20, frame.len() - 1] {
            let mut damaged = frame.clone();
            damaged[at] ^= 4;
            let error = inflate(Compression::Lz4, &damaged, 1 << 20).unwrap_err();
            assert!(matches!(error, CompressError::Corrupt { .. }), "byte {at}: {error}");
        }
    }

    #[test]
    fn frames_follow_one_another_and_skippable_ones_are_skipped() {
        let skippable = [&0x184d_2a53u32.to_le_bytes()[..], &3u32.to_le_bytes(), b"xyz"].concat();
        let frames = [compressed(Compression::Lz4, b"a"), skippable, compressed(Compression::Lz4, b"b")].concat();
        assert_eq!(inflate(Compression::Lz4, &frames, 2).unwrap(), b"ab");
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let refused = |bytes: &[u8]| inflate(Compression::Lz4, bytes, 1 << 30).unwrap_err();
        // The hash of a header, so that what is behind it is reached.
        let header = |descriptor: &[u8]| {
            let hash = (twox_hash::XxHash32::oneshot(0, descriptor) >> 8) as u8;
            [&[0x04, 0x22, 0x4d, 0x18], descriptor, &[hash]].concat()
        };
        for (descriptor, what) in [
            (&[0xa0, 0x40][..], "version"),
            (&[0x62, 0x40], "reserved"),
            (&[0x60, 0xc0], "reserved"),
            (&[0x61, 0x40], "dictionaries"),
            (&[0x60, 0x30], "block size"),
        ] {
            let error = refused(&header(descriptor)).to_string();
            assert!(error.contains(what), "{error}");
        }
        let declared = [&[0x68, 0x40][..], &(1u64 << 29).to_le_bytes()].concat();
        let error = refused(&[header(&declared), vec![0; 4]].concat());
        assert!(matches!(error, CompressError::ImpossibleSize { declared: 0x2000_0000, .. }), "{error}");
        // A block longer than the frame allows.
        let block = [header(&[0x60, 0x40]), 65_537u32.to_le_bytes().to_vec(), vec![1; 65_537], vec![0; 4]].concat();
        assert!(refused(&block).to_string().contains("65537"));
        // The legacy format.
        assert!(refused(&0x184c_2102u32.to_le_bytes()).to_string().contains("0x184c2102"));
    }
}

#[cfg(feature = "zstd")]
mod zstd {
    use super::*;

    /// A frame that declares its content's size and window by itself.
    fn header(descriptor: &[u8]) -> Vec<u8> {
        [&0xfd2f_b528u32.to_le_bytes()[..], descriptor].concat()
    }

    fn refused(input: &[u8], limit: usize) -> CompressError {
        inflate(Compression::Zstd, input, limit).unwrap_err()
    }

    #[test]
    fn declared_sizes_are_checked_before_they_are_allocated() {
        // 1.1 TB in 13 bytes: single segment, eight bytes of size.
        let lie = header(&[0xe0, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert!(matches!(refused(&lie, 1 << 30), CompressError::TooLarge { .. }));
        // 64 MiB in 12 bytes, of which the last three are a block without content.
        let lie = header(&[0xa0, 0, 0, 0, 4, 1, 0, 0]);
        let error = refused(&lie, 1 << 30);
        assert!(matches!(error, CompressError::ImpossibleSize { declared: 0x400_0000, compressed: 12, .. }), "{error}");
    }

    #[test]
    fn windows_beyond_128_mib_are_refused() {
        // Window exponents 18 and 19: 256 and 512 MiB; a raw block of one byte, the last.
        for exponent in [18u8, 19, 31] {
            let frame = [header(&[0, exponent << 3]), vec![9, 0, 0, b'x']].concat();
            assert!(matches!(refused(&frame, 1 << 20), CompressError::Corrupt { .. }), "2^{}", exponent + 10);
        }
        let frame = [header(&[0, 17 << 3]), vec![9, 0, 0, b'x']].concat();
        assert_eq!(inflate(Compression::Zstd, &frame, 1).unwrap(), b"x");
    }

    #[test]
    fn legacy_and_unknown_frames_never_reach_the_library() {
        for magic in [0xfd2f_b522u32, 0xfd2f_b525, 0xfd2f_b527, 0x1eb5_2ffd, 0] {
            let error = refused(&[&magic.to_le_bytes()[..], &[0; 20]].concat(), 1 << 20);
            assert!(error.to_string().contains("current format"), "{error}");
        }
        // Behind a good frame, too.
        let behind = [compressed(Compression::Zstd, b"good"), 0xfd2f_b527u32.to_le_bytes().to_vec()].concat();
        assert!(refused(&behind, 1 << 20).to_string().contains("current format"));
    }

    #[test]
    fn frames_follow_one_another_and_skippable_ones_are_skipped() {
        let skippable = [&0x184d_2a5fu32.to_le_bytes()[..], &3u32.to_le_bytes(), b"xyz"].concat();
        let frames = [compressed(Compression::Zstd, b"a"), skippable, compressed(Compression::Zstd, b"b")].concat();
        assert_eq!(inflate(Compression::Zstd, &frames, 2).unwrap(), b"ab");
        assert!(matches!(refused(&frames, 1), CompressError::TooLarge { .. }));
    }

    #[test]
    fn frames_without_a_declared_size_are_counted_while_they_inflate() {
        // As a stream writes them: blocks that repeat a byte, 128 KiB from four bytes each.
        let mut frame = header(&[0, 7 << 3]);
        for block in 0..40u8 {
            let last = u32::from(block == 39);
            frame.extend_from_slice(&((128u32 << 10) << 3 | 0b10 | last).to_le_bytes()[..3]);
            frame.push(block);
        }
        let size = 40 << 17;
        let output = inflate(Compression::Zstd, &frame, size).unwrap();
        assert_eq!((output.len(), output[size - 1]), (size, 39));
        for limit in [0, 1, 1 << 17, size - 1] {
            assert!(matches!(refused(&frame, limit), CompressError::TooLarge { .. }), "{limit}");
        }
    }

    #[test]
    fn the_context_survives_damage() {
        let good = compressed(Compression::Zstd, b"good");
        let mut bad = compressed(Compression::Zstd, &[b'x'; 5000]);
        bad.truncate(bad.len() - 1);
        for _ in 0..3 {
            assert!(matches!(refused(&bad, 1 << 20), CompressError::Corrupt { .. }));
            assert_eq!(inflate(Compression::Zstd, &good, 4).unwrap(), b"good");
        }
    }
}
