//! What a partition remembers of its idempotent producers: the last five batches of each, as Kafka 4.x does
//! (`ProducerStateManager`, `ProducerStateEntry`, `ProducerAppendInfo`).
//!
//! Decides whether a batch is new, a duplicate or out of order; writes nothing to the log. Kafka 4.x answers
//! DUPLICATE_SEQUENCE and UNKNOWN_PRODUCER_ID nowhere on this path any more: a repeat that is older than the window is
//! OUT_OF_ORDER_SEQUENCE_NUMBER, and a producer without state may begin at any sequence (KIP-360).

use std::collections::{BTreeMap, VecDeque};

use milena_protocol::ErrorCode;

/// How many batches of one producer are remembered (`ProducerStateEntry.NUM_BATCHES_TO_RETAIN`).
const WINDOW: usize = 5;

/// The producer fields of a batch header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProducerBatch {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
    pub(crate) base_sequence: i32,
    pub(crate) last_offset_delta: i32,
}

impl ProducerBatch {
    fn last_sequence(&self) -> i32 {
        increment_sequence(self.base_sequence, self.last_offset_delta)
    }
}

/// What to do with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Write it.
    Append,
    /// It is one of the last five: answer with where it was written, write nothing.
    Duplicate { base_offset: i64, timestamp: i64 },
}

#[derive(Debug, Clone, Copy)]
struct Remembered {
    base_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
    timestamp: i64,
}

#[derive(Debug, Default)]
struct Entry {
    epoch: i16,
    batches: VecDeque<Remembered>,
}

/// One partition's view of its producers, by producer id.
#[derive(Debug, Default)]
pub(crate) struct ProducerStates {
    entries: BTreeMap<i64, Entry>,
}

impl ProducerStates {
    /// Judges a batch of a client before it is written.
    pub(crate) fn judge(&self, batch: &ProducerBatch) -> Result<Verdict, ErrorCode> {
        let Some(entry) = self.entries.get(&batch.producer_id) else {
            return Ok(Verdict::Append);
        };
        if batch.epoch == entry.epoch {
            let last = batch.last_sequence();
            let twin = entry
                .batches
                .iter()
                .find(|known| known.base_sequence == batch.base_sequence && known.last_sequence == last);
            if let Some(twin) = twin {
                return Ok(Verdict::Duplicate { base_offset: twin.base_offset, timestamp: twin.timestamp });
            }
        }
        if batch.epoch < entry.epoch {
            return Err(ErrorCode::INVALID_PRODUCER_EPOCH);
        }
        if batch.epoch > entry.epoch {
            // A new epoch starts over at zero (KIP-360).
            return if batch.base_sequence == 0 {
                Ok(Verdict::Append)
            } else {
                Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER)
            };
        }
        // An entry that only saw a transaction marker has an epoch and no sequence: the next one is zero.
        let expected = entry.batches.back().map_or(0, |known| increment_sequence(known.last_sequence, 1));
        if batch.base_sequence == expected { Ok(Verdict::Append) } else { Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER) }
    }

    /// Remembers a batch that was written at `base_offset`.
    pub(crate) fn record(&mut self, batch: &ProducerBatch, base_offset: i64, timestamp: i64) {
        let entry = self.entries.entry(batch.producer_id).or_default();
        if entry.epoch != batch.epoch {
            entry.epoch = batch.epoch;
            entry.batches.clear();
        }
        if entry.batches.len() == WINDOW {
            entry.batches.pop_front();
        }
        entry.batches.push_back(Remembered {
            base_sequence: batch.base_sequence,
            last_sequence: batch.last_sequence(),
            base_offset,
            timestamp,
        });
    }

    /// Takes note of a transaction marker: older epochs are fenced from here on. With `bumped` (KIP-890) the marker
    /// carries a new epoch, whose sequences start at zero.
    pub(crate) fn check_marker(&self, producer_id: i64, epoch: i16) -> Result<(), ErrorCode> {
        match self.entries.get(&producer_id) {
            Some(entry) if epoch < entry.epoch => Err(ErrorCode::INVALID_PRODUCER_EPOCH),
            _ => Ok(()),
        }
    }

    /// Remembers the epoch of a transaction marker that was written.
    pub(crate) fn record_marker(&mut self, producer_id: i64, epoch: i16) {
        let entry = self.entries.entry(producer_id).or_default();
        if entry.epoch != epoch {
            entry.epoch = epoch;
            entry.batches.clear();
        }
    }

    /// Forgets every producer, as Kafka does after `producer.id.expiration.ms`.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }
}

/// `sequence + increment` in Kafka's ring of 2^31 (`DefaultRecordBatch.incrementSequence`): i32::MAX is followed by 0.
fn increment_sequence(sequence: i32, increment: i32) -> i32 {
    if sequence > i32::MAX - increment { increment - (i32::MAX - sequence) - 1 } else { sequence + increment }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(epoch: i16, base_sequence: i32, records: i32) -> ProducerBatch {
        ProducerBatch { producer_id: 7, epoch, base_sequence, last_offset_delta: records - 1 }
    }

    /// Writes each batch that is judged new and returns the verdicts.
    fn run(batches: &[ProducerBatch]) -> Vec<Judgement> {
        let mut states = ProducerStates::default();
        let mut next_offset = 0;
        let judge = |batch: &ProducerBatch| {
            let verdict = states.judge(batch);
            if verdict == Ok(Verdict::Append) {
                states.record(batch, next_offset, 1000);
                next_offset += i64::from(batch.last_offset_delta) + 1;
            }
            verdict
        };
        batches.iter().map(judge).collect()
    }

    type Judgement = Result<Verdict, ErrorCode>;

    const NEW: Judgement = Ok(Verdict::Append);
    const GAP: Judgement = Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);

    fn twin(base_offset: i64) -> Judgement {
        Ok(Verdict::Duplicate { base_offset, timestamp: 1000 })
    }

    #[test]
    fn duplicates_and_gaps_are_treated_as_kafka_does() {
        let table: [(&str, Vec<ProducerBatch>, Vec<Judgement>); 9] = [
            ("in order", vec![batch(0, 0, 3), batch(0, 3, 2)], vec![NEW, NEW]),
            ("without state any sequence may come first", vec![batch(0, 42, 1)], vec![NEW]),
            ("a repeat of the last batch", vec![batch(0, 0, 3), batch(0, 0, 3)], vec![NEW, twin(0)]),
            ("a gap", vec![batch(0, 0, 3), batch(0, 4, 1)], vec![NEW, GAP]),
            ("same start, other length is no duplicate", vec![batch(0, 0, 3), batch(0, 0, 2)], vec![NEW, GAP]),
            (
                "five are remembered, the sixth back is not",
                (0..6).map(|n| batch(0, n, 1)).chain([batch(0, 1, 1), batch(0, 0, 1)]).collect(),
                vec![NEW, NEW, NEW, NEW, NEW, NEW, twin(1), GAP],
            ),
            (
                "an older epoch is fenced",
                vec![batch(1, 0, 1), batch(0, 1, 1)],
                vec![NEW, Err(ErrorCode::INVALID_PRODUCER_EPOCH)],
            ),
            ("a new epoch starts at zero", vec![batch(0, 0, 1), batch(1, 1, 1), batch(1, 0, 1)], vec![NEW, GAP, NEW]),
            ("a repeat under a new epoch is new", vec![batch(0, 0, 1), batch(1, 0, 1)], vec![NEW, NEW]),
        ];
        for (name, batches, expected) in table {
            assert_eq!(run(&batches), expected, "{name}");
        }
    }

    #[test]
    fn sequences_wrap_at_two_to_the_thirty_one() {
        assert_eq!(increment_sequence(i32::MAX, 1), 0);
        assert_eq!(increment_sequence(i32::MAX - 1, 3), 1);
        assert_eq!(increment_sequence(0, i32::MAX), i32::MAX);
        // A batch that ends at i32::MAX is followed by 0; one that spans the wrap by the rest.
        assert_eq!(run(&[batch(0, i32::MAX - 1, 2), batch(0, 0, 1)]), vec![NEW, NEW]);
        assert_eq!(run(&[batch(0, i32::MAX - 1, 4), batch(0, 2, 1)]), vec![NEW, NEW]);
        assert_eq!(run(&[batch(0, i32::MAX - 1, 4), batch(0, i32::MAX - 1, 4)]), vec![NEW, twin(0)]);
        assert_eq!(run(&[batch(0, i32::MAX, 1), batch(0, 1, 1)]), vec![NEW, GAP]);
    }

    #[test]
    fn a_marker_fences_older_epochs() {
        let mut states = ProducerStates::default();
        states.record(&batch(3, 0, 1), 0, 0);
        states.record_marker(7, 4);
        assert_eq!(states.judge(&batch(3, 1, 1)), Err(ErrorCode::INVALID_PRODUCER_EPOCH));
        assert_eq!(states.judge(&batch(4, 0, 1)), NEW);
        assert_eq!(states.check_marker(7, 3), Err(ErrorCode::INVALID_PRODUCER_EPOCH));
    }
}
