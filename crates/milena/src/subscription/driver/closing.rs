//! How a subscription ends: what was begun is finished, committed, and the group is left, all by a deadline. From its
//! first moment nothing new is begun, whatever is assigned or asked for meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use milena_client::{TimeSource, TopicPartition};
use tokio::sync::{mpsc, oneshot};

use super::committing::by_topic;
use super::{Driver, describe};
use crate::subscription::background::{Background, Commit};
use crate::subscription::handle::{CloseReport, Command, LONGEST_CLOSE, SubscriptionError};
use crate::subscription::status::{StopReason, SubscriptionEvent, SubscriptionState, SubscriptionStatus};

/// The part of a close's time that is for finishing; what follows is for committing and leaving the group.
const FINISHING_SHARE: f64 = 0.8;
/// The part of a close's time by which all is over, so that whoever waits hears of it in time.
const WORKING_SHARE: f64 = 0.95;

/// A subscription that is on its way out.
pub(super) struct Closing {
    /// When finishing must be over.
    pub(super) finish_by: Instant,
    /// When everything must be over.
    deadline: Instant,
    reason: Option<StopReason>,
    replies: Vec<oneshot::Sender<CloseReport>>,
}

impl Closing {
    fn new(now: Instant, limit: Duration, reason: Option<StopReason>) -> Self {
        let limit = limit.min(LONGEST_CLOSE);
        let (finish_by, deadline) = (now + limit.mul_f64(FINISHING_SHARE), now + limit.mul_f64(WORKING_SHARE));
        Self { finish_by, deadline, reason, replies: Vec::new() }
    }

    /// Of several closes the nearest deadline holds.
    fn bring_forward(&mut self, now: Instant, limit: Duration) {
        let other = Self::new(now, limit, None);
        self.finish_by = self.finish_by.min(other.finish_by);
        self.deadline = self.deadline.min(other.deadline);
    }

    /// Does `work` within `share` of the time that is left, also when another close leaves less meanwhile. `None` if it
    /// was not done by then. Whatever else is asked finds the subscription over.
    async fn within<F: Future>(
        &mut self,
        share: f64,
        clock: &TimeSource,
        commands: &mut mpsc::Receiver<Command>,
        work: F,
    ) -> Option<F::Output> {
        let begun = clock.now();
        tokio::pin!(work);
        loop {
            let by = begun + self.deadline.saturating_duration_since(begun).mul_f64(share);
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                Some(command) = commands.recv() => {
                    if let Command::Close { limit, reply } = command {
                        self.bring_forward(clock.now(), limit);
                        self.replies.push(reply);
                    }
                }
                () = tokio::time::sleep_until(by.into()) => return None,
            }
        }
    }
}

impl Driver {
    /// Begins to close, or brings the close forward that has begun.
    pub(super) fn begin_close(
        &mut self,
        limit: Duration,
        reason: Option<StopReason>,
        reply: Option<oneshot::Sender<CloseReport>>,
    ) {
        let now = self.now();
        if let Some(closing) = &mut self.closing {
            closing.bring_forward(now, limit);
            closing.replies.extend(reply);
            return;
        }
        let closing = self.closing.insert(Closing::new(now, limit, reason));
        closing.replies.extend(reply);
        self.begin_nothing_more();
    }

    fn begin_nothing_more(&mut self) {
        self.engine.drain_all();
        self.starting.clear();
        for partition in std::mem::take(&mut self.unpositioned) {
            let _ = self.consumer.pause(&partition);
        }
        for seek in std::mem::take(&mut self.seeks) {
            seek.answer(Err(SubscriptionError::Closed));
        }
    }

    /// Whether nothing is left to finish, or no time to finish it. A revocation that is ripe is then being committed.
    pub(super) fn is_finished(&self, closing: &Closing) -> bool {
        self.now() >= closing.finish_by || self.engine.are_all_drained()
    }

    /// Commits, leaves the group and reports. The engine has finished, or has no time left to.
    pub(super) async fn end(mut self) {
        let Some(mut closing) = self.closing.take() else { return };
        let clock = self.client.time().clone();
        // Listened to until the last: a close may still be brought forward.
        let mut commands = std::mem::replace(&mut self.commands, mpsc::channel(1).1);
        let counts = self.engine.counts();
        let mut report =
            CloseReport { handled: counts.handled, dead_lettered: counts.dead_lettered, ..CloseReport::default() };
        let mut uncommitted: BTreeMap<TopicPartition, i64> = self.engine.uncommitted_offsets().into_iter().collect();
        report.left = self.engine.abort();

        // At the deadline, what is not acknowledged counts as uncommitted.
        let rest = self.commit_the_rest(&mut uncommitted);
        let _ = closing.within(0.5, &clock, &mut commands, rest).await;
        report.uncommitted = uncommitted.len();
        self.revocations.clear();
        let left = closing.deadline.saturating_duration_since(clock.now());
        let leaving = closing.within(1.0, &clock, &mut commands, self.consumer.close(left)).await;
        let left = match leaving {
            Some(left) => left,
            // It knows of the deadline that held before, and ends at once by this one.
            None => self.consumer.close(Duration::ZERO).await,
        };
        if let Err(error) = left {
            tracing::warn!(group = self.settings.group, error = describe(&error), "the group was not left in order");
        }

        let state = match closing.reason {
            Some(reason) => {
                self.engine.tell(SubscriptionEvent::Stopped { reason: reason.clone() });
                SubscriptionState::Stopped(reason)
            }
            None => SubscriptionState::Closed,
        };
        let Self { status, consumer, engine, background, .. } = self;
        drop((consumer, engine, background));
        status.send_replace(SubscriptionStatus { state, counts, report: Some(report), ..Default::default() });
        // From here on a handle finds the subscription over.
        drop(commands);
        for reply in closing.replies {
            let _ = reply.send(report);
        }
    }

    /// Waits for the commits that are out, and commits of each topic what its own did not cover. Nothing else that is
    /// under way matters now.
    async fn commit_the_rest(&mut self, uncommitted: &mut BTreeMap<TopicPartition, i64>) {
        let mut unsent: BTreeSet<Arc<str>> = uncommitted.keys().map(|partition| Arc::clone(&partition.topic)).collect();
        loop {
            let out = &self.commits.out;
            let free: BTreeSet<Arc<str>> = unsent.extract_if(.., |topic| !out.contains_key(topic)).collect();
            let rest = uncommitted.iter().filter(|(partition, _)| free.contains(&partition.topic));
            for (topic, offsets) in by_topic(rest.map(|(partition, offset)| (partition.clone(), *offset))) {
                self.spawn_commit(topic, offsets, None);
            }
            if self.commits.out.is_empty() {
                return;
            }
            let Some(done) = self.background.join_next().await else { return };
            let Ok(Background::Committed(Commit { topic, committed, stale, .. })) = done else { continue };
            self.commits.out.remove(&topic);
            for (partition, offset, _) in &committed {
                uncommitted.retain(|it, at| !(it == partition && at == offset));
            }
            // Whoever has the partition by now decides what is committed.
            for partition in &stale {
                uncommitted.remove(partition);
            }
        }
    }
}
