//! The buffers of batches: charged to the byte budget while in use, recycled when a batch is done.
//!
//! Sizes are powers of two, so that a buffer fits the next batch too. What lies idle counts against the same limit:
//! a buffer is kept only while everything in use and everything idle stay within the budget together.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use crate::producer::budget::headroom::{AwaitTurn, Turn};
use crate::producer::budget::{ByteBudget, Reservation};

/// The smallest buffer.
const MIN_CAPACITY: usize = 1024;
/// Sizes from [`MIN_CAPACITY`] to 32 MiB are kept; what is larger is freed.
const CLASSES: usize = 16;

/// What a batch needs in order to be compressed.
#[derive(Clone, Copy, Debug)]
pub struct CopyPlan {
    /// What it has to be compressed.
    pub(super) bytes: usize,
    /// Whether it gets the memory even where there is none.
    pub(super) is_due: bool,
}

/// The turn to compress a batch, and what pays for what comes out, if anything does. Whoever waits for memory to compress
/// into is woken when it drops.
#[derive(Debug)]
pub struct CopyTurn {
    pub(super) charge: Option<Reservation>,
    // Behind the charge, so that whoever is next finds its bytes.
    pub(super) turn: Turn,
}

/// A wait for the turn to compress a batch: see [`BufferPool::copy`].
#[derive(Debug)]
#[must_use = "nobody queues before it is polled"]
pub struct AwaitCopy<'a> {
    pool: &'a BufferPool,
    plan: CopyPlan,
    turn: AwaitTurn,
}

impl Future for AwaitCopy<'_> {
    type Output = CopyTurn;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<CopyTurn> {
        let this = self.get_mut();
        Pin::new(&mut this.turn).poll(context).map(|(turn, charge)| this.pool.copy_turn(this.plan, turn, charge))
    }
}

/// Idle buffers, and the budget that those in use are charged to.
#[derive(Debug)]
pub struct BufferPool {
    budget: Arc<ByteBudget>,
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    by_class: [Vec<Vec<u8>>; CLASSES],
    bytes: usize,
}

impl BufferPool {
    /// An empty pool that charges `budget`.
    pub fn new(budget: Arc<ByteBudget>) -> Arc<Self> {
        Arc::new(Self { budget, idle: Mutex::default() })
    }

    /// The budget.
    pub fn budget(&self) -> &Arc<ByteBudget> {
        &self.budget
    }

    /// The capacity that a buffer for `bytes` gets, and so what it is charged.
    pub fn capacity_for(bytes: usize) -> usize {
        bytes.max(MIN_CAPACITY).checked_next_power_of_two().unwrap_or(bytes)
    }

    /// A buffer for what `charge` has paid: recycled if there is one, with whatever its last batch left in it, else
    /// allocated.
    pub fn take(&self, charge: &Reservation) -> Vec<u8> {
        let capacity = charge.bytes();
        let mut idle = self.lock();
        if let Some(class) = class_of(capacity)
            && let Some(buffer) = idle.by_class[class].pop()
        {
            idle.bytes -= buffer.capacity();
            return buffer;
        }
        self.trim(&mut idle);
        drop(idle);
        Vec::with_capacity(capacity)
    }

    /// The turn to compress what `plan` says, if it need not be waited for.
    pub fn try_copy(&self, plan: CopyPlan) -> Option<CopyTurn> {
        let (turn, charge) = self.budget.try_turn(Self::capacity_for(plan.bytes))?;
        Some(self.copy_turn(plan, turn, charge))
    }

    /// As [`Self::try_copy`], once the budget has room for as many bytes, or nothing else is compressed that would give
    /// some back.
    ///
    /// # Cancel safety
    /// Dropped, it leaves its place in the queue to the next.
    pub fn copy(&self, plan: CopyPlan) -> AwaitCopy<'_> {
        AwaitCopy { pool: self, plan, turn: self.budget.turn(Self::capacity_for(plan.bytes)) }
    }

    /// What compresses to less than an eighth is rare, so that nothing is where there is no room for that.
    fn copy_turn(&self, plan: CopyPlan, turn: Turn, charge: Option<Reservation>) -> CopyTurn {
        let full = Self::capacity_for(plan.bytes);
        let smaller = || {
            let sizes = std::iter::successors(Some(full / 2), |size| Some(size / 2));
            let mut sizes = sizes.take_while(|size| *size >= MIN_CAPACITY && *size >= plan.bytes / 8);
            sizes.find_map(|size| self.budget.try_reserve_ahead(size))
        };
        let charge = charge.or_else(|| if plan.is_due { Some(self.budget.book(full)) } else { smaller() });
        CopyTurn { charge, turn }
    }

    /// Takes a buffer back, with its charge.
    pub fn put(&self, buffer: Vec<u8>, charge: Reservation) {
        let capacity = buffer.capacity();
        let in_use = self.budget.used().saturating_sub(charge.bytes());
        if let Some(class) = class_of(capacity) {
            let mut idle = self.lock();
            if in_use + idle.bytes + capacity <= self.budget.limit() {
                idle.bytes += capacity;
                idle.by_class[class].push(buffer);
            }
        }
        // Last, so that whoever is granted these bytes finds the buffer.
        drop(charge);
    }

    /// Bytes lying idle.
    pub fn idle(&self) -> usize {
        self.lock().bytes
    }

    /// Frees idle buffers, the largest first, until they and those in use fit the limit.
    fn trim(&self, idle: &mut Idle) {
        for class in (0..CLASSES).rev() {
            while self.budget.used() + idle.bytes > self.budget.limit() {
                let Some(buffer) = idle.by_class[class].pop() else { break };
                idle.bytes -= buffer.capacity();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn class_of(capacity: usize) -> Option<usize> {
    if !capacity.is_power_of_two() || capacity < MIN_CAPACITY {
        return None;
    }
    let class = (capacity.trailing_zeros() - MIN_CAPACITY.trailing_zeros()) as usize;
    (class < CLASSES).then_some(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffer_comes_back_to_the_next_batch_of_its_size() {
        let pool = BufferPool::new(ByteBudget::new(1 << 20));
        let charge = pool.budget().try_reserve(BufferPool::capacity_for(5_000)).expect("room");
        let mut buffer = pool.take(&charge);
        assert_eq!(buffer.capacity(), 8_192);
        buffer.resize(8_192, 7);
        let address = buffer.as_ptr();
        pool.put(buffer, charge);
        assert_eq!((pool.budget().used(), pool.idle()), (0, 8_192));

        let charge = pool.budget().try_reserve(8_192).expect("room");
        let again = pool.take(&charge);
        assert_eq!((again.as_ptr(), again.len(), pool.idle()), (address, 8_192, 0));
    }

    #[test]
    fn idle_and_used_bytes_stay_within_the_budget_together() {
        let pool = BufferPool::new(ByteBudget::new(16 * 1024));
        let small: Vec<_> = (0..8).map(|_| pool.budget().try_reserve(1_024).expect("room")).collect();
        let buffers: Vec<_> = small.iter().map(|charge| pool.take(charge)).collect();
        for (buffer, charge) in buffers.into_iter().zip(small) {
            pool.put(buffer, charge);
        }
        assert_eq!(pool.idle(), 8 * 1_024);
        let large = pool.budget().try_reserve(16 * 1_024).expect("idle buffers are not in use");
        let buffer = pool.take(&large);
        assert_eq!((pool.idle(), pool.budget().used()), (0, 16 * 1_024));
        pool.put(buffer, large);
        assert_eq!(pool.idle(), 16 * 1_024);
    }
}
