//! Named reasons to wake up. Holds no clock: the caller says what time it is and sleeps until [`Timers::next_timeout`].

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Instant;

/// A table of timers, at most one per key.
///
/// Timers that are due at the same instant fire in the order in which they were scheduled, so that a seeded run repeats
/// itself; the hash table only finds a key's timer and never orders anything.
#[derive(Debug, Clone)]
pub struct Timers<K> {
    due: BTreeMap<(Instant, u64), K>,
    by_key: HashMap<K, (Instant, u64)>,
    scheduled: u64,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self { due: BTreeMap::new(), by_key: HashMap::new(), scheduled: 0 }
    }
}

impl<K: Hash + Eq + Clone> Timers<K> {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the timer of `key` to `at`, in place of any it had.
    pub fn schedule(&mut self, at: Instant, key: K) {
        self.cancel(&key);
        let slot = (at, self.scheduled);
        self.scheduled += 1;
        self.by_key.insert(key.clone(), slot);
        self.due.insert(slot, key);
    }

    /// Drops the timer of `key`; says whether there was one.
    pub fn cancel(&mut self, key: &K) -> bool {
        match self.by_key.remove(key) {
            Some(slot) => self.due.remove(&slot).is_some(),
            None => false,
        }
    }

    /// When the timer of `key` is due, if it has one.
    pub fn deadline(&self, key: &K) -> Option<Instant> {
        self.by_key.get(key).map(|(at, _)| *at)
    }

    /// The earliest instant at which [`Self::pop_expired`] will yield something.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.due.keys().next().map(|(at, _)| *at)
    }

    /// Takes out one timer that is due at `now`, earliest first.
    pub fn pop_expired(&mut self, now: Instant) -> Option<K> {
        let entry = self.due.first_entry()?;
        if entry.key().0 > now {
            return None;
        }
        let key = entry.remove();
        self.by_key.remove(&key);
        Some(key)
    }

    /// Number of timers set.
    pub fn len(&self) -> usize {
        self.due.len()
    }

    /// Whether no timer is set.
    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn drain(timers: &mut Timers<&'static str>, now: Instant) -> Vec<&'static str> {
        std::iter::from_fn(|| timers.pop_expired(now)).collect()
    }

    #[test]
    fn timers_fire_in_order_of_time_then_of_scheduling() {
        let start = Instant::now();
        let mut timers = Timers::new();
        timers.schedule(start + Duration::from_secs(2), "late");
        timers.schedule(start + Duration::from_secs(1), "first");
        timers.schedule(start + Duration::from_secs(1), "second");

        assert_eq!(timers.next_timeout(), Some(start + Duration::from_secs(1)));
        assert_eq!(drain(&mut timers, start), Vec::<&str>::new());
        assert_eq!(drain(&mut timers, start + Duration::from_secs(1)), ["first", "second"]);
        assert_eq!(drain(&mut timers, start + Duration::from_secs(9)), ["late"]);
        assert!(timers.is_empty() && timers.next_timeout().is_none());
    }

    #[test]
    fn rescheduling_moves_a_timer_and_leaves_one() {
        let start = Instant::now();
        let mut timers = Timers::new();
        timers.schedule(start + Duration::from_secs(1), "heartbeat");
        timers.schedule(start + Duration::from_secs(5), "heartbeat");
        assert_eq!(timers.len(), 1);
        assert_eq!(timers.deadline(&"heartbeat"), Some(start + Duration::from_secs(5)));
        assert_eq!(drain(&mut timers, start + Duration::from_secs(4)), Vec::<&str>::new());
        assert_eq!(drain(&mut timers, start + Duration::from_secs(5)), ["heartbeat"]);
    }

    #[test]
    fn cancelled_timer_never_fires() {
        let start = Instant::now();
        let mut timers = Timers::new();
        timers.schedule(start, "gone");
        assert!(timers.cancel(&"gone"));
        assert!(!timers.cancel(&"gone"));
        assert_eq!(drain(&mut timers, start + Duration::from_secs(1)), Vec::<&str>::new());
    }
}
