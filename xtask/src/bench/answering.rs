//! The broker that answers at once, in a process of its own for as long as the value lives. It tells what was produced to
//! a topic.

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::process::Child;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;

use serde::Deserialize;

use crate::host;
use crate::host::Outcome;

pub(super) struct AnswerAtOnce {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    bootstrap: String,
}

/// The batches that a topic was sent.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) batches: u64,
    pub(super) bytes: u64,
    pub(super) records_by_codec: BTreeMap<String, u64>,
}

impl AnswerAtOnce {
    /// Builds it.
    pub(super) fn prepare() -> Outcome {
        host::run(host::cargo().args(["build", "--quiet", "--release", "--package", "milena-benches"]))
    }

    pub(super) fn start(arguments: &[&str]) -> Outcome<Self> {
        let mut command = Command::new(host::target().join("release/answer-at-once"));
        let mut process = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let questions = process.stdin.take().ok_or("the broker's stdin is piped")?;
        let answers = BufReader::new(process.stdout.take().ok_or("the broker's stdout is piped")?);
        let mut broker = Self { process, questions, answers, bootstrap: String::new() };
        let line = broker.line()?;
        let address = line.trim().strip_prefix("listening on ").ok_or("the broker didn't say where it listens")?;
        address.clone_into(&mut broker.bootstrap);
        Ok(broker)
    }

    pub(super) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// What was produced to a topic.
    pub(super) fn tally(&mut self, topic: &str) -> Outcome<Tally> {
        writeln!(self.questions, "{topic}")?;
        Ok(serde_json::from_str(&self.line()?)?)
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line)
    }
}

impl Tally {
    pub(super) fn records(&self) -> u64 {
        self.records_by_codec.values().sum()
    }

    /// Why these are not batches of `codec`, if they aren't: small ones, which compressing makes larger, may be none.
    pub(super) fn objection(&self, codec: &str) -> Option<String> {
        let (all, right) = (self.records(), self.records_by_codec.get(codec).copied().unwrap_or(0));
        if all > 0 && right * 100 >= all * 99 {
            return None;
        }
        let sent: Vec<_> = self.records_by_codec.iter().filter(|(_, records)| **records > 0).collect();
        let sent: Vec<_> = sent.iter().map(|(codec, records)| format!("{records} records as {codec}")).collect();
        Some(format!("it was asked for {codec} and sent {}", if all == 0 { "nothing".into() } else { sent.join(", ") }))
    }
}

impl Drop for AnswerAtOnce {
    fn drop(&mut self) {
        // It keeps nothing: there is nothing to save.
        let ended = self.process.kill().and_then(|()| self.process.wait());
        if let Err(error) = ended {
            eprintln!("bench: the broker may still run: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(records_by_codec: &[(&str, u64)]) -> Tally {
        let records_by_codec =
            records_by_codec.iter().map(|(codec, records)| ((*codec).to_owned(), *records)).collect();
        Tally { batches: 1, bytes: 1, records_by_codec }
    }

    #[test]
    fn client_that_compresses_otherwise_than_it_was_asked_to_is_found_out() {
        assert_eq!(tally(&[("lz4", 1_000), ("none", 3)]).objection("lz4"), None);
        let none = tally(&[("lz4", 0), ("none", 1_000)]).objection("lz4");
        assert_eq!(none.as_deref(), Some("it was asked for lz4 and sent 1000 records as none"));
        assert!(tally(&[("zstd", 980), ("none", 20)]).objection("zstd").is_some());
        assert!(Tally::default().objection("none").is_some(), "nothing came");
    }
}
