//! One value that many wait for to change. As tokio's `watch`, but for the order in which they are woken: tokio spreads
//! waiters over several lists by random numbers that can't be seeded, which no simulation could repeat.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The sender is gone, and with it every change to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody is left who could change the value")]
pub struct Closed;

#[derive(Debug)]
struct Shared<T> {
    /// The value, and how often it has changed.
    state: Mutex<(T, u64)>,
    is_closed: AtomicBool,
    changed: Notify,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, (T, u64)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Changes the value.
#[derive(Debug)]
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// Sees the value, and waits for its changes. A clone has seen what its original has.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// A value and one who has seen it.
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let shared =
        Arc::new(Shared { state: Mutex::new((value, 0)), is_closed: AtomicBool::new(false), changed: Notify::new() });
    (Sender { shared: Arc::clone(&shared) }, Receiver { shared, seen: 0 })
}

impl<T> Sender<T> {
    /// One who has seen the value as it is now.
    pub fn subscribe(&self) -> Receiver<T> {
        let seen = self.shared.lock().1;
        Receiver { shared: Arc::clone(&self.shared), seen }
    }

    /// Another value in place of this one.
    pub fn send(&self, value: T) {
        self.send_modify(|current| *current = value);
    }

    /// Changes the value in place.
    pub fn send_modify(&self, change: impl FnOnce(&mut T)) {
        {
            let mut state = self.shared.lock();
            change(&mut state.0);
            state.1 += 1;
        }
        self.shared.changed.notify_waiters();
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, SeqCst);
        self.shared.changed.notify_waiters();
    }
}

impl<T> Receiver<T> {
    /// Waits for a value that was not seen yet, which has been seen then.
    ///
    /// # Errors
    /// [`Closed`], once the last value has been seen.
    ///
    /// # Cancel safety
    /// Nothing is seen that was not returned.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            // Before the look, so that no change falls in between.
            let changed = self.shared.changed.notified();
            let is_closed = self.shared.is_closed.load(SeqCst);
            let now = self.shared.lock().1;
            if self.seen != now {
                self.seen = now;
                return Ok(());
            }
            if is_closed {
                return Err(Closed);
            }
            changed.await;
        }
    }

    /// Waits for a value like this, be it new or not.
    ///
    /// # Errors
    /// [`Closed`], and the last value is none.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn wait_for(&mut self, is_it: impl Fn(&T) -> bool) -> Result<T, Closed>
    where
        T: Clone,
    {
        loop {
            let changed = self.shared.changed.notified();
            let is_closed = self.shared.is_closed.load(SeqCst);
            {
                let state = self.shared.lock();
                self.seen = state.1;
                if is_it(&state.0) {
                    return Ok(state.0.clone());
                }
            }
            if is_closed {
                return Err(Closed);
            }
            changed.await;
        }
    }

    /// Whether both see the same sender's values.
    pub fn same_channel(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), seen: self.seen }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiters_are_woken_in_the_order_of_their_waiting() {
        for _ in 0..20 {
            let (sender, receiver) = channel(0);
            let woken = Arc::new(Mutex::new(Vec::new()));
            let mut tasks = tokio::task::JoinSet::new();
            for number in 0..16 {
                let (mut receiver, woken) = (receiver.clone(), Arc::clone(&woken));
                tasks.spawn(async move {
                    receiver.changed().await.unwrap();
                    woken.lock().unwrap().push(number);
                });
            }
            tokio::task::yield_now().await;
            sender.send(1);
            while tasks.join_next().await.is_some() {}
            assert_eq!(*woken.lock().unwrap(), (0..16).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn a_change_is_seen_once_and_the_last_one_though_the_sender_is_gone() {
        let (sender, mut receiver) = channel(0);
        sender.send(1);
        let mut late = sender.subscribe();
        sender.send(2);
        drop(sender);
        assert_eq!((receiver.changed().await, receiver.changed().await), (Ok(()), Err(Closed)));
        assert_eq!((late.changed().await, late.changed().await), (Ok(()), Err(Closed)));
        assert_eq!(receiver.wait_for(|value| *value == 2).await, Ok(2));
        assert_eq!(receiver.wait_for(|value| *value == 1).await, Err(Closed));
    }

    #[tokio::test]
    async fn one_who_waits_is_told_of_the_end() {
        let (sender, mut receiver) = channel(0);
        let waiting = async move { receiver.wait_for(|value| *value == 1).await };
        let (ended, ()) = tokio::join!(waiting, async { drop(sender) });
        assert_eq!(ended, Err(Closed));
    }
}
