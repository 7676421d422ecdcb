//! How long each partition takes until it acknowledges again, from the moment when everything is whole.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// All recoveries so far, and the one that is going on.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    since: Option<Instant>,
    waiting: BTreeSet<i32>,
    took: Vec<Duration>,
}

impl Recovery {
    /// Everything is whole again from now on. What has not recovered since the last time, has not.
    pub(crate) fn healed(&mut self) {
        self.end();
        self.since = Some(Instant::now());
        self.waiting = (0..super::PARTITIONS).collect();
    }

    /// A record was acknowledged that was sent at that time.
    pub(crate) fn acknowledged(&mut self, partition: i32, sent: Instant) {
        if let Some(since) = self.since
            && sent >= since
            && self.waiting.remove(&partition)
        {
            self.took.push(since.elapsed());
        }
    }

    /// Nothing is waited for any longer: it has taken until now.
    pub(crate) fn end(&mut self) {
        if let Some(since) = self.since.take() {
            self.took.extend(self.waiting.iter().map(|_| since.elapsed()));
        }
    }

    /// How long `percent` of a hundred took at most, and how many there are.
    pub(crate) fn percentile(&mut self, percent: usize) -> (Duration, usize) {
        self.took.sort_unstable();
        let at = (self.took.len() * percent).div_ceil(100).saturating_sub(1);
        (self.took.get(at).copied().unwrap_or_default(), self.took.len())
    }
}
