//! How a subscription ends: what was begun is finished, committed, and the group is left, all by a deadline.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Driver, describe};
use crate::subscription::background::Background;
use crate::subscription::handle::CloseReport;
use crate::subscription::status::{StopReason, SubscriptionEvent, SubscriptionState, SubscriptionStatus};

/// The part of a close's time that is for finishing; the rest is for committing and leaving the group.
const FINISHING_SHARE: f64 = 0.8;

/// A subscription that is on its way out.
pub(super) struct Closing {
    /// When finishing must be over.
    pub(super) finish_by: Instant,
    /// When everything must be over.
    deadline: Instant,
    reason: Option<StopReason>,
    replies: Vec<oneshot::Sender<CloseReport>>,
}

impl Driver {
    pub(super) fn begin_close(
        &mut self,
        limit: Duration,
        reason: Option<StopReason>,
        reply: Option<oneshot::Sender<CloseReport>>,
    ) {
        let now = self.now();
        let closing = self.closing.get_or_insert_with(|| {
            self.engine.drain_all();
            let limit = limit.min(Duration::from_secs(24 * 3_600));
            let finish_by = now + limit.mul_f64(FINISHING_SHARE);
            Closing { finish_by, deadline: now + limit, reason, replies: Vec::new() }
        });
        closing.replies.extend(reply);
    }

    pub(super) fn is_finished(&self, closing: &Closing) -> bool {
        self.now() >= closing.finish_by
            || (self.engine.are_all_drained() && self.revocations.iter().all(|revocation| revocation.is_committing))
    }

    /// Commits, leaves the group and reports. The engine has finished, or has no time left to.
    pub(super) async fn end(mut self) {
        let Some(closing) = self.closing.take() else { return };
        let left_until = |deadline: Instant, now: Instant| deadline.saturating_duration_since(now);
        let offsets = self.engine.uncommitted_offsets();
        let counts = self.engine.counts();
        let mut report =
            CloseReport { handled: counts.handled, dead_lettered: counts.dead_lettered, ..CloseReport::default() };
        report.left = self.engine.abort();

        // Commits that are under way come first: the lane keeps their order.
        let partitions = offsets.len();
        self.spawn_commit(offsets, Vec::new());
        let commits = async {
            let mut uncommitted = BTreeSet::new();
            while let Some(done) = self.background.join_next().await {
                if let Ok(Background::Committed { committed, refused, .. }) = done {
                    uncommitted.extend(refused);
                    uncommitted.retain(|partition| !committed.iter().any(|(it, _)| it == partition));
                }
            }
            uncommitted.len()
        };
        let left = left_until(closing.deadline, self.client.time().now());
        report.uncommitted = timeout(left.mul_f64(0.5), commits).await.unwrap_or(partitions);
        self.revocations.clear();
        let left = left_until(closing.deadline, self.client.time().now());
        if let Err(error) = self.consumer.close(left).await {
            tracing::warn!(group = self.settings.group, error = describe(&error), "the group was not left in order");
        }

        let state = match closing.reason {
            Some(reason) => {
                self.engine.tell(SubscriptionEvent::Stopped { reason: reason.clone() });
                SubscriptionState::Stopped(reason)
            }
            None => SubscriptionState::Closed,
        };
        let Self { status, commands, consumer, engine, background, .. } = self;
        drop((consumer, engine, background));
        status.send_replace(SubscriptionStatus { state, counts, ..SubscriptionStatus::default() });
        // From here on a handle finds the subscription over.
        drop(commands);
        for reply in closing.replies {
            let _ = reply.send(report);
        }
    }
}
