//! The client's consumer as a subscription uses it: how it is built, what its errors mean, how its records are kept.

use std::error::Error;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use milena_client::consumer::{Assignor, ConsumeError, Consumer, ConsumerRecord, OffsetReset};
use milena_client::{Client, TopicPartition};

use crate::bus::SubscribeError;
use crate::envelope::Header;
use crate::record::RawRecord;

/// Settings that the bus decides, and what to say instead.
const RESERVED: [(&str, &str); 3] = [
    ("group.id", "say .group(...)"),
    ("auto.offset.reset", "say .start_at(...)"),
    ("isolation.level", "events of open and aborted transactions are never handled"),
];

/// A consumer that is a member of `group` and begins where the driver says, unless the group has committed offsets.
///
/// It assigns cooperatively unless told otherwise: a rebalance stops only the partitions that move.
pub(super) fn subscribed_consumer(
    client: &Client,
    group: &str,
    topics: &[String],
    settings: &[(String, String)],
) -> Result<Consumer, SubscribeError> {
    let failed = |error: Box<dyn Error + Send + Sync>| SubscribeError::Consumer(error);
    let mut builder = Consumer::builder(client)
        .group(group)
        .auto_offset_reset(OffsetReset::None)
        .assignors([Assignor::CooperativeSticky]);
    for (key, value) in settings {
        if let Some((key, instead)) = RESERVED.iter().find(|(reserved, _)| reserved == key) {
            return Err(SubscribeError::Reserved { key, instead });
        }
        builder = builder.set(key, value).map_err(|error| failed(error.into()))?;
    }
    let consumer = builder.build().map_err(|error| failed(error.into()))?;
    consumer.subscribe(topics).map_err(|error| failed(error.into()))?;
    Ok(consumer)
}

/// The partition that an error is about, if it is about one.
pub(super) fn partition_of(error: &ConsumeError) -> Option<TopicPartition> {
    match error {
        ConsumeError::Corrupt { partition, .. }
        | ConsumeError::Partition { partition, .. }
        | ConsumeError::NotAssigned(partition) => Some(partition.clone()),
        _ => None,
    }
}

/// Whether the consumer can't go on by itself.
pub(super) fn is_fatal(error: &ConsumeError) -> bool {
    matches!(error, ConsumeError::Closed | ConsumeError::Group { .. } | ConsumeError::NoGroup | ConsumeError::Mixed)
}

/// Copies a record out of the response that it came in, into one buffer: a record may wait for long in its lane, and
/// must not hold on to a whole response meanwhile.
pub(super) fn raw_record(topic: &Arc<str>, record: &ConsumerRecord<'_>) -> RawRecord {
    let length = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
    let headers: usize = record.headers.iter().map(|header| length(header.value)).sum();
    let mut buffer = BytesMut::with_capacity(length(record.key) + length(record.value) + headers);
    let mut copy = |part: Option<&[u8]>| -> Option<Bytes> {
        part.map(|part| {
            buffer.put_slice(part);
            buffer.split().freeze()
        })
    };
    RawRecord {
        topic: Arc::clone(topic),
        partition: record.partition,
        offset: record.offset,
        timestamp: record.timestamp,
        key: copy(record.key),
        value: copy(record.value),
        headers: record
            .headers
            .iter()
            .map(|header| Header { name: header.name().into_owned().into(), value: copy(header.value) })
            .collect(),
    }
}
