//! From closed to sealed: compression and checksum, in place where that is quick, else off the async workers.
//!
//! Batches enter the queue in the order in which they were closed, whichever is compressed first.

use std::sync::Arc;

use milena_core::producer::completion::{BatchOutcome, BatchShare};
use milena_core::producer::compression_choice::CompressionChoice;
use milena_core::producer::failure::ProduceFailure;
use milena_core::producer::open_batch::{OpenBatch, ProducerBatch};
use milena_protocol::compress::Compression;

use super::partition::{Closing, Partition, State};
use super::shared::Shared;

/// A batch above this is not compressed where other tasks wait.
const IN_PLACE: usize = 64 * 1024;
/// How many of a partition's batches are compressed elsewhere at a time.
const AWAY: usize = 2;

/// A batch that could not be sealed, and whom to tell.
pub(super) type Unsealed = (BatchShare, BatchOutcome);

/// Moves the oldest closed batch into the queue, if it is sealed or quickly can be. Sends larger ones away to be
/// compressed.
pub(super) fn advance(
    shared: &Arc<Shared>,
    partition: &Arc<Partition>,
    state: &mut State,
    unsealed: &mut Vec<Unsealed>,
) {
    send_away(shared, partition, state);
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
                let choice = choice.unwrap_or_else(|| choose(shared, state, &open));
                let (created, share) = (open.created(), open.share());
                match seal(shared, open, choice) {
                    Ok(batch) => {
                        state.queue.push(created, batch, share);
                        return;
                    }
                    Err(outcome) => unsealed.push((share, outcome)),
                }
            }
        }
    }
}

fn choose(shared: &Shared, state: &mut State, open: &OpenBatch) -> CompressionChoice {
    // Batches pile up behind the one that is compressed: the codec is what holds them up.
    let cpu_bound = state.closing.len() > AWAY;
    state.chooser.choose(&shared.compression, open.records(), cpu_bound)
}

fn seal(shared: &Shared, open: OpenBatch, choice: CompressionChoice) -> Result<ProducerBatch, BatchOutcome> {
    let raw = open.len();
    match open.seal(choice, &shared.buffers) {
        Ok(batch) => {
            shared.counters.sealed(batch.sealed().compression(), raw, batch.sealed().wire_len());
            Ok(batch)
        }
        Err(error) => Err(BatchOutcome::Failed(ProduceFailure::Unsendable(error.to_string().into()))),
    }
}

/// Starts compressing large batches elsewhere. In virtual time nothing is elsewhere: everything runs in place, so that
/// a simulation repeats itself.
fn send_away(shared: &Arc<Shared>, partition: &Arc<Partition>, state: &mut State) {
    if !shared.compresses() || shared.client.clock.is_virtual() {
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
        let choice = choose(shared, state, &open);
        if choice.codec == Compression::None {
            state.closing[place] = Closing::Whole(open, Some(choice));
            continue;
        }
        let number = shared.next_number();
        state.closing[place] = Closing::Away { number, completion: Arc::clone(open.completion()) };
        let task = {
            let (shared, partition) = (Arc::clone(shared), Arc::clone(partition));
            let away = {
                let shared = Arc::clone(&shared);
                move || {
                    let (created, share) = (open.created(), open.share());
                    match seal(&shared, open, choice) {
                        Ok(batch) => Ok(Closing::Sealed { created, batch, share }),
                        Err(outcome) => Err((share, outcome)),
                    }
                }
            };
            async move {
                if let Ok(result) = tokio::task::spawn_blocking(away).await {
                    come_back(&shared, &partition, number, result);
                }
            }
        };
        // A closed client: its driver answers for what is left.
        let _ = shared.client.tasks.spawn("compress", task);
    }
}

fn come_back(shared: &Arc<Shared>, partition: &Arc<Partition>, number: u64, result: Result<Closing, Unsealed>) {
    let mut state = partition.lock();
    let is_it = |closing: &&mut Closing| matches!(closing, Closing::Away { number: away, .. } if *away == number);
    let place = state.closing.iter_mut().find(is_it);
    let (returned, unsealed) = match result {
        Ok(sealed) => (sealed, None),
        Err(unsealed) => (Closing::Void, Some(unsealed)),
    };
    let orphan = match place {
        Some(place) => {
            *place = returned;
            None
        }
        // Given up meanwhile by a close that did not wait.
        None => Some(returned),
    };
    let node = shared.list(partition, &mut state);
    drop(state);
    if let Some((share, outcome)) = unsealed {
        shared.answer(share, outcome);
    }
    if let Some(Closing::Sealed { share, .. }) = orphan {
        shared.answer(share, BatchOutcome::Failed(ProduceFailure::Closed));
    }
    if let Some(node) = node {
        shared.pump(node);
    }
}
