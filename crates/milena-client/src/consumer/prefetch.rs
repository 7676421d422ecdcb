//! What the consumers of one client share of the memory that they fetch ahead into: the budget, and the news that there is
//! room again. Which fetch gets how much is for the budget to say.

use std::fmt;
use std::sync::Arc;

use milena_core::consumer::prefetch::PrefetchBudget;
use tokio::sync::Notify;

/// Of one client.
pub(crate) struct Prefetch {
    pub(super) budget: Arc<PrefetchBudget>,
    /// Wakes fetchers that wait for room.
    pub(super) room: Arc<Notify>,
}

impl Prefetch {
    pub(crate) fn new(bytes: usize) -> Self {
        let room = Arc::new(Notify::new());
        let freed = Arc::clone(&room);
        Self { budget: PrefetchBudget::new(bytes, move || freed.notify_waiters()), room }
    }
}

impl fmt::Debug for Prefetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prefetch").field("budget", &self.budget).finish_non_exhaustive()
    }
}
