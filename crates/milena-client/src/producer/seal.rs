//! From closed to sealed: compression and checksum, in place where that is quick, else off the async workers.
//!
//! Batches enter the queue in the order in which they were closed, whichever is compressed first.
//!
//! Compressing takes memory of the budget's headroom. Who finds none waits for those who have it, of all producers that
//! share the memory, and holds no thread meanwhile. So compression stays within `buffer.memory`, except where a batch of
//! one record finds no room, or a batch is split.

use std::sync::Arc;
use std::time::Instant;

use milena_core::producer::buffers::CopyTurn;
use milena_core::producer::completion::{BatchOutcome, BatchShare};
use milena_core::producer::compression_choice::{CompressionChoice, CompressionReason};
use milena_core::producer::failure::ProduceFailure;
use milena_core::producer::open_batch::{OpenBatch, ProducerBatch};
use milena_protocol::compress::Compression;

use super::partition::{Closing, Partition, State};
use super::shared::{Shared, lock};
use super::timers::Due;

/// A batch above this is not compressed where other tasks wait.
const IN_PLACE: usize = 64 * 1024;
/// How many of a partition's batches are compressed elsewhere at a time.
const AWAY: usize = 2;

/// What is left to do once the partition's lock is free.
#[derive(Default)]
pub(super) struct Later {
    /// Batches that could not be sealed, and whom to tell.
    unsealed: Vec<(BatchShare, BatchOutcome)>,
    errands: Vec<Errand>,
}

impl Later {
    /// No lock may be held.
    pub(super) fn run(self, shared: &Shared) {
        for errand in self.errands {
            errand.start(seal);
        }
        for (share, outcome) in self.unsealed {
            shared.answer(share, outcome);
        }
    }
}

/// Moves the oldest closed batch into the queue, if it is sealed or quickly can be. Larger ones are to be compressed
/// elsewhere.
pub(super) fn advance(shared: &Arc<Shared>, partition: &Arc<Partition>, state: &mut State, later: &mut Later) {
    send_away(shared, partition, state, later);
    loop {
        match state.closing.pop_front() {
            None => return,
            Some(Closing::Void) => {}
            Some(away @ Closing::Away { .. }) => {
                state.closing.push_front(away);
                return;
            }
            Some(Closing::Sealed { created, batch, share }) => {
                state.queue.push(created, batch, share);
                return;
            }
            Some(Closing::Whole(open, choice)) => {
                let choice = choice.unwrap_or_else(|| choose(shared, partition, state, &open));
                let turn = match choice.codec {
                    Compression::None => None,
                    _ => match shared.buffers.try_copy(open.copy_plan()) {
                        Some(turn) => Some(turn),
                        None => {
                            let errand = Errand::new(shared, partition, open, choice);
                            state.closing.push_front(errand.placeholder());
                            later.errands.push(errand);
                            return;
                        }
                    },
                };
                let (created, share) = (open.created(), open.share());
                match seal(shared, open, choice, turn) {
                    Ok(batch) => {
                        state.chooser.sealed(&partition.settings().compression, reason(&batch, choice));
                        state.queue.push(created, batch, share);
                        return;
                    }
                    Err(outcome) => later.unsealed.push((share, outcome)),
                }
            }
        }
    }
}

fn choose(shared: &Shared, partition: &Partition, state: &mut State, open: &OpenBatch) -> CompressionChoice {
    // Batches that pile up say nothing: it may be the broker that holds them up.
    let busy_percent = || lock(&shared.effort).percent(shared.client.clock.now());
    state.chooser.choose(&partition.settings().compression, open.records(), busy_percent)
}

/// Why the batch is as it is, once that is known.
fn reason(batch: &ProducerBatch, choice: CompressionChoice) -> CompressionReason {
    match choice.codec == batch.sealed().compression() {
        true => choice.reason,
        false if batch.lacked_room() => CompressionReason::NoRoom,
        false => CompressionReason::NotSmaller,
    }
}

fn seal(
    shared: &Shared,
    open: OpenBatch,
    choice: CompressionChoice,
    turn: Option<CopyTurn>,
) -> Result<ProducerBatch, BatchOutcome> {
    let raw = open.len();
    let from = (choice.codec != Compression::None).then(|| shared.client.clock.now());
    let sealed = open.seal(choice, turn, &shared.buffers);
    if let Some(from) = from {
        lock(&shared.effort).worked(from, shared.client.clock.now());
    }
    match sealed {
        Ok(batch) => {
            let (codec, wire) = (batch.sealed().compression(), batch.sealed().wire_len());
            shared.counters.sealed(codec, reason(&batch, choice), raw, wire);
            Ok(batch)
        }
        Err(error) => Err(BatchOutcome::Failed(ProduceFailure::Unsendable(error.to_string().into()))),
    }
}

/// Has large batches compressed elsewhere. In virtual time nothing is elsewhere: everything runs in place, so that
/// a simulation repeats itself.
fn send_away(shared: &Arc<Shared>, partition: &Arc<Partition>, state: &mut State, later: &mut Later) {
    if partition.settings().compression.is_none() || shared.client.clock.is_virtual() {
        return;
    }
    for place in 0..state.closing.len().min(AWAY) {
        match &state.closing[place] {
            Closing::Whole(open, None) if open.len() > IN_PLACE => {}
            _ => continue,
        }
        let Closing::Whole(open, _) = std::mem::replace(&mut state.closing[place], Closing::Void) else {
            unreachable!("looked at above");
        };
        let choice = choose(shared, partition, state, &open);
        if choice.codec == Compression::None {
            state.closing[place] = Closing::Whole(open, Some(choice));
            continue;
        }
        let errand = Errand::new(shared, partition, open, choice);
        state.closing[place] = errand.placeholder();
        later.errands.push(errand);
    }
}

/// A batch that is compressed elsewhere. However that ends, with a result, by a panic, or with the runtime, its records
/// are answered for, its memory is given back, and the partition goes on.
struct Errand {
    shared: Arc<Shared>,
    partition: Arc<Partition>,
    number: u64,
    created: Instant,
    /// Taken when it starts.
    work: Option<(OpenBatch, CompressionChoice)>,
    choice: CompressionChoice,
    /// Taken when it is back.
    share: Option<BatchShare>,
}

impl Errand {
    fn new(shared: &Arc<Shared>, partition: &Arc<Partition>, open: OpenBatch, choice: CompressionChoice) -> Self {
        Self {
            shared: Arc::clone(shared),
            partition: Arc::clone(partition),
            number: shared.next_number(),
            created: open.created(),
            share: Some(open.share()),
            work: Some((open, choice)),
            choice,
        }
    }

    /// What stands for the batch among the closed ones.
    fn placeholder(&self) -> Closing {
        let share = self.share.as_ref().expect("it has not started");
        Closing::Away { number: self.number, completion: Arc::clone(share.completion()) }
    }

    /// No lock may be held: where nothing may start any more, this ends at once.
    fn start<F>(mut self, seal: F)
    where
        F: FnOnce(&Shared, OpenBatch, CompressionChoice, Option<CopyTurn>) -> Result<ProducerBatch, BatchOutcome>
            + Send
            + 'static,
    {
        let tasks = self.shared.client.tasks.clone();
        // Whatever drops the errand instead of returning it has it answer for the batch.
        let task = async move {
            let plan = self.work.as_ref().expect("it starts once").0.copy_plan();
            let turn = self.shared.buffers.copy(plan).await;
            let work = move || {
                let (open, choice) = self.work.take().expect("it starts once");
                let result = seal(&self.shared, open, choice, Some(turn));
                (self, result)
            };
            if let Ok((errand, result)) = tokio::task::spawn_blocking(work).await {
                errand.come_back(result);
            }
        };
        let _ = tasks.spawn("compress", task);
    }

    fn come_back(mut self, result: Result<ProducerBatch, BatchOutcome>) {
        let share = self.share.take().expect("it comes back once");
        let (shared, partition) = (&self.shared, &self.partition);
        // What is dropped or told, is so with the lock released.
        let (orphan, unsealed, node) = partition.update(|state| {
            if let Ok(batch) = &result {
                state.chooser.sealed(&partition.settings().compression, reason(batch, self.choice));
            }
            let (orphan, unsealed) = match (self.place(state), result) {
                (Some(place), Ok(batch)) => {
                    *place = Closing::Sealed { created: self.created, batch, share };
                    (None, None)
                }
                (place, Err(outcome)) => {
                    place.into_iter().for_each(|place| *place = Closing::Void);
                    (None, Some((share, outcome)))
                }
                // Given up meanwhile by a close that did not wait.
                (None, Ok(batch)) => (Some(batch), Some((share, BatchOutcome::Failed(ProduceFailure::Closed)))),
            };
            state.sweep();
            (orphan, unsealed, shared.list(partition, state))
        });
        drop(orphan);
        if let Some((share, outcome)) = unsealed {
            shared.answer(share, outcome);
        }
        if let Some(node) = node {
            shared.pump(node);
        }
    }

    fn place<'a>(&self, state: &'a mut State) -> Option<&'a mut Closing> {
        let is_it = |closing: &&mut Closing| matches!(closing, Closing::Away { number, .. } if *number == self.number);
        state.closing.iter_mut().find(is_it)
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        let Some(share) = self.share.take() else { return };
        drop(self.work.take());
        let shared = Arc::clone(&self.shared);
        let failure = self.partition.update(|state| {
            let failure = match self.place(state) {
                Some(place) => {
                    *place = Closing::Void;
                    ProduceFailure::Unsendable("its compression was cut short".into())
                }
                None => ProduceFailure::Closed,
            };
            state.sweep();
            failure
        });
        shared.answer(share, BatchOutcome::Failed(failure));
        // This may be any thread, and one that panics: the driver sends what waits behind the batch.
        shared.arm(shared.client.clock.now(), &self.partition, Due::Retry);
    }
}

#[cfg(test)]
mod tests;
