//! Which batches of one fetched partition a `read_committed` reader skips: those of aborted transactions, and control
//! batches, which nobody is shown. Sees batch headers and the broker's aborted index, in offset order.

use std::collections::BTreeSet;

/// What the filter needs to know of a batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchFacts {
    /// Offset of the last record.
    pub last_offset: i64,
    /// Who wrote it.
    pub producer_id: i64,
    /// Part of a transaction.
    pub is_transactional: bool,
    /// Holds a transaction marker; `Some(true)` for an abort.
    pub abort_marker: Option<bool>,
}

/// Filter for one partition of one response. Without `read_committed` the index is empty and only control batches go.
#[derive(Clone, Debug, Default)]
pub struct AbortedFilter {
    /// First offsets and producer ids, the last one first.
    upcoming: Vec<(i64, i64)>,
    aborted: BTreeSet<i64>,
}

impl AbortedFilter {
    /// From the response's index of (producer id, first offset), which brokers do not always send in order.
    pub fn new(index: impl IntoIterator<Item = (i64, i64)>) -> Self {
        let mut upcoming: Vec<(i64, i64)> =
            index.into_iter().map(|(producer_id, first_offset)| (first_offset, producer_id)).collect();
        upcoming.sort_unstable_by(|left, right| right.cmp(left));
        Self { upcoming, aborted: BTreeSet::new() }
    }

    /// Whether the batch is for the application. Each batch once, in order.
    pub fn is_visible(&mut self, batch: BatchFacts) -> bool {
        while let Some(&(first_offset, producer_id)) = self.upcoming.last()
            && first_offset <= batch.last_offset
        {
            self.upcoming.pop();
            self.aborted.insert(producer_id);
        }
        if let Some(is_abort) = batch.abort_marker {
            if is_abort {
                self.aborted.remove(&batch.producer_id);
            }
            return false;
        }
        !(batch.is_transactional && self.aborted.contains(&batch.producer_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(last_offset: i64, producer_id: i64) -> BatchFacts {
        BatchFacts { last_offset, producer_id, is_transactional: true, abort_marker: None }
    }

    fn marker(last_offset: i64, producer_id: i64, abort: bool) -> BatchFacts {
        BatchFacts { abort_marker: Some(abort), ..data(last_offset, producer_id) }
    }

    #[test]
    fn aborted_transactions_are_skipped_to_their_marker_only() {
        // Out of order on purpose; producer 1 aborts twice.
        let mut filter = AbortedFilter::new([(1, 20), (2, 5), (1, 0)]);
        let batches = [
            (data(3, 1), false),
            (data(4, 2), true),
            (data(6, 2), false),
            (data(8, 3), true),
            (marker(9, 1, true), false),
            (data(11, 1), true),
            (marker(12, 1, false), false),
            (data(22, 1), false),
            (marker(23, 2, true), false),
            (data(25, 2), true),
        ];
        for (batch, visible) in batches {
            assert_eq!(filter.is_visible(batch), visible, "{batch:?}");
        }
    }

    #[test]
    fn plain_batches_of_an_aborting_producer_id_stay_visible() {
        let mut filter = AbortedFilter::new([(1, 0)]);
        assert!(filter.is_visible(BatchFacts { is_transactional: false, ..data(3, 1) }));
    }
}
