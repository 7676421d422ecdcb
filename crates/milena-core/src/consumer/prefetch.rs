//! The byte budget of everything fetched ahead. A fetch reserves what it may bring before it is sent; what it did bring
//! stays charged until its last record set is dropped. More than reserved (a broker always sends one whole batch) is
//! debt, and nothing new is granted until it is paid.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The budget, shared by all fetches of a client.
pub struct PrefetchBudget {
    capacity: usize,
    used: AtomicUsize,
    /// Called when bytes came back after nothing was left.
    freed: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for PrefetchBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrefetchBudget").field("capacity", &self.capacity).field("used", &self.used()).finish()
    }
}

impl PrefetchBudget {
    /// A budget of `capacity` bytes; `freed` is called whenever some come back.
    pub fn new(capacity: usize, freed: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { capacity, used: AtomicUsize::new(0), freed: Box::new(freed) })
    }

    /// Bytes reserved or charged now; above the capacity while in debt.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// Reserves up to `most` bytes for a fetch, at least `least`, and no more than one of `sharers` may have: a long poll
    /// of a quiet broker must not hold what the others need.
    pub fn reserve(self: &Arc<Self>, most: usize, least: usize, sharers: usize) -> Option<Charge> {
        let share = (self.capacity / sharers.max(1)).max(least);
        let mut used = self.used();
        loop {
            let left = self.capacity.saturating_sub(used);
            let granted = most.min(share).min(left);
            if granted < least.min(most) || granted == 0 {
                return None;
            }
            match self.used.compare_exchange_weak(used, used + granted, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(Charge { budget: Arc::clone(self), bytes: granted }),
                Err(now) => used = now,
            }
        }
    }

    /// Charges bytes that are there already, into debt if need be.
    pub fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.used.fetch_add(bytes, Ordering::AcqRel);
        Charge { budget: Arc::clone(self), bytes }
    }
}

/// Bytes of the budget, given back when dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<PrefetchBudget>,
    bytes: usize,
}

impl Charge {
    /// How many.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sets what was reserved to what came.
    pub fn settle(&mut self, bytes: usize) {
        if bytes >= self.bytes {
            self.budget.used.fetch_add(bytes - self.bytes, Ordering::AcqRel);
            self.bytes = bytes;
        } else {
            let back = self.bytes - bytes;
            self.bytes = bytes;
            self.budget.used.fetch_sub(back, Ordering::AcqRel);
            (self.budget.freed)();
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
            (self.budget.freed)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserve_takes_a_share_and_gives_back_what_did_not_come() {
        let budget = PrefetchBudget::new(100, || {});
        let mut one = budget.reserve(80, 10, 2).unwrap();
        assert_eq!(one.bytes(), 50, "a share of two");
        let two = budget.reserve(80, 10, 2).unwrap();
        assert_eq!((two.bytes(), budget.used()), (50, 100));
        assert!(budget.reserve(80, 10, 2).is_none());
        one.settle(5);
        assert_eq!(budget.used(), 55);
        assert_eq!(budget.reserve(80, 10, 2).unwrap().bytes(), 45);
        drop((one, two));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn overshoot_is_debt_that_blocks_until_it_is_paid() {
        let freed = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&freed);
        let budget = PrefetchBudget::new(100, move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        let mut fetch = budget.reserve(100, 10, 1).unwrap();
        fetch.settle(150);
        let inflated = budget.charge(30);
        assert_eq!(budget.used(), 180);
        drop(inflated);
        assert!(budget.reserve(10, 1, 1).is_none());
        drop(fetch);
        assert_eq!(freed.load(Ordering::Relaxed), 2);
        assert!(budget.reserve(10, 1, 1).is_some());
    }
}
