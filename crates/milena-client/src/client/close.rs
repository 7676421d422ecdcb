//! The order of closing: refuse new tasks, let requests in flight end, end the metadata task, close connections, join.
//! Whatever is left at the deadline is aborted and named in the report.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{ClientInner, Handle};

/// How long a client that was dropped without `close` may take.
const BACKGROUND_LIMIT: Duration = Duration::from_secs(5);

/// How a client closed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReport {
    /// Whether everything ended by itself before the deadline.
    pub clean: bool,
    /// Names of the tasks that had to be ended.
    pub aborted: Vec<&'static str>,
    /// How long it took.
    pub elapsed: Duration,
}

pub(super) async fn close(inner: &Arc<ClientInner>, limit: Duration) -> CloseReport {
    let start = Instant::now();
    let deadline = start + limit.min(Duration::from_secs(24 * 3600));
    inner.tasks.close();
    inner.metadata.stop();
    let drained = timeout_at(deadline, inner.pool.drain()).await;
    let joined = match drained {
        Ok(()) => timeout_at(deadline, inner.tasks.join()).await,
        Err(late) => Err(late),
    };
    let aborted = if joined.is_ok() { Vec::new() } else { inner.tasks.names() };
    if joined.is_err() {
        tracing::warn!(tasks = ?aborted, "the client did not close in time: ending what is left");
        inner.tasks.abort_all();
        inner.tasks.join().await;
    }
    CloseReport { clean: joined.is_ok(), aborted, elapsed: start.elapsed() }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.inner.tasks.is_empty() {
            return;
        }
        let inner = Arc::clone(&self.inner);
        // Not in the task set: it waits for that.
        let background = async move { drop(close(&inner, BACKGROUND_LIMIT).await) };
        drop(self.inner.runtime.handle().spawn(background));
    }
}
