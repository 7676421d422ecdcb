//! `buffer.memory`: how many bytes the batches of one producer, or of several that share the budget, may hold.
//!
//! Reserving is a compare-and-swap while there is room; a full budget is waited for in a fair queue, first come, first
//! served. Nothing is reserved per record, only as buffers are allocated. A [`Reservation`] gives its bytes back when
//! it drops, also from inside a dropped wait. Knows no clock: whoever waits bounds the wait.
//!
//! What gives back more than it takes may take from the [headroom], which those who fill the budget leave alone:
//! a full one must still be able to empty itself.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

pub mod headroom;

/// A number of bytes that may be held at a time.
#[derive(Debug)]
pub struct ByteBudget {
    limit: usize,
    /// The limit less the headroom.
    open: AtomicUsize,
    used: AtomicUsize,
    /// The most that was ever used.
    #[cfg(test)]
    pub(crate) peak: AtomicUsize,
    /// Length of the queue, readable without its lock.
    waiting: AtomicUsize,
    /// The same of those who wait for a turn with the headroom.
    waiting_ahead: AtomicUsize,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiters: VecDeque<Waiter>,
    next_id: u64,
    ahead: headroom::Ahead,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    bytes: usize,
    waker: Option<Waker>,
}

impl ByteBudget {
    /// A budget of `limit` bytes, none of them used.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            open: AtomicUsize::new(limit),
            used: AtomicUsize::new(0),
            #[cfg(test)]
            peak: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            waiting_ahead: AtomicUsize::new(0),
            queue: Mutex::default(),
        })
    }

    /// The limit it was made with.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes reserved now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }

    /// How many wait for bytes now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Reserves `bytes` if there is room and nobody waits for it already.
    pub fn try_reserve(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        if self.waiting() > 0 || !self.take(bytes) {
            return None;
        }
        Some(Reservation { budget: Arc::clone(self), bytes })
    }

    /// Reserves `bytes` whether there is room or not: the memory exists already, or must, and is paid back like any.
    pub fn book(self: &Arc<Self>, bytes: usize) -> Reservation {
        self.add(bytes);
        Reservation { budget: Arc::clone(self), bytes }
    }

    /// Reserves `bytes`, waiting in turn. More than the limit is granted once nothing else is reserved, so that an
    /// overlarge wish waits long but not for ever.
    ///
    /// Dropping the future gives up the place in the queue, and the bytes if they were granted already.
    pub fn reserve(self: &Arc<Self>, bytes: usize) -> Reserve {
        Reserve { budget: Arc::clone(self), bytes, place: Place::New }
    }

    fn add(&self, bytes: usize) {
        let before = self.used.fetch_add(bytes, Ordering::SeqCst);
        self.note(before + bytes);
    }

    #[inline]
    fn note(&self, _used: usize) {
        #[cfg(test)]
        self.peak.fetch_max(_used, Ordering::SeqCst);
    }

    fn take(&self, bytes: usize) -> bool {
        let open = self.open.load(Ordering::Relaxed);
        self.take_within(bytes, |used| used == 0 || used.saturating_add(bytes) <= open)
    }

    fn take_within(&self, bytes: usize, has_room: impl Fn(usize) -> bool) -> bool {
        let mut used = self.used.load(Ordering::SeqCst);
        loop {
            if !has_room(used) {
                return false;
            }
            match self.used.compare_exchange_weak(used, used + bytes, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => {
                    self.note(used + bytes);
                    return true;
                }
                Err(now) => used = now,
            }
        }
    }

    fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::SeqCst);
        // A waiter counts itself before it looks at `used`, and this is the other way round: one of the two sees.
        if self.waiting() > 0 || self.waiting_ahead.load(Ordering::SeqCst) > 0 {
            self.grant();
        }
    }

    /// Gives bytes to those at the head of the queue, for as long as they fit.
    fn grant(&self) {
        let granted = {
            let mut queue = self.lock();
            let mut granted = self.grant_turns(&mut queue.ahead);
            granted.extend(self.grant_in(&mut queue));
            granted
        };
        for waker in granted {
            waker.wake();
        }
    }

    fn grant_in(&self, queue: &mut Queue) -> Vec<Waker> {
        let mut granted = Vec::new();
        while let Some(first) = queue.waiters.front()
            && self.take(first.bytes)
        {
            let waiter = queue.waiters.pop_front().expect("looked at it above");
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            granted.extend(waiter.waker);
        }
        granted
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of a [`ByteBudget`], given back on drop.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<ByteBudget>,
    bytes: usize,
}

impl Reservation {
    /// How many bytes it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes it say `bytes`: what is above goes back, what is missing is booked even where it passes the limit, since
    /// the memory exists already.
    pub fn settle(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.budget.add(bytes - self.bytes);
        } else if bytes < self.bytes {
            self.budget.release(self.bytes - bytes);
        }
        self.bytes = bytes;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.release(self.bytes);
        }
    }
}

/// A wait for bytes: see [`ByteBudget::reserve`].
#[derive(Debug)]
#[must_use = "nothing is reserved before it is polled"]
pub struct Reserve {
    budget: Arc<ByteBudget>,
    bytes: usize,
    place: Place,
}

#[derive(Debug)]
enum Place {
    New,
    Queued(u64),
    Done,
}

impl Future for Reserve {
    type Output = Reservation;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Reservation> {
        let this = self.get_mut();
        match this.place {
            Place::Done => Poll::Pending,
            Place::New => match this.budget.try_reserve(this.bytes) {
                Some(reservation) => {
                    this.place = Place::Done;
                    Poll::Ready(reservation)
                }
                None => this.queue_up(context.waker()),
            },
            Place::Queued(id) => {
                let mut queue = this.budget.lock();
                match queue.waiters.iter_mut().find(|waiter| waiter.id == id) {
                    Some(waiter) => {
                        waiter.waker = Some(context.waker().clone());
                        Poll::Pending
                    }
                    None => {
                        drop(queue);
                        Poll::Ready(this.granted())
                    }
                }
            }
        }
    }
}

impl Reserve {
    fn queue_up(&mut self, waker: &Waker) -> Poll<Reservation> {
        let mut queue = self.budget.lock();
        let id = queue.next_id;
        queue.next_id += 1;
        self.budget.waiting.fetch_add(1, Ordering::SeqCst);
        queue.waiters.push_back(Waiter { id, bytes: self.bytes, waker: None });
        self.place = Place::Queued(id);
        // Room may have appeared since the look without the lock. Others who are granted by this are woken even where
        // they are of this very task: it may have polled them before.
        let granted = self.budget.grant_in(&mut queue);
        let place = queue.waiters.iter_mut().find(|waiter| waiter.id == id);
        let mine = place.map(|waiter| waiter.waker = Some(waker.clone())).is_none();
        drop(queue);
        for other in granted {
            other.wake();
        }
        if mine { Poll::Ready(self.granted()) } else { Poll::Pending }
    }

    fn granted(&mut self) -> Reservation {
        self.place = Place::Done;
        Reservation { budget: Arc::clone(&self.budget), bytes: self.bytes }
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        let Place::Queued(id) = self.place else { return };
        let queued = {
            let mut queue = self.budget.lock();
            let place = queue.waiters.iter().position(|waiter| waiter.id == id);
            place.map(|place| queue.waiters.remove(place)).is_some()
        };
        if queued {
            self.budget.waiting.fetch_sub(1, Ordering::SeqCst);
            // Those behind may fit where this one did not.
            self.budget.grant();
        } else {
            self.budget.release(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll(reserve: &mut Reserve, count: &Arc<Count>) -> Option<Reservation> {
        let waker = Waker::from(Arc::clone(count));
        match Pin::new(reserve).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(reservation) => Some(reservation),
            Poll::Pending => None,
        }
    }

    #[test]
    fn bytes_come_back_when_a_reservation_drops_or_shrinks() {
        let budget = ByteBudget::new(100);
        let mut first = budget.try_reserve(60).expect("empty");
        assert!(budget.try_reserve(41).is_none());
        first.settle(30);
        assert_eq!(budget.used(), 30);
        first.settle(120);
        assert_eq!(budget.used(), 120, "what exists is booked, limit or not");
        drop(first);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn waiters_are_served_in_order_and_nobody_overtakes() {
        let budget = ByteBudget::new(100);
        let held = budget.try_reserve(90).expect("empty");
        let counts: Vec<_> = (0..3).map(|_| Arc::new(Count::default())).collect();
        let mut waits = [budget.reserve(80), budget.reserve(30), budget.reserve(20)];
        for (wait, count) in waits.iter_mut().zip(&counts) {
            assert!(poll(wait, count).is_none());
        }
        assert!(budget.try_reserve(1).is_none(), "ten bytes are free, and belong to those who wait");

        drop(held);
        let woken: Vec<_> = counts.iter().map(|count| count.0.load(Ordering::SeqCst)).collect();
        assert_eq!(woken, [1, 0, 0], "the second does not fit beside the first, and the third may not pass it");
        let first = poll(&mut waits[0], &counts[0]).expect("granted");
        drop(first);
        let granted: Vec<_> = (1..3).map(|i| poll(&mut waits[i], &counts[i]).expect("granted").bytes()).collect();
        assert_eq!(granted, [30, 20]);
        drop(waits);
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    }

    #[test]
    fn dropped_wait_leaves_no_trace_granted_or_not() {
        let budget = ByteBudget::new(100);
        let held = budget.try_reserve(100).expect("empty");
        let count = Arc::new(Count::default());
        let mut granted_unseen = budget.reserve(70);
        let mut queued = budget.reserve(100);
        let mut last = budget.reserve(10);
        for wait in [&mut granted_unseen, &mut queued, &mut last] {
            assert!(poll(wait, &count).is_none());
        }
        drop(held);
        assert_eq!(budget.used(), 70);
        drop(queued);
        assert_eq!(poll(&mut last, &count).expect("was behind the dropped one").bytes(), 10);
        drop(granted_unseen);
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    }

    #[test]
    fn one_who_is_granted_by_another_of_the_same_task_is_woken() {
        let budget = ByteBudget::new(100);
        let held = budget.try_reserve(100).expect("empty");
        let count = Arc::new(Count::default());
        let (mut first, mut second) = (budget.reserve(70), budget.reserve(80));
        assert!(poll(&mut first, &count).is_none());
        // Bytes come back, and whoever gave them has not looked at the queue yet.
        budget.used.fetch_sub(100, Ordering::SeqCst);
        assert!(poll(&mut second, &count).is_none());
        assert_eq!(count.0.load(Ordering::SeqCst), 1, "the first has its bytes, and would never know");
        drop(poll(&mut first, &count).expect("granted"));
        assert!(poll(&mut second, &count).is_some());
        budget.used.fetch_add(100, Ordering::SeqCst);
        drop(held);
    }

    #[test]
    fn threads_never_pass_the_limit_and_all_get_through() {
        struct Thread(std::thread::Thread);
        impl Wake for Thread {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let budget = ByteBudget::new(1_000);
        let held = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let (budget, held) = (&budget, &held);
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    let waker = Waker::from(Arc::new(Thread(std::thread::current())));
                    for _ in 0..2_000 {
                        let bytes = rng.usize(1..600);
                        let mut wait = budget.reserve(bytes);
                        let reservation = loop {
                            match Pin::new(&mut wait).poll(&mut Context::from_waker(&waker)) {
                                Poll::Ready(reservation) => break reservation,
                                Poll::Pending => std::thread::park(),
                            }
                        };
                        assert!(held.fetch_add(bytes, Ordering::SeqCst) + bytes <= 1_000);
                        held.fetch_sub(bytes, Ordering::SeqCst);
                        drop(reservation);
                    }
                });
            }
        });
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    }
}
