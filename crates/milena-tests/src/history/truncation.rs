//! Unclean elections: the tail of a log vanishes, acknowledged or not, and other records take its offsets. Only what was
//! there may vanish: a value that was begun after the last such election is held to every promise.

use super::{History, Place, Value};

/// Offsets of a partition whose records vanished.
#[derive(Clone, Copy, Debug)]
pub(super) struct Truncation {
    partition: i32,
    from: i64,
    end: i64,
}

impl History {
    /// Somebody is about to send a value.
    pub fn begun(&mut self, value: Value) {
        self.begun.insert(value, self.truncations.len());
    }

    /// What lay between `from` and the end of a partition's log vanished.
    pub fn truncated(&mut self, partition: i32, from: i64, end: i64) {
        self.truncations.push(Truncation { partition, from, end });
        self.rewinds(partition, from);
    }

    /// The group handles a partition from here on once more.
    pub fn rewinds(&mut self, partition: i32, from: i64) {
        let below = self.handled_below.entry(partition).or_insert(0);
        *below = from.min(*below);
    }

    /// Whether something vanished of the partition.
    #[must_use]
    pub fn is_unclean(&self, partition: i32) -> bool {
        self.truncations.iter().any(|truncation| truncation.partition == partition)
    }

    /// Whether the value may have been there, and may have vanished. Where nobody knows at which offset it was, at any.
    pub(super) fn may_have_vanished(&self, value: Value, partition: i32, offset: Option<i64>) -> bool {
        let begun = self.begun.get(&value).copied().unwrap_or(0);
        self.truncations.iter().skip(begun).any(|truncation| {
            truncation.partition == partition
                && offset.is_none_or(|offset| (truncation.from..truncation.end).contains(&offset))
        })
    }

    pub(super) fn is_gone(&self, value: Value, at: Place) -> bool {
        self.may_have_vanished(value, at.partition, Some(at.offset))
    }
}
