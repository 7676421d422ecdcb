//! Runs the simulation of many seeds, on every processor, and tells how many of them broke a promise; or of one, and tells
//! everything that happens. `cargo xtask simulate` runs this.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use milena_tests::history::Violation;
use milena_tests::kafka::Outcome;
use milena_tests::simulation::{self, Report};

const USAGE: &str = "usage: simulate --seeds N [--from SEED] [--jobs N] [--stop] | simulate --seed SEED [--twice]";
/// A run that takes longer than this in real time goes round in circles.
const CIRCLES: Duration = Duration::from_secs(60);
/// How many of the broken promises of one seed are told.
const TOLD: usize = 5;
/// Of all recoveries, all but one in a hundred are this quick.
const RECOVERY_P99: Duration = Duration::from_secs(3);

struct Arguments {
    seeds: u64,
    from: u64,
    jobs: usize,
    /// Whether the first broken promise ends it.
    stops: bool,
    /// This one alone, telling everything.
    seed: Option<u64>,
    /// Nothing but whether it does the same again.
    twice: bool,
}

fn main() -> ExitCode {
    let outcome = arguments().and_then(|arguments| match arguments.seed {
        Some(seed) if arguments.twice => again(seed),
        Some(seed) => one(seed),
        None => many(&arguments),
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("simulate: {error}");
            ExitCode::from(2)
        }
    }
}

fn arguments() -> Outcome<Arguments> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut arguments = Arguments { seeds: 1_000, from: 0, jobs, stops: false, seed: None, twice: false };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut number = || given.next().and_then(|number| number.parse::<u64>().ok()).ok_or(USAGE);
        match argument.as_str() {
            "--seeds" => arguments.seeds = number()?,
            "--from" => arguments.from = number()?,
            "--jobs" => arguments.jobs = usize::try_from(number()?)?.max(1),
            "--seed" => arguments.seed = Some(number()?),
            "--stop" => arguments.stops = true,
            "--twice" => arguments.twice = true,
            _ => return Err(USAGE.into()),
        }
    }
    Ok(arguments)
}

fn one(seed: u64) -> Outcome<bool> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("MILENA_LOG"))
        .without_time()
        .with_writer(std::io::stderr)
        .init();
    let report = simulation::run(seed, true)?;
    println!("{report:#?}");
    Ok(report.violations.is_empty())
}

fn again(seed: u64) -> Outcome<bool> {
    let (one, other) = (simulation::run(seed, false)?, simulation::run(seed, false)?);
    println!("seed {seed}: {:016x} and {:016x}", one.hash, other.hash);
    Ok(one.hash == other.hash)
}

#[derive(Default)]
struct Sum {
    runs: u64,
    hash: u64,
    outcomes: [u64; 3],
    written: u64,
    read: u64,
    mishaps: u64,
    bumps: u64,
    retries: u64,
    most_asked: BTreeMap<String, usize>,
    elapsed: Duration,
    recoveries: Vec<Duration>,
    broken: BTreeMap<u64, Report>,
}

impl Sum {
    fn add(&mut self, report: Report) {
        self.runs += 1;
        // In whatever order they end.
        self.hash ^= report.hash;
        self.outcomes.iter_mut().zip(report.outcomes).for_each(|(sum, outcome)| *sum += outcome);
        self.written += report.written;
        self.read += report.read;
        self.mishaps += report.mishaps;
        self.bumps += report.bumps;
        self.retries += report.retries;
        for (what, most) in report.most_asked.clone() {
            let known = self.most_asked.entry(what).or_default();
            *known = most.max(*known);
        }
        self.elapsed += report.elapsed;
        self.recoveries.extend(&report.recoveries);
        if !report.violations.is_empty() {
            self.broken.insert(report.seed, report);
        }
    }
}

fn many(arguments: &Arguments) -> Outcome<bool> {
    let began = Instant::now();
    let end = arguments.from.checked_add(arguments.seeds).ok_or("there are not so many seeds")?;
    let next = AtomicU64::new(arguments.from);
    let (reports, ended) = mpsc::sync_channel::<Result<Report, String>>(arguments.jobs * 4);
    let mut sum = Sum::default();
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            let (next, reports) = (&next, reports.clone());
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= end {
                        return;
                    }
                    let watched = watch(seed);
                    let ran = std::panic::catch_unwind(|| simulation::run(seed, false));
                    drop(watched);
                    let ran = match ran {
                        Ok(ran) => ran.map_err(|error| format!("seed {seed}: {error}")),
                        Err(_) => Ok(Report {
                            seed,
                            violations: vec![Violation::Stuck("it panicked".into())],
                            ..Report::default()
                        }),
                    };
                    if reports.send(ran).is_err() {
                        return;
                    }
                }
            });
        }
        drop(reports);
        for report in ended {
            let report = report?;
            for violation in report.violations.iter().take(TOLD) {
                println!("seed {}: {violation}", report.seed);
            }
            sum.add(report);
            if arguments.stops && !sum.broken.is_empty() {
                next.store(end, Relaxed);
            }
        }
        Ok::<_, String>(())
    })?;
    tell(&mut sum, began.elapsed());
    let p99 = percentile(&mut sum.recoveries, 99);
    if let Some((seed, _)) = sum.broken.first_key_value() {
        println!("BROKEN in {} of {} runs; replay: cargo xtask simulate --seed {seed}", sum.broken.len(), sum.runs);
    } else if p99 > RECOVERY_P99 {
        println!("SHORTFALL: recovery within {RECOVERY_P99:?} is what 99 of 100 need");
    }
    Ok(sum.broken.is_empty() && p99 <= RECOVERY_P99)
}

fn tell(sum: &mut Sum, took: Duration) {
    let [acknowledged, failed, unknown] = sum.outcomes;
    println!(
        "{} runs in {:.1} s ({:.0} a second), {:.1} hours of virtual time, all in one: {:016x}",
        sum.runs,
        took.as_secs_f64(),
        sum.runs as f64 / took.as_secs_f64(),
        sum.elapsed.as_secs_f64() / 3600.0,
        sum.hash
    );
    println!("  {} mishaps; {} batches sent again, {} epochs raised", sum.mishaps, sum.retries, sum.bumps);
    println!("  {acknowledged} acknowledged, {failed} failed, {unknown} possibly written; {} in the logs", sum.written);
    let most: Vec<String> = sum.most_asked.iter().map(|(what, most)| format!("{most} {what}")).collect();
    println!("  {} handed over; at most, of one node, by one client, a second: {}", sum.read, most.join(", "));
    let (p50, p99) = (percentile(&mut sum.recoveries, 50), percentile(&mut sum.recoveries, 99));
    let longest = sum.recoveries.last().copied().unwrap_or_default();
    println!("  recovery p50 {p50:?}, p99 {p99:?}, longest {longest:?} ({} of them)", sum.recoveries.len());
}

fn percentile(durations: &mut [Duration], percent: usize) -> Duration {
    durations.sort_unstable();
    let at = (durations.len() * percent).div_ceil(100).saturating_sub(1);
    durations.get(at).copied().unwrap_or_default()
}

/// Ends the process, naming the seed, unless this is dropped in time.
fn watch(seed: u64) -> mpsc::SyncSender<()> {
    let (alive, gone) = mpsc::sync_channel(0);
    std::thread::spawn(move || {
        if gone.recv_timeout(CIRCLES) == Err(mpsc::RecvTimeoutError::Timeout) {
            println!("seed {seed}: goes round in circles; replay: cargo xtask simulate --seed {seed}");
            std::process::exit(1);
        }
    });
    alive
}
