//! Produce requests framed by hand are those of the generated codec, in every version.

use bytes::{Bytes, BytesMut};
use milena_protocol::compress::Compression;
use milena_protocol::messages::ProduceRequest;
use milena_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use milena_protocol::produce::{ProduceEntry, ProduceSettings, VERSIONS, encode_produce};
use milena_protocol::record::SealedBatch;
use milena_protocol::{Encode, EncodeError, Message, TopicName, TransactionalId, Uuid};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::record_source::{flights, seal};

fn batch(records: usize) -> SealedBatch {
    let mut batch = seal(&flights(records), Compression::None);
    batch.stamp(9, 1, 77, false);
    batch
}

proptest! {
    #[test]
    fn parts_are_the_generated_request(
        version in VERSIONS.min..=VERSIONS.max,
        transactional_id in proptest::option::of("\\PC{0,9}"),
        acks: i16,
        timeout_ms: i32,
        // Topics, each with the sizes of its batches.
        topics in vec(("[a-z.]{1,200}", any::<[u8; 16]>(), vec((any::<i32>(), 1usize..40), 1..4)), 0..5),
    ) {
        let mut topics = topics;
        topics.dedup_by(|a, b| a.0 == b.0 || a.1 == b.1);
        let batches: Vec<Vec<_>> =
            topics.iter().map(|(_, _, partitions)| partitions.iter().map(|(_, n)| batch(*n)).collect()).collect();
        let mut entries = Vec::new();
        let mut request = ProduceRequest {
            transactional_id: transactional_id.clone().map(TransactionalId::from),
            acks,
            timeout_ms,
            ..Default::default()
        };
        for ((name, id, partitions), batches) in topics.iter().zip(&batches) {
            let topic_id = Uuid::from_bytes(*id);
            let mut data = TopicProduceData::default();
            // The generated request wants the field of the other versions at its default.
            if version >= 13 { data.topic_id = topic_id } else { data.name = TopicName::from(name.clone()) }
            for ((partition, _), batch) in partitions.iter().zip(batches) {
                entries.push(ProduceEntry { topic: name, topic_id, partition: *partition, batch });
                let partition_data = PartitionProduceData { index: *partition, records: Some(batch.to_bytes()) };
                data.partition_data.push(partition_data);
            }
            request.topic_data.push(data);
        }
        let settings = ProduceSettings { transactional_id: transactional_id.as_deref(), acks, timeout_ms };
        let parts = encode_produce(version, settings, &entries).unwrap();
        let mut generated = BytesMut::new();
        request.encode(version, &mut generated).unwrap();
        prop_assert_eq!(Bytes::from(parts.concat()), generated.freeze());
    }
}

#[test]
fn every_version_of_the_schema_is_framed() {
    assert_eq!(VERSIONS, ProduceRequest::VERSIONS);
    let settings = ProduceSettings { transactional_id: None, acks: -1, timeout_ms: 0 };
    for version in [VERSIONS.min - 1, VERSIONS.max + 1] {
        let error = encode_produce(version, settings, &[]).unwrap_err();
        assert!(matches!(error, EncodeError::UnsupportedVersion { .. }), "{error}");
    }
}

#[test]
fn the_payload_is_shared_and_all_framing_is_one_buffer() {
    let batches: Vec<_> = (0..10).map(|_| batch(100)).collect();
    let entries: Vec<_> = batches
        .iter()
        .enumerate()
        .map(|(index, batch)| ProduceEntry { topic: "flights", topic_id: Uuid::ZERO, partition: index as i32, batch })
        .collect();
    let settings = ProduceSettings { transactional_id: None, acks: -1, timeout_ms: 30_000 };
    let mut parts = Vec::new();
    let meter = allocation_counter::measure(|| parts = encode_produce(11, settings, &entries).unwrap());
    for batch in &batches {
        let shared = batch.records();
        assert!(parts.iter().any(|part| part.as_ptr() == shared.as_ptr() && part.len() == shared.len()));
    }
    // The list of parts, the buffer, and what makes it shared.
    assert!(meter.count_total <= 3, "{meter:?}");
    assert!(meter.bytes_total < 4096, "{meter:?}");
}

#[test]
fn a_name_beyond_its_length_prefix_is_refused() {
    let long = "x".repeat(32_768);
    let batch = batch(1);
    let entry = ProduceEntry { topic: &long, topic_id: Uuid::ZERO, partition: 0, batch: &batch };
    let settings = ProduceSettings { transactional_id: None, acks: -1, timeout_ms: 0 };
    for version in [3, 9] {
        let error = encode_produce(version, settings, &[entry]).unwrap_err();
        assert!(matches!(error, EncodeError::TooLong { length: 32_768, .. }), "{error}");
    }
}
