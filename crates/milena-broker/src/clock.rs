//! The broker's time: monotonic from tokio (so a paused clock governs it), wall clock derived from it.
//!
//! Nothing else in this crate may read a clock. The wall clock is `start + elapsed`, so that record timestamps and
//! deadlines follow a paused clock together.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Monotonic and wall time of one broker.
#[derive(Debug)]
pub(crate) struct Clock {
    started: Instant,
    wall_start_ms: i64,
}

impl Clock {
    /// A clock that starts now; `wall_start_ms` fixes the wall time of the start (the system's otherwise).
    pub(crate) fn new(wall_start_ms: Option<i64>) -> Self {
        let wall_start_ms =
            wall_start_ms.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis));
        Self { started: Instant::now(), wall_start_ms }
    }

    pub(crate) fn now(&self) -> Instant {
        Instant::now()
    }

    /// Milliseconds since the Unix epoch.
    pub(crate) fn wall_ms(&self) -> i64 {
        self.wall_start_ms.saturating_add(millis(self.now().saturating_duration_since(self.started)))
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
