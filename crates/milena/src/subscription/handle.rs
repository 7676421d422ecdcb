//! What the user holds of a subscription. It sends commands to the driver and reads what the driver publishes; it owns
//! nothing, so dropping it ends nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::status::{StopReason, SubscriptionEvent, SubscriptionState, SubscriptionStatus};

/// A running subscription.
///
/// Clones name the same subscription. It runs until it is closed, or until the last handle of its bus *and* the last of
/// these are dropped, whichever is later; ending it is [`close`](Self::close).
#[derive(Debug, Clone)]
pub struct Subscription(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    group: Arc<str>,
    topics: Vec<String>,
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<SubscriptionStatus>,
    events: broadcast::WeakSender<SubscriptionEvent>,
}

/// What a longer time to close in is cut to: as good as for ever, and adding it to a time can't overflow.
pub(crate) const LONGEST_CLOSE: Duration = Duration::from_secs(24 * 3_600);

/// What a handle asks of the driver.
#[derive(Debug)]
pub(crate) enum Command {
    Pause(oneshot::Sender<()>),
    Resume(oneshot::Sender<()>),
    SetConcurrency(usize, oneshot::Sender<()>),
    Seek { topic: String, partition: i32, to: SeekTo, reply: oneshot::Sender<Result<(), SubscriptionError>> },
    Close { limit: Duration, reply: oneshot::Sender<CloseReport> },
}

/// Where to go on reading a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SeekTo {
    /// The first record there is.
    Beginning,
    /// Behind the last record there is.
    End,
    /// This offset.
    Offset(i64),
    /// The first record written at or after this time, in milliseconds since 1970; the end if there is none.
    Timestamp(i64),
}

/// What a close left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
#[must_use = "it says whether everything was finished"]
pub struct CloseReport {
    /// Events handled with success since the start.
    pub handled: u64,
    /// Records dead-lettered since the start.
    pub dead_lettered: u64,
    /// Records that were begun and not finished within the deadline: they will be handled again.
    pub left: usize,
    /// Partitions whose last commit was not acknowledged: what was handled since the one before will be handled again.
    pub uncommitted: usize,
    /// Published events whose outcome is not known, as the deadline came before their acknowledgement.
    pub unconfirmed: usize,
    /// Published events that were not written, and never will be: the deadline came before they were sent, or a broker
    /// refused them meanwhile.
    pub failed: usize,
    /// Subscriptions of which no more is known: they did not report by the deadline, or their task died.
    pub unclosed: usize,
}

impl CloseReport {
    /// Whether nothing was left: everything begun was finished, committed and acknowledged.
    pub fn is_complete(&self) -> bool {
        let Self { left, uncommitted, unconfirmed, failed, unclosed, .. } = self;
        [left, uncommitted, unconfirmed, failed, unclosed].iter().all(|count| **count == 0)
    }

    /// What was done, without what was left.
    pub(crate) fn counts(&self) -> Self {
        Self { handled: self.handled, dead_lettered: self.dead_lettered, ..Self::default() }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.handled += other.handled;
        self.dead_lettered += other.dead_lettered;
        self.left += other.left;
        self.uncommitted += other.uncommitted;
        self.unconfirmed += other.unconfirmed;
        self.failed += other.failed;
        self.unclosed += other.unclosed;
    }
}

/// What can go wrong with a subscription that runs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscriptionError {
    /// It was closed.
    #[error("the subscription is closed")]
    Closed,
    /// It has stopped by itself.
    #[error("the subscription has stopped")]
    Stopped(#[source] StopReason),
    /// The partition is not assigned to this member.
    #[error("{topic}-{partition} is not assigned to this member; seek where it is, or wait for ready()")]
    NotAssigned {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// There is no such offset: what is there lies from `earliest` on, and the next event will be at `latest`.
    #[error("{topic}-{partition} has no offset {offset}: seek from {earliest} to {latest}")]
    OutOfRange {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset that was sought.
        offset: i64,
        /// Offset of the oldest event.
        earliest: i64,
        /// Offset behind the last one.
        latest: i64,
    },
    /// The position to seek could not be found.
    #[error("{topic}-{partition} could not be sought: {message}")]
    Seek {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Why.
        message: String,
    },
}

impl Subscription {
    pub(crate) fn new(
        group: Arc<str>,
        topics: Vec<String>,
        commands: mpsc::Sender<Command>,
        status: watch::Receiver<SubscriptionStatus>,
        events: broadcast::WeakSender<SubscriptionEvent>,
    ) -> Self {
        Self(Arc::new(Inner { group, topics, commands, status, events }))
    }

    /// The group it is a member of.
    pub fn group(&self) -> &str {
        &self.0.group
    }

    /// The topics it reads.
    pub fn topics(&self) -> &[String] {
        &self.0.topics
    }

    /// Resolves once its partitions are assigned and positioned: from then on no event is missed.
    ///
    /// # Errors
    /// It was closed, or stopped by itself, before that.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn ready(&self) -> Result<(), SubscriptionError> {
        self.wait_for(|status| matches!(status.state, SubscriptionState::Running | SubscriptionState::Paused)).await?;
        Ok(())
    }

    /// What it is doing right now.
    pub fn status(&self) -> SubscriptionStatus {
        self.0.status.borrow().clone()
    }

    /// Waits until its status is as `wanted` says, and returns it.
    ///
    /// # Errors
    /// It is over, and its last status is not wanted.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn wait_for(
        &self,
        mut wanted: impl FnMut(&SubscriptionStatus) -> bool,
    ) -> Result<SubscriptionStatus, SubscriptionError> {
        let mut receiver = self.0.status.clone();
        let mut is_wanted = false;
        let seen = receiver
            .wait_for(|status| {
                is_wanted = wanted(status);
                is_wanted || status.state.is_over()
            })
            .await
            .map(|status| status.clone());
        match seen {
            Ok(status) if is_wanted => Ok(status),
            _ => Err(self.over().await),
        }
    }

    /// What happens to it from now on, as it happens.
    pub fn events(&self) -> SubscriptionEvents {
        SubscriptionEvents(self.0.events.upgrade().map(|sender| sender.subscribe()))
    }

    /// Begins nothing new until [`resume`](Self::resume). Handlers that run go on; it stays a member of its group and
    /// keeps its partitions.
    ///
    /// # Errors
    /// It is over.
    ///
    /// # Cancel safety
    /// Once polled, the command is carried out even if the future is dropped.
    pub async fn pause(&self) -> Result<(), SubscriptionError> {
        self.ask(Command::Pause).await
    }

    /// Goes on after [`pause`](Self::pause).
    ///
    /// # Errors
    /// It is over.
    ///
    /// # Cancel safety
    /// Once polled, the command is carried out even if the future is dropped.
    pub async fn resume(&self) -> Result<(), SubscriptionError> {
        self.ask(Command::Resume).await
    }

    /// Sets how many handlers may run at once; 0 counts as 1.
    ///
    /// # Errors
    /// It is over.
    ///
    /// # Cancel safety
    /// Once polled, the command is carried out even if the future is dropped.
    pub async fn set_concurrency(&self, handlers: usize) -> Result<(), SubscriptionError> {
        self.ask(|reply| Command::SetConcurrency(handlers, reply)).await
    }

    /// Goes on reading a partition from elsewhere, once the handlers that run for it have ended. The new position is
    /// committed, so that a restart goes on from it too. A later seek of the partition takes the place of one that has
    /// not got there.
    ///
    /// # Errors
    /// The partition is not assigned to this member, the position could not be found, there is no such offset, another
    /// seek came after it, or the subscription is closing or over. Nothing has changed then.
    ///
    /// # Cancel safety
    /// Once polled, the command is carried out even if the future is dropped.
    pub async fn seek(&self, topic: &str, partition: i32, to: SeekTo) -> Result<(), SubscriptionError> {
        let topic = topic.to_owned();
        self.ask(|reply| Command::Seek { topic, partition, to, reply }).await?
    }

    /// Unsubscribes: stops fetching, finishes what was begun, commits, and leaves the group, all within `deadline`.
    ///
    /// Handlers that still run at the deadline are dropped at their next await, and counted as left. Of several calls
    /// the earliest deadline holds. Closing what is over already returns what its end left behind.
    ///
    /// # Cancel safety
    /// Once polled, the close goes on even if the future is dropped.
    pub async fn close(&self, deadline: Duration) -> CloseReport {
        let limit = deadline.min(LONGEST_CLOSE);
        let asked = self.ask(|reply| Command::Close { limit, reply });
        match tokio::time::timeout(limit, asked).await {
            Ok(Ok(report)) => report,
            Ok(Err(_)) | Err(_) => self.last_report(),
        }
    }

    /// What its end left behind, as far as it is known: of one that runs, or whose task died, no more than its counts.
    pub(crate) fn last_report(&self) -> CloseReport {
        let SubscriptionStatus { counts, report, .. } = self.status();
        report.unwrap_or(CloseReport {
            handled: counts.handled,
            dead_lettered: counts.dead_lettered,
            unclosed: 1,
            ..CloseReport::default()
        })
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, SubscriptionError> {
        let (reply, answer) = oneshot::channel();
        let is_sent = self.0.commands.send(command(reply)).await.is_ok();
        match answer.await {
            Ok(answer) if is_sent => Ok(answer),
            _ => Err(self.over().await),
        }
    }

    /// Why it can't do what was asked. Its last status is published right after its commands are refused.
    async fn over(&self) -> SubscriptionError {
        let mut status = self.0.status.clone();
        let last = status.wait_for(|status| status.state.is_over()).await;
        match last.as_deref().map(|status| &status.state) {
            Ok(SubscriptionState::Stopped(reason)) => SubscriptionError::Stopped(reason.clone()),
            _ => SubscriptionError::Closed,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.commands.is_closed()
    }
}

/// The events of a subscription, in order. One that reads too slowly misses the oldest and is told how many.
#[derive(Debug)]
pub struct SubscriptionEvents(Option<broadcast::Receiver<SubscriptionEvent>>);

impl SubscriptionEvents {
    /// The next event; `None` when the subscription is over.
    ///
    /// # Cancel safety
    /// No event is lost when this is dropped.
    pub async fn next(&mut self) -> Option<SubscriptionEvent> {
        loop {
            match self.0.as_mut()?.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "events of a subscription were missed: they are read too slowly");
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}
