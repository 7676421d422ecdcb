//! Going on elsewhere: nothing new is begun for the partition, what runs ends, the offset is found, and only then does
//! the consumer move. So no handler of the old position runs into the new one.

use std::time::Instant;

use milena_client::TopicPartition;
use milena_client::consumer::Start;
use tokio::sync::oneshot;

use super::{Driver, describe};
use crate::subscription::background::find_offset;
use crate::subscription::handle::{SeekTo, SubscriptionError};

/// A partition that is to be read from elsewhere.
pub(super) struct Seek {
    pub(super) partition: TopicPartition,
    /// Where to, once found.
    offset: Option<i64>,
    pub(super) reply: oneshot::Sender<Result<(), SubscriptionError>>,
}

impl Driver {
    pub(super) fn begin_seek(
        &mut self,
        topic: String,
        partition: i32,
        to: SeekTo,
        reply: oneshot::Sender<Result<(), SubscriptionError>>,
    ) {
        let id = TopicPartition::new(topic.as_str(), partition);
        let is_busy = self.seeks.iter().any(|seek| seek.partition == id);
        if !self.held.contains_key(&id) || is_busy || self.closing.is_some() {
            let _ = reply.send(Err(SubscriptionError::NotAssigned { topic, partition }));
            return;
        }
        // Nothing new is begun for it from now on, so that no handler of the old position runs into the new one.
        self.engine.halt(&id);
        self.background.spawn(find_offset(self.client.clone(), id.clone(), to));
        self.seeks.push(Seek { partition: id, offset: None, reply });
    }

    pub(super) fn carry_out_seeks(&mut self, now: Instant) {
        let engine = &self.engine;
        let is_due = |seek: &mut Seek| seek.offset.is_some() && engine.is_drained(&seek.partition);
        let due: Vec<Seek> = self.seeks.extract_if(.., is_due).collect();
        for seek in due {
            let Some(offset) = seek.offset else { continue };
            let result =
                self.consumer.seek(&seek.partition, Start::Offset(offset)).map_err(|error| SubscriptionError::Seek {
                    topic: seek.partition.topic.to_string(),
                    partition: seek.partition.partition,
                    message: describe(&error),
                });
            if result.is_ok() {
                // -1 is no committed offset, so the new position is committed even before anything is handled there.
                self.unpositioned.remove(&seek.partition);
                self.engine.assign(seek.partition.clone(), offset, -1);
                self.commit_at = Some(now);
            }
            let _ = seek.reply.send(result);
        }
    }

    /// Takes note of the offset that a seek goes to.
    pub(super) fn handle_found(&mut self, partition: &TopicPartition, result: Result<i64, String>) {
        let Some(index) = self.seeks.iter().position(|seek| seek.partition == *partition) else { return };
        match result {
            Ok(offset) => self.seeks[index].offset = Some(offset),
            Err(message) => {
                let seek = self.seeks.remove(index);
                let (topic, index) = (partition.topic.to_string(), partition.partition);
                let _ = seek.reply.send(Err(SubscriptionError::Seek { topic, partition: index, message }));
                self.resume_after_failed_seek(partition);
            }
        }
    }

    /// A seek that found nowhere to go: what was taken in is read again from what is finished.
    fn resume_after_failed_seek(&mut self, partition: &TopicPartition) {
        let Some(watermark) = self.engine.watermark(partition) else { return };
        if let Err(error) = self.consumer.seek(partition, Start::Offset(watermark)) {
            tracing::warn!(%partition, error = describe(&error), "a partition could not be taken up again after a failed seek");
            return;
        }
        let committed = self.engine.committed_offset(partition).unwrap_or(watermark);
        self.engine.assign(partition.clone(), watermark, committed);
    }
}
