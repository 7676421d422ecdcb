//! `cargo xtask test`: every test, on the embedded broker and on real Kafka, then a short fuzzing and a short fault run.
//! Starts what it needs and takes it down again; says loudly what it couldn't test, which is a failure under `CI=true`.
//! There it counts instructions too, where valgrind is installed: that is no condition.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Instant;

use clap::Args;

use crate::faults;
use crate::fuzz;
use crate::host;
use crate::host::Outcome;
use crate::instructions;
use crate::kafka;
use crate::kafka::Lease;
use crate::kafka::Via;
use crate::suite;
use crate::suite::Tally;

/// Tests that run beside each other on a real cluster: they wait more than they compute.
const TOGETHER: usize = 8;

/// Long enough for each fuzz target to replay what it knows and to go a little beyond.
const FUZZ_SECONDS: u64 = 2;

/// The modules of the tests that need real Kafka: on one node, on three, and on three that are stopped under their feet.
const ONE_NODE: &str = "one_node::";
const THREE_NODES: &str = "three_nodes::";
const DISTURBED: &str = "disturbed::";

#[derive(Args)]
pub(crate) struct Arguments {
    /// How the nodes of real Kafka run: auto, docker or maven
    #[arg(long, default_value = "auto")]
    via: Via,
    /// The tests alone: no fuzzing, no fault run
    #[arg(long)]
    quick: bool,
}

/// What was run, what failed, what couldn't be run.
#[derive(Default)]
struct Report {
    embedded: Tally,
    one_node: Tally,
    three_nodes: Tally,
    others: Vec<String>,
    failed: Vec<String>,
    untested: Vec<String>,
    /// What wasn't run either, and need not be.
    optional: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let began = Instant::now();
    let mut report = Report::default();

    // Apart from the run, so that nothing is measured or times out while the compiler has the processor.
    host::run(host::cargo().args(["test", "--workspace", "--no-run", "--quiet"]))?;
    let (tally, outcome) = suite::run(host::cargo().args(["test", "--workspace", "--no-fail-fast"]));
    report.embedded = tally;
    report.note("tests on the embedded broker", outcome);

    match kafka::choose(arguments.via) {
        Ok(via) => {
            let outcome = one_node(via, &mut report);
            report.note("tests on one real node", outcome);
            let outcome = three_nodes(via, !arguments.quick, &mut report);
            report.note("tests on three real nodes", outcome);
        }
        Err(missing) => {
            report.untested.push(format!("anything on real Kafka, the fault run: {missing}"));
        }
    }
    if !arguments.quick {
        let outcome = fuzz::run(FUZZ_SECONDS).map_err(Into::into);
        if outcome.is_ok() {
            report.others.push(format!("each fuzz target for {FUZZ_SECONDS} s"));
        }
        report.note("fuzzing", outcome);
        count_instructions(&mut report);
    }
    report.conclude(began)
}

/// Half a minute, and a build with optimizations: for continuous integration, and for whoever asks for it by name.
fn count_instructions(report: &mut Report) {
    match instructions::missing() {
        Some(missing) => report.optional.push(format!("instructions per record: {missing}")),
        None if host::is_ci() => {
            let outcome = instructions::run(&instructions::Arguments::default());
            if outcome.is_ok() {
                report.others.push("instructions per record within their limits".to_owned());
            }
            report.note("instructions per record", outcome);
        }
        None => report.optional.push("instructions per record: run cargo xtask instructions".to_owned()),
    }
}

fn one_node(via: Via, report: &mut Report) -> Outcome {
    let lease = Lease::take(1, via)?;
    let (tally, outcome) = run_all(&lease, "MILENA_KAFKA_1", ONE_NODE, TOGETHER, report)?;
    report.one_node = tally;
    outcome
}

fn three_nodes(via: Via, with_faults: bool, report: &mut Report) -> Outcome {
    let lease = Lease::take(3, via)?;
    let (tally, outcome) = run_all(&lease, "MILENA_KAFKA_3", THREE_NODES, TOGETHER, report)?;
    report.three_nodes = tally;
    outcome?;

    // These stop nodes under their own feet: one at a time, and nothing else beside them.
    let (tally, outcome) = run_all(&lease, "MILENA_KAFKA_3", DISTURBED, 1, report)?;
    report.three_nodes += tally;
    outcome?;

    if with_faults {
        faults::on(&lease, faults::Goals::SHORT, false)?;
        report.others.push("a short run of faults on three real nodes".to_owned());
    }
    Ok(())
}

/// Runs the tests of the modules called `filter`, which a plain `cargo test` ignores, with `lease` to run on.
fn run_all(
    lease: &Lease,
    variable: &str,
    filter: &str,
    n_threads: usize,
    report: &mut Report,
) -> Outcome<(Tally, Outcome)> {
    let class_path = kafka::tools_class_path();
    let listing = host::capture(real_tests(class_path.is_ok()).arg("--list"))?;
    let n_tests = count(&listing, filter)?;
    let mut command = real_tests(class_path.is_ok());
    command.args([filter, &format!("--test-threads={n_threads}")]);
    lease.tell(&mut command, variable)?;
    match class_path {
        Ok(class_path) => {
            command.env("MILENA_KAFKA_CP", class_path);
        }
        Err(missing) => {
            let untested = format!("Kafka's Java tools on the other side: {missing}");
            if !report.untested.contains(&untested) {
                report.untested.push(untested);
            }
        }
    }
    let (tally, outcome) = suite::run(&mut command);
    Ok((tally, outcome.and_then(|()| all_ran(tally, n_tests))))
}

/// `cargo test` for what a plain one ignores, up to the arguments that choose among that.
fn real_tests(with_java: bool) -> Command {
    let mut command = host::cargo();
    command.args(["test", "--workspace", "--tests", "--no-fail-fast", "--", "--ignored"]);
    if !with_java {
        command.args(["--skip", "java_tools"]);
    }
    command
}

/// How many tests of a listing are those of `filter`. A test in none of the modules that are run would be ignored for
/// good, in silence: that is an error, and so is a filter without a test.
fn count(listing: &str, filter: &str) -> Outcome<usize> {
    let names: Vec<&str> = listing.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    let is_run = |name: &&str| [ONE_NODE, THREE_NODES, DISTURBED].iter().any(|module| name.contains(module));
    if let Some(forgotten) = names.iter().find(|name| !is_run(name)) {
        return Err(format!("{forgotten} is ignored and in no module that is run: move it into one").into());
    }
    match names.iter().filter(|name| name.contains(filter)).count() {
        0 => Err(format!("there is no test in {filter}").into()),
        n_tests => Ok(n_tests),
    }
}

/// Tests that don't run fail nothing: that is no proof.
fn all_ran(tally: Tally, n_tests: usize) -> Outcome {
    match tally.passed {
        n_passed if n_passed == n_tests => Ok(()),
        n_passed => Err(format!("{n_passed} tests passed, of {n_tests}").into()),
    }
}

impl Report {
    fn note(&mut self, what: &str, outcome: Outcome) {
        if let Err(failure) = outcome {
            eprintln!("test: {what} failed: {failure}");
            self.failed.push(what.to_owned());
        }
    }

    fn conclude(mut self, began: Instant) -> Outcome {
        let mut text = String::from("\n");
        for (what, tally) in
            [("embedded", self.embedded), ("one real node", self.one_node), ("three real nodes", self.three_nodes)]
        {
            let Tally { passed, failed, .. } = tally;
            writeln!(text, "{passed:>6} passed, {failed} failed on {what}")?;
        }
        for other in &self.others {
            writeln!(text, "       {other}")?;
        }
        writeln!(text, "       in {:.0} s", began.elapsed().as_secs_f64())?;
        for untested in &self.untested {
            writeln!(text, "\n  NOT TESTED: {untested}")?;
        }
        for optional in &self.optional {
            writeln!(text, "\n  not tested, and need not be: {optional}")?;
        }
        println!("{text}");
        if host::is_ci() {
            self.failed.extend(self.untested.iter().map(|untested| format!("not tested: {untested}")));
        }
        if self.failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", self.failed.join("; ")).into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "a::one_node::x: test\nb::one_node::y: test\ndisturbed::z: test\n\n3 tests, 0 benchmarks\n";

    #[test]
    fn fewer_tests_than_there_are_prove_nothing() {
        let n_tests = count(LISTING, ONE_NODE).unwrap();
        assert_eq!(n_tests, 2);
        assert!(all_ran(Tally { passed: 2, ..Tally::default() }, n_tests).is_ok());
        assert!(all_ran(Tally { passed: 1, ignored: 1, ..Tally::default() }, n_tests).is_err());
        assert!(count(LISTING, THREE_NODES).is_err(), "there is none");
    }

    #[test]
    fn a_test_that_no_run_takes_is_named() {
        let forgotten = count(&format!("{LISTING}c::two_nodes::x: test\n"), ONE_NODE).unwrap_err();
        assert!(forgotten.to_string().starts_with("c::two_nodes::x is ignored"), "{forgotten}");
    }
}
