//! Which codec a batch gets: a fixed one, one by size, or [`CompressionPolicy::Auto`], which looks at what compressing
//! brings. One [`CompressionChooser`] per partition; compresses nothing itself but a small sample.
//!
//! The measurements behind `Auto`: nothing pays below 512 B; a contiguous 4 KiB sample, lz4-compressed in 2–4 µs, tells
//! JSON, text, half-random and random data apart at a ratio of 1.10; zstd level 1 gives 27–41 % less than lz4 or snappy
//! at an eighth to a half more CPU; on random data every codec only wastes.

use milena_protocol::compress::Compression;
use milena_protocol::record::BATCH_HEADER_LEN;

/// How batches are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompressionPolicy {
    /// Each batch with the same codec, and a level for those that have one.
    Fixed(Compression, Option<i32>),
    /// By what it brings.
    Auto(AutoCompression),
    /// By the size of the batch alone.
    BySize(SizeTable),
}

impl CompressionPolicy {
    /// Whether it never compresses.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::Fixed(Compression::None, _))
    }

    /// The codecs that it may choose, with their levels.
    pub fn codecs(&self) -> [(Compression, Option<i32>); 2] {
        match self {
            Self::Fixed(codec, level) => [(*codec, *level); 2],
            Self::Auto(auto) => [(auto.codec, auto.level), (auto.fast_codec, auto.fast_level)],
            Self::BySize(table) => [(table.medium_codec, None), (table.large_codec, None)],
        }
    }
}

impl Default for CompressionPolicy {
    fn default() -> Self {
        Self::Fixed(Compression::None, None)
    }
}

/// The thresholds of [`CompressionPolicy::Auto`]. All of them may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AutoCompression {
    /// Batches below this many bytes are sent as they are. Default 512.
    pub min_batch: usize,
    /// How many contiguous bytes of a batch are probed. Default 4 KiB.
    pub sample: usize,
    /// From this many bytes for each 100 that are left of the sample, compressing pays. Default 110.
    pub min_ratio_percent: usize,
    /// Compressible data is probed again after this many batches. Default 64.
    pub probe_every: u32,
    /// Incompressible data is probed less and less often, up to this many batches. Default 1,024.
    pub probe_at_most_every: u32,
    /// A compressed batch above this many per cent of what it was is sent as it was. Default 95.
    pub keep_percent: usize,
    /// For compressible data. Default zstd.
    pub codec: Compression,
    /// Its level. Default 1.
    pub level: Option<i32>,
    /// For compressible data while the client is short of CPU, and for probing. Default lz4.
    pub fast_codec: Compression,
    /// Its level. Default none.
    pub fast_level: Option<i32>,
    /// The client is short of CPU once compressing takes this many per cent of one core; see
    /// [`CompressionEffort`](super::compression_effort::CompressionEffort). Default 70.
    pub busy_percent: u32,
    /// And no longer once it takes less than this many. Default 25: zstd would take less than
    /// half a core then.
    pub calm_percent: u32,
}

impl Default for AutoCompression {
    fn default() -> Self {
        let codec = first_available([Compression::Zstd, Compression::Lz4, Compression::Snappy, Compression::Gzip]);
        Self {
            min_batch: 512,
            sample: 4 * 1024,
            min_ratio_percent: 110,
            probe_every: 64,
            probe_at_most_every: 1024,
            keep_percent: 95,
            codec,
            level: (codec == Compression::Zstd).then_some(1),
            fast_codec: first_available([Compression::Lz4, Compression::Snappy, Compression::Zstd, Compression::Gzip]),
            fast_level: None,
            busy_percent: 70,
            calm_percent: 25,
        }
    }
}

impl AutoCompression {
    /// For the most records a second: lz4, where compressing pays at all.
    pub fn throughput() -> Self {
        let auto = Self::default();
        Self { codec: auto.fast_codec, level: None, ..auto }
    }

    /// For the fewest bytes: zstd at a high level, at zstd level 1 while the client is short of CPU.
    pub fn ratio() -> Self {
        let auto = Self::default();
        let level = |level| (auto.codec == Compression::Zstd).then_some(level);
        Self { level: level(RATIO_LEVEL), fast_level: level(1), fast_codec: auto.codec, min_ratio_percent: 103, ..auto }
    }
}

/// From here on zstd looks for matches lazily: what level 3 gains on text only, it gains on JSON too.
const RATIO_LEVEL: i32 = 6;

fn first_available(codecs: [Compression; 4]) -> Compression {
    codecs.into_iter().find(|codec| codec.is_available()).unwrap_or(Compression::None)
}

/// Codecs by size of the batch: below `small` none, from `large` on the second codec, between them the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeTable {
    /// Below this many bytes a batch is sent as it is.
    pub small: usize,
    /// From `small` to `large`.
    pub medium_codec: Compression,
    /// From this many bytes on.
    pub large: usize,
    /// From `large` on.
    pub large_codec: Compression,
}

impl Default for SizeTable {
    /// Below 1 KB none, to 100 KB snappy, above zstd.
    fn default() -> Self {
        Self { small: 1_000, medium_codec: Compression::Snappy, large: 100_000, large_codec: Compression::Zstd }
    }
}

/// Why a batch is compressed as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompressionReason {
    /// The configuration names the codec.
    Fixed,
    /// The batch is too small for any codec to pay.
    TooSmall,
    /// The last sample compressed well.
    Compressible,
    /// It did, and compressing takes too much of a core for the better codec.
    CpuBound,
    /// The last sample hardly compressed.
    Incompressible,
    /// By the size table.
    Size,
    /// It was compressed in vain: what came out was hardly smaller, and it is sent as it was.
    NotSmaller,
    /// `buffer.memory` had no room for what would have come out, and it is sent as it was.
    NoRoom,
}

impl CompressionReason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Fixed,
        Self::TooSmall,
        Self::Compressible,
        Self::CpuBound,
        Self::Incompressible,
        Self::Size,
        Self::NotSmaller,
        Self::NoRoom,
    ];

    /// For metrics: in lower case, words joined by hyphens.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::TooSmall => "too-small",
            Self::Compressible => "compressible",
            Self::CpuBound => "cpu-bound",
            Self::Incompressible => "incompressible",
            Self::Size => "size",
            Self::NotSmaller => "not-smaller",
            Self::NoRoom => "no-room",
        }
    }
}

/// What was chosen for a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressionChoice {
    /// The codec.
    pub codec: Compression,
    /// Its level, where it has one and the default is not meant.
    pub level: Option<i32>,
    /// Why.
    pub reason: CompressionReason,
    /// The result is kept up to this many per cent of the records, and only if it is smaller.
    pub keep_percent: usize,
}

impl CompressionChoice {
    /// This codec, whatever it brings.
    pub const fn fixed(codec: Compression, level: Option<i32>) -> Self {
        Self { codec, level, reason: CompressionReason::Fixed, keep_percent: 100 }
    }

    const fn none(reason: CompressionReason) -> Self {
        Self { codec: Compression::None, level: None, reason, keep_percent: 100 }
    }

    /// How many bytes the compressed records may have, of `raw`.
    pub const fn at_most(&self, raw: usize) -> usize {
        raw / 100 * self.keep_percent + raw % 100 * self.keep_percent / 100
    }
}

/// What one partition's batches were like.
#[derive(Debug, Default)]
pub struct CompressionChooser {
    /// Whether the last probe paid; unknown before the first.
    compressible: Option<bool>,
    until_probe: u32,
    interval: u32,
    cpu_bound: bool,
}

impl CompressionChooser {
    /// Nothing known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses for a batch whose records are `raw`, in the wire's format. `busy_percent` says how much of a core
    /// compressing takes; it is asked only where that matters.
    pub fn choose(
        &mut self,
        policy: &CompressionPolicy,
        raw: &[u8],
        busy_percent: impl FnOnce() -> u32,
    ) -> CompressionChoice {
        match policy {
            CompressionPolicy::Fixed(codec, level) => CompressionChoice::fixed(*codec, *level),
            CompressionPolicy::BySize(table) => match BATCH_HEADER_LEN + raw.len() {
                length if length < table.small => CompressionChoice::none(CompressionReason::TooSmall),
                length => CompressionChoice {
                    reason: CompressionReason::Size,
                    ..CompressionChoice::fixed(
                        if length < table.large { table.medium_codec } else { table.large_codec },
                        None,
                    )
                },
            },
            CompressionPolicy::Auto(auto) => self.choose_by_probe(auto, raw, busy_percent),
        }
    }

    fn choose_by_probe(
        &mut self,
        auto: &AutoCompression,
        raw: &[u8],
        busy_percent: impl FnOnce() -> u32,
    ) -> CompressionChoice {
        if BATCH_HEADER_LEN + raw.len() < auto.min_batch || auto.codec == Compression::None {
            return CompressionChoice::none(CompressionReason::TooSmall);
        }
        if self.until_probe == 0 {
            self.judge(auto, pays(auto, raw));
        }
        self.until_probe -= 1;
        if self.compressible != Some(true) {
            return CompressionChoice::none(CompressionReason::Incompressible);
        }
        self.cpu_bound = busy_percent() >= if self.cpu_bound { auto.calm_percent } else { auto.busy_percent };
        let (codec, level, reason) = if self.cpu_bound {
            (auto.fast_codec, auto.fast_level, CompressionReason::CpuBound)
        } else {
            (auto.codec, auto.level, CompressionReason::Compressible)
        };
        CompressionChoice { codec, level, reason, keep_percent: auto.keep_percent }
    }

    /// Takes in what became of a batch: where it was compressed in vain, those after it are not, until the next probe.
    pub fn sealed(&mut self, policy: &CompressionPolicy, reason: CompressionReason) {
        if let CompressionPolicy::Auto(auto) = policy
            && reason == CompressionReason::NotSmaller
        {
            self.judge(auto, false);
        }
    }

    fn judge(&mut self, auto: &AutoCompression, pays: bool) {
        self.interval = match (pays, self.compressible) {
            (false, Some(false)) => self.interval.saturating_mul(2).min(auto.probe_at_most_every),
            _ => auto.probe_every,
        }
        .max(1);
        self.compressible = Some(pays);
        self.until_probe = self.interval;
    }
}

/// Compresses one contiguous piece from the middle of `raw`: scattered pieces would mislead.
fn pays(auto: &AutoCompression, raw: &[u8]) -> bool {
    let length = auto.sample.clamp(1, raw.len());
    let from = (raw.len() - length) / 2;
    let sample = &raw[from..from + length];
    match auto.fast_codec.compressed_len(auto.fast_level, sample) {
        Ok(compressed) => length * 100 >= compressed * auto.min_ratio_percent,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests;
