//! The tasks of a subscription: one for each handler that runs and for each dead letter that is being written.
//!
//! They belong to one `JoinSet`, so dropping it ends them all. Decides nothing: the engine says what to run.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use milena_client::TopicPartition;
use tokio::task::{JoinError, JoinSet};

use crate::handler::{Attempt, Handled, Routes};
use crate::lanes::Ticket;
use crate::policy::{DeadLetter, Failure};

/// Writes one dead letter; resolves when the broker has acknowledged it.
pub(crate) type DeadLetterWriter =
    Arc<dyn Fn(DeadLetter) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// The tasks of handlers and dead-letter writes.
pub(super) struct Workers {
    routes: Arc<Routes>,
    writer: DeadLetterWriter,
    tasks: JoinSet<Finished>,
    /// Handlers among the tasks.
    handlers: usize,
}

/// A task that came to its end.
#[derive(Debug)]
pub(crate) enum Finished {
    Attempt { partition: TopicPartition, ticket: Ticket, result: Result<Handled, Failure> },
    DeadLetter { partition: TopicPartition, ticket: Ticket, result: Result<(), String> },
}

impl Workers {
    pub(super) fn new(routes: Routes, writer: DeadLetterWriter) -> Self {
        Self { routes: Arc::new(routes), writer, tasks: JoinSet::new(), handlers: 0 }
    }

    /// Handlers that run.
    pub(super) fn handlers(&self) -> usize {
        self.handlers
    }

    /// Starts a handler.
    pub(super) fn handle(&mut self, partition: TopicPartition, ticket: Ticket, attempt: Attempt) {
        let routes = Arc::clone(&self.routes);
        self.handlers += 1;
        self.tasks.spawn(async move {
            let result = routes.handle(attempt).await;
            Finished::Attempt { partition, ticket, result }
        });
    }

    /// Starts the write of a dead letter.
    pub(super) fn write_off(&mut self, partition: TopicPartition, ticket: Ticket, letter: DeadLetter) {
        let written = (self.writer)(letter);
        self.tasks.spawn(async move {
            let result = written.await;
            Finished::DeadLetter { partition, ticket, result }
        });
    }

    /// Waits until a task ends; for ever while there are none.
    ///
    /// # Panics
    /// When a task did: its own code, as a handler's panic is caught. Nobody would give its lane free, so the subscription
    /// had better end, and say so.
    ///
    /// # Cancel safety
    /// No task is lost when this is dropped.
    pub(super) async fn finished(&mut self) -> Finished {
        let finished = match self.tasks.join_next().await {
            Some(joined) => self.note(joined),
            None => None,
        };
        match finished {
            Some(finished) => finished,
            None => std::future::pending().await,
        }
    }

    /// Another task that has ended already.
    ///
    /// # Panics
    /// As [`finished`](Self::finished).
    pub(super) fn try_finished(&mut self) -> Option<Finished> {
        let joined = self.tasks.try_join_next()?;
        self.note(joined)
    }

    /// Ends every task at its next await.
    pub(super) fn abort(&mut self) {
        self.tasks.abort_all();
    }

    /// `None` if the task was aborted: the engine is ended, or the runtime.
    fn note(&mut self, joined: Result<Finished, JoinError>) -> Option<Finished> {
        let finished = match joined.map_err(JoinError::try_into_panic) {
            Ok(finished) => finished,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_aborted)) => return None,
        };
        if matches!(finished, Finished::Attempt { .. }) {
            self.handlers -= 1;
        }
        Some(finished)
    }
}
