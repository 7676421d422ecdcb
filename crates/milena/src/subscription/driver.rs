//! The one task of a subscription: owns its consumer and its engine, and carries events between them.
//!
//! Each turn takes in what has happened, lets the engine start handlers, tells the consumer which partitions to pause,
//! commits what is due, and then waits for the next thing to happen. Nothing that needs a broker's answer is awaited in
//! the turn itself: it runs beside it in `background`, so handlers, heartbeats and revocations never wait for it.
//! What takes several turns has a file of its own: beginning, committing, seeking, closing.

mod closing;
mod committing;
mod reporting;
mod seeking;
mod starting;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;
use std::time::{Duration, Instant};

use milena_client::consumer::{AssignmentEpoch, ConsumeError, Consumer, ConsumerEvent, RecordSet};
use milena_client::{Client, TopicPartition};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use self::closing::Closing;
use self::committing::{Commits, Revocation};
use self::reporting::Alarms;
use self::seeking::Seek;
use super::background::Background;
use super::consumer::{is_fatal, raw_record};
use super::engine::Engine;
use super::handle::{Command, SubscriptionError};
use super::status::{StopReason, SubscriptionEvent, SubscriptionStatus};
use crate::bus::Inner;

pub(crate) use self::reporting::describe;

/// How long a subscription that nobody closes may take to end: its bus was dropped, or it stops by itself.
const UNASKED_CLOSE: Duration = Duration::from_secs(30);

/// Completions taken in one turn before the consumer is looked at again.
const MOST_COMPLETIONS: usize = 1_024;

/// The longest sleep of a driver. Nothing depends on it: whatever happens wakes it.
const LONGEST_SLEEP: Duration = Duration::from_secs(3_600);

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
    /// Topics that begin at their end where the group has no offset, with the partitions that this is said of: younger
    /// ones begin with their oldest event.
    pub(super) late: BTreeMap<String, usize>,
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
    /// Partitions that begin at their end, until that is committed.
    starting: BTreeSet<TopicPartition>,
    revocations: Vec<Revocation>,
    seeks: Vec<Seek>,
    /// The number of the last seek or revocation: an answer names the one that it is for.
    last_number: u64,
    commits: Commits,
    alarms: Alarms,
    /// Partitions of each topic, as seen last.
    partition_counts: BTreeMap<String, usize>,
    is_assigned: bool,
    is_paused: bool,
    is_full: bool,
    /// It has nothing more to say, and would say so in every turn.
    is_consumer_closed: bool,
    closing: Option<Closing>,
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
            starting: BTreeSet::new(),
            revocations: Vec::new(),
            seeks: Vec::new(),
            last_number: 0,
            commits: Commits::default(),
            alarms: Alarms::default(),
            partition_counts: BTreeMap::new(),
            is_assigned: false,
            is_paused: false,
            is_full: false,
            is_consumer_closed: false,
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
                    Err(error) => if let Ok(panic) = error.try_into_panic() {
                        // Whatever waited for it would wait for ever: better to end, and say so. What did not panic
                        // went with the runtime, and this task is next.
                        std::panic::resume_unwind(panic);
                    },
                },
                command = self.commands.recv(), if self.may_be_told() => match command {
                    Some(command) => self.handle_command(command),
                    None if self.closing.is_none() => self.begin_close(UNASKED_CLOSE, None, None),
                    // It has the time that it was given.
                    None => {}
                },
                event = self.consumer.next(), if !self.is_consumer_closed => match event {
                    Ok(event) => self.handle_event(event),
                    Err(error) => self.handle_error(&error),
                },
                finished = self.engine.finished() => {
                    let now = self.now();
                    self.engine.handle_finished(now, finished);
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    /// Whether there is a command, or may be one, or that nobody can give any more is still to be heard: the last handle
    /// may have gone while this was at something else.
    fn may_be_told(&self) -> bool {
        self.closing.is_none() || !self.commands.is_closed() || !self.commands.is_empty()
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
        self.carry_out_seeks(now);
        self.engine.dispatch(now);
        self.apply_flow();
        self.drive_commits(now);
        self.publish_status();
    }

    fn now(&self) -> Instant {
        self.client.time().now()
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn next_timeout(&self) -> Instant {
        let far = self.now() + LONGEST_SLEEP;
        let closing = self.closing.iter().map(|closing| closing.finish_by);
        let due = closing.chain(self.next_commit()).chain(self.engine.next_timeout()).min();
        due.unwrap_or(far).min(far)
    }

    fn handle_event(&mut self, event: ConsumerEvent) {
        self.clear_alarm_of_consumer(None);
        match event {
            ConsumerEvent::Records(set) => self.handle_records(&set),
            ConsumerEvent::Assigned(assignment) => self.handle_assigned(assignment.partitions(), assignment.epoch()),
            ConsumerEvent::Revoked(guard) => self.handle_revoked(guard),
            ConsumerEvent::Lost(partitions) => {
                for partition in &partitions {
                    self.forget(partition);
                }
                self.forget_revoked(&partitions);
                // A member that has lost all it had is none until it is assigned anew.
                self.is_assigned = !self.held.is_empty();
                self.engine.tell(SubscriptionEvent::Lost { partitions: reporting::names(&partitions) });
            }
            ConsumerEvent::Reached(awaited) => self.handle_reached(&awaited),
            // The client may learn to tell more; none of it can be about records.
            _ => {}
        }
    }

    fn handle_records(&mut self, set: &RecordSet) {
        let partition = set.topic_partition();
        // A set of an assignment that is over: whoever holds the partition now reads it again.
        if self.held.get(partition) != Some(&set.epoch()) || self.closing.is_some() {
            return;
        }
        self.clear_alarm_of_consumer(Some(partition));
        let mut records = set.iter().map(|record| raw_record(&partition.topic, &record)).peekable();
        if let Some(first) = records.peek()
            && self.unpositioned.remove(partition)
        {
            self.engine.assign(partition.clone(), first.offset, first.offset);
        }
        self.engine.take_in(partition, records, set.next_offset());
    }

    fn handle_error(&mut self, error: &ConsumeError) {
        match error {
            // Neither can it end by itself nor does the bus let it begin anywhere unsaid.
            ConsumeError::NoOffset(_) => self.take_up_resets(),
            ConsumeError::Truncated(lost) => self.take_up_truncated(lost),
            error if is_fatal(error) => {
                self.is_consumer_closed |= matches!(error, ConsumeError::Closed);
                let reason = StopReason::Consumer { message: describe(error) };
                self.begin_close(UNASKED_CLOSE, Some(reason), None);
            }
            error => self.raise_alarm_of_consumer(error),
        }
    }

    /// Ends whatever is known of a partition. Returns how many of its records were begun and not finished.
    fn forget(&mut self, partition: &TopicPartition) -> usize {
        self.held.remove(partition);
        self.unpositioned.remove(partition);
        self.starting.remove(partition);
        self.clear_alarm_of_consumer(Some(partition));
        for seek in self.seeks.extract_if(.., |seek| seek.partition == *partition) {
            let (topic, partition) = (partition.topic.to_string(), partition.partition);
            seek.answer(Err(SubscriptionError::NotAssigned { topic, partition }));
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
            Command::Close { limit, reply } => self.begin_close(limit, None, Some(reply)),
        }
    }

    fn handle_background(&mut self, done: Background) {
        match done {
            Background::Committed(commit) => self.handle_committed(commit),
            Background::Begins { epoch, begins, errors, searches } => {
                self.handle_begins(epoch, begins);
                self.handle_no_begins(epoch, errors);
                searches.into_iter().for_each(|search| self.go_on_with(epoch, search));
            }
            Background::Found { number, result } => self.handle_found(number, result),
            Background::ForeignMembers(members) => self.handle_foreign_members(members),
            Background::PartitionCounts(counts) => self.handle_partition_counts(counts),
            Background::Nothing => {}
        }
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
}
