//! The offsets a group has committed. Knows nothing of members.

use std::collections::BTreeMap;

/// One committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommittedOffset {
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: String,
}

/// Offsets by topic and partition, in that order.
#[derive(Debug, Default)]
pub(crate) struct Offsets(BTreeMap<(String, i32), CommittedOffset>);

impl Offsets {
    pub(crate) fn commit(&mut self, topic: &str, partition: i32, committed: CommittedOffset) {
        self.0.insert((topic.to_owned(), partition), committed);
    }

    pub(crate) fn fetch(&self, topic: &str, partition: i32) -> Option<&CommittedOffset> {
        self.0.get(&(topic.to_owned(), partition))
    }

    /// True if there was one.
    pub(crate) fn delete(&mut self, topic: &str, partition: i32) -> bool {
        self.0.remove(&(topic.to_owned(), partition)).is_some()
    }

    pub(crate) fn delete_topic(&mut self, topic: &str) {
        self.0.retain(|(held, _), _| held != topic);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, i32, &CommittedOffset)> {
        self.0.iter().map(|((topic, partition), committed)| (topic.as_str(), *partition, committed))
    }
}
