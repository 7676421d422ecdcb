//! The buffers of batches: charged to the byte budget while in use, recycled when a batch is done.
//!
//! Sizes are powers of two, so that a buffer fits the next batch too. What lies idle counts against the same limit:
//! a buffer is kept only while everything in use and everything idle stay within the budget together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::producer::budget::{ByteBudget, Reservation};

/// The smallest buffer.
const MIN_CAPACITY: usize = 1024;
/// Sizes from [`MIN_CAPACITY`] to 32 MiB are kept; what is larger is freed.
const CLASSES: usize = 16;

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

    /// What pays for a compressed copy of `bytes`: for as many if the budget has room, else for less. What compresses to
    /// less than an eighth is rare, so that nothing is where there is no room for that.
    pub fn charge_for_copy(&self, bytes: usize) -> Option<Reservation> {
        let mut wanted = Self::capacity_for(bytes);
        while wanted >= MIN_CAPACITY && wanted >= bytes / 8 {
            if let Some(charge) = self.budget.try_reserve_ahead(wanted) {
                return Some(charge);
            }
            wanted /= 2;
        }
        None
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
