//! Runs `cargo test` and counts: what it prints goes on to our own stdout, and the closing line of each test binary is
//! added up. Decides nothing about what is run.

use std::io::BufRead as _;
use std::io::BufReader;
use std::ops::AddAssign;
use std::process::Command;
use std::process::Stdio;

use crate::host;
use crate::host::Outcome;

/// How many tests passed, failed, and were left for another run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) ignored: usize,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

impl Tally {
    /// `test result: ok. 12 passed; 0 failed; 1 ignored; …`
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let mut tally = Self::default();
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else { continue };
            let field = match what {
                "passed" => &mut tally.passed,
                "failed" => &mut tally.failed,
                "ignored" => &mut tally.ignored,
                _ => continue,
            };
            *field = number.parse().ok()?;
        }
        Some(tally)
    }
}

/// Runs `command`, a `cargo test`, to its end. The count is given back even if tests failed; the error says that they
/// did, or that something else went wrong, such as a build.
pub(crate) fn run(command: &mut Command) -> (Tally, Outcome) {
    let mut tally = Tally::default();
    let mut follow = || -> Outcome {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().ok_or("cargo's stdout is piped")?;
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            println!("{line}");
            if let Some(closing) = Tally::parse(&line) {
                tally += closing;
            }
        }
        let status = child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("{status}: {}", host::shown(command)).into()) }
    };
    let outcome = follow();
    (tally, outcome)
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn closing_lines_are_added_up() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.52s";
        assert_eq!(Tally::parse(line), Some(Tally { passed: 12, failed: 3, ignored: 1 }));
        assert_eq!(Tally::parse("test result_is_kept ... ok"), None);
    }
}
