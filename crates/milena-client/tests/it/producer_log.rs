//! Producer tests in virtual time, and a look at what the broker's logs hold.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use milena_broker::Broker;
use milena_client::raw::Target;
use milena_client::{Client, TimeSource};
use milena_protocol::compress::Compression;
use milena_protocol::messages::FetchRequest;
use milena_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use milena_protocol::record::RecordBatches;

use crate::link::Link;

/// A client of `broker` whose wall clock is virtual too, and whose chance repeats itself.
pub(crate) async fn client(broker: &Broker) -> Client {
    let clock = TimeSource::virtual_from(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    let builder = Client::builder().bootstrap(broker.bootstrap()).expect("addresses");
    let builder = builder.connector(Arc::new(Link(broker.clone()))).clock(clock).seed(7);
    builder.build().await.expect("the broker answers")
}

/// A record as it lies in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

/// What a fetch finds from `offset` on, as it lies in the log.
async fn fetch(client: &Client, topic: &str, partition: i32, offset: i64) -> Bytes {
    let request = FetchRequest {
        max_wait_ms: 0,
        min_bytes: 0,
        max_bytes: i32::MAX,
        session_epoch: -1,
        topics: vec![FetchTopic {
            topic: topic.to_owned().into(),
            partitions: vec![FetchPartition {
                partition,
                fetch_offset: offset,
                partition_max_bytes: i32::MAX,
                ..FetchPartition::default()
            }],
            ..FetchTopic::default()
        }],
        ..FetchRequest::default()
    };
    let target = Target::Leader { topic: topic.to_owned(), partition };
    let raw = client.raw();
    let response = raw.send_versioned(target, 12, |_| request.clone(), |_, response| response.error_code);
    let response = response.await.expect("the broker answers");
    let data = &response.responses[0].partitions[0];
    assert!(data.error_code.is_ok(), "{}", data.error_code);
    data.records.clone().unwrap_or_default()
}

/// Records and codec of each batch in a partition's log.
pub(crate) async fn batches(client: &Client, topic: &str, partition: i32) -> Vec<(i32, Compression)> {
    let mut batches = Vec::new();
    let mut offset = 0;
    loop {
        let before = batches.len();
        for batch in RecordBatches::new(fetch(client, topic, partition, offset).await) {
            let batch = batch.expect("a batch");
            batches.push((batch.record_count(), batch.compression()));
            offset = batch.last_offset() + 1;
        }
        if batches.len() == before {
            return batches;
        }
    }
}

/// Everything in a partition's log, checked: CRCs right, offsets dense.
pub(crate) async fn log(client: &Client, topic: &str, partition: i32) -> Vec<Stored> {
    let mut stored = Vec::new();
    loop {
        let offset = stored.last().map_or(0, |last: &Stored| last.offset + 1);
        let before = stored.len();
        for batch in RecordBatches::new(fetch(client, topic, partition, offset).await) {
            let batch = batch.expect("a batch");
            batch.verify_crc().expect("its CRC");
            let records = batch.records(1 << 26).expect("its records");
            for record in records.iter() {
                let record = record.expect("a record");
                let expected = stored.last().map_or(0, |last: &Stored| last.offset + 1);
                assert_eq!(record.offset, expected, "offsets are dense");
                let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
                stored.push(Stored {
                    offset: record.offset,
                    timestamp: record.timestamp,
                    key: owned(record.key),
                    value: owned(record.value),
                    headers: record.headers.iter().map(|h| (h.name().into_owned(), owned(h.value))).collect(),
                });
            }
        }
        if stored.len() == before {
            return stored;
        }
    }
}

/// The values of a partition's log, as numbers.
pub(crate) async fn numbers(client: &Client, topic: &str, partition: i32) -> Vec<u32> {
    let number = |stored: &Stored| {
        let value = stored.value.as_deref().expect("a value");
        std::str::from_utf8(value).expect("digits").trim_start_matches('x').parse().expect("a number")
    };
    log(client, topic, partition).await.iter().map(number).collect()
}
