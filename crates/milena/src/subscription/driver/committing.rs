//! Committing, and giving partitions up once that is done.
//!
//! One commit is out at a time, so that none can overtake another: the next is put together from what is finished when
//! the one before has been answered. A revocation waits for the commit that is out, then commits, then gives up; an
//! answer that comes after its partition was lost, and perhaps assigned anew, changes nothing.

use std::time::{Duration, Instant};

use milena_client::TopicPartition;
use milena_client::consumer::{AssignmentEpoch, RevocationGuard};

use super::Driver;
use super::reporting::names;
use crate::subscription::background::{Commit, commit};
use crate::subscription::status::SubscriptionEvent;

/// Beyond this an interval is as good as for ever, and adding it to a time can't overflow.
const LONGEST_INTERVAL: Duration = Duration::from_secs(365 * 24 * 3_600);

/// The part of a rebalance's time that is for finishing; the rest is for the commit.
const FINISHING_SHARE: f64 = 0.9;

/// What is known of commits.
#[derive(Default)]
pub(super) struct Commits {
    /// When what is handled is committed, at the latest.
    pub(super) at: Option<Instant>,
    pub(super) is_out: bool,
}

/// Partitions that are being given up; dropping the guard gives them up.
pub(super) struct Revocation {
    number: u64,
    /// Those of the guard's partitions that are not lost meanwhile.
    partitions: Vec<(TopicPartition, Option<AssignmentEpoch>)>,
    deadline: Instant,
    _guard: RevocationGuard,
}

impl Driver {
    pub(super) fn handle_revoked(&mut self, guard: RevocationGuard) {
        for partition in guard.partitions() {
            self.engine.drain(partition);
        }
        let now = self.now();
        let allowed = guard.deadline().saturating_duration_since(now).mul_f64(FINISHING_SHARE);
        let deadline = now + allowed.min(self.settings.revoke_timeout);
        let epoch_of = |partition: &TopicPartition| (partition.clone(), self.held.get(partition).copied());
        let partitions = guard.partitions().iter().map(epoch_of).collect();
        let number = self.next_number();
        self.revocations.push(Revocation { number, partitions, deadline, _guard: guard });
    }

    /// Lost partitions need not be given up any more.
    pub(super) fn forget_revoked(&mut self, lost: &[TopicPartition]) {
        self.revocations.retain_mut(|revocation| {
            revocation.partitions.retain(|(partition, _)| !lost.contains(partition));
            !revocation.partitions.is_empty()
        });
    }

    /// When something has to be committed, if nothing else happens.
    pub(super) fn next_commit(&self) -> Option<Instant> {
        if self.commits.is_out {
            return None;
        }
        self.revocations.iter().map(|revocation| revocation.deadline).chain(self.commits.at).min()
    }

    pub(super) fn drive_commits(&mut self, now: Instant) {
        if self.commits.is_out {
            return;
        }
        let engine = &self.engine;
        let is_ripe = |revocation: &&Revocation| {
            now >= revocation.deadline
                || revocation.partitions.iter().all(|(partition, _)| engine.is_drained(partition))
        };
        if let Some(revocation) = self.revocations.iter().find(is_ripe) {
            let is_of_it = |partition: &TopicPartition| revocation.partitions.iter().any(|(it, _)| it == partition);
            let mut offsets = self.engine.uncommitted_offsets();
            offsets.retain(|(partition, _)| is_of_it(partition));
            let number = revocation.number;
            return self.spawn_commit(offsets, Some(number));
        }
        if !self.engine.is_dirty() {
            self.commits.at = None;
            return;
        }
        let interval = self.settings.commit_interval.min(LONGEST_INTERVAL);
        let commit_at = *self.commits.at.get_or_insert(now + interval);
        if now < commit_at && self.engine.uncommitted() < self.settings.commit_records {
            return;
        }
        self.commits.at = None;
        self.engine.begin_commit();
        self.spawn_commit(self.engine.uncommitted_offsets(), None);
    }

    pub(super) fn spawn_commit(&mut self, offsets: Vec<(TopicPartition, i64)>, revocation: Option<u64>) {
        debug_assert!(!self.commits.is_out, "commits are sent one after the other");
        let held = &self.held;
        let offsets = offsets
            .into_iter()
            .filter_map(|(partition, offset)| held.get(&partition).map(|epoch| (partition, offset, *epoch)))
            .collect();
        self.commits.is_out = true;
        self.background.spawn(commit(self.consumer.clone(), offsets, revocation));
    }

    pub(super) fn handle_committed(&mut self, commit: Commit) {
        self.commits.is_out = false;
        for (partition, offset, epoch) in &commit.committed {
            // Of an assignment that is over, it says nothing about the one that followed.
            if self.held.get(partition) == Some(epoch) {
                self.engine.committed(partition, *offset);
                self.starting.remove(partition);
            }
        }
        if let Some(error) = commit.error {
            let is_new = self.alarms.commit.replace(error.clone()).is_none();
            if is_new {
                self.engine.tell(SubscriptionEvent::CommitFailed { error });
            }
        } else if !commit.committed.is_empty() && self.alarms.commit.take().is_some() {
            self.engine.tell(SubscriptionEvent::CommitRecovered);
        }
        if let Some(number) = commit.revocation {
            self.give_up(number);
        }
    }

    /// Gives revoked partitions up: their commit has been answered.
    fn give_up(&mut self, number: u64) {
        let Some(index) = self.revocations.iter().position(|revocation| revocation.number == number) else { return };
        let revocation = self.revocations.remove(index);
        let (mut given_up, mut unfinished) = (Vec::new(), 0);
        for (partition, epoch) in &revocation.partitions {
            // Assigned anew since: that is another matter.
            if self.held.get(partition).copied() == *epoch {
                unfinished += self.forget(partition);
                given_up.push(partition);
            }
        }
        if !given_up.is_empty() {
            self.engine.tell(SubscriptionEvent::Revoked { partitions: names(given_up), unfinished });
        }
    }
}
