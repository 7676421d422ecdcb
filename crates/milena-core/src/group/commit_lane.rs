//! Orders the commits of one consumer: one under way at a time, in the order they were asked for, none ever cancelled.
//! A later commit that overtook an earlier one would let the older offset win (franz-go met that when cancelling a
//! commit closed its connection).
//!
//! What holds for the coordinator as a whole holds every commit back. A partition that it does not know holds back only
//! the commits of that partition, and not for long: it may be too new for it to know, but as a rule it was deleted.
//!
//! Knows no network and no offsets stored by the coordinator; who holds which partition is asked of the caller.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use milena_protocol::ErrorCode;

use crate::{
    consumer::{AssignmentEpoch, TopicPartition},
    retry::Backoff,
};

/// How long the coordinator is asked again about a partition that it does not know. Clusters spread the word of a new
/// topic within moments; librdkafka and franz-go do not ask again at all.
const UNKNOWN_FOR: Duration = Duration::from_secs(5);

/// Offset to commit for one partition, with the epoch under which its records were handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetToCommit {
    /// The partition.
    pub partition: TopicPartition,
    /// The offset of the next record to process.
    pub offset: i64,
    /// Epoch of the leader of the last record processed, -1 for unknown.
    pub leader_epoch: i32,
    /// Free text for whoever reads the commit.
    pub metadata: Option<Arc<str>>,
    /// The assignment the records belonged to.
    pub epoch: AssignmentEpoch,
}

/// Why an offset was not committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OffsetRefused {
    /// The partition was given up or lost since its records were handed out: whoever holds it now decides.
    #[error("the partition was revoked or lost since, drop what was processed: its new owner reads it again")]
    StaleEpoch,
    /// The coordinator refused.
    #[error("the coordinator refused the offset with {0}")]
    Broker(ErrorCode),
    /// No answer within the time limit; the offset may have been committed.
    #[error("no answer from the coordinator within {0:?}, the offset may have been committed; commit again")]
    TimedOut(Duration),
    /// Within the time limit there was no coordinator to send it to, or no end of a rebalance or of the commits before
    /// it. The offset was not committed.
    #[error(
        "no coordinator, a rebalance or earlier commits kept it from being sent within {0:?}, so it was not committed; commit again"
    )]
    NeverSent(Duration),
    /// The consumer is closed or was never part of a group.
    #[error("the consumer has no group or is closed, configure one to commit")]
    NoGroup,
}

/// Result of one commit: per partition, in the order given.
pub type CommitResult = Vec<(TopicPartition, Result<(), OffsetRefused>)>;

/// A commit without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// Whether any of it was written, so that the coordinator may have acted on it.
    pub written: bool,
}

/// The answer to a commit: an error code per partition, as far as the coordinator gave one.
pub type CommitReply = Result<Vec<(TopicPartition, ErrorCode)>, Unanswered>;

/// A commit to be sent, or sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitRequest {
    /// Give back with the reply.
    pub ticket: u64,
    /// What to send.
    pub offsets: Vec<OffsetToCommit>,
}

#[derive(Debug)]
struct Commit {
    ticket: u64,
    deadline: Instant,
    /// The coordinator did not know partitions of it: they are not sent again before then.
    not_before: Option<Instant>,
    failures: u32,
    offsets: Vec<Offset>,
}

#[derive(Debug)]
struct Offset {
    offset: OffsetToCommit,
    is_in_flight: bool,
    /// It was written once without an answer, so that the coordinator may have acted on it.
    may_be_applied: bool,
    /// The last refusal that was worth another attempt.
    refusal: Option<ErrorCode>,
    /// When the coordinator first said that there is no such partition.
    unknown_since: Option<Instant>,
    /// `None` while its answer is due.
    result: Option<Result<(), OffsetRefused>>,
}

/// Commits in order.
#[derive(Debug)]
pub struct CommitLane {
    queue: VecDeque<Commit>,
    /// The ticket of the commit that is under way.
    in_flight: Option<u64>,
    not_before: Option<Instant>,
    failures: u32,
    next_ticket: u64,
    timeout: Duration,
    backoff: Backoff,
    rng: fastrand::Rng,
}

impl CommitLane {
    /// An empty lane; each commit is given `timeout`.
    pub fn new(timeout: Duration, backoff: Backoff, seed: u64) -> Self {
        Self {
            queue: VecDeque::new(),
            in_flight: None,
            not_before: None,
            failures: 0,
            next_ticket: 0,
            timeout,
            backoff,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Queues a commit and returns its ticket; [`Self::poll_done`] yields the result.
    pub fn submit(&mut self, now: Instant, offsets: Vec<OffsetToCommit>) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let offsets = offsets.into_iter().map(Offset::new).collect();
        let deadline = now + self.timeout;
        self.queue.push_back(Commit { ticket, deadline, not_before: None, failures: 0, offsets });
        ticket
    }

    /// Whether nothing is queued or under way but partitions that the coordinator does not know, and what is behind them.
    pub fn is_clear(&self) -> bool {
        let mut unknown: BTreeSet<&TopicPartition> = BTreeSet::new();
        let mut open = self.queue.iter().flat_map(|commit| &commit.offsets).filter(|offset| offset.result.is_none());
        self.in_flight.is_none()
            && open.all(|open| {
                let is_unknown = open.is_unknown();
                unknown.extend(is_unknown.then_some(&open.offset.partition));
                is_unknown || unknown.contains(&open.offset.partition)
            })
    }

    /// Whether a commit still has to say something of this partition.
    pub fn is_about(&self, partition: &TopicPartition) -> bool {
        !self.is_settled(u64::MAX, std::slice::from_ref(partition))
    }

    /// The ticket that the next commit will have: those submitted until now have lower ones.
    pub fn next_ticket(&self) -> u64 {
        self.next_ticket
    }

    /// Whether no commit with a ticket below `before` still has to say something of one of these partitions. Those that
    /// were submitted later are not waited for: there may always be another.
    pub fn is_settled(&self, before: u64, partitions: &[TopicPartition]) -> bool {
        let earlier = self.queue.iter().take_while(|commit| commit.ticket < before);
        let mut open = earlier.flat_map(|commit| &commit.offsets).filter(|offset| offset.result.is_none());
        !open.any(|open| partitions.contains(&open.offset.partition))
    }

    /// The request to send now. `may_send` is false between Join and Sync and while there is no coordinator; `holds`
    /// says whether a partition is still held under that epoch, and is asked as late as here: the partition may have
    /// gone while the commit waited.
    pub fn poll_request(
        &mut self,
        now: Instant,
        may_send: bool,
        holds: impl Fn(&TopicPartition, AssignmentEpoch) -> bool,
    ) -> Option<CommitRequest> {
        self.handle_time(now);
        if self.in_flight.is_some() {
            return None;
        }
        // What an earlier commit has still to say of a partition is said first.
        let mut earlier: BTreeSet<TopicPartition> = BTreeSet::new();
        for commit in &mut self.queue {
            let (mut blocked, mut sendable) = (Vec::new(), Vec::new());
            for open in commit.offsets.iter_mut().filter(|offset| offset.result.is_none()) {
                if !holds(&open.offset.partition, open.offset.epoch) {
                    open.result = Some(Err(OffsetRefused::StaleEpoch));
                } else if commit.not_before.is_some() && open.is_unknown() || earlier.contains(&open.offset.partition) {
                    blocked.push(open.offset.partition.clone());
                } else {
                    sendable.push(open);
                }
            }
            if sendable.is_empty() {
                earlier.extend(blocked);
                continue;
            }
            if self.not_before.is_some() || !may_send {
                return None;
            }
            self.in_flight = Some(commit.ticket);
            let send = |open: &mut Offset| {
                open.is_in_flight = true;
                open.offset.clone()
            };
            return Some(CommitRequest { ticket: commit.ticket, offsets: sendable.into_iter().map(send).collect() });
        }
        None
    }

    /// Refuses what has run out of time. A time in the past is no time to wake up at: what is over is forgotten, even
    /// when something else still holds a commit back.
    fn handle_time(&mut self, now: Instant) {
        self.not_before = self.not_before.filter(|at| now < *at);
        for commit in self.queue.iter_mut().filter(|commit| self.in_flight != Some(commit.ticket)) {
            commit.not_before = commit.not_before.filter(|at| now < *at);
            if now >= commit.deadline {
                commit.settle(|offset| offset.unsettled(self.timeout));
            }
        }
    }

    /// The answer. `superseded` says that the generation it was sent under is over or about to be: what was refused for
    /// that is sent again under the next one, if its partition is held then. Returns an error about the group, if there
    /// was one.
    pub fn handle_reply(
        &mut self,
        now: Instant,
        ticket: u64,
        reply: CommitReply,
        superseded: bool,
    ) -> Option<ErrorCode> {
        self.in_flight.take_if(|known| *known == ticket)?;
        let commit = self.queue.iter_mut().find(|commit| commit.ticket == ticket)?;
        let sent = commit.offsets.iter_mut().filter_map(Offset::answered);
        let errors = match reply {
            Ok(errors) => errors,
            Err(Unanswered { written }) => {
                sent.for_each(|offset| offset.may_be_applied |= written);
                self.back_off(now);
                return Some(ErrorCode::COORDINATOR_NOT_AVAILABLE);
            }
        };
        let mut about_group = None;
        let (mut again, mut unknown) = (false, false);
        for open in sent {
            let error = errors.iter().find(|(tp, _)| *tp == open.offset.partition).map(|(_, error)| *error);
            match error {
                Some(ErrorCode::NONE) => open.result = Some(Ok(())),
                Some(error @ ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) if open.may_appear(now) => {
                    open.refusal = Some(error);
                    unknown = true;
                }
                Some(error) if is_worth_retrying(error) || superseded && is_of_generation(error) => {
                    open.refusal = Some(error);
                    again = true;
                }
                Some(error) => open.result = Some(Err(OffsetRefused::Broker(error))),
                None => open.result = Some(Err(OffsetRefused::Broker(ErrorCode::UNKNOWN_SERVER_ERROR))),
            }
            if let Some(error) = error.filter(|error| is_about_group(*error)) {
                about_group = Some(error);
            }
        }
        if unknown {
            commit.not_before = Some(now + self.backoff.delay(commit.failures, &mut self.rng));
            commit.failures = commit.failures.saturating_add(1);
        }
        if again {
            self.back_off(now);
        } else {
            self.failures = 0;
        }
        about_group
    }

    fn back_off(&mut self, now: Instant) {
        self.not_before = Some(now + self.backoff.delay(self.failures, &mut self.rng));
        self.failures = self.failures.saturating_add(1);
    }

    /// Refuses everything that waits; what may have been applied is reported so, and what was refused before.
    pub fn close(&mut self) {
        self.in_flight = None;
        for commit in &mut self.queue {
            commit.settle(|offset| {
                let may_be_applied = offset.may_be_applied || std::mem::take(&mut offset.is_in_flight);
                match offset.refusal {
                    _ if may_be_applied => OffsetRefused::TimedOut(self.timeout),
                    Some(error) => OffsetRefused::Broker(error),
                    None => OffsetRefused::NoGroup,
                }
            });
        }
    }

    /// A commit whose every partition is settled. They are in order, but for those that had to wait for a partition
    /// that the coordinator does not know.
    pub fn poll_done(&mut self) -> Option<(u64, CommitResult)> {
        let commit = self.queue.remove(self.queue.iter().position(Commit::is_settled)?)?;
        let results = commit
            .offsets
            .into_iter()
            .map(|offset| (offset.offset.partition, offset.result.unwrap_or(Err(OffsetRefused::NoGroup))))
            .collect();
        Some((commit.ticket, results))
    }

    /// When [`Self::poll_request`] will have something to do by time alone.
    pub fn next_timeout(&self) -> Option<Instant> {
        let waiting = || self.queue.iter().filter(|commit| self.in_flight != Some(commit.ticket));
        // Those behind have later ones.
        let deadline = waiting().next()?.deadline;
        let resumed = self.not_before.into_iter().chain(waiting().filter_map(|commit| commit.not_before)).min();
        Some(resumed.map_or(deadline, |at| at.min(deadline)))
    }
}

impl Commit {
    fn is_settled(&self) -> bool {
        self.offsets.iter().all(|offset| offset.result.is_some())
    }

    fn settle(&mut self, why: impl Fn(&mut Offset) -> OffsetRefused) {
        for offset in self.offsets.iter_mut().filter(|offset| offset.result.is_none()) {
            offset.result = Some(Err(why(offset)));
        }
    }
}

impl Offset {
    fn new(offset: OffsetToCommit) -> Self {
        Self { offset, is_in_flight: false, may_be_applied: false, refusal: None, unknown_since: None, result: None }
    }

    /// Itself, if it was under way.
    fn answered(&mut self) -> Option<&mut Self> {
        std::mem::take(&mut self.is_in_flight).then_some(self)
    }

    /// Why it is not settled when its time is up.
    fn unsettled(&self, timeout: Duration) -> OffsetRefused {
        match self.refusal {
            _ if self.may_be_applied => OffsetRefused::TimedOut(timeout),
            Some(error) => OffsetRefused::Broker(error),
            None => OffsetRefused::NeverSent(timeout),
        }
    }

    /// Whether there is no such partition, as far as the coordinator has said.
    fn is_unknown(&self) -> bool {
        self.refusal == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
    }

    /// Whether a partition that the coordinator does not know may only be too new for it to know.
    fn may_appear(&mut self, now: Instant) -> bool {
        let since = *self.unknown_since.get_or_insert(now);
        now.saturating_duration_since(since) < UNKNOWN_FOR
    }
}

/// The coordinator is past the generation, or about to be, and took nothing.
fn is_of_generation(error: ErrorCode) -> bool {
    matches!(error, ErrorCode::REBALANCE_IN_PROGRESS | ErrorCode::ILLEGAL_GENERATION)
}

fn is_worth_retrying(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::COORDINATOR_NOT_AVAILABLE
            | ErrorCode::NOT_COORDINATOR
            | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS
            | ErrorCode::REQUEST_TIMED_OUT
            | ErrorCode::UNSTABLE_OFFSET_COMMIT
    )
}

fn is_about_group(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::COORDINATOR_NOT_AVAILABLE
            | ErrorCode::NOT_COORDINATOR
            | ErrorCode::REQUEST_TIMED_OUT
            | ErrorCode::REBALANCE_IN_PROGRESS
            | ErrorCode::UNKNOWN_MEMBER_ID
            | ErrorCode::ILLEGAL_GENERATION
            | ErrorCode::FENCED_INSTANCE_ID
    )
}

#[cfg(test)]
mod tests;
