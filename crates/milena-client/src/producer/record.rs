//! A record on its way in, borrowed, and what is known of it once it is in the log.

use std::fmt;
use std::sync::Arc;

use milena_core::producer::completion::Completion;
pub use milena_protocol::record::RecordHeader;

/// A record to be sent: borrowed, encoded once there is room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition; without one the partitioner chooses.
    pub partition: Option<i32>,
    /// The key: records of one key go to one partition.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone where the topic is compacted.
    pub value: Option<&'a [u8]>,
    /// Headers, in order; names may repeat.
    pub headers: &'a [RecordHeader<'a>],
    /// Milliseconds since 1970; without one, the time of appending.
    pub timestamp: Option<i64>,
}

impl<'a> Record<'a> {
    /// A record for `topic`, with nothing in it yet.
    pub fn to(topic: &'a str) -> Self {
        Self { topic, partition: None, key: None, value: None, headers: &[], timestamp: None }
    }

    /// Names the partition.
    #[must_use]
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.key = Some(key.as_ref());
        self
    }

    /// Sets the value.
    #[must_use]
    pub fn value(mut self, value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.value = Some(value.as_ref());
        self
    }

    /// Sets the headers.
    #[must_use]
    pub fn headers(mut self, headers: &'a [RecordHeader<'a>]) -> Self {
        self.headers = headers;
        self
    }

    /// Sets the timestamp, in milliseconds since 1970.
    #[must_use]
    pub fn timestamp(mut self, millis: i64) -> Self {
        self.timestamp = Some(millis);
        self
    }
}

/// Where an acknowledged record is.
#[derive(Clone)]
pub struct RecordMetadata {
    /// Knows topic and partition; so no name is copied per record.
    completion: Arc<Completion>,
    offset: Option<i64>,
    timestamp: i64,
}

impl RecordMetadata {
    pub(crate) fn new(completion: Arc<Completion>, offset: Option<i64>, timestamp: i64) -> Self {
        Self { completion, offset, timestamp }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        self.completion.topic()
    }

    /// The partition.
    pub fn partition(&self) -> i32 {
        self.completion.partition()
    }

    /// The offset. `None` with `acks=0`, or where the broker only told that it had the record already.
    pub fn offset(&self) -> Option<i64> {
        self.offset
    }

    /// Milliseconds since 1970: as sent, or the broker's time where the topic says so.
    pub fn timestamp(&self) -> i64 {
        self.timestamp
    }
}

impl fmt::Debug for RecordMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordMetadata")
            .field("topic", &self.topic())
            .field("partition", &self.partition())
            .field("offset", &self.offset)
            .field("timestamp", &self.timestamp)
            .finish()
    }
}
