//! Wall time that follows the runtime's clock.
//!
//! Waits are timed by tokio, whose clock a test can pause. A wall clock that ran on would then contradict it, so under a
//! paused clock the wall is its value at the start plus what the runtime's clock has passed since.

use std::time::SystemTime;

use tokio::time::Instant;

use crate::envelope::EventTime;

/// Tells the time of day.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Clock {
    /// The system's.
    System,
    /// Fixed to the runtime's clock at one moment.
    Virtual { started: Instant, wall: SystemTime },
}

impl Clock {
    /// A clock that follows the runtime's, paused or not. Call it within the runtime.
    pub(crate) fn following_runtime() -> Self {
        Self::Virtual { started: Instant::now(), wall: SystemTime::now() }
    }

    pub(crate) fn now(&self) -> SystemTime {
        match self {
            Self::System => SystemTime::now(),
            Self::Virtual { started, wall } => *wall + started.elapsed(),
        }
    }

    pub(crate) fn event_time(&self) -> EventTime {
        EventTime::try_from(self.now()).expect("the clock stands between the years -9999 and 9999")
    }
}
