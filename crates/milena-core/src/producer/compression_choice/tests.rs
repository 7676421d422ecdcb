use super::*;

fn json(bytes: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(5);
    let mut data = Vec::new();
    while data.len() < bytes {
        let (id, price) = (rng.u32(..), rng.u16(..));
        data.extend_from_slice(
            format!("{{\"event_id\":{id},\"event_type\":\"order_placed\",\"price\":{price}}}").as_bytes(),
        );
    }
    data.truncate(bytes);
    data
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(5);
    std::iter::repeat_with(|| rng.u8(..)).take(bytes).collect()
}

const CALM: fn() -> u32 = || 0;

fn codec(choice: CompressionChoice) -> (Compression, Option<i32>, CompressionReason) {
    (choice.codec, choice.level, choice.reason)
}

#[test]
fn auto_compresses_what_compresses_and_leaves_the_rest() {
    let auto = CompressionPolicy::Auto(AutoCompression::default());
    let choose = |data: &[u8], busy: u32| codec(CompressionChooser::new().choose(&auto, data, || busy));
    use CompressionReason::*;
    assert_eq!(choose(&json(511 - BATCH_HEADER_LEN), 0), (Compression::None, None, TooSmall));
    assert_eq!(choose(&json(512 - BATCH_HEADER_LEN), 0), (Compression::Zstd, Some(1), Compressible));
    assert_eq!(choose(&json(16_384), 69), (Compression::Zstd, Some(1), Compressible));
    assert_eq!(choose(&json(16_384), 70), (Compression::Lz4, None, CpuBound));
    assert_eq!(choose(&noise(16_384), 100), (Compression::None, None, Incompressible));
}

#[test]
fn presets_keep_to_their_codecs() {
    let choose = |auto, busy: u32| {
        let choice = CompressionChooser::new().choose(&CompressionPolicy::Auto(auto), &json(16_384), || busy);
        (choice.codec, choice.level)
    };
    assert_eq!(choose(AutoCompression::throughput(), 0), (Compression::Lz4, None));
    assert_eq!(choose(AutoCompression::throughput(), 100), (Compression::Lz4, None));
    assert_eq!(choose(AutoCompression::ratio(), 0), (Compression::Zstd, Some(6)));
    assert_eq!(choose(AutoCompression::ratio(), 100), (Compression::Zstd, Some(1)));
}

#[test]
fn every_threshold_of_auto_is_kept() {
    let first = |auto: AutoCompression, data: &[u8]| {
        CompressionChooser::new().choose(&CompressionPolicy::Auto(auto), data, CALM)
    };
    let auto = AutoCompression::default();
    assert_eq!(first(AutoCompression { min_batch: 300, ..auto }, &json(400)).codec, Compression::Zstd);
    assert_eq!(first(AutoCompression { min_ratio_percent: 1_000, ..auto }, &json(4_096)).codec, Compression::None);
    assert_eq!(first(AutoCompression { keep_percent: 40, ..auto }, &json(4_096)).at_most(1_050), 420);
    // Noise around a compressible middle: a small sample sees only that.
    let noise = noise(16_384);
    let mixed = [&noise[..8_192], &json(1_024), &noise[8_192..]].concat();
    assert_eq!(first(AutoCompression { sample: 1_024, ..auto }, &mixed).codec, Compression::Zstd);
    assert_eq!(first(AutoCompression { sample: 17_408, ..auto }, &mixed).codec, Compression::None);
}

#[test]
fn better_codec_comes_back_once_compressing_takes_little_again() {
    let auto = CompressionPolicy::Auto(AutoCompression::default());
    let mut chooser = CompressionChooser::new();
    let json = json(4_096);
    let codecs: Vec<_> =
        [0, 69, 70, 60, 25, 24, 60, 71].map(|busy| chooser.choose(&auto, &json, || busy).codec).into_iter().collect();
    use Compression::{Lz4, Zstd};
    assert_eq!(codecs, [Zstd, Zstd, Lz4, Lz4, Lz4, Zstd, Zstd, Lz4]);
}

/// Which batches of `data` a chooser probes, of so many.
fn probes(chooser: &mut CompressionChooser, data: &[u8], batches: usize) -> Vec<usize> {
    let auto = CompressionPolicy::Auto(AutoCompression::default());
    let mut probes = Vec::new();
    for batch in 0..batches {
        let before = chooser.until_probe;
        chooser.choose(&auto, data, CALM);
        if chooser.until_probe >= before {
            probes.push(batch);
        }
    }
    probes
}

#[test]
fn auto_probes_noise_ever_less_and_notices_a_change() {
    let mut chooser = CompressionChooser::new();
    assert_eq!(probes(&mut chooser, &noise(8_192), 4_000), [0, 64, 192, 448, 960, 1_984, 3_008]);
    let auto = CompressionPolicy::Auto(AutoCompression::default());
    let json = json(8_192);
    let until = (0..2_000).find(|_| chooser.choose(&auto, &json, CALM).codec != Compression::None);
    assert!(until.is_some_and(|batches| batches <= 1_024), "{until:?}");
    assert_eq!(probes(&mut CompressionChooser::new(), &json, 200), [0, 64, 128, 192], "compressible data, each 64th");
}

#[test]
fn batch_compressed_in_vain_is_the_last_until_the_next_probe() {
    let auto = CompressionPolicy::Auto(AutoCompression::default());
    let mut chooser = CompressionChooser::new();
    let json = json(8_192);
    assert_eq!(chooser.choose(&auto, &json, CALM).reason, CompressionReason::Compressible);
    chooser.sealed(&auto, CompressionReason::Compressible);
    assert_eq!(chooser.choose(&auto, &json, CALM).reason, CompressionReason::Compressible);
    chooser.sealed(&auto, CompressionReason::NotSmaller);
    let in_vain = (0..64).all(|_| chooser.choose(&auto, &json, CALM).reason == CompressionReason::Incompressible);
    assert!(in_vain);
    assert_eq!(chooser.choose(&auto, &json, CALM).reason, CompressionReason::Compressible);
}

#[test]
fn size_table_goes_by_size_alone() {
    let table = CompressionPolicy::BySize(SizeTable::default());
    for (bytes, codec) in [
        (999, Compression::None),
        (1_000, Compression::Snappy),
        (99_999, Compression::Snappy),
        (100_000, Compression::Zstd),
    ] {
        let choice = CompressionChooser::new().choose(&table, &vec![0; bytes - BATCH_HEADER_LEN], CALM);
        assert_eq!((choice.codec, choice.level), (codec, None), "{bytes} bytes");
    }
}
