//! `compression`: what each codec and each automatic choice makes of batches of different contents and sizes, in CPU time
//! and in bytes, and whether `Auto` keeps its budget: bytes within 5 % of zstd level 1, or, where that saves less than
//! 5 % or the batch is too small for any codec to pay, CPU within 10 % of no compression. Exits with 1 if not.
//!
//! CPU is this thread's, from the first append to the sealed batch; the choices take turns, and the median counts.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use cpu_time::ThreadTime;
use milena_benches::payloads::Payload;
use milena_core::producer::budget::ByteBudget;
use milena_core::producer::buffers::BufferPool;
use milena_core::producer::completion::Completion;
use milena_core::producer::compression_choice::{AutoCompression, CompressionChooser, CompressionPolicy, SizeTable};
use milena_core::producer::open_batch::OpenBatch;
use milena_protocol::compress::Compression;
use milena_protocol::record::BATCH_HEADER_LEN;

const SIZES: [(usize, &str); 6] = [
    (256, "256 B"),
    (1 << 10, "1 KB"),
    (4 << 10, "4 KB"),
    (16 << 10, "16 KB"),
    (100 << 10, "100 KB"),
    (1 << 20, "1 MB"),
];
/// Different batches of a kind, so that none is known by heart.
const DIFFERENT: usize = 4;
/// Batches that a chooser has seen before the first is measured: the steady state, with its rare probes.
const SEEN: usize = 3_000;

#[derive(Parser)]
struct Arguments {
    /// How often each choice has its turn
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// At least so many bytes each time
    #[arg(long, default_value_t = 256 * 1024)]
    bytes: usize,
}

struct Choice {
    name: &'static str,
    policy: CompressionPolicy,
}

fn choices() -> Vec<Choice> {
    let fixed = |codec, level| CompressionPolicy::Fixed(codec, level);
    [
        ("none", fixed(Compression::None, None)),
        ("gzip", fixed(Compression::Gzip, None)),
        ("snappy", fixed(Compression::Snappy, None)),
        ("lz4", fixed(Compression::Lz4, None)),
        ("zstd-1", fixed(Compression::Zstd, Some(1))),
        ("zstd-3", fixed(Compression::Zstd, Some(3))),
        ("Auto", CompressionPolicy::Auto(AutoCompression::default())),
        ("Throughput", CompressionPolicy::Auto(AutoCompression::throughput())),
        ("Ratio", CompressionPolicy::Auto(AutoCompression::ratio())),
        ("SizeTable", CompressionPolicy::BySize(SizeTable::default())),
    ]
    .into_iter()
    .map(|(name, policy)| Choice { name, policy })
    .collect()
}

/// A choice at work on batches of one kind.
struct Run {
    chooser: CompressionChooser,
    samples: Vec<f64>,
    raw: usize,
    wire: usize,
    codec: Compression,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let choices = choices();
    print!("CPU µs per KB of records, append to seal, and bytes before over bytes after\n\n{:23}", "");
    for choice in &choices {
        print!("{:>14}", choice.name);
    }
    println!("  Auto chose  verdict");
    let mut missed = 0;
    for payload in Payload::ALL {
        for (size, label) in SIZES {
            let runs = measure(payload, size, &choices, &arguments);
            print!("{:12} {label:>10}", payload.name());
            for run in &runs {
                print!("{:>8.3} {:>5.2}", median(&run.samples), ratio(run));
            }
            let verdict = verdict(&runs, size);
            missed += usize::from(verdict.is_err());
            println!("  {:10}  {}", runs[AUTO].codec.name(), verdict.unwrap_or_else(|missed| missed));
        }
    }
    println!("\nthe budget of Auto is missed in {missed} of {} rows", Payload::ALL.len() * SIZES.len());
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

const NONE: usize = 0;
const ZSTD_1: usize = 4;
const AUTO: usize = 6;

/// What the budget says of a row: why it is kept, or by how much it is missed.
fn verdict(runs: &[Run], size: usize) -> Result<String, String> {
    let (none, zstd, auto) = (&runs[NONE], &runs[ZSTD_1], &runs[AUTO]);
    let more_bytes = auto.wire as f64 / zstd.wire as f64;
    let more_cpu = median(&auto.samples) / median(&none.samples);
    let pays = size >= AutoCompression::default().min_batch && (zstd.wire as f64) < 0.95 * none.wire as f64;
    let said =
        format!("{:+.1} % bytes of zstd-1, {:+.1} % CPU of none", (more_bytes - 1.0) * 100.0, (more_cpu - 1.0) * 100.0);
    if more_bytes <= 1.05 || (!pays && more_cpu <= 1.10) {
        Ok(format!("kept: {said}"))
    } else {
        Err(format!("MISSED: {said}"))
    }
}

fn measure(payload: Payload, size: usize, choices: &[Choice], arguments: &Arguments) -> Vec<Run> {
    let mut rng = fastrand::Rng::with_seed(size as u64 ^ 0x6d69_6c65_6e61);
    let batches: Vec<_> = (0..DIFFERENT).map(|_| values(payload, size, &mut rng)).collect();
    let pool = BufferPool::new(ByteBudget::new(64 << 20));
    let mut runs: Vec<_> = choices
        .iter()
        .map(|choice| {
            let mut run = Run {
                chooser: CompressionChooser::new(),
                samples: Vec::new(),
                raw: 0,
                wire: 0,
                codec: Compression::None,
            };
            let open: Vec<_> = batches.iter().map(|values| fill(&pool, size, values)).collect();
            for seen in 0..SEEN {
                run.chooser.choose(&choice.policy, open[seen % DIFFERENT].records(), || 0);
            }
            run
        })
        .collect();
    let batches_a_turn = arguments.bytes.div_ceil(size).next_multiple_of(DIFFERENT);
    // The first turn warms up.
    for round in 0..=arguments.rounds {
        for (choice, run) in choices.iter().zip(&mut runs) {
            let start = ThreadTime::now();
            for number in 0..batches_a_turn {
                let open = fill(&pool, size, &batches[number % DIFFERENT]);
                let chosen = run.chooser.choose(&choice.policy, open.records(), || 0);
                let turn = if chosen.codec == Compression::None { None } else { pool.try_copy(open.copy_plan()) };
                let sealed = open.seal(chosen, turn, &pool).expect("every codec is in this build");
                run.raw += sealed.sealed().raw_len();
                run.wire += sealed.sealed().wire_len();
                run.codec = sealed.sealed().compression();
            }
            let micros = start.elapsed().as_secs_f64() * 1e6;
            if round > 0 {
                run.samples.push(micros / (batches_a_turn * size) as f64 * 1024.0);
            }
        }
    }
    runs
}

/// Values of records that fill a batch of `size` bytes.
fn values(payload: Payload, size: usize, rng: &mut fastrand::Rng) -> Vec<Vec<u8>> {
    let mut values = Vec::new();
    let mut left = size - BATCH_HEADER_LEN;
    // A record takes about ten bytes beside its value and its key.
    while left > 40 {
        let mut value = payload.value(rng);
        value.truncate(left - 26);
        left = left.saturating_sub(value.len() + 26);
        values.push(value);
    }
    values
}

fn fill(pool: &Arc<BufferPool>, size: usize, values: &[Vec<u8>]) -> OpenBatch {
    let charge = pool.budget().try_reserve(BufferPool::capacity_for(size)).expect("one batch at a time");
    let mut open = OpenBatch::new(pool, charge, Completion::new("t".into(), 0), Instant::now(), 0);
    for (number, value) in values.iter().enumerate() {
        let key = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        let key = [key, key.map(|byte| !byte)].concat();
        open.append(usize::MAX, number as i64 / 10, Some(&key), Some(value), &[]).expect("it fits");
    }
    open
}

fn ratio(run: &Run) -> f64 {
    run.raw as f64 / run.wire as f64
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
