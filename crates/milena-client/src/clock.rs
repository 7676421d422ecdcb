//! Where the client gets its time from. Everything below reads it here, so that tests and simulations drive it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A monotonic clock and a wall clock that agree.
///
/// The monotonic clock is tokio's: under a paused tokio clock it stands still until the runtime moves it. The wall
/// clock is the system's, unless the source is [virtual](Self::virtual_from): then it follows the monotonic one, so
/// that record timestamps of a simulation are the same in every run.
#[derive(Debug, Clone, Default)]
pub struct TimeSource {
    // The wall time at a monotonic instant, for a virtual wall clock.
    origin: Option<(Instant, SystemTime)>,
}

impl TimeSource {
    /// The system's clocks.
    pub fn system() -> Self {
        Self::default()
    }

    /// A wall clock that shows `wall` now and from then on follows the monotonic clock.
    pub fn virtual_from(wall: SystemTime) -> Self {
        Self { origin: Some((now(), wall)) }
    }

    /// The monotonic time.
    pub fn now(&self) -> Instant {
        now()
    }

    /// The wall time.
    pub fn wall(&self) -> SystemTime {
        match self.origin {
            Some((origin, wall)) => wall + now().saturating_duration_since(origin),
            None => SystemTime::now(),
        }
    }

    /// The wall time as records carry it: milliseconds since 1970.
    pub fn wall_millis(&self) -> i64 {
        let since = self.wall().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    /// Whether the wall clock is virtual.
    pub fn is_virtual(&self) -> bool {
        self.origin.is_some()
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Whether the runtime we are on has paused its clock. Tokio does not tell, but a clock that stands still while the
/// system's moves gives itself away.
pub(crate) fn is_paused() -> bool {
    let (start, virtual_start) = (Instant::now(), now());
    while start.elapsed() < Duration::from_micros(20) {
        std::hint::spin_loop();
    }
    now() == virtual_start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_virtual_wall_clock_follows_the_paused_one() {
        assert!(is_paused());
        let clock = TimeSource::virtual_from(UNIX_EPOCH + Duration::from_secs(1_000_000_000));
        assert_eq!(clock.wall_millis(), 1_000_000_000_000);
        tokio::time::advance(Duration::from_millis(1_500)).await;
        assert_eq!(clock.wall_millis(), 1_000_000_001_500);
    }

    #[tokio::test]
    async fn a_running_clock_is_not_paused() {
        assert!(!is_paused());
        assert!(TimeSource::system().wall_millis() > 1_600_000_000_000);
    }
}
