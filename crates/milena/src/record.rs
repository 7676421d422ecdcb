//! A record as the bus keeps it while it is in flight: the raw bytes, whole, and where they came from.
//!
//! What cannot be decoded is dead-lettered from this, byte for byte.

use std::sync::Arc;

use bytes::Bytes;

use crate::envelope::Header;

/// A record of a topic, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRecord {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<Header>,
}

impl RawRecord {
    /// Topic it was read from.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Partition it was read from.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// Its offset in the partition.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// Its timestamp, in milliseconds since 1970.
    pub fn timestamp(&self) -> i64 {
        self.timestamp
    }

    /// Its key.
    pub fn key(&self) -> Option<&Bytes> {
        self.key.as_ref()
    }

    /// Its value.
    pub fn value(&self) -> Option<&Bytes> {
        self.value.as_ref()
    }

    /// Its headers, duplicates and order kept.
    pub fn headers(&self) -> &[Header] {
        &self.headers
    }

    /// What it weighs in a budget.
    pub(crate) fn weight(&self) -> usize {
        let bytes = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
        let headers: usize =
            self.headers.iter().map(|header| size_of::<Header>() + header.name.len() + bytes(&header.value)).sum();
        size_of::<Self>() + bytes(&self.key) + bytes(&self.value) + headers
    }
}
