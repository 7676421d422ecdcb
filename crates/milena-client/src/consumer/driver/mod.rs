//! The one task that owns a consumer's membership, commits and positions in time: it feeds the machines, sends what they
//! ask for and tells the application what became of it. Requests run in tasks of their own and answer by a bounded
//! channel, so that nothing here waits for the network, and heartbeats never wait for the application.

mod commits;
mod positioning;
#[cfg(test)]
mod tests;
mod topics;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use milena_core::consumer::TopicPartition;
use milena_core::consumer::positions::{EpochOffset, Question, Start};
use milena_core::group::assignor::TopicRacks;
use milena_core::group::classic::{GroupEvent, GroupRequestKind, MemberState, Membership, MembershipConfig};
use milena_core::group::commit_lane::{CommitLane, CommitReply, CommitResult, OffsetToCommit};
use milena_net::watch;
use milena_protocol::ErrorCode;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;

use self::topics::{partition_counts, racks};
use crate::client::coordinators::CoordinatorKind;
use crate::consumer::error::ConsumeError;
use crate::consumer::event::{Assignment, ConsumerEvent, RevocationGuard};
use crate::consumer::fetcher;
use crate::consumer::offsets::{Answers, Listed, OffsetAndMetadata};
use crate::consumer::shared::Shared;
use crate::consumer::wire::{self, GroupReply};
use crate::error::RequestError;
use crate::stall::Stake;

/// Answers that wait to be read; requests under way are far fewer.
const ANSWERS: usize = 64;
/// What the application waits for.
pub(super) enum Command {
    /// Commit, in order.
    Commit(Vec<OffsetToCommit>, oneshot::Sender<CommitResult>),
    /// Leave the group and end, at the latest at the deadline.
    Close(Instant, oneshot::Sender<bool>),
}

enum Answer {
    Group(u64, GroupReply),
    Commit(u64, i32, CommitReply),
    Committed(Vec<Question>, Result<Answers<Option<OffsetAndMetadata>>, ErrorCode>),
    Listed(Vec<Question>, Result<Answers<Listed>, RequestError>),
    EpochEnds(Vec<Question>, Result<Option<Answers<Option<EpochOffset>>>, RequestError>),
    Partitions(BTreeSet<Arc<str>>, TopicRacks),
    Unreadable(TopicPartition, RequestError),
}

/// Partitions that the application is giving up.
struct Revocation {
    number: u64,
    partitions: Vec<TopicPartition>,
    /// Once the guard is gone: commits with lower tickets were asked for before, and go out before the partitions do.
    /// Later ones must not hold the rebalance up, for where several tasks commit there is always another.
    over_at: Option<u64>,
}

pub(super) struct Driver {
    shared: Arc<Shared>,
    membership: Option<Membership>,
    lane: CommitLane,
    commits: BTreeMap<u64, oneshot::Sender<CommitResult>>,
    commands: mpsc::Receiver<Command>,
    answers: mpsc::Receiver<Answer>,
    answer_to: mpsc::Sender<Answer>,
    changes: watch::Receiver<u64>,
    pinned: BTreeSet<Arc<str>>,
    pinned_all: bool,
    /// Generations of subscription, metadata and assignment that were acted upon.
    seen: (u64, u64, u64),
    /// As leader: the generation, and partitions per topic when they were assigned in it. A leader that came back as a
    /// static member did not assign, and takes what it finds.
    assigned_counts: Option<(i32, BTreeMap<Arc<str>, usize>)>,
    revocation: Option<Revocation>,
    revocations: u64,
    closing: Option<(Instant, Vec<oneshot::Sender<bool>>)>,
    /// The client is closed, and nothing more can be said to the group.
    is_stranded: bool,
    /// While it has a membership or partitions to lose by standing still.
    stake: Option<Stake>,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, commands: mpsc::Receiver<Command>) -> Self {
        let client = &shared.client;
        let (answer_to, answers) = mpsc::channel(ANSWERS);
        let seeds = client.chance.with(|rng| (rng.u64(..), rng.u64(..)));
        let config = &shared.config;
        let membership = config.group.as_ref().map(|_| {
            let config = MembershipConfig {
                instance_id: config.instance_id.as_deref().map(Arc::from),
                assignors: config.assignors.clone(),
                session_timeout: config.session_timeout,
                rebalance_timeout: config.max_poll_interval,
                heartbeat_interval: config.heartbeat_interval,
                max_poll_interval: config.max_poll_interval,
                rack: config.rack.as_deref().map(Arc::from),
                backoff: client.retry_backoff(),
            };
            Membership::new(client.clock.now(), config, seeds.0)
        });
        Self {
            lane: CommitLane::new(client.config.api_timeout, client.retry_backoff(), seeds.1),
            changes: client.metadata.changes(),
            membership,
            commits: BTreeMap::new(),
            commands,
            answers,
            answer_to,
            pinned: BTreeSet::new(),
            pinned_all: false,
            seen: (0, 0, 0),
            assigned_counts: None,
            revocation: None,
            revocations: 0,
            closing: None,
            is_stranded: false,
            stake: None,
            shared,
        }
    }

    /// Runs until the consumer is closed.
    pub(super) async fn run(mut self) {
        loop {
            let until = self.turn();
            if self.is_over() {
                break;
            }
            let shared = Arc::clone(&self.shared);
            let is_open = !shared.state().closed;
            let sleep = async {
                match until {
                    Some(until) => sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(answer) = self.answers.recv() => self.take_answer(answer),
                // Ends with the last handle, which says so in the shared state; answers and time go on.
                Some(command) = self.commands.recv() => self.take_command(command),
                () = shared.driver.notified() => {}
                Ok(()) = self.changes.changed() => {}
                // The client is closed under us. What is still to be said to the group has its own time limit.
                () = shared.client.metadata.stopped(), if is_open => shared.end(),
                () = sleep => {}
            }
        }
        self.end();
    }

    fn now(&self) -> Instant {
        self.shared.client.clock.now()
    }

    /// Does all there is to do now; returns when there is more by time alone.
    fn turn(&mut self) -> Option<Instant> {
        let now = self.now();
        self.follow_subscription(now);
        self.follow_metadata(now);
        self.follow_application(now);
        self.drive_membership(now);
        self.drive_commits(now);
        self.drive_close(now);
        self.drive_membership(now);
        let expiry = self.expire_replicas(now);
        self.ask_for_offsets(now);
        self.start_fetchers();
        self.raise_stake();
        let outages = self.shared.tell_outages(now);
        let membership = self.membership.as_ref().and_then(Membership::next_timeout);
        let questions = self.shared.state().next_question();
        let closing = self.closing.as_ref().map(|(deadline, _)| *deadline);
        [membership, self.lane.next_timeout(), questions, closing, outages, expiry].into_iter().flatten().min()
    }

    fn raise_stake(&mut self) {
        let holds = !self.shared.state().positions.is_empty()
            || self.membership.as_ref().is_some_and(|membership| membership.generation().is_some());
        match (holds, &self.stake) {
            (true, None) => self.stake = Some(self.shared.client.stakes.take()),
            (false, Some(_)) => self.stake = None,
            _ => {}
        }
    }

    fn spawn(&mut self, name: &'static str, ask: impl Future<Output = Answer> + Send + 'static) {
        let answer_to = self.answer_to.clone();
        // The driver may be gone by then; so is whoever would care.
        let task = async move { drop(answer_to.send(ask.await).await) };
        if self.shared.client.tasks.spawn(name, task).is_err() {
            self.is_stranded = true;
            self.shared.end();
        }
    }

    fn take_command(&mut self, command: Command) {
        match command {
            Command::Commit(offsets, done) => {
                let ticket = self.lane.submit(self.now(), offsets);
                self.commits.insert(ticket, done);
            }
            Command::Close(deadline, done) => {
                self.shared.end();
                match &mut self.closing {
                    Some((known, waiting)) => {
                        *known = deadline.min(*known);
                        waiting.push(done);
                    }
                    None => self.closing = Some((deadline, vec![done])),
                }
            }
        }
    }

    fn follow_application(&mut self, now: Instant) {
        let (polled, over, abandoned) = {
            let mut state = self.shared.state();
            let polled = if state.polling > 0 { now } else { state.last_poll };
            (polled, std::mem::take(&mut state.revocations_over), state.abandoned)
        };
        if abandoned && self.closing.is_none() {
            self.shared.end();
            self.closing = Some((now + Duration::from_secs(5), Vec::new()));
        }
        if let Some(membership) = &mut self.membership {
            membership.handle_poll(polled);
        }
        if self.revocation.as_ref().is_some_and(|revocation| over.contains(&revocation.number)) {
            self.end_revocation(now);
        }
    }

    /// The guard of the revocation is gone: what was asked for before that is in the lane from here on, and no more.
    fn end_revocation(&mut self, now: Instant) {
        // It may have been asked for just now; what comes in meanwhile may wait for the next turn.
        for _ in 0..self.commands.len() {
            let Ok(command) = self.commands.try_recv() else { break };
            self.take_command(command);
        }
        let Some(revocation) = &self.revocation else { return };
        let partitions = revocation.partitions.clone();
        self.commit_dropped(now, |_, partition| partitions.contains(partition));
        let before = self.lane.next_ticket();
        if let Some(revocation) = &mut self.revocation {
            revocation.over_at = Some(before);
        }
    }

    fn drive_membership(&mut self, now: Instant) {
        loop {
            // Commits that were asked for while the guard lived go out before the partitions do.
            self.drive_commits(now);
            let lane = &self.lane;
            let is_done = |revocation: &mut Revocation| {
                revocation.over_at.is_some_and(|before| lane.is_settled(before, &revocation.partitions))
            };
            if let Some(revocation) = self.revocation.take_if(is_done) {
                let mut state = self.shared.state();
                revocation.partitions.iter().for_each(|partition| state.give_up(partition));
                drop(state);
                // Whoever waits for their positions waits in vain.
                self.shared.app.notify_waiters();
                if let Some(membership) = &mut self.membership {
                    membership.handle_revoked();
                }
            }
            let Some(membership) = &mut self.membership else { return };
            if let Some(event) = membership.poll_event() {
                self.take_event(now, event);
                continue;
            }
            let Some(request) = membership.poll_request(now) else {
                // Time limits may have passed while it looked.
                match membership.poll_event() {
                    Some(event) => {
                        self.take_event(now, event);
                        continue;
                    }
                    None => break,
                }
            };
            if request.kind == GroupRequestKind::FindCoordinator {
                self.forget_coordinator();
            }
            let shared = Arc::clone(&self.shared);
            self.spawn("group request", async move {
                Answer::Group(request.attempt, wire::ask(&shared, request.kind).await)
            });
        }
        let is_stale = self.membership.as_ref().is_some_and(|membership| membership.state() == MemberState::Stale);
        self.shared.state().stale = is_stale;
    }

    fn forget_coordinator(&self) {
        let (coordinators, group) = (&self.shared.client.coordinators, self.group());
        if let Some(node) = coordinators.known(CoordinatorKind::Group, group) {
            coordinators.invalidate(CoordinatorKind::Group, group, node);
        }
    }

    fn group(&self) -> &str {
        self.shared.config.group.as_deref().unwrap_or_default()
    }

    fn take_event(&mut self, now: Instant, event: GroupEvent) {
        match event {
            GroupEvent::Assigned(partitions) => {
                let starts = partitions.iter().map(|partition| (partition.clone(), Start::Committed));
                let epoch = self.shared.state().assign(starts);
                self.shared.push(Ok(ConsumerEvent::Assigned(Assignment { partitions, epoch })));
                self.follow_metadata(now);
            }
            GroupEvent::Revoke(partitions) => {
                let mut state = self.shared.state();
                for partition in &partitions {
                    state.positions.hold_back(partition);
                    state.discard(partition);
                }
                drop(state);
                self.revocations += 1;
                let number = self.revocations;
                self.revocation = Some(Revocation { number, partitions: partitions.clone(), over_at: None });
                self.shared.push(Ok(ConsumerEvent::Revoked(RevocationGuard {
                    partitions,
                    deadline: now + self.shared.config.max_poll_interval,
                    shared: Arc::downgrade(&self.shared),
                    revocation: number,
                })));
            }
            GroupEvent::Lost(partitions) => {
                self.revocation = None;
                let mut state = self.shared.state();
                partitions.iter().for_each(|partition| state.give_up(partition));
                drop(state);
                self.shared.push(Ok(ConsumerEvent::Lost(partitions)));
            }
            GroupEvent::NeedPartitions(topics) => {
                let client = Arc::clone(&self.shared.client);
                self.spawn("partitions of the group", async move {
                    for topic in &topics {
                        client.metadata.want(topic);
                    }
                    let snapshot = client.metadata.snapshot();
                    if topics.iter().any(|topic| snapshot.topic(topic).is_none()) {
                        // What stays unknown is left out, and brings about a rebalance when it appears.
                        drop(client.metadata.refresh(client.config.request_timeout).await);
                    }
                    let racks = racks(&client.metadata.snapshot(), &topics);
                    Answer::Partitions(topics, racks)
                });
            }
            GroupEvent::Failed(source) => {
                let group = self.group().to_owned();
                self.shared.push(Err(ConsumeError::Group { group, source }));
            }
        }
    }

    fn drive_close(&mut self, now: Instant) {
        let Some((deadline, _)) = self.closing else { return };
        // A partition that the coordinator does not know was deleted, as a rule: the group is not left later for it.
        if now < deadline && !self.lane.is_clear() {
            return;
        }
        if let Some(membership) = &mut self.membership {
            membership.close(now);
        }
    }

    fn is_over(&self) -> bool {
        match &self.closing {
            Some((deadline, _)) => {
                let left = self.membership.as_ref().is_none_or(|membership| membership.state() == MemberState::Left);
                // What the lane still holds then can't be sent any more.
                left || self.is_stranded || self.now() >= *deadline
            }
            // The client was closed under us.
            None => self.shared.state().closed,
        }
    }

    fn end(mut self) {
        self.shared.end();
        self.lane.close();
        self.settle_commits();
        self.pin(BTreeSet::new());
        if self.pinned_all {
            self.shared.client.metadata.unpin_all();
        }
        self.shared.disconnect();
        let left = self.membership.as_ref().is_none_or(|membership| membership.state() == MemberState::Left);
        for waiting in self.closing.take().map(|(_, waiting)| waiting).unwrap_or_default() {
            // Whoever asked may have given up.
            let _ = waiting.send(left);
        }
    }

    fn take_answer(&mut self, answer: Answer) {
        let now = self.now();
        match answer {
            Answer::Group(attempt, reply) => {
                let Some(membership) = &mut self.membership else { return };
                match reply {
                    GroupReply::Coordinator(found) => membership.handle_coordinator(now, attempt, found),
                    GroupReply::Join(reply) => membership.handle_join(now, attempt, reply),
                    GroupReply::Sync(reply) => membership.handle_sync(now, attempt, reply),
                    GroupReply::Heartbeat(reply) => membership.handle_heartbeat(now, attempt, reply),
                    GroupReply::Leave => membership.handle_leave(attempt),
                }
            }
            Answer::Commit(ticket, generation, reply) => self.take_commit(now, ticket, generation, reply),
            Answer::Committed(questions, answers) => self.take_committed(now, questions, answers),
            Answer::Listed(questions, answers) => self.take_listed(now, questions, answers),
            Answer::EpochEnds(questions, answers) => self.take_epoch_ends(now, questions, answers),
            Answer::Partitions(topics, racks) => {
                let Some(membership) = &mut self.membership else { return };
                // Another rebalance, with other members, may have begun since.
                if membership.group_topics() == Some(&topics) {
                    self.assigned_counts =
                        membership.generation().map(|(_, generation)| (generation, partition_counts(&racks)));
                    membership.assign(&racks);
                }
            }
            Answer::Unreadable(partition, source) => {
                if self.shared.state().positions.get(&partition).is_some() {
                    self.shared.push(Err(ConsumeError::Partition { partition, source }));
                }
            }
        }
    }

    /// Replicas are read from for a while only: then leaders say anew which. Returns when the next one's time is over.
    fn expire_replicas(&self, now: Instant) -> Option<Instant> {
        let mut state = self.shared.state();
        let expired = state.positions.expire_replicas(now);
        let next = state.positions.next_expiry().filter(|_| !state.closed);
        drop(state);
        if expired {
            self.shared.fetchers.notify_waiters();
        }
        next
    }

    fn start_fetchers(&self) {
        let nodes: Vec<i32> = {
            let mut state = self.shared.state();
            if state.closed {
                return;
            }
            let fresh: Vec<i32> = state.positions.nodes().filter(|node| !state.fetching.contains_key(node)).collect();
            let budget = &self.shared.client.prefetch.budget;
            state.fetching.extend(fresh.iter().map(|node| (*node, budget.open())));
            fresh
        };
        for node in nodes {
            let fetcher = fetcher::run(Arc::clone(&self.shared), node);
            if self.shared.client.tasks.spawn("fetcher", fetcher).is_err() {
                self.shared.end();
            }
        }
    }
}
