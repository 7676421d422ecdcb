//! The headroom of a budget: what those who fill it leave to those who give back more than they take.
//!
//! Whoever lacks room while others are at work waits for them, in turn: each of them soon gives its bytes back. With nobody
//! at work there is nothing to wait for, and the first in the queue goes on with what there is.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use super::{ByteBudget, Reservation, Waiter};

/// What is kept under the lock of the queue.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// What is wished for by those who are there.
    wishes: Vec<usize>,
    at_work: usize,
    waiters: VecDeque<Waiter>,
    next_id: u64,
    /// Those whose turn it is and who don't know yet, with the bytes that are reserved for each.
    granted: BTreeMap<u64, usize>,
}

impl Ahead {
    pub(super) fn has_waiters(&self) -> bool {
        !self.waiters.is_empty()
    }
}

/// A wish for headroom, for as long as it lives.
#[derive(Debug)]
#[must_use = "the headroom is kept until it drops"]
pub struct Headroom {
    budget: Arc<ByteBudget>,
    bytes: usize,
}

/// The right to work with bytes of the headroom, until it drops.
#[derive(Debug)]
pub struct Turn {
    budget: Arc<ByteBudget>,
}

/// A wait for a turn: see [`ByteBudget::turn`].
#[derive(Debug)]
#[must_use = "nobody queues before it is polled"]
pub struct AwaitTurn {
    budget: Arc<ByteBudget>,
    bytes: usize,
    /// Its place in the queue, once it has one.
    id: Option<u64>,
}

impl ByteBudget {
    /// Leaves `bytes` of it, but no more than a quarter, to those who take turns. The largest wish counts of those that
    /// are alive.
    pub fn keep_headroom(self: &Arc<Self>, bytes: usize) -> Headroom {
        let mut queue = self.lock();
        queue.ahead.wishes.push(bytes);
        self.keep(&queue.ahead);
        Headroom { budget: Arc::clone(self), bytes }
    }

    fn keep(&self, ahead: &Ahead) {
        let largest = ahead.wishes.iter().copied().max().unwrap_or(0);
        self.open.store(self.limit - largest.min(self.limit / 4), Ordering::SeqCst);
    }

    /// A turn with `bytes`, of the headroom too and ahead of those who wait to fill the budget. Where there is no room,
    /// one without bytes if nobody is at work; else `None`: see [`Self::turn`].
    pub fn try_turn(self: &Arc<Self>, bytes: usize) -> Option<(Turn, Option<Reservation>)> {
        let mut queue = self.lock();
        let ahead = &mut queue.ahead;
        if ahead.has_waiters() {
            return None;
        }
        let has_bytes = self.take_ahead(bytes);
        if !has_bytes && ahead.at_work > 0 {
            return None;
        }
        ahead.at_work += 1;
        Some(self.begin(if has_bytes { bytes } else { 0 }))
    }

    /// As [`Self::try_turn`], once there is room or nobody is at work.
    ///
    /// Dropping the future gives up the place in the queue, and the turn if it was granted already.
    pub fn turn(self: &Arc<Self>, bytes: usize) -> AwaitTurn {
        AwaitTurn { budget: Arc::clone(self), bytes, id: None }
    }

    /// Reserves `bytes` of what there is room for, the headroom included: for whoever has a turn.
    pub(in crate::producer) fn try_reserve_ahead(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        self.take_ahead(bytes).then(|| Reservation { budget: Arc::clone(self), bytes })
    }

    fn begin(self: &Arc<Self>, bytes: usize) -> (Turn, Option<Reservation>) {
        let reservation = (bytes > 0).then(|| Reservation { budget: Arc::clone(self), bytes });
        (Turn { budget: Arc::clone(self) }, reservation)
    }

    fn take_ahead(&self, bytes: usize) -> bool {
        self.take_within(bytes, |used| used.saturating_add(bytes) <= self.limit)
    }

    /// Gives turns to those at the head of the queue, for as long as there is room.
    pub(super) fn grant_turns(&self, ahead: &mut Ahead) -> Vec<Waker> {
        let mut woken = Vec::new();
        while let Some(first) = ahead.waiters.front() {
            let has_bytes = self.take_ahead(first.bytes);
            if !has_bytes && ahead.at_work > 0 {
                break;
            }
            let Some(first) = ahead.waiters.pop_front() else { break };
            self.waiting_ahead.fetch_sub(1, Ordering::SeqCst);
            ahead.at_work += 1;
            ahead.granted.insert(first.id, if has_bytes { first.bytes } else { 0 });
            woken.extend(first.waker);
        }
        woken
    }

    fn end_turn(&self) {
        let woken = {
            let mut queue = self.lock();
            queue.ahead.at_work -= 1;
            self.grant_turns(&mut queue.ahead)
        };
        woken.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Headroom {
    fn drop(&mut self) {
        let woken = {
            let mut queue = self.budget.lock();
            let wishes = &mut queue.ahead.wishes;
            if let Some(place) = wishes.iter().position(|wish| *wish == self.bytes) {
                wishes.swap_remove(place);
            }
            self.budget.keep(&queue.ahead);
            self.budget.grant_in(&mut queue)
        };
        woken.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.budget.end_turn();
    }
}

impl Future for AwaitTurn {
    type Output = (Turn, Option<Reservation>);

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let budget = &this.budget;
        let mut queue = budget.lock();
        let ahead = &mut queue.ahead;
        let id = *this.id.get_or_insert_with(|| {
            ahead.next_id += 1;
            budget.waiting_ahead.fetch_add(1, Ordering::SeqCst);
            ahead.waiters.push_back(Waiter { id: ahead.next_id, bytes: this.bytes, waker: None });
            ahead.next_id
        });
        if let Ok(place) = ahead.waiters.binary_search_by_key(&id, |waiter| waiter.id) {
            ahead.waiters[place].waker = Some(context.waker().clone());
        }
        // There may have been room all along. Whoever else is granted by this is woken, even one of this very task.
        let woken = budget.grant_turns(ahead);
        let mine = ahead.granted.remove(&id);
        drop(queue);
        woken.into_iter().for_each(Waker::wake);
        let Some(bytes) = mine else { return Poll::Pending };
        this.id = None;
        Poll::Ready(budget.begin(bytes))
    }
}

impl Drop for AwaitTurn {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let mut queue = self.budget.lock();
        let ahead = &mut queue.ahead;
        if let Some(bytes) = ahead.granted.remove(&id) {
            drop(queue);
            let (turn, reservation) = self.budget.begin(bytes);
            // In this order, so that whoever is next finds the bytes.
            drop(reservation);
            drop(turn);
        } else if let Ok(place) = ahead.waiters.binary_search_by_key(&id, |waiter| waiter.id) {
            ahead.waiters.remove(place);
            self.budget.waiting_ahead.fetch_sub(1, Ordering::SeqCst);
            // Those behind may fit where this one did not.
            let woken = self.budget.grant_turns(ahead);
            drop(queue);
            woken.into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests;
