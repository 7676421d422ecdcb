//! Words that must not stand in code, tests apart: clocks, chance and waiting where those are arguments, queues without a
//! bound, unfinished work. Looks at one line at a time, however its names were brought in.

/// Tells whether a line of code holds it.
type Holds = fn(&str) -> bool;

/// Where nothing waits, and time and chance are arguments.
const PURE: &[&str] = &["milena-protocol", "milena-core"];

/// In which crates (all, if none is named), what, how it is seen, and what to do instead.
const NEVER: [(&[&str], &str, Holds, &str); 9] = [
    (&[], "unbounded_channel", |code| has(code, "unbounded_channel"), "a queue has a bound"),
    (&[], "std's channel()", has_std_channel, "it has no bound; use sync_channel"),
    (&[], "todo!", |code| code.contains("todo!"), "finish it, or leave it out"),
    (&[], "unimplemented!", |code| code.contains("unimplemented!"), "finish it, or leave it out"),
    (PURE, "Instant::now", |code| code.contains("Instant::now"), "time is an argument"),
    (PURE, "SystemTime::now", |code| code.contains("SystemTime::now"), "time is an argument"),
    (PURE, "async", |code| has(code, "async"), "nothing here waits"),
    (PURE, "thread", |code| has(code, "thread"), "nothing here runs by itself"),
    (PURE, "global random numbers", has_global_chance, "randomness is an argument: a seeded fastrand::Rng"),
];

/// What a line of this crate holds and must not, with what to do instead.
pub(super) fn forbidden(package: &str, code: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    NEVER
        .into_iter()
        .filter(move |(packages, ..)| packages.is_empty() || packages.contains(&package))
        .filter(move |(_, _, holds, _)| holds(code))
        .map(|(_, what, _, instead)| (what, instead))
}

/// What is before and behind each place where the word stands by itself.
fn places<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    code.match_indices(word)
        .map(move |(at, _)| (&code[..at], &code[at + word.len()..]))
        .filter(move |(before, after)| !before.ends_with(is_part) && !after.starts_with(is_part))
}

fn has(code: &str, word: &str) -> bool {
    places(code, word).next().is_some()
}

/// Of all functions called `channel`, only those of std's `mpsc` and of `oneshot` take nothing. A turbofish, another
/// name for the module or none at all is seen, and so is another name for the function.
fn has_std_channel(code: &str) -> bool {
    places(code, "channel").any(|(before, after)| {
        let after = after.trim_start();
        let called = match after.strip_prefix("::<") {
            Some(typed) => typed.rfind(">(").is_some_and(|end| typed[end + 1..].starts_with("()")),
            None => after.starts_with("()"),
        };
        let is_renamed = before.ends_with("mpsc::") && after.starts_with("as ");
        (called && !before.ends_with("oneshot::") && !before.ends_with("fn ")) || is_renamed
    })
}

/// Of fastrand nothing but its `Rng` is fit, and that only with a seed.
fn has_global_chance(code: &str) -> bool {
    let is_function = |after: &str| after.starts_with("::") && !after.starts_with("::Rng");
    let is_unseeded = |after: &str| ["::new", "::default"].iter().any(|call| after.starts_with(call));
    places(code, "fastrand").any(|(_, after)| is_function(after))
        || places(code, "Rng").any(|(_, after)| is_unseeded(after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(package: &str, code: &str) -> Vec<&'static str> {
        forbidden(package, code).map(|(what, _)| what).collect()
    }

    #[test]
    fn a_queue_without_a_bound_is_seen_however_it_is_written() {
        for code in [
            "let (sender, receiver) = mpsc::channel();",
            "let (sender, receiver) = mpsc::channel::<u64>();",
            "let (sender, receiver) = mpsc::channel::<Box<dyn Fn() + Send>>();",
            "let (sender, receiver) = channel();",
            "let (sender, receiver) = channel::<Vec<(u8, u8)>>();",
            "let (sender, receiver) = queue::channel();",
            "use std::sync::mpsc::channel as queue;",
        ] {
            assert_eq!(found("milena", code), ["std's channel()"], "{code}");
        }
        assert_eq!(found("milena", "mpsc::unbounded_channel::<u64>()"), ["unbounded_channel"]);
        for code in [
            "mpsc::channel(8)",
            "mpsc::channel::<u64>(8)",
            "oneshot::channel()",
            "oneshot::channel::<()>()",
            "watch::channel(())",
            "sync_channel(1)",
            "fn channel() {}",
        ] {
            assert!(found("milena", code).is_empty(), "{code}");
        }
    }

    #[test]
    fn where_nothing_waits_no_async_block_stands_either() {
        for code in ["async fn f() {}", "let later = async { 1 };", "async move {", "call(async || 1)"] {
            assert_eq!(found("milena-core", code), ["async"], "{code}");
            assert!(found("milena-net", code).is_empty(), "{code}");
        }
        assert!(found("milena-core", "let is_async = asynchronous(async_io);").is_empty());
        assert_eq!(found("milena-protocol", "std::thread::scope(|scope| {})"), ["thread"]);
        assert_eq!(found("milena-core", "use std::thread;"), ["thread"]);
    }

    #[test]
    fn chance_that_nobody_seeded_is_seen_where_it_is_an_argument() {
        for code in [
            "fastrand::Rng::new()",
            "Rng::new()",
            "fastrand::Rng::default()",
            "fastrand::u64(..)",
            "fastrand::shuffle(&mut all)",
            "fastrand::seed(1)",
            "use fastrand::{Rng, u64};",
            "use fastrand::*;",
        ] {
            assert_eq!(found("milena-core", code), ["global random numbers"], "{code}");
            assert!(found("milena-broker", code).is_empty(), "{code}");
        }
        for code in ["rng: &mut fastrand::Rng", "fastrand::Rng::with_seed(seed)", "use fastrand::Rng;", "rng.fork()"] {
            assert!(found("milena-core", code).is_empty(), "{code}");
        }
    }
}
