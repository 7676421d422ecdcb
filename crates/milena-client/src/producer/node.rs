//! One broker's share of the partitions: what is ready is drained in waves, one produce request per wave and permit.
//!
//! A wave is run by whoever has a reason to: the task that appended the first record, the connection's task when an
//! answer frees a permit, the driver when a linger ends. Only one runs at a time; the others leave word. Nothing here
//! waits.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use milena_core::producer::failure::Cause;
use milena_net::Connection;

use super::partition::Partition;

/// Requests that a second's worth of tokens allows, for batches that need not have been sent yet.
const TOKENS_PER_SECOND: f64 = 2_000.0;

const IDLE: u8 = 0;
const WORKING: u8 = 1;
const AGAIN: u8 = 2;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: i32,
    turn: AtomicU8,
    /// A connection is being opened, and the wave repeated when it is there.
    pub(super) connecting: AtomicBool,
    /// Our requests in flight: the connection and its permits are shared with other producers of the client.
    pub(super) in_flight: AtomicUsize,
    /// Somebody waits for a permit, and repeats the wave when there is one.
    pub(super) awaiting_permit: AtomicBool,
    state: Mutex<NodeState>,
}

#[derive(Debug)]
pub(super) struct NodeState {
    /// Partitions that may have something to send; each is on at most one list.
    pub(super) ready: Vec<Arc<Partition>>,
    pub(super) connection: Option<Connection>,
    /// Why there is no connection, since the last attempt failed.
    pub(super) trouble: Option<Cause>,
    /// Since when something has been ready and could not be sent (`partitioner.availability.timeout.ms`).
    held_back_since: Option<Instant>,
    bucket: Bucket,
}

/// Allowance for requests that a batch could have waited for.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Option<Instant>,
}

impl Node {
    pub(super) fn new(id: i32) -> Arc<Self> {
        let bucket = Bucket { tokens: TOKENS_PER_SECOND, filled: None };
        let state = NodeState { ready: Vec::new(), connection: None, trouble: None, held_back_since: None, bucket };
        Arc::new(Self {
            id,
            turn: AtomicU8::new(IDLE),
            connecting: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            awaiting_permit: AtomicBool::new(false),
            state: Mutex::new(state),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, NodeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `wave` for as long as it says that there is more, unless somebody does so already: then that one is told
    /// to look again.
    pub(super) fn take_turns(&self, mut wave: impl FnMut() -> bool) {
        if self.turn.compare_exchange(IDLE, WORKING, Ordering::SeqCst, Ordering::SeqCst).is_err()
            && self.turn.swap(AGAIN, Ordering::SeqCst) != IDLE
        {
            return;
        }
        loop {
            self.turn.store(WORKING, Ordering::SeqCst);
            while wave() {}
            if self.turn.compare_exchange(WORKING, IDLE, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                return;
            }
        }
    }

    /// Keeps the connection for produce requests, if there is one now.
    pub(super) fn connected(&self, connection: Option<Connection>) {
        let mut state = self.lock();
        if connection.is_some() {
            state.trouble = None;
        }
        state.connection = connection;
    }

    /// Something is ready for it and can't be sent as of now; or it is sent, or nothing is ready.
    pub(super) fn held_back(&self, now: Option<Instant>) {
        let mut state = self.lock();
        state.held_back_since = now.map(|now| state.held_back_since.unwrap_or(now));
    }

    /// Whether it has kept records waiting for longer than `limit`.
    pub(super) fn is_slow(&self, now: Instant, limit: Duration) -> bool {
        self.lock().held_back_since.is_some_and(|since| now.saturating_duration_since(since) > limit)
    }

    /// Takes a token.
    pub(super) fn take_token(&self, now: Instant) -> bool {
        self.lock().bucket.take(now)
    }
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let since = self.filled.map_or(Duration::ZERO, |filled| now.saturating_duration_since(filled));
        self.filled = Some(now);
        self.tokens = (self.tokens + since.as_secs_f64() * TOKENS_PER_SECOND).min(TOKENS_PER_SECOND);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_last_a_second_and_come_back_at_their_rate() {
        let mut now = Instant::now();
        let mut bucket = Bucket { tokens: TOKENS_PER_SECOND, filled: None };
        let burst = (0..3_000).filter(|_| bucket.take(now)).count();
        assert_eq!(burst, 2_000);
        now += Duration::from_millis(10);
        let later = (0..3_000).filter(|_| bucket.take(now)).count();
        assert!((19..=20).contains(&later), "{later}");
    }

    #[test]
    fn whoever_comes_while_a_wave_runs_has_it_repeated() {
        let node = Node::new(1);
        let mut waves = 0;
        node.take_turns(|| {
            waves += 1;
            if waves == 1 {
                node.take_turns(|| unreachable!("one at a time"));
            }
            false
        });
        assert_eq!(waves, 2);
    }
}
