//! What the driver is to do later: lingers, retries, delivery deadlines. At most a few per active partition, none for
//! an idle one; a timer that has become pointless fires into nothing.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Instant;

use super::partition::Partition;

/// Room for so many timers is kept.
const MOST_KEPT: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The open batch with this number has waited long enough.
    Linger(u64),
    /// The open batch with this number has waited long enough to tell whether that pays.
    Company(u64),
    /// An open batch that can't be sent may have grown too old to take records.
    Age,
    /// A failed batch may be tried again.
    Retry,
    /// A batch may be out of time, or the partition idle. A partition that is not idle has one of these.
    Deadline,
}

#[derive(Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<Timer>>,
    pushed: u64,
    /// Until when the driver sleeps, once it does.
    asleep_until: Option<Instant>,
}

struct Timer {
    at: Instant,
    /// Those due at once fire in the order in which they were set.
    number: u64,
    partition: Arc<Partition>,
    due: Due,
}

impl Timers {
    /// Sets a timer. Returns whether the driver must be woken for it.
    pub(super) fn push(&mut self, at: Instant, partition: Arc<Partition>, due: Due) -> bool {
        self.pushed += 1;
        self.heap.push(Reverse(Timer { at, number: self.pushed, partition, due }));
        self.asleep_until.is_none_or(|until| at < until)
    }

    pub(super) fn pop(&mut self, now: Instant) -> Option<(Arc<Partition>, Due)> {
        if self.heap.peek()?.0.at > now {
            return None;
        }
        let Reverse(timer) = self.heap.pop().expect("looked at above");
        // What thousands of partitions once needed at a time is not kept for the few.
        if self.heap.capacity() > MOST_KEPT && self.heap.len() < self.heap.capacity() / 4 {
            self.heap.shrink_to(self.heap.len() * 2);
        }
        Some((timer.partition, timer.due))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// When the next timer is due; the driver sleeps until then, or until it is woken.
    pub(super) fn sleep(&mut self, longest: Instant) -> Instant {
        let until = self.heap.peek().map_or(longest, |timer| timer.0.at.min(longest));
        self.asleep_until = Some(until);
        until
    }
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
