//! Whether it pays that a batch waits for company.
//!
//! What a broker's tokens do not allow to go at once waits for its linger: at a steady rate that makes one request of
//! many. So does a batch that will soon be full, whatever the tokens allow. But whoever waits for each acknowledgement
//! before the next record is no such rate: none comes while one waits, and every wait is lost. So it is looked, soon after
//! a batch began to wait, whether records still come as fast as they did when they went at once. Where waiting itself has
//! slowed them down, the next batches go without a token: more of them each time, until company comes.

use std::time::{Duration, Instant};

/// So many batches go without a token when waiting did not pay for the first time, which the end of a burst looks like,
/// too; and at most.
const FREE: (u32, u32) = (8, 4_096);
/// It is looked when so many records should have come, and not before whoever sends in steps of a timer's grain has sent.
const RECORDS_TO_LOOK: u64 = 8;
const SOONEST_LOOK: Duration = Duration::from_millis(2);
/// A longer pause between two batches says no more than this one: tokens are not lacking then.
const LONGEST_PAUSE: Duration = Duration::from_millis(1);
/// A batch that will be full so soon is not sent before.
const SOON_FULL: Duration = Duration::from_millis(2);
/// The averages are of about so many batches.
const WEIGHT: u64 = 16;
/// Records that come `SLOWER` times as slowly as before, come slowly because they are kept waiting.
const SLOWER: u64 = 4;

#[derive(Debug)]
pub(super) struct Company {
    last: Option<Instant>,
    /// Of the batches that went at once: from one to the next, ns, their records in 1,024ths, and their bytes; all `WEIGHT`
    /// times the average.
    pause: u64,
    records: u64,
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
}

impl Default for Company {
    fn default() -> Self {
        Self { last: None, pause: 0, records: 0, bytes: 0, waiting: None, free: 0, next_free: FREE.0 }
    }
}

impl Company {
    /// Whether a batch may go without a token; it does then.
    pub(super) fn is_free(&mut self) -> bool {
        let is_free = self.free > 0;
        self.free -= u32::from(is_free);
        is_free
    }

    /// Whether a batch of `limit` bytes is full before long, at the rate that is known.
    pub(super) fn is_soon_full(&self, limit: usize) -> bool {
        self.pause > 0 && self.bytes * SOON_FULL.as_nanos() as u64 / self.pause >= limit as u64
    }

    /// A batch goes at once.
    pub(super) fn went(&mut self, now: Instant, records: u32, bytes: usize) {
        let pause = self.last.map_or(LONGEST_PAUSE, |last| now.saturating_duration_since(last).min(LONGEST_PAUSE));
        self.last = Some(now);
        let add = |sum: &mut u64, new: u64| *sum = *sum - *sum / WEIGHT + new;
        add(&mut self.pause, pause.as_nanos() as u64);
        add(&mut self.records, u64::from(records) << 10);
        add(&mut self.bytes, bytes as u64);
    }

    /// A batch that has `records` begins to wait. Returns when it is to be looked whether that pays.
    pub(super) fn waits(&mut self, now: Instant, records: u32) -> Instant {
        self.waiting = Some(Waiting { since: now, records });
        let look = Duration::from_nanos((RECORDS_TO_LOOK << 10) * self.pause / self.records.max(1));
        now + look.max(SOONEST_LOOK)
    }

    /// The batch that waits has `records` now. Returns whether it has waited in vain and is to go.
    pub(super) fn waited(&mut self, now: Instant, records: u32) -> bool {
        let Some(waiting) = self.waiting.take() else { return false };
        let came = u64::from(records.saturating_sub(waiting.records));
        let elapsed = now.saturating_duration_since(waiting.since).as_nanos() as u64;
        let expected = (self.records.saturating_mul(elapsed) / self.pause.max(1)) >> 10;
        if expected < 2 || came.saturating_mul(SLOWER) > expected {
            self.came();
            return false;
        }
        self.free = self.next_free;
        self.next_free = (self.next_free * 2).min(FREE.1);
        true
    }

    /// The batch that began to wait was full, or its linger over, before the next look.
    pub(super) fn came(&mut self) {
        self.next_free = FREE.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);

    /// Has known `batches` of `records`, so many µs apart.
    fn known(batches: u32, records: u32, pause: u32) -> (Company, Instant) {
        let (mut company, mut now) = (Company::default(), Instant::now());
        for _ in 0..batches {
            now += pause * MICROSECOND;
            company.went(now, records, 100 * records as usize);
        }
        (company, now)
    }

    /// How many batches may go without a token, after one has waited for as long as it should and had `records` then.
    fn free_after(company: &mut Company, mut now: Instant, records: u32) -> u32 {
        now = company.waits(now, 1);
        let in_vain = company.waited(now, records);
        let free = (0..).take_while(|_| company.is_free()).count() as u32;
        assert_eq!(in_vain, free > 0);
        free
    }

    #[test]
    fn one_that_awaits_each_record_waits_ever_more_seldom() {
        let (mut company, now) = known(100, 1, 40);
        let free: Vec<_> = (0..11).map(|_| free_after(&mut company, now, 1)).collect();
        assert_eq!(free, [8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 4_096]);
        // Somebody else came: it begins anew.
        assert_eq!(free_after(&mut company, now, 40), 0);
        assert_eq!(free_after(&mut company, now, 1), 8);
    }

    #[test]
    fn many_that_await_each_record_do_not_wait_for_each_other() {
        // 32 of 64 tasks are in each batch, and none of them goes on while one waits.
        let (mut company, now) = known(100, 32, 60);
        assert_eq!(free_after(&mut company, now, 32), 8);
    }

    #[test]
    fn steady_rate_waits() {
        for (records, pause) in [(1, 400), (1, 100), (1, 50), (5, 500), (1, 20)] {
            let (mut company, now) = known(100, records, pause);
            let look = company.waits(now, 1);
            let came = (look - now).as_micros() as u32 * records / pause;
            assert!(came >= 7, "late enough to tell");
            assert_eq!(free_after(&mut company, now, 1 + came), 0, "{records} records each {pause} us");
            assert_eq!(free_after(&mut company, now, 1 + came / 2), 0, "half as fast is no proof");
        }
    }

    #[test]
    fn pause_of_hours_is_soon_forgotten() {
        let (mut company, mut now) = known(10, 1, 4_000_000);
        for _ in 0..60 {
            now += 40 * MICROSECOND;
            company.went(now, 1, 100);
        }
        assert_eq!(free_after(&mut company, now, 1), 8);
    }

    #[test]
    fn what_is_not_known_is_no_reason() {
        assert_eq!(free_after(&mut Company::default(), Instant::now(), 1), 0);
    }

    #[test]
    fn batch_that_is_soon_full_is_waited_for() {
        // 100 B each 0.5 us are 200 MB/s.
        let (company, _) = known(100, 200, 100);
        assert!(company.is_soon_full(300_000) && !company.is_soon_full(500_000));
        assert!(!Company::default().is_soon_full(1));
    }
}
