//! How much of a core compressing takes: how a producer knows that it is short of CPU. Told when each compression began
//! and ended, so that nothing is read per record. Knows no clock.

use std::time::{Duration, Instant};

/// Long enough for several large batches, short enough to notice within a blink.
const WINDOW: Duration = Duration::from_millis(200);

/// What compressing took in the last window of 200 ms. Several threads that compress at once take more than one core.
#[derive(Debug, Default)]
pub struct CompressionEffort {
    since: Option<Instant>,
    busy: Duration,
    percent: u32,
}

impl CompressionEffort {
    /// Nothing was compressed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Somebody compressed a batch.
    pub fn worked(&mut self, from: Instant, to: Instant) {
        self.since.get_or_insert(from);
        self.busy += to.saturating_duration_since(from);
        self.close_window(to);
    }

    /// Per cent of one core, in the last window that has ended.
    pub fn percent(&mut self, now: Instant) -> u32 {
        self.close_window(now);
        self.percent
    }

    fn close_window(&mut self, now: Instant) {
        let Some(since) = self.since else { return };
        let elapsed = now.saturating_duration_since(since);
        if elapsed < WINDOW {
            return;
        }
        let percent = self.busy.as_nanos() * 100 / elapsed.as_nanos();
        self.percent = u32::try_from(percent).unwrap_or(u32::MAX);
        self.busy = Duration::ZERO;
        self.since = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effort_is_the_share_of_the_last_window_and_falls_when_nothing_is_done() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut effort = CompressionEffort::new();
        assert_eq!(effort.percent(at(0)), 0);
        for batch in 0..10 {
            effort.worked(at(batch * 20), at(batch * 20 + 15));
        }
        assert_eq!(effort.percent(at(199)), 0, "the window has not ended");
        assert_eq!(effort.percent(at(200)), 75);
        // Two threads at once.
        for batch in 10..20 {
            effort.worked(at(batch * 20), at(batch * 20 + 20));
            effort.worked(at(batch * 20), at(batch * 20 + 20));
        }
        assert!((190..=200).contains(&effort.percent(at(400))), "{}", effort.percent(at(400)));
        assert_eq!(effort.percent(at(5_000)), 0, "idle since");
    }
}
