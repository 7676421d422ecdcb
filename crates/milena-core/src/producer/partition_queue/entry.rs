//! A batch in its partition's queue, and the answers it may get.

use std::sync::Arc;
use std::time::Instant;

use milena_protocol::ErrorCode;

use super::Ticket;
use crate::producer::completion::BatchShare;
use crate::producer::failure::{ProduceFailure, Verdict};

/// What became of a batch that was sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It is in the log, or with `acks=0` on its way.
    Acknowledged {
        /// The offset of its first record, where the broker told.
        base_offset: Option<i64>,
        /// The broker's time of appending, where the topic is configured for it.
        log_append_time: Option<i64>,
    },
    /// The broker answered with an error.
    Refused {
        /// Kafka's code.
        code: ErrorCode,
        /// What the broker said beyond it.
        message: Option<Arc<str>>,
        /// The records at fault, where the broker named them (KIP-467).
        records: Vec<RecordRefusal>,
        /// It told the offset at which it had appended the batch before it met with the error.
        appended: bool,
    },
    /// Not a byte of it was written.
    NotSent,
    /// Not a byte of it was written, and to this broker none ever will be.
    Unsendable(ProduceFailure),
    /// It was written, and no answer came.
    Lost,
}

/// A record that the broker named as a reason for refusing its batch.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordRefusal {
    /// Its place in the batch.
    pub index: u32,
    /// Why.
    pub message: Option<Arc<str>>,
}

impl Answer {
    /// What Kafka's code means, if the broker answered with one.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Refused { code, .. } => Some(Verdict::of(*code)),
            _ => None,
        }
    }

    pub(super) fn is_failure(&self) -> bool {
        match self {
            Self::Acknowledged { .. } => false,
            Self::Refused { .. } => self.verdict() != Some(Verdict::Duplicate),
            Self::NotSent | Self::Unsendable(_) | Self::Lost => true,
        }
    }

    /// Whether the batch may be in the log in spite of this.
    pub(super) fn is_unsure(&self) -> bool {
        match self {
            Self::Lost => true,
            // That base offset -1 means that nothing was appended is how Apache Kafka behaves, no word of the protocol:
            // it throws the error before the append (`Partition.appendRecordsToLeader`), and a leader that is deposed while
            // it waits for its followers keeps the offset in its answer (`DelayedProduce` overwrites the error alone). A
            // broker that answers otherwise can have a batch written twice.
            Self::Refused { code: ErrorCode::NOT_LEADER_OR_FOLLOWER, appended, .. } => *appended,
            _ => self.verdict() == Some(Verdict::RetryUnsure),
        }
    }
}

#[derive(Debug)]
pub(super) enum State {
    Waiting,
    InFlight(Ticket),
    Answered(Answer),
}

impl State {
    pub(super) fn is(&self, ticket: Ticket) -> bool {
        matches!(self, Self::InFlight(known) if *known == ticket)
    }
}

#[derive(Debug)]
pub(super) struct Entry<B> {
    pub(super) created: Instant,
    pub(super) batch: B,
    /// Taken when the batch is reported before it is settled.
    pub(super) share: Option<BatchShare>,
    records: u32,
    /// Held from the first sending until it is certain that the batch was not written.
    pub(super) sequence: Option<i32>,
    pub(super) state: State,
    /// An earlier attempt may have been written.
    pub(super) maybe_written: bool,
    pub(super) last_error: Option<ErrorCode>,
}

impl<B> Entry<B> {
    pub(super) fn new(created: Instant, batch: B, share: BatchShare) -> Self {
        Self {
            created,
            batch,
            records: share.records(),
            share: Some(share),
            sequence: None,
            state: State::Waiting,
            maybe_written: false,
            last_error: None,
        }
    }

    pub(super) fn records(&self) -> u32 {
        self.records
    }

    pub(super) fn is_in_flight(&self) -> bool {
        matches!(self.state, State::InFlight(_))
    }

    pub(super) fn is_acknowledged(&self) -> bool {
        matches!(&self.state, State::Answered(answer) if !answer.is_failure())
    }

    pub(super) fn is_failed(&self) -> bool {
        matches!(&self.state, State::Answered(answer) if answer.is_failure())
    }

    /// Whether it may be in the log, for all that is known now.
    pub(super) fn is_unsure(&self) -> bool {
        match &self.state {
            State::Waiting => self.maybe_written,
            State::InFlight(_) => true,
            State::Answered(answer) => self.maybe_written || answer.is_unsure(),
        }
    }
}
