//! Whether it pays that a batch waits for company.
//!
//! What a broker's tokens do not allow to go at once waits for its linger: at a steady rate that makes one request of
//! many. So does a batch that will soon be full, whatever the tokens allow. But whoever waits for acknowledgements before
//! the next records is no such rate: waiting itself holds them up. So it is looked, again and again while a batch waits,
//! whether records come as fast as they did when they went at once. Where they do not, the batch goes, and the next ones
//! go without a token: more of them each time, until company comes.

use std::time::{Duration, Instant};

/// So many batches go without a token when waiting did not pay for the first time, which the end of a burst looks like,
/// too; and at most.
const FREE: (u32, u32) = (8, 4_096);
/// It is looked when so many records should have come; fewer than `LEAST` say nothing.
const TO_LOOK: u64 = 8;
const LEAST: u64 = 4;
/// Nor is it looked before whoever sends in steps of a timer's grain has sent. A shorter linger is no wait to speak of.
const SOONEST_LOOK: Duration = Duration::from_millis(2);
/// What was not sent for longer than this is as good as new.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// A batch that will be full so soon is not sent before.
const SOON_FULL: Duration = Duration::from_millis(2);
/// The averages are of about so many batches.
const WEIGHT: u64 = 16;
/// Records that come more than `SLOWER` times as slowly as before, come slowly because they are kept waiting.
const SLOWER: u64 = 2;
/// Records are averaged in parts.
const PARTS: u64 = 1_024;

#[derive(Debug)]
pub(super) struct Company {
    /// When the last batch went at once, unless one has waited since.
    last: Option<Instant>,
    /// Of the batches that went at once: from one to the next, ns, their records in parts, and their bytes; all `WEIGHT`
    /// times the average.
    pause: u64,
    parts: u64,
    bytes: u64,
    waiting: Option<Waiting>,
    free: u32,
    next_free: u32,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Instant,
    /// What the batch had then.
    records: u32,
    linger_ends: Instant,
}

/// What a look says of a batch that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It waits in vain, and is to go.
    Go,
    /// It is to be looked again.
    Again(Instant),
    /// It waits for the rest of its linger.
    Wait,
}

impl Default for Company {
    fn default() -> Self {
        Self { last: None, pause: 0, parts: 0, bytes: 0, waiting: None, free: 0, next_free: FREE.0 }
    }
}

impl Company {
    /// Whether a batch of `limit` bytes may go that need not yet, given a `token` if it takes one.
    pub(super) fn may_go(&mut self, linger: Duration, limit: usize, token: impl FnOnce() -> bool) -> bool {
        if linger < SOONEST_LOOK {
            return token();
        }
        if self.free > 0 {
            self.free -= 1;
            return true;
        }
        !self.is_soon_full(limit) && token()
    }

    fn is_soon_full(&self, limit: usize) -> bool {
        self.pause > 0 && self.bytes.saturating_mul(SOON_FULL.as_nanos() as u64) / self.pause >= limit as u64
    }

    /// A batch goes at once.
    pub(super) fn went(&mut self, now: Instant, records: u32, bytes: usize) {
        if let Some(last) = self.last {
            let pause = now.saturating_duration_since(last).min(LONGEST_PAUSE);
            let add = |sum: &mut u64, new: u64| *sum = *sum - *sum / WEIGHT + new;
            add(&mut self.pause, pause.as_nanos() as u64);
            add(&mut self.parts, u64::from(records) * PARTS);
            add(&mut self.bytes, bytes as u64);
        }
        self.last = Some(now);
    }

    /// A batch that has `records` begins to wait. Returns when it is to be looked whether that pays.
    pub(super) fn waits(&mut self, now: Instant, records: u32, linger_ends: Instant) -> Instant {
        self.last = None;
        self.waiting = Some(Waiting { since: now, records, linger_ends });
        let look = Duration::from_nanos(TO_LOOK * PARTS * self.pause / self.parts.max(1));
        (now + look.max(SOONEST_LOOK)).min(linger_ends)
    }

    /// The batch that waits has `records` now.
    pub(super) fn look(&mut self, now: Instant, records: u32) -> Look {
        let Some(Waiting { since, records: had, linger_ends }) = self.waiting else { return Look::Wait };
        let came = u64::from(records.saturating_sub(had));
        let waited = now.saturating_duration_since(since);
        let expected = self.parts.saturating_mul(waited.as_nanos() as u64) / self.pause.max(1) / PARTS;
        if expected >= LEAST && came * SLOWER < expected {
            self.waiting = None;
            self.free = self.next_free;
            self.next_free = (self.next_free * 2).min(FREE.1);
            return Look::Go;
        }
        if now < linger_ends {
            return Look::Again((now + waited.max(SOONEST_LOOK)).min(linger_ends));
        }
        self.waiting = None;
        self.came();
        Look::Wait
    }

    /// A batch that began to wait was full, or its linger over, before the next look. Another may wait by now.
    pub(super) fn came(&mut self) {
        self.next_free = FREE.0;
    }
}

#[cfg(test)]
mod tests;
