//! The one task of a subscription: owns its consumer and its engine, and carries events between them.
//!
//! Each turn takes in what has happened, lets the engine start handlers, tells the consumer which partitions to pause,
//! commits what is due, and then waits for the next thing to happen. Nothing that needs a broker's answer is awaited in
//! the turn itself: it runs beside it in `background`, so handlers, heartbeats and revocations never wait for it.
//! Closing and seeking, which take several turns, have files of their own.

mod closing;
mod seeking;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;
use std::time::{Duration, Instant};

use milena_client::consumer::{AssignmentEpoch, Consumer, ConsumerEvent, RecordSet, RevocationGuard};
use milena_client::{Client, TopicPartition};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use self::closing::Closing;
use self::seeking::Seek;
use super::background::{Background, commit, find_foreign_members};
use super::consumer::{is_fatal, raw_record};
use super::engine::Engine;
use super::handle::{Command, SubscriptionError};
use super::status::{StopReason, SubscriptionEvent, SubscriptionState, SubscriptionStatus};
use crate::bus::Inner;

/// How long a subscription that nobody closes may take to end: its bus was dropped, or it stops by itself.
const UNASKED_CLOSE: Duration = Duration::from_secs(30);

/// Completions taken in one turn before the consumer is looked at again.
const MOST_COMPLETIONS: usize = 1_024;

/// How often is looked whether a partition that was just assigned has its position.
const POSITION_CHECK: Duration = Duration::from_millis(5);

/// How a driver works.
pub(super) struct DriverSettings {
    pub(super) topics: Vec<String>,
    pub(super) group: String,
    /// The bus, for as long as it is there: it knows which topics it reads in this group by other subscriptions.
    pub(super) bus: Weak<Inner>,
    pub(super) commit_interval: Duration,
    pub(super) commit_records: u64,
    /// How long a rebalance waits for what was begun, at most.
    pub(super) revoke_timeout: Duration,
}

pub(super) struct Driver {
    settings: DriverSettings,
    client: Client,
    consumer: Consumer,
    engine: Engine,
    commands: mpsc::Receiver<Command>,
    status: watch::Sender<SubscriptionStatus>,
    background: JoinSet<Background>,
    /// The client's epoch of each partition that is held: commits name it.
    held: BTreeMap<TopicPartition, AssignmentEpoch>,
    /// Partitions whose first offset is not known yet.
    unpositioned: BTreeSet<TopicPartition>,
    revocations: Vec<Revocation>,
    seeks: Vec<Seek>,
    /// When what is handled is committed, at the latest.
    commit_at: Option<Instant>,
    is_committing: bool,
    is_assigned: bool,
    is_paused: bool,
    is_full: bool,
    closing: Option<Closing>,
}

/// Partitions that are being given up; dropping the guard gives them up.
struct Revocation {
    guard: RevocationGuard,
    deadline: Instant,
    is_committing: bool,
}

impl Driver {
    pub(super) fn new(
        settings: DriverSettings,
        client: Client,
        consumer: Consumer,
        engine: Engine,
        commands: mpsc::Receiver<Command>,
        status: watch::Sender<SubscriptionStatus>,
    ) -> Self {
        Self {
            settings,
            client,
            consumer,
            engine,
            commands,
            status,
            background: JoinSet::new(),
            held: BTreeMap::new(),
            unpositioned: BTreeSet::new(),
            revocations: Vec::new(),
            seeks: Vec::new(),
            commit_at: None,
            is_committing: false,
            is_assigned: false,
            is_paused: false,
            is_full: false,
            closing: None,
        }
    }

    /// Runs until closed, stopped, or abandoned by every handle.
    pub(super) async fn run(mut self) {
        loop {
            self.turn();
            if self.closing.as_ref().is_some_and(|closing| self.is_finished(closing)) {
                return self.end().await;
            }
            let wake = self.next_timeout();
            tokio::select! {
                biased;
                Some(done) = self.background.join_next(), if !self.background.is_empty() => match done {
                    Ok(done) => self.handle_background(done),
                    Err(error) => tracing::error!(%error, "a request of a subscription ended without a result"),
                },
                command = self.commands.recv(), if !self.commands.is_closed() || !self.commands.is_empty() => {
                    match command {
                        Some(command) => self.handle_command(command),
                        None => self.begin_close(UNASKED_CLOSE, None, None),
                    }
                }
                event = self.consumer.next() => match event {
                    Ok(event) => self.handle_event(event),
                    Err(error) if is_fatal(&error) => {
                        let reason = StopReason::Consumer { message: describe(&error) };
                        self.begin_close(UNASKED_CLOSE, Some(reason), None);
                    }
                    Err(error) => tracing::warn!(group = self.settings.group, error = describe(&error), "consuming goes on after an error"),
                },
                finished = self.engine.finished() => {
                    let now = self.now();
                    self.engine.handle_finished(now, finished);
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    /// Everything that follows from what has happened and needs no waiting.
    fn turn(&mut self) {
        let now = self.now();
        for _ in 0..MOST_COMPLETIONS {
            let Some(finished) = self.engine.try_finished() else { break };
            self.engine.handle_finished(now, finished);
        }
        if let Some(reason) = self.engine.stop_reason().cloned()
            && self.closing.is_none()
        {
            self.begin_close(UNASKED_CLOSE, Some(reason), None);
        }
        self.take_up_positioned();
        self.engine.dispatch(now);
        self.apply_flow();
        self.carry_out_seeks(now);
        self.carry_on_revocations(now);
        self.commit_if_due(now);
        self.publish_status();
    }

    fn now(&self) -> Instant {
        self.client.time().now()
    }

    fn next_timeout(&self) -> Instant {
        let far = self.now() + Duration::from_secs(3_600);
        let revocation = self.revocations.iter().filter(|revocation| !revocation.is_committing).map(|it| it.deadline);
        let closing = self.closing.iter().map(|closing| closing.finish_by);
        let commit = self.commit_at.filter(|_| !self.is_committing);
        // The consumer does not say when it has found a position.
        let position = (!self.unpositioned.is_empty()).then(|| self.now() + POSITION_CHECK);
        revocation
            .chain(closing)
            .chain(commit)
            .chain(position)
            .chain(self.engine.next_timeout())
            .min()
            .unwrap_or(far)
            .min(far)
    }

    fn handle_event(&mut self, event: ConsumerEvent) {
        match event {
            ConsumerEvent::Records(set) => self.handle_records(&set),
            ConsumerEvent::Assigned(assignment) => {
                let partitions = assignment.partitions().to_vec();
                let epoch = assignment.epoch();
                for partition in &partitions {
                    // What is still out from an earlier assignment must not be committed in this one's name.
                    self.engine.remove(partition);
                    self.held.insert(partition.clone(), epoch);
                    self.unpositioned.insert(partition.clone());
                }
                self.is_assigned = true;
                self.background.spawn(find_foreign_members(
                    self.client.clone(),
                    self.settings.group.clone(),
                    self.settings.bus.clone(),
                ));
                self.engine.tell(SubscriptionEvent::Assigned { partitions: names(&partitions) });
            }
            ConsumerEvent::Revoked(guard) => {
                for partition in guard.partitions() {
                    self.engine.drain(partition);
                }
                // A tenth of the time that the group allows is kept for the commit.
                let now = self.now();
                let allowed = guard.deadline().saturating_duration_since(now).mul_f64(0.9);
                let deadline = now + allowed.min(self.settings.revoke_timeout);
                self.revocations.push(Revocation { guard, deadline, is_committing: false });
            }
            ConsumerEvent::Lost(partitions) => {
                for partition in &partitions {
                    self.forget(partition);
                }
                self.engine.tell(SubscriptionEvent::Lost { partitions: names(&partitions) });
            }
            // The client may learn to tell more; none of it can be about records.
            _ => {}
        }
    }

    /// Begins partitions whose first offset the consumer has found out.
    fn take_up_positioned(&mut self) {
        let (consumer, engine) = (&self.consumer, &mut self.engine);
        self.unpositioned.retain(|partition| match consumer.position(partition) {
            Some(position) => {
                engine.assign(partition.clone(), position, position);
                false
            }
            None => true,
        });
    }

    fn handle_records(&mut self, set: &RecordSet) {
        let partition = set.topic_partition();
        // A set of an assignment that is over: whoever holds the partition now reads it again.
        if self.held.get(partition) != Some(&set.epoch()) {
            return;
        }
        let mut records = set.iter().map(|record| raw_record(&partition.topic, &record)).peekable();
        if self.unpositioned.remove(partition)
            && let Some(first) = records.peek()
        {
            self.engine.assign(partition.clone(), first.offset, first.offset);
        }
        self.engine.take_in(partition, records, set.next_offset());
    }

    fn forget(&mut self, partition: &TopicPartition) -> usize {
        self.held.remove(partition);
        self.unpositioned.remove(partition);
        for seek in self.seeks.extract_if(.., |seek| seek.partition == *partition) {
            let (topic, partition) = (partition.topic.to_string(), partition.partition);
            let _ = seek.reply.send(Err(SubscriptionError::NotAssigned { topic, partition }));
        }
        self.engine.remove(partition)
    }

    fn handle_command(&mut self, command: Command) {
        // A reply that nobody waits for any more is dropped.
        match command {
            Command::Pause(reply) => {
                self.is_paused = true;
                self.engine.pause();
                let _ = reply.send(());
            }
            Command::Resume(reply) => {
                self.is_paused = false;
                self.engine.resume();
                let _ = reply.send(());
            }
            Command::SetConcurrency(handlers, reply) => {
                self.engine.set_concurrency(handlers.max(1));
                let _ = reply.send(());
            }
            Command::Seek { topic, partition, to, reply } => self.begin_seek(topic, partition, to, reply),
            Command::Close { deadline, reply } => self.begin_close(deadline, None, Some(reply)),
        }
    }

    fn carry_on_revocations(&mut self, now: Instant) {
        for index in 0..self.revocations.len() {
            let revocation = &mut self.revocations[index];
            let partitions = revocation.guard.partitions().to_vec();
            let is_drained = partitions.iter().all(|partition| self.engine.is_drained(partition));
            if revocation.is_committing || !(is_drained || now >= revocation.deadline) {
                continue;
            }
            revocation.is_committing = true;
            let offsets = self.engine.uncommitted_offsets();
            let offsets = offsets.into_iter().filter(|(partition, _)| partitions.contains(partition)).collect();
            self.spawn_commit(offsets, partitions);
        }
    }

    fn commit_if_due(&mut self, now: Instant) {
        if self.is_committing {
            return;
        }
        if !self.engine.is_dirty() {
            self.commit_at = None;
            return;
        }
        let commit_at = *self.commit_at.get_or_insert(now + self.settings.commit_interval);
        if now < commit_at && self.engine.uncommitted() < self.settings.commit_records {
            return;
        }
        self.commit_at = None;
        self.is_committing = true;
        self.engine.begin_commit();
        let offsets = self.engine.uncommitted_offsets();
        self.spawn_commit(offsets, Vec::new());
    }

    fn spawn_commit(&mut self, offsets: Vec<(TopicPartition, i64)>, given_up: Vec<TopicPartition>) {
        let held = &self.held;
        let offsets = offsets
            .into_iter()
            .filter_map(|(partition, offset)| held.get(&partition).map(|epoch| (partition, offset, *epoch)))
            .collect();
        self.background.spawn(commit(self.consumer.clone(), offsets, given_up));
    }

    fn handle_background(&mut self, done: Background) {
        match done {
            Background::Committed { committed, error, given_up, .. } => {
                for (partition, offset) in &committed {
                    self.engine.committed(partition, *offset);
                }
                if let Some(error) = error {
                    self.engine.tell(SubscriptionEvent::CommitFailed { error });
                }
                if given_up.is_empty() {
                    self.is_committing = false;
                } else {
                    self.give_up(&given_up);
                }
            }
            Background::Found { partition, result } => self.handle_found(&partition, result),
            Background::ForeignMembers(members) => {
                tracing::warn!(
                    group = self.settings.group,
                    ?members,
                    "the group is shared with members that read other topics"
                );
                self.engine.tell(SubscriptionEvent::ForeignMembers { members });
            }
            Background::Nothing => {}
        }
    }

    /// Gives revoked partitions up: their commit has been answered.
    fn give_up(&mut self, partitions: &[TopicPartition]) {
        let unfinished = partitions.iter().map(|partition| self.forget(partition)).sum();
        self.revocations.retain(|revocation| revocation.guard.partitions() != partitions);
        self.engine.tell(SubscriptionEvent::Revoked { partitions: names(partitions), unfinished });
    }

    fn apply_flow(&mut self) {
        let flow = self.engine.flow();
        // A partition that is not held any more needs neither.
        for partition in &flow.pause {
            let _ = self.consumer.pause(partition);
        }
        for partition in &flow.resume {
            let _ = self.consumer.resume(partition);
        }
        self.is_full = self.engine.is_full();
    }

    fn state(&self) -> SubscriptionState {
        if self.closing.is_some() {
            return SubscriptionState::Closing;
        }
        let is_ready = self.is_assigned && self.unpositioned.is_empty() && self.are_topics_known();
        match (is_ready, self.is_paused) {
            (false, _) => SubscriptionState::Joining,
            (true, false) => SubscriptionState::Running,
            (true, true) => SubscriptionState::Paused,
        }
    }

    /// A member of a large group may have no partition, and is ready; one whose topic does not exist yet is not.
    fn are_topics_known(&self) -> bool {
        if !self.held.is_empty() {
            return true;
        }
        let cluster = self.client.metadata();
        let exists =
            |name: &String| cluster.topics.iter().any(|topic| topic.name == *name && !topic.partitions.is_empty());
        self.settings.topics.iter().all(exists)
    }

    fn publish_status(&mut self) {
        let state = self.state();
        let (records, bytes) = self.engine.in_flight();
        let (counts, running, parked) = (self.engine.counts(), self.engine.running(), self.engine.parked());
        let (held_dead_letters, is_full) = (self.engine.held(), self.is_full);
        let held = &self.held;
        self.status.send_if_modified(|status| {
            let is_same = status.state == state
                && status.counts == counts
                && (status.records, status.bytes) == (records, bytes)
                && (status.running, status.parked) == (running, parked)
                && (status.held_dead_letters, status.is_full) == (held_dead_letters, is_full)
                && status.partitions.len() == held.len()
                && status
                    .partitions
                    .iter()
                    .zip(held.keys())
                    .all(|(known, now)| known.0 == *now.topic && known.1 == now.partition);
            if is_same {
                return false;
            }
            let partitions = names(held.keys());
            *status = SubscriptionStatus {
                state,
                partitions,
                counts,
                records,
                bytes,
                running,
                parked,
                held_dead_letters,
                is_full,
            };
            true
        });
    }
}

fn names<'a>(partitions: impl IntoIterator<Item = &'a TopicPartition>) -> Vec<(String, i32)> {
    partitions.into_iter().map(|partition| (partition.topic.to_string(), partition.partition)).collect()
}

/// An error with what is behind it, as one line.
pub(crate) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
