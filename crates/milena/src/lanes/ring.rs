//! Which records of one partition are finished: a ring of bits, and the contiguous prefix that may be committed.
//!
//! Counts records by sequence, not by offset, so that gaps in offsets (compaction, control records, aborted
//! transactions) cost nothing and never hold the prefix back.

use std::collections::VecDeque;

const BITS: usize = u64::BITS as usize;

/// The unfinished window of a partition.
#[derive(Debug)]
pub(super) struct CompletionRing {
    /// Offset of each record in the window, by sequence from `first`.
    offsets: VecDeque<i64>,
    /// One bit per record; bit 0 of the first word is at sequence `first - first % 64`.
    words: VecDeque<u64>,
    /// Sequence of the window's first record, which is not finished unless the window is empty.
    first: u64,
    /// What follows the last record: where the partition continues.
    end: i64,
}

impl CompletionRing {
    /// An empty window at `position`, the next offset to be read.
    pub(super) fn new(position: i64) -> Self {
        Self { offsets: VecDeque::new(), words: VecDeque::new(), first: 0, end: position }
    }

    /// Appends a record and returns its sequence.
    pub(super) fn push(&mut self, offset: i64) -> u64 {
        debug_assert!(offset >= self.end, "records of a partition come in order: {offset} after {}", self.end);
        let sequence = self.first + self.offsets.len() as u64;
        self.offsets.push_back(offset);
        if self.word_of(sequence) == self.words.len() {
            self.words.push_back(0);
        }
        self.end = offset + 1;
        sequence
    }

    /// Says that nothing lies between the last record and `position`, so that the prefix may cover it.
    pub(super) fn advance(&mut self, position: i64) {
        self.end = self.end.max(position);
    }

    /// Marks a record as finished. Whether it was not so before.
    pub(super) fn finish(&mut self, sequence: u64) -> bool {
        let in_window = sequence.checked_sub(self.first).is_some_and(|index| index < self.offsets.len() as u64);
        if !in_window || self.is_finished(sequence) {
            return false;
        }
        let word = self.word_of(sequence);
        self.words[word] |= 1 << (sequence % BITS as u64);
        while !self.offsets.is_empty() && self.is_finished(self.first) {
            self.offsets.pop_front();
            self.first += 1;
            if self.first.is_multiple_of(BITS as u64) {
                self.words.pop_front();
            }
        }
        true
    }

    /// The offset to commit: everything before it is finished.
    pub(super) fn watermark(&self) -> i64 {
        self.offsets.front().copied().unwrap_or(self.end)
    }

    /// Where the partition continues behind the last record.
    pub(super) fn end(&self) -> i64 {
        self.end
    }

    /// Sequence of the first record that is not finished; the next to be given when all are.
    pub(super) fn first_unfinished(&self) -> u64 {
        self.first
    }

    /// Records from the first unfinished one on, finished ones among them included.
    pub(super) fn span(&self) -> usize {
        self.offsets.len()
    }

    fn is_finished(&self, sequence: u64) -> bool {
        self.words[self.word_of(sequence)] & (1 << (sequence % BITS as u64)) != 0
    }

    fn word_of(&self, sequence: u64) -> usize {
        let word = sequence / BITS as u64 - self.first / BITS as u64;
        usize::try_from(word).expect("the window is held in memory, so its length fits in usize")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_is_the_contiguous_prefix_and_jumps_gaps_in_offsets() {
        let mut ring = CompletionRing::new(10);
        assert_eq!(ring.watermark(), 10);
        let sequences: Vec<u64> = [10, 11, 20, 21].into_iter().map(|offset| ring.push(offset)).collect();
        assert_eq!(ring.watermark(), 10);
        assert!(ring.finish(sequences[1]));
        assert!(ring.finish(sequences[3]));
        assert_eq!((ring.watermark(), ring.span()), (10, 4), "the first record still holds the prefix");
        assert!(ring.finish(sequences[0]));
        assert_eq!(
            (ring.watermark(), ring.span()),
            (20, 2),
            "the next unfinished offset, not the last finished plus one"
        );
        assert!(ring.finish(sequences[2]));
        assert_eq!((ring.watermark(), ring.span()), (22, 0));
        ring.advance(25);
        assert_eq!(ring.watermark(), 25, "a batch's last records may be control records");
    }

    #[test]
    fn finishing_twice_or_what_never_was_changes_nothing() {
        let mut ring = CompletionRing::new(0);
        let sequence = ring.push(0);
        assert!(!ring.finish(sequence + 1));
        assert!(ring.finish(sequence));
        assert!(!ring.finish(sequence));
        assert_eq!(ring.watermark(), 1);
    }

    #[test]
    fn the_ring_gives_its_words_back_as_the_window_moves() {
        let mut ring = CompletionRing::new(0);
        for round in 0..1_000_u64 {
            let sequences: Vec<u64> = (0..7).map(|step| ring.push(i64::try_from(round * 7 + step).unwrap())).collect();
            for sequence in sequences.into_iter().rev() {
                assert!(ring.finish(sequence));
            }
            assert_eq!(ring.watermark(), i64::try_from((round + 1) * 7).unwrap());
            assert!(ring.words.len() <= 2);
        }
    }
}
