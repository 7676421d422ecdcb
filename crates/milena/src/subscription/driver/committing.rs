//! Committing, and giving partitions up once that is done.
//!
//! Each topic is committed for itself, so that one that was deleted, which is asked about for a while, holds no other
//! up. Of a topic one commit is out at a time, so that none can overtake another: the next is put together from what is
//! finished when the one before has been answered. A revocation waits for the commits of its topics that are out, then
//! commits, then gives up; an answer that comes after its partition was lost, and perhaps assigned anew, changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
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

/// Offsets to commit, by topic.
type ByTopic = BTreeMap<Arc<str>, Vec<(TopicPartition, i64)>>;

/// What is known of commits.
#[derive(Default)]
pub(super) struct Commits {
    /// When what is handled is committed, at the latest.
    pub(super) at: Option<Instant>,
    /// Topics with a commit under way, and whether another one of theirs came due meanwhile.
    pub(super) out: BTreeMap<Arc<str>, bool>,
    /// Topics whose last commit failed, and why.
    failing: BTreeMap<Arc<str>, String>,
}

/// Partitions that are being given up; dropping the guard gives them up.
pub(super) struct Revocation {
    number: u64,
    /// Those of the guard's partitions that are not lost meanwhile.
    partitions: Vec<(TopicPartition, Option<AssignmentEpoch>)>,
    deadline: Instant,
    /// Topics whose commit waits for the one that is out. `None` before all is finished.
    unsent: Option<BTreeSet<Arc<str>>>,
    /// Commits of it that are under way.
    unanswered: usize,
    _guard: RevocationGuard,
}

pub(super) fn by_topic(offsets: impl IntoIterator<Item = (TopicPartition, i64)>) -> ByTopic {
    let mut topics = ByTopic::new();
    for (partition, offset) in offsets {
        topics.entry(Arc::clone(&partition.topic)).or_default().push((partition, offset));
    }
    topics
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
        let (unsent, unanswered) = (None, 0);
        self.revocations.push(Revocation { number, partitions, deadline, unsent, unanswered, _guard: guard });
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
        let waiting = self.revocations.iter().filter(|revocation| revocation.unsent.is_none());
        let at = self.commits.at.filter(|_| self.may_commit());
        waiting.map(|revocation| revocation.deadline).chain(at).min()
    }

    /// Whether something is finished of a topic that has no commit out.
    fn may_commit(&self) -> bool {
        let out = &self.commits.out;
        let is_free = |(partition, _): &(TopicPartition, i64)| !out.contains_key(&partition.topic);
        self.engine.is_dirty() && (out.is_empty() || self.engine.uncommitted_offsets().iter().any(is_free))
    }

    pub(super) fn drive_commits(&mut self, now: Instant) {
        self.commit_revoked(now);
        if !self.may_commit() {
            self.commits.at = self.commits.at.filter(|_| self.engine.is_dirty());
            return;
        }
        let interval = self.settings.commit_interval.min(LONGEST_INTERVAL);
        let commit_at = *self.commits.at.get_or_insert(now + interval);
        if now < commit_at && self.engine.uncommitted() < self.settings.commit_records {
            return;
        }
        self.commits.at = None;
        self.engine.begin_commit();
        for (topic, offsets) in by_topic(self.engine.uncommitted_offsets()) {
            match self.commits.out.get_mut(&topic) {
                Some(is_due) => *is_due = true,
                None => self.spawn_commit(topic, offsets, None),
            }
        }
    }

    /// Commits what is to be given up, topic by topic as the commits that are out are answered.
    fn commit_revoked(&mut self, now: Instant) {
        if self.revocations.is_empty() {
            return;
        }
        let mut to_send = Vec::new();
        for revocation in &mut self.revocations {
            let partitions = || revocation.partitions.iter().map(|(partition, _)| partition);
            if revocation.unsent.is_none() {
                if now < revocation.deadline && !partitions().all(|partition| self.engine.is_drained(partition)) {
                    continue;
                }
                revocation.unsent = Some(partitions().map(|partition| Arc::clone(&partition.topic)).collect());
            }
            let free = |topic: &Arc<str>| !self.commits.out.contains_key(topic);
            let Some(unsent) = &mut revocation.unsent else { continue };
            let ready: BTreeSet<Arc<str>> = unsent.extract_if(.., |topic| free(topic)).collect();
            to_send.extend((!ready.is_empty()).then_some((revocation.number, ready)));
        }
        for (number, topics) in to_send {
            let Some(index) = self.revocations.iter().position(|revocation| revocation.number == number) else {
                continue;
            };
            let partitions = &self.revocations[index].partitions;
            let mut offsets = self.engine.uncommitted_offsets();
            offsets.retain(|(partition, _)| {
                topics.contains(&partition.topic) && partitions.iter().any(|(it, _)| it == partition)
            });
            for (topic, offsets) in by_topic(offsets) {
                self.revocations[index].unanswered += 1;
                self.spawn_commit(topic, offsets, Some(number));
            }
        }
        self.give_up_committed();
    }

    /// Of a topic that has no commit out.
    pub(super) fn spawn_commit(
        &mut self,
        topic: Arc<str>,
        offsets: Vec<(TopicPartition, i64)>,
        revocation: Option<u64>,
    ) {
        let held = &self.held;
        let offsets = offsets
            .into_iter()
            .filter_map(|(partition, offset)| held.get(&partition).map(|epoch| (partition, offset, *epoch)))
            .collect();
        let earlier = self.commits.out.insert(Arc::clone(&topic), false);
        debug_assert!(earlier.is_none(), "commits of a topic are sent one after the other");
        self.background.spawn(commit(self.consumer.clone(), topic, offsets, revocation));
    }

    pub(super) fn handle_committed(&mut self, commit: Commit) {
        let is_due = self.commits.out.remove(&commit.topic).unwrap_or_default();
        if is_due && commit.error.is_none() {
            self.commits.at = Some(self.now());
        }
        for (partition, offset, epoch) in &commit.committed {
            // Of an assignment that is over, it says nothing about the one that followed.
            if self.held.get(partition) == Some(epoch) {
                self.engine.committed(partition, *offset);
                self.starting.remove(partition);
            }
        }
        match commit.error {
            Some(error) => drop(self.commits.failing.insert(commit.topic, error)),
            None if commit.committed.is_empty() => {}
            None => drop(self.commits.failing.remove(&commit.topic)),
        }
        if let Some(revocation) =
            self.revocations.iter_mut().find(|revocation| Some(revocation.number) == commit.revocation)
        {
            revocation.unanswered = revocation.unanswered.saturating_sub(1);
        }
        self.give_up_committed();
        self.follow_failing();
    }

    /// One alarm for all topics. One that nothing is held of any more fails no more.
    fn follow_failing(&mut self) {
        let Self { commits, held, alarms, engine, .. } = self;
        commits.failing.retain(|topic, _| held.keys().any(|partition| partition.topic == *topic));
        let was_raised = alarms.commit.is_some();
        alarms.commit = commits.failing.values().next().cloned();
        match &alarms.commit {
            Some(error) if !was_raised => engine.tell(SubscriptionEvent::CommitFailed { error: error.clone() }),
            None if was_raised => engine.tell(SubscriptionEvent::CommitRecovered),
            _ => {}
        }
    }

    fn give_up_committed(&mut self) {
        let is_settled = |revocation: &Revocation| {
            revocation.unanswered == 0 && revocation.unsent.as_ref().is_some_and(BTreeSet::is_empty)
        };
        while let Some(index) = self.revocations.iter().position(is_settled) {
            let revocation = self.revocations.remove(index);
            self.give_up(&revocation);
        }
    }

    /// Gives revoked partitions up: their commits have been answered.
    fn give_up(&mut self, revocation: &Revocation) {
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
