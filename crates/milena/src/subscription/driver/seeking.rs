//! Going on elsewhere: the offset is found, then nothing new is begun for the partition, what runs ends, and only then
//! does the consumer move. So no handler of the old position runs into the new one, and a seek that finds nowhere to go
//! has changed nothing.
//!
//! A position that the broker no longer has (deleted by retention, or the log cut off) is left in the same way, for the
//! oldest event there is; that is told, never done in silence.

use std::time::Instant;

use milena_client::TopicPartition;
use milena_client::consumer::Start;
use tokio::sync::oneshot;

use super::{Driver, describe};
use crate::subscription::background::find_offset;
use crate::subscription::handle::{SeekTo, SubscriptionError};
use crate::subscription::status::SubscriptionEvent;

type Reply = oneshot::Sender<Result<(), SubscriptionError>>;

/// A partition that is to be read from elsewhere.
pub(super) struct Seek {
    /// An answer to another one, which this replaced, is not for this.
    number: u64,
    pub(super) partition: TopicPartition,
    /// Where to, once found.
    offset: Option<i64>,
    /// Who asked; `None` if the broker no longer has the position.
    reply: Option<Reply>,
}

impl Seek {
    /// Whoever asked may be gone.
    pub(super) fn answer(self, result: Result<(), SubscriptionError>) {
        if let Some(reply) = self.reply {
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
        self.look_for(id, to, Some(reply), false);
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
            self.look_for(partition, SeekTo::Beginning, None, false);
        }
    }

    fn look_for(&mut self, partition: TopicPartition, to: SeekTo, reply: Option<Reply>, is_retry: bool) {
        let number = self.next_number();
        self.background.spawn(find_offset(self.client.clone(), number, partition.clone(), to, is_retry));
        self.seeks.push(Seek { number, partition, offset: None, reply });
    }

    /// Takes note of the offset that a seek goes to.
    pub(super) fn handle_found(&mut self, number: u64, result: Result<i64, SubscriptionError>) {
        let Some(index) = self.seeks.iter().position(|seek| seek.number == number) else { return };
        let seek = &mut self.seeks[index];
        match result {
            Ok(offset) => {
                let is_ahead = self.engine.end(&seek.partition).is_some_and(|end| end <= offset);
                if seek.reply.is_none() && is_ahead {
                    // What was read before is still to be handled, and nothing of it is met again.
                    let seek = self.seeks.remove(index);
                    self.tell_of_reset(&seek.partition, offset);
                    if let Err(error) = self.consumer.seek(&seek.partition, Start::Offset(offset)) {
                        self.raise_alarm_of_consumer(&error);
                    }
                    return;
                }
                seek.offset = Some(offset);
                self.engine.halt(&seek.partition);
            }
            Err(error) => {
                let seek = self.seeks.remove(index);
                if seek.reply.is_some() {
                    return seek.answer(Err(error));
                }
                self.raise_alarm(Some(seek.partition.clone()), describe(&error));
                self.look_for(seek.partition, SeekTo::Beginning, None, true);
            }
        }
    }

    pub(super) fn carry_out_seeks(&mut self, now: Instant) {
        let engine = &self.engine;
        let is_due = |seek: &mut Seek| seek.offset.is_some() && engine.is_drained(&seek.partition);
        let due: Vec<Seek> = self.seeks.extract_if(.., is_due).collect();
        for seek in due {
            let Some(offset) = seek.offset else { continue };
            if let Err(error) = self.consumer.seek(&seek.partition, Start::Offset(offset)) {
                let error = seek.failed(describe(&error));
                seek.answer(Err(error));
                continue;
            }
            if seek.reply.is_none() {
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
