//! Who starts tasks and threads. A task belongs to a set that ends with its owner and that somebody waits for (`TaskSet`,
//! `JoinSet`); what is started beside those is listed here, with the reason why there is only so much of it.
//!
//! Looks at words, not at types: a set is known by its name.

use super::Findings;
use super::source::Source;
use crate::host;

/// What may be started outside of a set: where, how many times it is written there, and what bounds its number.
const BOUNDED: [(&str, usize, &str); 19] = [
    ("benches/src/answer_at_once.rs", 1, "a thread per connection, of a broker that only measuring uses"),
    ("benches/src/bin/answer-at-once.rs", 1, "a thread per process: its listener"),
    ("benches/src/link.rs", 1, "a task per link of a client that is measured"),
    ("crates/milena-broker/src/broker.rs", 1, "a task per in-memory link; Core::enter lets so many onto a node"),
    ("crates/milena-broker/src/net/listener.rs", 2, "a task per listener and connection; Core::enter lets so many on"),
    ("crates/milena-cli/src/stdout.rs", 1, "a thread per process: one command runs"),
    ("crates/milena-client/src/client/close.rs", 1, "a task per client that was dropped unclosed, for 5 s at most"),
    (
        "crates/milena-client/src/consumer/hand_over/away.rs",
        1,
        "a thread per task of the client's set, which waits for it",
    ),
    ("crates/milena-client/src/producer/seal.rs", 1, "a thread per task of the client's set, which waits for it"),
    ("crates/milena-client/src/runtime.rs", 1, "a thread per client that wants one of its own"),
    ("crates/milena-net/src/task_set.rs", 1, "the set itself"),
    ("crates/milena-tests/src/bin/faults/main.rs", 2, "the load and the members of the run, which waits for them"),
    ("crates/milena-tests/src/bin/faults/members.rs", 1, "a task per member of the run"),
    ("crates/milena-tests/src/bin/simulate.rs", 1, "a thread per run, which ends with it; a few run at a time"),
    ("crates/milena-tests/src/simulation/mod.rs", 2, "the producers of a run and their probes, which it waits for"),
    ("crates/milena-tests/src/simulation/nemesis.rs", 1, "a task per member of the run"),
    ("crates/milena/src/bus/close.rs", 1, "a task per bus: whoever asks later joins the close that runs"),
    (
        "crates/milena/src/subscription/builder.rs",
        1,
        "a task per subscription, which the bus's registry holds and closes",
    ),
    ("xtask/src/defects/trial.rs", 1, "a thread per trial, which waits for it"),
];

/// Names of sets, and of scopes, which wait for their threads. A method of `self` is looked at where it is written.
const SETS: [&str; 7] = ["self", "tasks", "background", "closing", "running", "samples", "scope"];

const STARTS: [&str; 7] =
    ["spawn", "spawn_blocking", "spawn_local", "spawn_on", "spawn_scoped", "spawn_unchecked", "spawn_pinned"];

/// Nothing stays listed that is gone.
pub(super) fn check_list(findings: &mut Findings) {
    for (file, ..) in BOUNDED.iter().filter(|(file, ..)| !host::root().join(file).is_file()) {
        findings.error(format!("{file} is gone: take it out of xtask/src/tidy/spawns.rs"));
    }
}

pub(super) fn check(file: &str, source: &Source, is_test: impl Fn(usize) -> bool, findings: &mut Findings) {
    let found: Vec<usize> = outside_of_sets(&source.code).into_iter().filter(|line| !is_test(*line)).collect();
    match BOUNDED.iter().find(|(listed, ..)| *listed == file) {
        Some((_, n_times, _)) if *n_times == found.len() => {}
        Some((_, n_times, _)) => findings.error(format!(
            "{file} starts tasks or threads in {} places, and xtask/src/tidy/spawns.rs gives a bound for {n_times}",
            found.len()
        )),
        None => findings.errors.extend(found.into_iter().map(|line| {
            format!(
                "{file}:{}: a task or thread in no set: spawn it in a TaskSet or a JoinSet called tasks, or say in \
                 xtask/src/tidy/spawns.rs what bounds the number of them",
                line + 1
            )
        })),
    }
}

/// The lines, from 0, that start something which no set holds, or bring in what does.
fn outside_of_sets(code: &[String]) -> Vec<usize> {
    let text = code.join("\n");
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut lines = Vec::new();
    for (at, _) in text.match_indices("spawn") {
        let (before, rest) = text.split_at(at);
        let end = rest.find(|letter| !is_part(letter)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        if before.ends_with(is_part) || !STARTS.contains(&name) {
            continue;
        }
        let before = before.trim_end();
        let is_held = if let Some(owner) = before.strip_suffix('.') {
            // A process is no task, and its `spawn` takes nothing.
            let is_process = name == "spawn" && after.starts_with("()");
            let owner = owner.trim_end();
            let owner = &owner[owner.rfind(|letter| !is_part(letter)).map_or(0, |end| end + 1)..];
            is_process || SETS.contains(&owner)
        } else {
            before.ends_with("fn")
        };
        if !is_held {
            lines.push(text[..at].matches('\n').count());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<usize> {
        outside_of_sets(&Source::parse(text).code)
    }

    #[test]
    fn what_no_set_holds_is_seen_however_it_is_written() {
        for text in [
            "tokio::spawn(work());",
            "task::spawn(work());",
            "tokio::task::spawn_blocking(work)",
            "let _ = tokio::task::spawn_local::<F>(work());",
            "std::thread::spawn(move || {});",
            "thread::Builder::new().name(name).spawn(move || {})?;",
            "Handle::current().spawn(work());",
            "self.runtime.handle().spawn_blocking(work);",
            "works.into_iter().map(tokio::spawn)",
            "spawn(work());",
            "use tokio::{spawn, time};",
            "use std::thread::spawn as start;",
        ] {
            assert_eq!(found(text), [0], "{text}");
        }
        assert_eq!(found("self\n    .runtime\n    .spawn(work());"), [2], "over several lines");
    }

    #[test]
    fn sets_processes_definitions_and_prose_are_let_through() {
        for text in [
            "self.shared.client.tasks.spawn(\"fetcher\", work())",
            "self\n    .tasks\n    .spawn(work());",
            "let mut closing = JoinSet::new();\nclosing.spawn(work());",
            "let child = Command::new(\"java\").stdout(Stdio::piped()).spawn()?;",
            "fn spawn(&self) {}\nself.spawn(work());",
            "self.spawn_commit(offsets); spawned.is_ok(); respawn();",
            "// tokio::spawn(work())\nlog(\"tokio::spawn(..)\");",
        ] {
            assert_eq!(found(text), [] as [usize; 0], "{text}");
        }
    }

    #[test]
    fn each_place_counts() {
        let check = |file: &str, text: &str| {
            let mut findings = Findings::default();
            super::check(file, &Source::parse(text), |line| line > 2, &mut findings);
            findings.errors
        };
        let listed = "crates/milena/src/bus/close.rs";
        assert!(check(listed, "tokio::spawn(work());\n\n\ntokio::spawn(of_a_test());").is_empty());
        assert_eq!(check(listed, "tokio::spawn(work());\ntokio::spawn(more());").len(), 1, "the second has no bound");
        assert_eq!(check(listed, "").len(), 1, "listed for nothing");
        assert_eq!(check("crates/milena/src/bus/mod.rs", "\ntokio::spawn(work());").len(), 1);
        assert!(check("crates/milena/src/bus/mod.rs", "\n\n\ntokio::spawn(of_a_test());").is_empty());
    }
}
