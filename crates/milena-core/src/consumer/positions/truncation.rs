//! Whether the log that was read is still the leader's (KIP-320). Every change of leader puts a partition in doubt until
//! the leader has said where the epoch of the last record that was fetched ends in its log; a fetch may say so, too.
//!
//! What was fetched and not handed over is simply fetched again. What was handed over and is gone is told.

use super::{EpochOffset, OffsetReset, Position, Positions, Question, Unresolved};
use crate::consumer::TopicPartition;

/// Records that were handed over are no longer in the log, and `auto.offset.reset` is none (Java's
/// `LogTruncationException`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{partition} was truncated below offset {}, where this consumer is{}: seek to where to go on",
    position.offset,
    diverged.map(|at| format!(", to {}", at.offset)).unwrap_or_default()
)]
pub struct LogTruncation {
    /// The partition.
    pub partition: TopicPartition,
    /// Where the consumer was.
    pub position: EpochOffset,
    /// Up to where the log that was read is the leader's; `None` when the leader can't say.
    pub diverged: Option<EpochOffset>,
}

/// What became of a partition whose leader has another log than was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Divergence {
    /// Nothing that was handed over is gone: what was fetched ahead is void.
    Ahead,
    /// Records that were handed over are gone. The partition goes on where the logs part, or as the reset policy says.
    Behind(LogTruncation),
    /// As `Behind`, and there is no policy: the partition waits for a seek.
    Stopped(LogTruncation),
}

impl Positions {
    /// The leader's log of the last epoch that was read ends there, with the epoch that it has instead; `None` when the
    /// leader knows no such epoch. Returns what is wrong, after which whatever was fetched ahead is void.
    pub fn handle_epoch_end(
        &mut self,
        wall: i64,
        partition: &TopicPartition,
        version: u64,
        end: Option<EpochOffset>,
    ) -> Option<Divergence> {
        let policy = self.reset;
        let next = self.next_version();
        let position = self.current(partition, version)?;
        let (fetch_offset, position) = (position.fetch_offset, position.position);
        self.update(partition, version, |position| {
            position.settle_doubt();
        });
        match end {
            Some(end) if end.offset >= fetch_offset.offset => {
                // Written by an older leader than we knew: what comes next is compared with that.
                self.update(partition, version, |position| {
                    position.fetch_offset.epoch = position.fetch_offset.epoch.min(end.epoch);
                });
                return None;
            }
            Some(end) if end.offset >= position.offset => {
                self.update(partition, version, |position| {
                    position.position.epoch = position.position.epoch.min(end.epoch);
                    position.version = next;
                    position.fetch_offset = position.position;
                });
                return Some(Divergence::Ahead);
            }
            _ => {}
        }
        let lost = LogTruncation { partition: partition.clone(), position, diverged: end };
        match (policy, end) {
            (OffsetReset::None, _) => {
                self.update(partition, version, |position| {
                    position.version = next;
                    position.await_seek();
                });
                return Some(Divergence::Stopped(lost));
            }
            (_, Some(end)) => {
                self.update(partition, version, |position| {
                    position.version = next;
                    position.position = end;
                    position.fetch_offset = end;
                });
            }
            // As Java: nothing is known of the log that was read.
            (_, None) => drop(self.reset(wall, partition, version, "its log was truncated")),
        }
        Some(Divergence::Behind(lost))
    }

    /// As [`Self::handle_epoch_end`], of the answer to a question. One about a record that is no longer the last is put
    /// again; one about a leader that is none any more was.
    pub fn handle_epoch_answer(
        &mut self,
        wall: i64,
        partition: &TopicPartition,
        version: u64,
        asked: Unresolved,
        end: Option<EpochOffset>,
    ) -> Option<Divergence> {
        if self.current(partition, version)?.doubt() != Some(asked) {
            self.update(partition, version, |position| {
                if position.awaits(asked) {
                    position.asking = false;
                    position.forget_failures();
                }
            });
            return None;
        }
        self.handle_epoch_end(wall, partition, version, end)
    }

    /// The leader can't say where epochs end (before Kafka 2.3): nothing is in doubt.
    pub fn skip_validation(&mut self, question: &Question) {
        self.update(&question.partition, question.version, |position| {
            if position.awaits(question.unresolved) {
                position.settle_doubt();
            }
        });
    }
}

impl Position {
    /// Called whenever leader or position changed: a leader of a later epoch than that of the last record may have
    /// another log.
    pub(super) fn revalidate(&mut self) {
        let EpochOffset { epoch, .. } = self.fetch_offset;
        let is_settled = self.unresolved().is_none();
        if is_settled && self.unvalidated {
            // It was asked of another leader.
            self.asking = false;
        }
        self.unvalidated = is_settled && epoch >= 0 && self.leader.is_some_and(|(_, leader)| leader > epoch);
    }

    /// Whether it waits for the answer to what it once asked. A doubt is put to each leader under the same version, for what
    /// was fetched before stays good, and the answer of the one before decides nothing.
    pub(super) fn awaits(&self, asked: Unresolved) -> bool {
        let Unresolved::EpochEnd { leader_epoch: asked, .. } = asked else { return true };
        matches!(self.doubt(), Some(Unresolved::EpochEnd { leader_epoch, .. }) if leader_epoch == asked)
    }

    fn settle_doubt(&mut self) {
        self.unvalidated = false;
        self.asking = false;
        self.forget_failures();
    }

    /// What is to be asked about the log that was read.
    pub(super) fn doubt(&self) -> Option<Unresolved> {
        let (_, leader_epoch) = self.leader.filter(|_| self.unvalidated)?;
        Some(Unresolved::EpochEnd { epoch: self.fetch_offset.epoch, leader_epoch })
    }
}
