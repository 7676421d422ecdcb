//! Orders the commits of one consumer: one under way at a time, in the order they were asked for, none ever cancelled.
//! A later commit that overtook an earlier one would let the older offset win (franz-go met that when cancelling a
//! commit closed its connection).
//!
//! Knows no network and no offsets stored by the coordinator; who holds which partition is asked of the caller.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use milena_protocol::ErrorCode;

use crate::{
    consumer::{AssignmentEpoch, TopicPartition},
    retry::Backoff,
};

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
    /// It was written once without an answer, so that the coordinator may have acted on it.
    may_be_applied: bool,
    /// The last refusal that was worth another attempt.
    refusal: Option<ErrorCode>,
    /// `None` while its answer is due.
    offsets: Vec<(OffsetToCommit, Option<Result<(), OffsetRefused>>)>,
}

/// Commits in order.
#[derive(Debug)]
pub struct CommitLane {
    queue: VecDeque<Commit>,
    in_flight: bool,
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
            in_flight: false,
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
        let offsets = offsets.into_iter().map(|offset| (offset, None)).collect();
        let deadline = now + self.timeout;
        self.queue.push_back(Commit { ticket, deadline, may_be_applied: false, refusal: None, offsets });
        ticket
    }

    /// Whether nothing is queued or under way.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// The ticket that the next commit will have: those submitted until now have lower ones.
    pub fn next_ticket(&self) -> u64 {
        self.next_ticket
    }

    /// Whether no commit with a ticket below `before` still has to say something of one of these partitions. Those that
    /// were submitted later are not waited for: there may always be another.
    pub fn is_settled(&self, before: u64, partitions: &[TopicPartition]) -> bool {
        let earlier = self.queue.iter().take_while(|commit| commit.ticket < before);
        let mut open = earlier.flat_map(|commit| &commit.offsets).filter(|(_, result)| result.is_none());
        !open.any(|(offset, _)| partitions.contains(&offset.partition))
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
        let head = self.queue.front_mut()?;
        if self.in_flight {
            return None;
        }
        for (offset, result) in head.offsets.iter_mut().filter(|(_, result)| result.is_none()) {
            if !holds(&offset.partition, offset.epoch) {
                *result = Some(Err(OffsetRefused::StaleEpoch));
            }
        }
        if now >= head.deadline {
            let why = head.unsettled(self.timeout);
            head.settle(&why);
        }
        if self.not_before.is_some_and(|at| now < at) {
            return None;
        }
        // Over, even when something else still holds the commit back: a time in the past is no time to wake up at.
        self.not_before = None;
        if head.is_settled() || !may_send {
            return None;
        }
        self.in_flight = true;
        let offsets = head.offsets.iter().filter(|(_, result)| result.is_none()).map(|(offset, _)| offset.clone());
        Some(CommitRequest { ticket: head.ticket, offsets: offsets.collect() })
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
        let head = self.queue.front_mut().filter(|head| head.ticket == ticket && self.in_flight)?;
        self.in_flight = false;
        let errors = match reply {
            Ok(errors) => errors,
            Err(Unanswered { written }) => {
                head.may_be_applied |= written;
                self.back_off(now);
                return Some(ErrorCode::COORDINATOR_NOT_AVAILABLE);
            }
        };
        let mut about_group = None;
        let mut again = false;
        for (offset, result) in head.offsets.iter_mut().filter(|(_, result)| result.is_none()) {
            let error = errors.iter().find(|(tp, _)| *tp == offset.partition).map(|(_, error)| *error);
            match error {
                Some(ErrorCode::NONE) => *result = Some(Ok(())),
                Some(error) if is_worth_retrying(error) || superseded && is_of_generation(error) => {
                    head.refusal = Some(error);
                    again = true;
                }
                Some(error) => *result = Some(Err(OffsetRefused::Broker(error))),
                None => *result = Some(Err(OffsetRefused::Broker(ErrorCode::UNKNOWN_SERVER_ERROR))),
            }
            if let Some(error) = error.filter(|error| is_about_group(*error)) {
                about_group = Some(error);
            }
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

    /// Refuses everything that waits; what may have been applied is reported so.
    pub fn close(&mut self) {
        if std::mem::take(&mut self.in_flight)
            && let Some(head) = self.queue.front_mut()
        {
            head.may_be_applied = true;
        }
        for commit in &mut self.queue {
            let timed_out = OffsetRefused::TimedOut(self.timeout);
            commit.settle(if commit.may_be_applied { &timed_out } else { &OffsetRefused::NoGroup });
        }
    }

    /// A commit whose every partition is settled, in order.
    pub fn poll_done(&mut self) -> Option<(u64, CommitResult)> {
        if self.in_flight || !self.queue.front()?.is_settled() {
            return None;
        }
        let commit = self.queue.pop_front()?;
        let results = commit
            .offsets
            .into_iter()
            .map(|(offset, result)| (offset.partition, result.unwrap_or(Err(OffsetRefused::NoGroup))))
            .collect();
        Some((commit.ticket, results))
    }

    /// When [`Self::poll_request`] will have something to do by time alone.
    pub fn next_timeout(&self) -> Option<Instant> {
        let head = self.queue.front().filter(|_| !self.in_flight)?;
        Some(self.not_before.map_or(head.deadline, |at| at.min(head.deadline)))
    }
}

impl Commit {
    fn is_settled(&self) -> bool {
        self.offsets.iter().all(|(_, result)| result.is_some())
    }

    /// Why it is not settled when its time is up.
    fn unsettled(&self, timeout: Duration) -> OffsetRefused {
        match self.refusal {
            _ if self.may_be_applied => OffsetRefused::TimedOut(timeout),
            Some(error) => OffsetRefused::Broker(error),
            None => OffsetRefused::NeverSent(timeout),
        }
    }

    fn settle(&mut self, why: &OffsetRefused) {
        for (_, result) in self.offsets.iter_mut().filter(|(_, result)| result.is_none()) {
            *result = Some(Err(why.clone()));
        }
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
            | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
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
