//! Every task that a client spawns, by name, so that closing can wait for the last of them and a test can count them.
//! What these crates start beside it, `cargo xtask tidy` lists with its bound (xtask/src/tidy/spawns.rs), and lets
//! nothing else through.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// The tasks of one client. Clones share one set.
#[derive(Clone)]
pub struct TaskSet {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: Handle,
    table: Mutex<Table>,
    empty: Notify,
}

#[derive(Default)]
struct Table {
    tasks: BTreeMap<u64, Task>,
    spawned: u64,
    closed: bool,
}

struct Task {
    name: &'static str,
    // Absent for the moment between the entry and the spawn that follows it.
    abort: Option<AbortHandle>,
}

/// The set is closed: the client is closing, so nothing new may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client is closed: build a new one")]
pub struct TaskSetClosed;

impl TaskSet {
    /// An empty set whose tasks run on `runtime`.
    pub fn new(runtime: Handle) -> Self {
        Self { inner: Arc::new(Inner { runtime, table: Mutex::default(), empty: Notify::new() }) }
    }

    /// Starts a task; `name` says in logs and reports what it does.
    ///
    /// # Errors
    /// [`TaskSetClosed`] after [`Self::close`]; the future is dropped unpolled.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> Result<(), TaskSetClosed>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let id = {
            let mut table = self.table();
            if table.closed {
                return Err(TaskSetClosed);
            }
            table.spawned += 1;
            let id = table.spawned;
            table.tasks.insert(id, Task { name, abort: None });
            id
        };
        // The guard moves into the task, so its entry goes when the task ends, is aborted, panics, or is dropped with
        // its runtime. It is made outside the lock: a runtime that is shutting down drops the future inside `spawn`.
        let entry = Entry { set: self.clone(), id };
        let task = self.inner.runtime.spawn(async move {
            let _entry = entry;
            future.await;
        });
        if let Some(entry) = self.table().tasks.get_mut(&id) {
            entry.abort = Some(task.abort_handle());
        }
        Ok(())
    }

    /// Number of tasks that have not ended.
    pub fn len(&self) -> usize {
        self.table().tasks.len()
    }

    /// Whether no task is running.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names of the running tasks, oldest first.
    pub fn names(&self) -> Vec<&'static str> {
        self.table().tasks.values().map(|task| task.name).collect()
    }

    /// Refuses further tasks; those that run go on.
    pub fn close(&self) {
        self.table().closed = true;
    }

    /// Resolves when no task is running. Call [`Self::close`] first, else one may start right after.
    pub async fn join(&self) {
        loop {
            let notified = self.inner.empty.notified();
            tokio::pin!(notified);
            // Enrolled before the check: a task that ends between the two still wakes us.
            notified.as_mut().enable();
            if self.is_empty() {
                return;
            }
            notified.await;
        }
    }

    /// Ends every task at its next await. What they held is dropped; [`Self::join`] then resolves soon.
    pub fn abort_all(&self) {
        let handles = self.table().tasks.values().filter_map(|task| task.abort.clone()).collect::<Vec<_>>();
        for handle in handles {
            handle.abort();
        }
    }

    /// The runtime on which the tasks run.
    pub fn runtime(&self) -> &Handle {
        &self.inner.runtime
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.inner.table.lock().expect("no code that holds this lock can panic")
    }
}

impl fmt::Debug for TaskSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskSet").field("tasks", &self.names()).finish_non_exhaustive()
    }
}

struct Entry {
    set: TaskSet,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let empty = {
            let mut table = self.set.table();
            table.tasks.remove(&self.id);
            table.tasks.is_empty()
        };
        if empty {
            self.set.inner.empty.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn join_waits_for_the_last_task_and_none_starts_after_close() {
        let tasks = TaskSet::new(Handle::current());
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn("quick", async {}).expect("the set is open");
        tasks.spawn("slow", async move { drop(released.await) }).expect("the set is open");
        tasks.close();
        assert_eq!(tasks.spawn("late", async {}), Err(TaskSetClosed));

        let join = tokio::spawn({
            let tasks = tasks.clone();
            async move { tasks.join().await }
        });
        while tasks.len() > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(tasks.names(), ["slow"]);
        assert!(!join.is_finished());
        release.send(()).expect("the task waits");
        join.await.expect("join resolves");
        assert!(tasks.is_empty());
    }

    #[tokio::test]
    async fn a_panic_and_an_abort_leave_the_set() {
        let tasks = TaskSet::new(Handle::current());
        tasks.spawn("panics", async { panic!("on purpose") }).expect("the set is open");
        tasks.spawn("hangs", std::future::pending()).expect("the set is open");
        while tasks.len() > 1 {
            tokio::task::yield_now().await;
        }
        tasks.abort_all();
        tasks.join().await;
        assert!(tasks.is_empty());
    }
}
