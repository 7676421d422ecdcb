//! `cargo xtask instructions`: how many instructions a record costs in each piece of work of `benches`, counted by valgrind,
//! and held against the limits in `benches/instructions.txt`. No other load of the machine changes the count.
//!
//! Each piece is run twice, with an amount of records and with three times as many: the difference is the records' alone.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use crate::host;
use crate::host::Outcome;

/// How far above its limit a figure may be: compilers and allocators differ a little between releases.
const MARGIN: f64 = 1.05;

/// glibc copies long strings by `rep movsb`, of which valgrind counts every byte as an instruction: not with these.
const NO_REP: &str = "glibc.cpu.x86_rep_movsb_threshold=0x7fffffff:glibc.cpu.x86_rep_stosb_threshold=0x7fffffff";

/// Opens the file of limits.
const HEADING: &str = "\
# Instructions per record, on x86_64 with the toolchain of `rust-version`, as `cargo xtask instructions` counts them.
# More than 5 % above fails. `cargo xtask instructions --bless` writes this file: say in the commit why a figure rose.
";

#[derive(Args, Default)]
pub(crate) struct Arguments {
    /// Write the limits anew, of what is counted now
    #[arg(long)]
    bless: bool,
    /// Only these pieces of work
    names: Vec<String>,
}

/// Why nothing can be counted here, if that is so.
pub(crate) fn missing() -> Option<&'static str> {
    if !host::works("valgrind", &["--version"]) {
        return Some("valgrind isn't installed");
    }
    (!cfg!(target_arch = "x86_64")).then_some("the limits are those of x86_64")
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    if let Some(missing) = missing() {
        return Err(format!("no instructions can be counted: {missing}").into());
    }
    host::run(host::cargo().args(["build", "--quiet", "--release", "--package", "milena-benches"]))?;
    let known = host::capture(workload().arg("--list"))?;
    let known = known.lines().map(parse_work).collect::<Outcome<Vec<_>>>()?;
    if let Some(unknown) = arguments.names.iter().find(|name| !known.iter().any(|(known, _)| known == *name)) {
        let names: Vec<_> = known.iter().map(|(name, _)| name.as_str()).collect();
        return Err(format!("there is no {unknown}: say one of {}", names.join(", ")).into());
    }
    let mut limits = parse_limits(&fs::read_to_string(file()).unwrap_or_default())?;
    let mut failures = Vec::new();
    println!("{:24} {:>12} {:>12} {:>8}", "instructions per record", "now", "limit", "");
    for (name, records) in known.iter().filter(|(name, _)| wanted(arguments, name)) {
        let (less, more) = (count(name, *records)?, count(name, 3 * records)?);
        let now = more.saturating_sub(less) as f64 / (2 * records) as f64;
        let limit = limits.get(name).copied();
        let verdict = limit.map_or(Verdict::New, |limit| judge(now, limit));
        let shown = limit.map_or_else(|| "–".to_owned(), |limit| format!("{limit:.1}"));
        println!("{name:24} {now:>12.1} {shown:>12}  {}", verdict.words());
        match verdict {
            _ if arguments.bless => _ = limits.insert(name.clone(), now),
            Verdict::Above => failures.push(format!("{name} costs {now:.1} instructions a record, not {shown}")),
            Verdict::New => failures.push(format!("{name} has no limit")),
            Verdict::Within | Verdict::Below => {}
        }
    }
    if arguments.bless {
        limits.retain(|name, _| known.iter().any(|(known, _)| known == name));
        fs::write(file(), limits_as_text(&limits)?)?;
        println!("written: {}", file().display());
        return Ok(());
    }
    if let Some(gone) = limits.keys().find(|name| !known.iter().any(|(known, _)| known == *name)) {
        failures.push(format!("{gone} has a limit and is no piece of work"));
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(format!("{}; if that is as it must be: cargo xtask instructions --bless", failures.join("; ")).into())
}

fn wanted(arguments: &Arguments, name: &str) -> bool {
    arguments.names.is_empty() || arguments.names.iter().any(|wanted| wanted == name)
}

fn file() -> PathBuf {
    host::root().join("benches/instructions.txt")
}

fn workload() -> Command {
    Command::new(host::target().join("release/workload"))
}

/// All the instructions of a run with so many records.
fn count(name: &str, records: u64) -> Outcome<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.env("GLIBC_TUNABLES", NO_REP);
    valgrind.args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", "--log-fd=1"]);
    valgrind.arg(workload().get_program()).args([name, &records.to_string()]);
    let said = host::capture(&mut valgrind)?;
    parse_count(&said).ok_or_else(|| format!("valgrind counted nothing:\n{}", host::last_lines(&said, 10)).into())
}

/// `==123== I   refs:      1,234,567`, or without the second space in later versions.
fn parse_count(said: &str) -> Option<u64> {
    let (_, figure) = said.lines().find(|line| line.contains("refs:"))?.split_once("refs:")?;
    figure.trim().replace(',', "").parse().ok()
}

fn parse_work(line: &str) -> Outcome<(String, u64)> {
    let (name, records) = line.split_once(' ').ok_or_else(|| format!("not a piece of work: {line}"))?;
    Ok((name.to_owned(), records.parse()?))
}

fn parse_limits(text: &str) -> Outcome<BTreeMap<String, f64>> {
    let mut limits = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let (name, limit) = line.split_once(' ').ok_or_else(|| format!("not a limit: {line}"))?;
        if limits.insert(name.to_owned(), limit.trim().parse()?).is_some() {
            return Err(format!("{name} has two limits").into());
        }
    }
    Ok(limits)
}

fn limits_as_text(limits: &BTreeMap<String, f64>) -> Outcome<String> {
    let mut text = HEADING.to_owned();
    for (name, limit) in limits {
        writeln!(text, "{name:24} {limit:>10.1}")?;
    }
    Ok(text)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Within,
    /// So far that the limit no longer guards what was gained.
    Below,
    Above,
    New,
}

fn judge(now: f64, limit: f64) -> Verdict {
    if now > limit * MARGIN {
        Verdict::Above
    } else if now * MARGIN < limit {
        Verdict::Below
    } else {
        Verdict::Within
    }
}

impl Verdict {
    fn words(self) -> &'static str {
        match self {
            Self::Within => "",
            Self::Below => "cheaper: --bless keeps it so",
            Self::Above => "ABOVE ITS LIMIT",
            Self::New => "NO LIMIT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figure_is_held_against_its_limit_with_a_margin() {
        assert_eq!(judge(104.9, 100.0), Verdict::Within);
        assert_eq!(judge(105.1, 100.0), Verdict::Above);
        assert_eq!(judge(95.3, 100.0), Verdict::Within);
        assert_eq!(judge(90.0, 100.0), Verdict::Below);
    }

    #[test]
    fn limits_are_read_as_they_were_written() {
        let limits = BTreeMap::from([("encode".to_owned(), 61.5), ("seal-lz4".to_owned(), 1234.0)]);
        assert_eq!(parse_limits(&limits_as_text(&limits).unwrap()).unwrap(), limits);
        assert!(parse_limits("encode 1.0\nencode 2.0").is_err(), "two limits");
        assert!(parse_limits("encode").is_err(), "no figure");
    }

    #[test]
    fn count_is_found_among_what_valgrind_says() {
        assert_eq!(parse_count("==9== Cachegrind\n==9== \n==9== I   refs:      5,678,901\n"), Some(5_678_901));
        assert_eq!(parse_count("==9== I refs:        12\n"), Some(12));
        assert_eq!(parse_count("valgrind: no such file"), None);
    }
}
