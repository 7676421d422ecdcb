//! How a command fails: what is said on stderr and with which exit code.

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

/// Why a command ended without doing all that was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was asked for in a way that makes no sense: exit code 2.
    Usage(String),
    /// It was tried and failed: exit code 1.
    Failed(String),
    /// The reader of stdout went away, as `head` does: nothing to say, exit code 0.
    ReaderGone,
}

impl Failure {
    /// A failure with `what` was tried, followed by the whole chain of causes.
    pub(crate) fn of(what: impl std::fmt::Display, error: &(dyn Error + 'static)) -> Self {
        Self::Failed(format!("{what}: {}", told(error)))
    }
    pub(crate) fn report(self) -> ExitCode {
        let (text, code) = match self {
            Self::Usage(text) => (text, ExitCode::from(2)),
            Self::Failed(text) => (text, ExitCode::from(1)),
            Self::ReaderGone => return ExitCode::SUCCESS,
        };
        // `eprintln!` would panic if nobody reads stderr either; the exit code says the same.
        let _ = writeln!(std::io::stderr(), "error: {text}");
        code
    }
}

/// An error with the whole chain of its causes.
pub(crate) fn told(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // thiserror's `{0}` messages already contain their cause; saying it twice helps nobody.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::ReaderGone,
            _ => Self::Failed(format!("cannot write the result: {error}")),
        }
    }
}

/// Adds what was tried to an error.
pub(crate) trait Trying<T> {
    fn trying(self, what: impl std::fmt::Display) -> Result<T, Failure>;
}

impl<T, E: Error + 'static> Trying<T> for Result<T, E> {
    fn trying(self, what: impl std::fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::of(what, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the leader is gone")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn the_chain_of_causes_is_told_once() {
        let error = Outer(std::io::Error::other("connection refused"));
        let Failure::Failed(text) = Failure::of("cannot describe topic orders", &error) else { panic!() };
        assert_eq!(text, "cannot describe topic orders: the leader is gone: connection refused");
    }
}
