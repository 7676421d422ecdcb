//! Commits on their way: what the application asked for and, with `commit_on_drop`, what it has dropped, one after another
//! through the lane. What an answer says of the group goes to the membership.

use std::sync::Arc;
use std::time::Instant;

use milena_core::consumer::TopicPartition;
use milena_core::group::commit_lane::{CommitLane, CommitReply, OffsetToCommit};
use milena_protocol::ErrorCode;

use super::{Answer, Driver};
use crate::consumer::offsets::{self, Committer};

impl Driver {
    pub(super) fn drive_commits(&mut self, now: Instant) {
        self.settle_commits();
        self.commit_processed(now);
        let (may_send, committer) = match &self.membership {
            None => (false, None),
            Some(membership) => {
                let (member_id, generation) = membership.generation().unwrap_or_else(|| (Arc::from(""), -1));
                let instance_id = (generation >= 0).then(|| membership.instance_id().cloned()).flatten();
                (membership.may_commit(), Some(Committer { member_id, generation, instance_id }))
            }
        };
        let request = {
            let state = self.shared.state();
            self.lane.poll_request(now, may_send, |partition, epoch| state.positions.holds(partition, epoch))
        };
        self.settle_commits();
        let (Some(request), Some(committer)) = (request, committer) else { return };
        let shared = Arc::clone(&self.shared);
        self.spawn("commit", async move {
            let group = shared.config.group.as_deref().unwrap_or_default();
            let reply = offsets::commit(&shared.client, group, &committer, &request.offsets).await;
            Answer::Commit(request.ticket, committer.generation, reply)
        });
    }

    /// With `commit_on_drop`: what the application has dropped since, unless a commit is under way.
    fn commit_processed(&mut self, now: Instant) {
        if self.lane.is_clear() {
            // Of a partition that the coordinator does not know, one commit at a time is enough.
            self.commit_dropped(now, |lane, partition| !lane.is_about(partition));
        }
    }

    /// With `commit_on_drop`: what the application has dropped since of these partitions.
    pub(super) fn commit_dropped(&mut self, now: Instant, of: impl Fn(&CommitLane, &TopicPartition) -> bool) {
        if !self.shared.config.commit_on_drop {
            return;
        }
        let lane = &self.lane;
        let offsets: Vec<OffsetToCommit> = self
            .shared
            .state()
            .processed
            .take(|partition| of(lane, partition))
            .into_iter()
            .map(|(partition, epoch, offset, leader_epoch)| OffsetToCommit {
                partition,
                offset,
                leader_epoch,
                metadata: None,
                epoch,
            })
            .collect();
        if !offsets.is_empty() {
            self.lane.submit(now, offsets);
        }
    }

    pub(super) fn settle_commits(&mut self) {
        while let Some((ticket, result)) = self.lane.poll_done() {
            match self.commits.remove(&ticket) {
                // Nobody may be waiting any more.
                Some(done) => drop(done.send(result)),
                None => {
                    for (partition, error) in result.into_iter().filter_map(|(tp, result)| Some((tp, result.err()?))) {
                        tracing::warn!(%partition, %error, "commit on drop failed: the records may be read again");
                    }
                }
            }
        }
    }

    pub(super) fn take_commit(&mut self, now: Instant, ticket: u64, generation: i32, reply: CommitReply) {
        let membership = self.membership.as_ref();
        let superseded = membership.is_some_and(|membership| membership.is_superseded(generation));
        let error = self.lane.handle_reply(now, ticket, reply, superseded);
        let Some(error) = error else { return };
        if matches!(
            error,
            ErrorCode::NOT_COORDINATOR | ErrorCode::COORDINATOR_NOT_AVAILABLE | ErrorCode::REQUEST_TIMED_OUT
        ) {
            self.forget_coordinator();
        }
        if let Some(membership) = &mut self.membership {
            membership.handle_commit_error(now, generation, error);
        }
    }
}
