//! Builds one test program of the copy, and runs one of its tests within a time limit, or the simulation for so many seeds.
//! Knows nothing of defects.

use std::fmt;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Duration;

use cargo_metadata::Message;

use super::tree::Tree;
use crate::host;
use crate::host::Outcome;
use crate::suite::Tally;

/// How long a verdict is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) test: Duration,
    pub(super) seeds: u64,
}

/// For each of its seeds, on a machine that does other things too.
const SIMULATED: Duration = Duration::from_millis(500);

/// A package's own tests (`lib`), one of its integration tests, or the program of the `simulation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Program<'a> {
    pub(super) package: &'a str,
    pub(super) target: &'a str,
}

/// A program that was built.
#[derive(Debug)]
pub(super) struct Built {
    executable: PathBuf,
    folder: PathBuf,
    is_simulation: bool,
}

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Passed,
    Failed,
    /// It ran beyond the time limit and was killed. Nobody is told by a test that never ends.
    Late,
    /// The program ended without a verdict on the test: there is none of that name, or it was aborted.
    Undecided,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Late => "did not end within its time limit",
            Self::Undecided => "was not run to an end (is that its name?)",
        })
    }
}

impl fmt::Display for Program<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.package, self.target)
    }
}

impl Program<'_> {
    pub(super) fn is_simulation(self) -> bool {
        self.target == "simulation"
    }

    pub(super) fn build(self, tree: &Tree) -> Outcome<Built> {
        let mut cargo = host::cargo();
        cargo.current_dir(tree.root());
        match self.target {
            // A run takes ten times as long in a build with debug assertions.
            "simulation" => cargo.args(["build", "--quiet", "--release", "--bin", "simulate"]),
            "lib" => cargo.args(["test", "--quiet", "--no-run", "--lib"]),
            test => cargo.args(["test", "--quiet", "--no-run", "--test", test]),
        };
        cargo.args(["--package", self.package]);
        cargo.arg("--message-format=json-render-diagnostics").arg("--target-dir").arg(tree.target());
        let output = cargo.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{self} doesn't build\n{}", host::last_lines(&said, 20)).into());
        }
        for message in Message::parse_stream(output.stdout.as_slice()) {
            let Message::CompilerArtifact(artifact) = message? else { continue };
            let is_it = artifact.profile.test || self.is_simulation();
            if let Some(executable) = artifact.executable.filter(|_| is_it) {
                let folder = artifact.manifest_path.parent().ok_or("a manifest lies in a folder")?;
                let is_simulation = self.is_simulation();
                return Ok(Built { executable: executable.into(), folder: folder.into(), is_simulation });
            }
        }
        Err(format!("cargo built no test program of {self}").into())
    }
}

impl Built {
    /// Runs the test of this very name; gives back also what it said.
    pub(super) fn run(&self, test: &str, patience: Patience) -> Outcome<(Ending, String)> {
        let mut command = Command::new(&self.executable);
        let limit = if self.is_simulation {
            command.args(["--stop", "--seeds", &patience.seeds.to_string()]);
            SIMULATED * u32::try_from(patience.seeds).unwrap_or(u32::MAX)
        } else {
            command.args(["--exact", test]);
            patience.test
        };
        let mut child = command
            // As cargo does, for tests that look for their data.
            .current_dir(&self.folder)
            .env("CARGO_MANIFEST_DIR", &self.folder)
            .env("RUST_BACKTRACE", "0")
            // What fails here is no regression to be kept.
            .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut stdout = child.stdout.take().ok_or("the test's stdout is piped")?;
        let (sender, receiver) = mpsc::sync_channel(1);
        let reader = thread::spawn(move || {
            let mut said = Vec::new();
            let read = stdout.read_to_end(&mut said).map(|_| String::from_utf8_lossy(&said).into_owned());
            // Nobody hears it where the time limit came first.
            let _ = sender.send(read);
        });
        let (is_late, said) = match receiver.recv_timeout(limit) {
            Ok(said) => (false, said?),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => (true, String::new()),
        };
        if is_late {
            child.kill()?;
        }
        let status = child.wait()?;
        reader.join().map_err(|_| "the reader of a test's output panicked")?;
        if self.is_simulation {
            let ending = match status.code() {
                _ if is_late => Ending::Late,
                Some(0) => Ending::Passed,
                // A shortfall of a measure is no verdict: only a seed is.
                Some(1) if first_seed(&said).is_some() => Ending::Failed,
                _ => Ending::Undecided,
            };
            return Ok((ending, said));
        }
        let tally = said.lines().filter_map(Tally::parse).next_back().unwrap_or_default();
        let ending = match (tally.passed, tally.failed) {
            _ if is_late => Ending::Late,
            (1, 0) => Ending::Passed,
            (0, 1) => Ending::Failed,
            _ => Ending::Undecided,
        };
        Ok((ending, said))
    }
}

/// The first seed that broke a promise, by what the simulation said.
pub(super) fn first_seed(said: &str) -> Option<u64> {
    let seed = |line: &str| line.strip_prefix("seed ")?.split_once(':')?.0.parse().ok();
    said.lines().filter_map(seed).min()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_first_seed_is_found_whichever_ended_first() {
        let said = "seed 17: acknowledged and lost\nseed 4: written twice\n20 runs in 1.0 s\n";
        assert_eq!(super::first_seed(said), Some(4));
        assert_eq!(super::first_seed("20 runs in 1.0 s\nSHORTFALL: recovery\n"), None);
    }
}
