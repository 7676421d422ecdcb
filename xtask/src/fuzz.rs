//! `cargo xtask fuzz`: builds the targets of `fuzz/` with libFuzzer's instrumentation and runs each for a while.
//!
//! Works on stable and needs no cargo-fuzz: the flags below are those that `cargo fuzz -s none` would set, and libFuzzer
//! itself comes with the crate libfuzzer-sys. A crash is kept as a file of `fuzz/regressions/<target>/`, which a plain
//! test replays from then on.

use std::env;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use crate::host;

/// Counts edges, and lets comparisons guide what is tried next.
const INSTRUMENTATION: [&str; 7] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];
/// An input that takes longer is a hang.
const TIMEOUT_SECONDS: u32 = 10;
/// A target that takes more memory has allocated what the bytes don't justify.
const MEMORY_MIB: u32 = 512;
/// The longest input, for what reads it: enough for several blocks of a codec.
const MAX_INPUT: u32 = 16 * 1024;

struct Run {
    target: String,
    executions: u64,
    crashes: Vec<PathBuf>,
    failure: Option<String>,
}

/// Runs every target for `seconds`. Crashes, and targets that can't run, are an error that names them.
pub(crate) fn run(seconds: u64) -> Result<(), String> {
    let folder = host::root().join("fuzz");
    let targets = targets(&folder)?;
    let programs = build(&folder)?;
    println!("{:20} {:>12} {:>8}", "target", "executions", "crashes");
    let mut failed = Vec::new();
    for target in targets {
        let run = fuzz(&folder, &programs, target, seconds)?;
        println!("{:20} {:>12} {:>8}", run.target, run.executions, run.crashes.len());
        for crash in &run.crashes {
            failed.push(format!("{} crashes on {}", run.target, crash.display()));
        }
        if let Some(failure) = run.failure {
            failed.push(format!("{}: {failure}", run.target));
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}

/// Every file of `fuzz_targets/` is one.
fn targets(folder: &Path) -> Result<Vec<String>, String> {
    let mut targets: Vec<_> = list(&folder.join("fuzz_targets"))?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    targets.sort();
    Ok(targets)
}

/// Builds all targets and says where they are.
fn build(folder: &Path) -> Result<PathBuf, String> {
    let host_triple = host_triple()?;
    let target_folder = host::target().join("fuzz");
    let mut command = host::cargo();
    command
        .current_dir(folder)
        .args(["build", "--quiet", "--release", "--bins", "--locked"])
        // With a target named, build scripts and macros stay without instrumentation.
        .args(["--target", &host_triple, "--target-dir"])
        .arg(&target_folder)
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTATION.join("\u{1f}"));
    host::run(&mut command).map_err(|failure| failure.to_string())?;
    Ok(target_folder.join(host_triple).join("release"))
}

fn host_triple() -> Result<String, String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = host::capture(Command::new(rustc).arg("-vV")).map_err(|failure| failure.to_string())?;
    let triple = version.lines().find_map(|line| line.strip_prefix("host: "));
    triple.map(str::to_owned).ok_or_else(|| "rustc -vV names no host".to_owned())
}

fn fuzz(folder: &Path, programs: &Path, target: String, seconds: u64) -> Result<Run, String> {
    let corpus = folder.join("corpus").join(&target);
    seed(&target, &corpus)?;
    let artifacts = folder.join("artifacts").join(&target);
    make(&artifacts)?;
    let output = Command::new(programs.join(&target))
        .arg(&corpus)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={TIMEOUT_SECONDS}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-max_len={MAX_INPUT}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-print_final_stats=1", "-verbosity=0", "-use_value_profile=1"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("can't start {target}: {error}"))?;
    let crashes = keep(folder, &target, &artifacts)?;
    let failure = failure(&output, !crashes.is_empty());
    Ok(Run { executions: executions(&output), target, crashes, failure })
}

/// The golden batches are where fuzzing begins: whole for what reads records, their sections for what decompresses.
fn seed(target: &str, corpus: &Path) -> Result<(), String> {
    make(corpus)?;
    for path in list(&host::root().join("testdata/batches"))? {
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        if path.extension().is_none_or(|extension| extension != "bin") {
            continue;
        }
        let batch = fs::read(&path).map_err(|error| format!("can't read {}: {error}", path.display()))?;
        // The decompressors' first two bytes are their limit.
        let seed = match target {
            "records" => batch,
            "gzip" | "snappy" | "lz4" | "zstd" if name.starts_with(target) => {
                [&[0xff, 0xff], batch.get(61..).unwrap_or_default()].concat()
            }
            _ => continue,
        };
        let path = corpus.join(format!("golden-{name}"));
        fs::write(&path, seed).map_err(|error| format!("can't write {}: {error}", path.display()))?;
    }
    Ok(())
}

/// Moves what libFuzzer has left of crashes to the regressions.
fn keep(folder: &Path, target: &str, artifacts: &Path) -> Result<Vec<PathBuf>, String> {
    let regressions = folder.join("regressions").join(target);
    let mut kept = Vec::new();
    for artifact in list(artifacts)? {
        make(&regressions)?;
        let place = regressions.join(artifact.file_name().unwrap_or_default());
        fs::rename(&artifact, &place).map_err(|error| format!("can't keep {}: {error}", artifact.display()))?;
        kept.push(place);
    }
    Ok(kept)
}

fn executions(output: &Output) -> u64 {
    let said = String::from_utf8_lossy(&output.stderr);
    let stat = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    stat.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// What the target said last, if it didn't end well.
fn failure(output: &Output, crashed: bool) -> Option<String> {
    if output.status.success() && !crashed {
        return (executions(output) == 0).then(|| "it ran nothing".to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = said.lines().filter(|line| !line.starts_with("stat::")).collect();
    Some(format!("{}\n{}", output.status, lines[lines.len().saturating_sub(15)..].join("\n")))
}

fn make(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| format!("can't make {}: {error}", folder.display()))
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("can't list {}: {error}", folder.display()))?;
    let paths: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(|error| format!("can't list {}: {error}", folder.display()))?;
    paths.sort();
    Ok(paths)
}
