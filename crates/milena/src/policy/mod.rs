//! What happens when an event can't be handled: one value, which every subscription must give.
//!
//! Decides only; the lane scheduler waits and the engine carries it out. Randomness is an argument.

mod dead_letter;
mod failure;

pub use dead_letter::headers as dead_letter_headers;
pub(crate) use dead_letter::{DeadLetter, FailureLog};
pub use failure::FailureKind;
pub(crate) use failure::{Failure, panic_message};

use std::time::Duration;

/// What the name of a topic's dead-letter topic ends with, unless the policy names another.
pub(crate) const DEAD_LETTER_SUFFIX: &str = ".dead-letters";

/// How often to try, how long to wait in between, and what then. Required by every subscription.
///
/// ```
/// use std::time::Duration;
/// use milena::{FailurePolicy, Then};
///
/// let policy = FailurePolicy::attempts(5)
///     .backoff(Duration::from_millis(100), Duration::from_secs(10))
///     .then(Then::DeadLetter);
/// ```
///
/// While an event waits for its next attempt, later events of its aggregate wait behind it, and all other aggregates go
/// on. Bytes that are no event at all are not tried again: they go to `then` at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailurePolicy {
    attempts: u32,
    initial: Duration,
    max: Duration,
    then: Then,
    dead_letter_topic: Option<String>,
}

/// What to do with an event that can't be handled, once its attempts are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Write it to the dead-letter topic, with where it came from and why it failed, and go on. Until that write is
    /// acknowledged the event's offset is held, its aggregate waits and an alarm is raised: nothing is dropped.
    DeadLetter,
    /// Stop the subscription, with the event's offset uncommitted: it will be handled again after a restart.
    Stop,
}

/// The first half of a [`FailurePolicy`]; [`then`](Self::then) completes it.
#[derive(Debug, Clone)]
#[must_use = "say what follows the last attempt: `.then(Then::DeadLetter)` or `.then(Then::Stop)`"]
pub struct Attempts {
    attempts: u32,
    initial: Duration,
    max: Duration,
}

impl FailurePolicy {
    /// Tries each event up to `attempts` times, the first included; 0 counts as 1.
    ///
    /// The wait between attempts is 100 ms at first, doubling to 10 s, unless [`Attempts::backoff`] says otherwise.
    pub fn attempts(attempts: u32) -> Attempts {
        Attempts { attempts: attempts.max(1), initial: Duration::from_millis(100), max: Duration::from_secs(10) }
    }

    /// Names the dead-letter topic. Default: `<topic>.dead-letters`, one for each topic.
    #[must_use]
    pub fn dead_letter_topic(mut self, topic: impl Into<String>) -> Self {
        self.dead_letter_topic = Some(topic.into());
        self
    }

    /// Where dead letters of `topic` go, if the policy has them.
    pub(crate) fn dead_letter_topic_of(&self, topic: &str) -> Option<String> {
        match self.then {
            Then::Stop => None,
            Then::DeadLetter => {
                Some(self.dead_letter_topic.clone().unwrap_or_else(|| format!("{topic}{DEAD_LETTER_SUFFIX}")))
            }
        }
    }

    /// What to do after `failure` of the attempt numbered `attempt`.
    pub(crate) fn decide(&self, failure: &Failure, attempt: u32, rng: &mut fastrand::Rng) -> Verdict {
        if failure.kind().may_pass() && attempt < self.attempts {
            return Verdict::Retry(self.delay(attempt, rng));
        }
        match self.then {
            Then::DeadLetter => Verdict::DeadLetter,
            Then::Stop => Verdict::Stop,
        }
    }

    /// The wait after the attempt numbered `attempt`, with full jitter: anything up to the doubled backoff, so that
    /// events which failed together do not come back together.
    pub(crate) fn delay(&self, attempt: u32, rng: &mut fastrand::Rng) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        let ceiling = self.initial.saturating_mul(1 << doublings).min(self.max);
        let micros = u64::try_from(ceiling.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(rng.u64(0..=micros))
    }
}

impl Attempts {
    /// Waits up to `initial` before the second attempt, twice as long before each further one, never beyond `max`.
    /// Each wait is drawn evenly from zero to that bound (full jitter).
    pub fn backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.initial = initial;
        self.max = max.max(initial);
        self
    }

    /// Completes the policy.
    pub fn then(self, then: Then) -> FailurePolicy {
        FailurePolicy { attempts: self.attempts, initial: self.initial, max: self.max, then, dead_letter_topic: None }
    }
}

/// What a policy makes of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Retry(Duration),
    DeadLetter,
    Stop,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(then: Then) -> FailurePolicy {
        FailurePolicy::attempts(3).backoff(Duration::from_millis(100), Duration::from_millis(300)).then(then)
    }

    fn failed() -> Failure {
        Failure::handler("no stock".into())
    }

    #[test]
    fn attempts_are_used_up_before_the_end_is_reached() {
        let mut rng = fastrand::Rng::with_seed(7);
        for attempt in [1, 2] {
            assert!(matches!(policy(Then::Stop).decide(&failed(), attempt, &mut rng), Verdict::Retry(_)));
        }
        assert_eq!(policy(Then::Stop).decide(&failed(), 3, &mut rng), Verdict::Stop);
        assert_eq!(policy(Then::DeadLetter).decide(&failed(), 3, &mut rng), Verdict::DeadLetter);
        let once = FailurePolicy::attempts(0).then(Then::DeadLetter);
        assert_eq!(once.decide(&failed(), 1, &mut rng), Verdict::DeadLetter);
    }

    #[test]
    fn a_panic_is_an_error_like_any_other_and_poison_is_never_tried_again() {
        let mut rng = fastrand::Rng::with_seed(7);
        let panic = Failure::panic(&"index out of bounds");
        assert!(matches!(policy(Then::DeadLetter).decide(&panic, 1, &mut rng), Verdict::Retry(_)));
        let poison = Failure::unknown_type("orders.lost");
        assert_eq!(policy(Then::DeadLetter).decide(&poison, 1, &mut rng), Verdict::DeadLetter);
        assert_eq!(policy(Then::Stop).decide(&poison, 1, &mut rng), Verdict::Stop);
    }

    #[test]
    fn waits_double_up_to_their_bound_with_full_jitter() {
        let mut rng = fastrand::Rng::with_seed(7);
        for (attempt, bound) in [(1, 100), (2, 200), (3, 300), (40, 300)] {
            let bound = Duration::from_millis(bound);
            let waits: Vec<Duration> = (0..500).map(|_| policy(Then::Stop).delay(attempt, &mut rng)).collect();
            assert!(waits.iter().all(|wait| *wait <= bound));
            assert!(waits.iter().any(|wait| *wait < bound / 10), "full jitter reaches down to nothing");
            assert!(waits.iter().any(|wait| *wait > bound * 9 / 10), "and up to the bound");
        }
    }

    #[test]
    fn the_dead_letter_topic_follows_the_source_unless_named() {
        assert_eq!(policy(Then::DeadLetter).dead_letter_topic_of("orders").as_deref(), Some("orders.dead-letters"));
        assert_eq!(
            policy(Then::DeadLetter).dead_letter_topic("morgue").dead_letter_topic_of("x").as_deref(),
            Some("morgue")
        );
        assert_eq!(policy(Then::Stop).dead_letter_topic_of("orders"), None);
    }
}
