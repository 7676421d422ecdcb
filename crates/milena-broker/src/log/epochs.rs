//! Leader-epoch history of one partition (KIP-101, KIP-279, KIP-320): which epoch began at which offset.
//!
//! Mirrors Kafka's `LeaderEpochFileCache`; holds no records.

/// `(leader epoch, first offset of that epoch)`, both rising.
#[derive(Debug, Default, Clone)]
pub(crate) struct LeaderEpochs {
    entries: Vec<(i32, i64)>,
}

/// What no epoch and no offset look like on the wire.
pub(crate) const UNDEFINED_EPOCH: i32 = -1;
pub(crate) const UNDEFINED_OFFSET: i64 = -1;

impl LeaderEpochs {
    /// Notes that `epoch` starts at `start_offset`; an epoch already known keeps its first start.
    pub(crate) fn assign(&mut self, epoch: i32, start_offset: i64) {
        match self.entries.last() {
            Some(&(last, _)) if last >= epoch => {}
            _ => {
                // An epoch that wrote nothing leaves no trace: its successor begins at the same offset.
                self.entries.retain(|&(_, start)| start < start_offset);
                self.entries.push((epoch, start_offset));
            }
        }
    }

    pub(crate) fn latest(&self) -> Option<i32> {
        self.entries.last().map(|&(epoch, _)| epoch)
    }

    /// The epoch of the oldest entry that covers `log_start_offset`.
    pub(crate) fn earliest_at(&self, log_start_offset: i64) -> Option<i32> {
        self.entries.first().filter(|&&(_, start)| start <= log_start_offset).map(|&(epoch, _)| epoch)
    }

    /// The epoch in which `offset` was written.
    pub(crate) fn epoch_at(&self, offset: i64) -> Option<i32> {
        let after = self.entries.partition_point(|&(_, start)| start <= offset);
        after.checked_sub(1).map(|index| self.entries[index].0)
    }

    /// The end of `epoch`: the largest known epoch not above it and the offset where the next one starts.
    pub(crate) fn end_offset_for(&self, epoch: i32, log_end_offset: i64) -> (i32, i64) {
        if epoch == UNDEFINED_EPOCH {
            return (UNDEFINED_EPOCH, UNDEFINED_OFFSET);
        }
        if self.latest() == Some(epoch) {
            return (epoch, log_end_offset);
        }
        let above = self.entries.partition_point(|&(known, _)| known <= epoch);
        match (above.checked_sub(1), self.entries.get(above)) {
            (_, None) => (UNDEFINED_EPOCH, UNDEFINED_OFFSET),
            (None, Some(&(_, next_start))) => (epoch, next_start),
            (Some(floor), Some(&(_, next_start))) => (self.entries[floor].0, next_start),
        }
    }

    /// Forgets what lies at or after `end_offset`.
    pub(crate) fn truncate_from_end(&mut self, end_offset: i64) {
        self.entries.retain(|&(_, start)| start < end_offset);
    }

    /// Forgets what lies before `start_offset`, keeping the epoch that covers it.
    pub(crate) fn truncate_from_start(&mut self, start_offset: i64) {
        let after = self.entries.partition_point(|&(_, start)| start <= start_offset);
        if let Some(covering) = after.checked_sub(1) {
            self.entries.drain(..covering);
            self.entries[0].1 = self.entries[0].1.max(start_offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> LeaderEpochs {
        let mut epochs = LeaderEpochs::default();
        epochs.assign(0, 0);
        epochs.assign(2, 10);
        epochs.assign(5, 20);
        epochs
    }

    #[test]
    fn end_offsets_follow_kafkas_table() {
        let epochs = history();
        assert_eq!(epochs.end_offset_for(5, 33), (5, 33), "the latest epoch ends at the log end");
        assert_eq!(epochs.end_offset_for(2, 33), (2, 20));
        assert_eq!(epochs.end_offset_for(3, 33), (2, 20), "an epoch never seen answers with the one below it");
        assert_eq!(epochs.end_offset_for(0, 33), (0, 10));
        assert_eq!(epochs.end_offset_for(6, 33), (-1, -1), "an epoch from the future is undefined");
        assert_eq!(epochs.end_offset_for(-1, 33), (-1, -1));
    }

    #[test]
    fn an_epoch_without_records_is_replaced_by_the_next() {
        let mut epochs = history();
        epochs.assign(6, 20);
        assert_eq!(epochs.latest(), Some(6));
        assert_eq!(epochs.end_offset_for(5, 33), (2, 20));
    }

    #[test]
    fn truncation_cuts_both_ends() {
        let mut epochs = history();
        epochs.truncate_from_start(15);
        assert_eq!(epochs.end_offset_for(0, 33), (0, 15), "epoch 0 ends where the log now begins");
        assert_eq!(epochs.earliest_at(15), Some(2));
        epochs.truncate_from_end(20);
        assert_eq!(epochs.latest(), Some(2));
        assert_eq!(epochs.epoch_at(17), Some(2));
    }
}
