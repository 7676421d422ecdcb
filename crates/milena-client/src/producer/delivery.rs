//! The answer to one record: a reference to its batch's completion, and an index.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use milena_core::producer::completion::{Completion, RecordOutcome, WaitSlot};

use super::error::{Outcome, ProduceError};
use super::record::RecordMetadata;

/// Resolves when the broker has acknowledged the record, or when it is certain that it won't.
///
/// # Cancel safety
/// Dropping it withdraws nothing: the record is sent, and a failure is counted in the producer's metrics. After it has
/// resolved it stays pending for ever.
#[must_use = "a record's failure is told here; drop it only if you don't care"]
pub struct Delivery {
    /// Given to the metadata when it resolves.
    completion: Option<Arc<Completion>>,
    index: u32,
    timestamp: i64,
    slot: WaitSlot,
}

/// A record's place in its batch: what a delivery stands for, but for the record's time.
///
/// Two words: `Option<Appended>` is returned in registers. A delivery is four, and beside an error any result goes through
/// memory, copied at every return by pairs of words just after they were written one by one: that costs more than the
/// encoding of the record.
pub(crate) struct Appended {
    pub(super) completion: Arc<Completion>,
    pub(super) index: u32,
}

impl Delivery {
    #[inline]
    pub(crate) fn new(appended: Appended, timestamp: i64) -> Self {
        let Appended { completion, index } = appended;
        Self { completion: Some(completion), index, timestamp, slot: WaitSlot::default() }
    }
}

impl Future for Delivery {
    type Output = Result<RecordMetadata, ProduceError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(completion) = &this.completion else { return Poll::Pending };
        if let Some((offset, log_append_time)) = completion.acknowledged(this.index) {
            // Nobody is on the list of waiters any more.
            let completion = this.completion.take().expect("looked at above");
            return Poll::Ready(Ok(RecordMetadata::new(completion, offset, log_append_time.unwrap_or(this.timestamp))));
        }
        let Poll::Ready(outcome) = completion.poll(this.index, &mut this.slot, context) else { return Poll::Pending };
        let completion = this.completion.take().expect("looked at above");
        Poll::Ready(match outcome {
            RecordOutcome::Acknowledged { offset, log_append_time } => {
                Ok(RecordMetadata::new(completion, offset, log_append_time.unwrap_or(this.timestamp)))
            }
            RecordOutcome::Failed(failure) => Err(ProduceError::new(&completion, failure, Outcome::Failed)),
            RecordOutcome::PossiblyWritten(failure) => {
                Err(ProduceError::new(&completion, failure, Outcome::PossiblyWritten))
            }
        })
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(completion) = &self.completion {
            completion.leave(&mut self.slot);
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("index", &self.index).finish_non_exhaustive()
    }
}
