//! Going on elsewhere: the offset is found, then nothing new is begun for the partition, what runs ends, and only then
//! does the consumer move. So no handler of the old position runs into the new one, and a seek that finds nowhere to go
//! has changed nothing.
//!
//! A position that the broker no longer has is left in the same way: one that retention deleted for the oldest event there
//! is, one that a log was cut off below for where that is. That is told, never done in silence.

use std::time::Instant;

use milena_client::TopicPartition;
use milena_client::consumer::{LogTruncation, Start};
use tokio::sync::oneshot;

use super::{Driver, describe};
use crate::subscription::background::find_offset;
use crate::subscription::handle::{SeekTo, SubscriptionError};
use crate::subscription::status::SubscriptionEvent;

type Reply = oneshot::Sender<Result<(), SubscriptionError>>;

/// A partition that is to be read from elsewhere.
pub(super) struct Seek {
    /// An answer to another one, which this replaced, is not for this.
    pub(super) number: u64,
    pub(super) partition: TopicPartition,
    /// Where to, once found.
    offset: Option<i64>,
    why: Why,
}

enum Why {
    /// Somebody asked for it.
    Asked(Reply),
    /// The broker no longer has the position.
    Lost,
    /// The partition was halted for a seek that another one replaced, and that one was refused: it goes on from what
    /// is finished.
    Refused,
}

impl Seek {
    /// Whoever asked may be gone.
    pub(super) fn answer(self, result: Result<(), SubscriptionError>) {
        if let Why::Asked(reply) = self.why {
            let _ = reply.send(result);
        }
    }

    fn failed(&self, message: String) -> SubscriptionError {
        let (topic, partition) = (self.partition.topic.to_string(), self.partition.partition);
        SubscriptionError::Seek { topic, partition, message }
    }
}

impl Driver {
    pub(super) fn begin_seek(&mut self, topic: String, partition: i32, to: SeekTo, reply: Reply) {
        let id = TopicPartition::new(topic.as_str(), partition);
        let refused = match (self.closing.is_some(), self.held.contains_key(&id)) {
            (true, _) => Some(SubscriptionError::Closed),
            (false, false) => Some(SubscriptionError::NotAssigned { topic, partition }),
            (false, true) => None,
        };
        if let Some(error) = refused {
            let _ = reply.send(Err(error));
            return;
        }
        for earlier in self.seeks.extract_if(.., |seek| seek.partition == id) {
            let error = earlier.failed("it was sought again before it got there".to_owned());
            earlier.answer(Err(error));
        }
        self.look_for(id, to, Why::Asked(reply), false);
    }

    /// Takes up the partitions whose position the broker no longer has.
    ///
    /// The consumer names one of them; as it keeps only so many errors, all are looked at.
    pub(super) fn take_up_resets(&mut self) {
        if self.closing.is_some() {
            return;
        }
        let is_lost = |partition: &&TopicPartition| {
            !self.unpositioned.contains(*partition)
                && !self.seeks.iter().any(|seek| seek.partition == **partition)
                && self.consumer.position(partition).is_none()
        };
        let lost: Vec<TopicPartition> = self.held.keys().filter(is_lost).cloned().collect();
        for partition in lost {
            self.look_for(partition, SeekTo::Beginning, Why::Lost, false);
        }
    }

    /// Takes up a partition whose log has lost what was read of it: from where the logs part, if anybody can say.
    pub(super) fn take_up_truncated(&mut self, lost: &LogTruncation) {
        let is_sought = self.seeks.iter().any(|seek| seek.partition == lost.partition);
        // One that has a position was sought since, or given up and assigned anew: that position counts.
        let has_none = self.consumer.position(&lost.partition).is_none();
        let is_held = self.closing.is_none() && has_none && self.held.contains_key(&lost.partition);
        match lost.diverged {
            Some(at) if is_held && !is_sought => {
                self.look_for(lost.partition.clone(), SeekTo::Offset(at.offset), Why::Lost, false);
            }
            _ => self.take_up_resets(),
        }
    }

    /// Lets a partition go on that nobody seeks any more, though it was halted for it. What it had taken in and not
    /// begun is read again.
    fn take_up_halted(&mut self, partition: TopicPartition) {
        let is_sought = self.seeks.iter().any(|seek| seek.partition == partition);
        if is_sought || !self.engine.is_halted(&partition) {
            return;
        }
        let (number, offset) = (self.next_number(), self.engine.watermark(&partition));
        self.seeks.push(Seek { number, partition, offset, why: Why::Refused });
    }

    fn look_for(&mut self, partition: TopicPartition, to: SeekTo, why: Why, is_retry: bool) {
        let number = self.next_number();
        self.background.spawn(find_offset(self.client.clone(), number, partition.clone(), to, is_retry));
        self.seeks.push(Seek { number, partition, offset: None, why });
    }

    /// Takes note of the offset that a seek goes to.
    pub(super) fn handle_found(&mut self, number: u64, result: Result<i64, SubscriptionError>) {
        let Some(index) = self.seeks.iter().position(|seek| seek.number == number) else { return };
        let seek = &mut self.seeks[index];
        match result {
            Ok(offset) => {
                let is_ahead = self.engine.end(&seek.partition).is_some_and(|end| end <= offset);
                // A partition that is halted would not go on.
                let is_halted = self.engine.is_halted(&seek.partition);
                if matches!(seek.why, Why::Lost) && is_ahead && !is_halted {
                    // What was read before is still to be handled, and nothing of it is met again.
                    let seek = self.seeks.remove(index);
                    self.clear_alarm_of_consumer(Some(&seek.partition));
                    self.tell_of_reset(&seek.partition, offset);
                    if let Err(error) = self.consumer.seek(&seek.partition, Start::Offset(offset)) {
                        self.raise_alarm_of_consumer(&error);
                    }
                    return;
                }
                seek.offset = Some(offset);
                self.engine.halt(&seek.partition);
                let partition = seek.partition.clone();
                self.clear_alarm_of_consumer(Some(&partition));
            }
            Err(error) => {
                let seek = self.seeks.remove(index);
                if matches!(seek.why, Why::Asked(_)) {
                    let partition = seek.partition.clone();
                    seek.answer(Err(error));
                    // It may have replaced a seek that nobody else takes up again.
                    self.take_up_resets();
                    return self.take_up_halted(partition);
                }
                self.raise_alarm(Some(seek.partition.clone()), describe(&error));
                self.look_for(seek.partition, SeekTo::Beginning, Why::Lost, true);
            }
        }
    }

    pub(super) fn carry_out_seeks(&mut self, now: Instant) {
        let engine = &self.engine;
        let is_due = |seek: &mut Seek| seek.offset.is_some() && engine.is_drained(&seek.partition);
        let due: Vec<Seek> = self.seeks.extract_if(.., is_due).collect();
        for seek in due {
            let Some(mut offset) = seek.offset else { continue };
            if matches!(seek.why, Why::Refused) {
                // What ran has ended since.
                offset = self.engine.watermark(&seek.partition).unwrap_or(offset);
            }
            if let Err(error) = self.consumer.seek(&seek.partition, Start::Offset(offset)) {
                let error = seek.failed(describe(&error));
                seek.answer(Err(error));
                continue;
            }
            if matches!(seek.why, Why::Lost) {
                self.tell_of_reset(&seek.partition, offset);
            }
            self.unpositioned.remove(&seek.partition);
            self.starting.remove(&seek.partition);
            // -1 is no committed offset, so the new position is committed even before anything is handled there.
            self.engine.assign(seek.partition.clone(), offset, -1);
            self.commits.at = Some(now);
            seek.answer(Ok(()));
        }
    }

    fn tell_of_reset(&self, partition: &TopicPartition, to: i64) {
        let from = self.engine.end(partition).unwrap_or(-1);
        tracing::warn!(%partition, from, to, "the broker no longer has the position: going on with its oldest event");
        let (topic, partition) = (partition.topic.to_string(), partition.partition);
        self.engine.tell(SubscriptionEvent::PositionLost { topic, partition, from, to });
    }
}
