//! Exponential backoff with jitter (KIP-580). Holds no clock and no randomness of its own: the attempt and the random
//! source are arguments, so that a seeded run repeats itself exactly.

use std::time::Duration;

/// How long to wait before the next attempt.
///
/// The wait doubles with each attempt, from `initial` to `max`, and is spread by ±`jitter` so that clients which failed
/// together do not come back together. `max` is a hard ceiling: jitter never lifts a wait above it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The wait before the first retry (`retry.backoff.ms`, `reconnect.backoff.ms`).
    pub initial: Duration,
    /// The longest wait (`retry.backoff.max.ms`, `reconnect.backoff.max.ms`).
    pub max: Duration,
    /// Growth from one attempt to the next.
    pub multiplier: u32,
    /// Share of the wait by which it is spread either way, 0.0 to 1.0.
    pub jitter: f64,
}

impl Backoff {
    /// A backoff that doubles and is spread by ±20 %, as KIP-580 asks.
    pub const fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max, multiplier: 2, jitter: 0.2 }
    }

    /// The wait before retry number `attempt`, counted from 0.
    pub fn delay(&self, attempt: u32, rng: &mut fastrand::Rng) -> Duration {
        // Past 2^63 every sensible `max` is reached; the cap keeps the power finite.
        let growth = f64::from(self.multiplier).powi(attempt.min(63) as i32);
        let spread = 1.0 + self.jitter.clamp(0.0, 1.0) * (rng.f64() * 2.0 - 1.0);
        let max = self.max.as_secs_f64();
        let seconds = ((self.initial.as_secs_f64() * growth).min(max) * spread).min(max);
        Duration::try_from_secs_f64(seconds).unwrap_or(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(attempt: u32, rng: &mut fastrand::Rng) -> f64 {
        Backoff::new(Duration::from_millis(50), Duration::from_secs(1)).delay(attempt, rng).as_secs_f64() * 1e3
    }

    #[test]
    fn wait_doubles_within_its_jitter() {
        let mut rng = fastrand::Rng::with_seed(7);
        for (attempt, middle) in [(0, 50.0), (1, 100.0), (2, 200.0), (3, 400.0)] {
            for _ in 0..200 {
                let wait = millis(attempt, &mut rng);
                assert!((middle * 0.8..=middle * 1.2).contains(&wait), "attempt {attempt}: {wait} ms");
            }
        }
    }

    #[test]
    fn wait_never_passes_its_ceiling_however_many_attempts() {
        let mut rng = fastrand::Rng::with_seed(7);
        for attempt in [5, 10, 63, 64, 1_000, u32::MAX] {
            for _ in 0..50 {
                let wait = millis(attempt, &mut rng);
                assert!((800.0..=1_000.0).contains(&wait), "attempt {attempt}: {wait} ms");
            }
        }
    }

    #[test]
    fn jitter_spreads_and_a_seed_repeats() {
        let waits = |seed| {
            let mut rng = fastrand::Rng::with_seed(seed);
            (0..20).map(|_| millis(1, &mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
        let first = waits(1);
        assert!(first.iter().any(|wait| *wait < 95.0) && first.iter().any(|wait| *wait > 105.0), "{first:?}");
    }
}
