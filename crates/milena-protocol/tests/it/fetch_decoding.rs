//! Fetch responses decoded by hand hold what the generated codec holds, in every version.

use bytes::{Bytes, BytesMut};
use milena_protocol::fetch::{FetchReply, FetchedTopic, VERSIONS};
use milena_protocol::messages::FetchResponse;
use milena_protocol::{Decode as _, DecodeError, Encode as _, Message as _};

use crate::laws::for_random_bytes;
use crate::random::{Random as _, Source};

fn encoded(response: &FetchResponse, version: i16) -> Bytes {
    let mut buffer = BytesMut::new();
    response.encode(version, &mut buffer).unwrap();
    buffer.freeze()
}

/// Holds every field of `reply` against `response`.
fn assert_same(version: i16, reply: &FetchReply, response: &FetchResponse) {
    assert_eq!(reply.throttle_time_ms, response.throttle_time_ms);
    assert_eq!(reply.error_code, response.error_code);
    assert_eq!(reply.session_id, response.session_id);
    assert_eq!(reply.endpoints.len(), response.node_endpoints.len());
    for (ours, theirs) in reply.endpoints.iter().zip(&response.node_endpoints) {
        assert_eq!((ours.node_id, &ours.host, ours.port), (theirs.node_id, &theirs.host, theirs.port));
        assert_eq!(ours.rack, theirs.rack);
    }
    let mut partitions = reply.partitions.iter();
    for topic in &response.responses {
        for theirs in &topic.partitions {
            let ours = partitions.next().unwrap();
            match &ours.topic {
                FetchedTopic::Name(name) => assert!(version < 13 && *name == topic.topic),
                FetchedTopic::Id(id) => assert!(version >= 13 && *id == topic.topic_id),
            }
            assert_eq!(ours.partition, theirs.partition_index);
            assert_eq!(ours.error_code, theirs.error_code);
            assert_eq!(ours.high_watermark, theirs.high_watermark);
            assert_eq!(ours.last_stable_offset, theirs.last_stable_offset);
            assert_eq!(ours.log_start_offset, theirs.log_start_offset);
            match ours.diverging_epoch {
                Some(diverging) => {
                    assert_eq!(diverging.epoch, theirs.diverging_epoch.epoch);
                    assert_eq!(diverging.end_offset, theirs.diverging_epoch.end_offset);
                }
                None => assert!(theirs.diverging_epoch.epoch < 0 || theirs.diverging_epoch.end_offset < 0),
            }
            match ours.current_leader {
                Some(leader) => {
                    assert_eq!(leader.leader_id, theirs.current_leader.leader_id);
                    assert_eq!(leader.leader_epoch, theirs.current_leader.leader_epoch);
                }
                None => assert!(theirs.current_leader.leader_id.0 < 0),
            }
            let aborted: Vec<_> =
                ours.aborted_transactions.iter().map(|txn| (txn.producer_id, txn.first_offset)).collect();
            let expected: Vec<_> =
                theirs.aborted_transactions.iter().flatten().map(|txn| (txn.producer_id, txn.first_offset)).collect();
            assert_eq!(aborted, expected);
            match ours.preferred_read_replica {
                Some(replica) => assert_eq!(replica, theirs.preferred_read_replica),
                None => assert!(theirs.preferred_read_replica.0 < 0),
            }
            assert_eq!(ours.records, theirs.records.clone().unwrap_or_default());
        }
    }
    assert!(partitions.next().is_none());
}

#[test]
fn every_version_holds_what_the_generated_codec_holds() {
    assert_eq!(VERSIONS, FetchResponse::VERSIONS);
    for version in VERSIONS.min..=VERSIONS.max {
        for_random_bytes(200, |bytes| {
            let response = FetchResponse::random(&mut Source::new(version, bytes));
            let body = encoded(&response, version);
            assert_same(version, &FetchReply::decode(version, body).unwrap(), &response);
        });
    }
}

/// Whatever the bytes: both codecs take them or both refuse them, and neither allocates beyond the bytes.
#[test]
fn both_codecs_take_the_same_bytes() {
    for version in VERSIONS.min..=VERSIONS.max {
        for_random_bytes(200, |bytes| {
            let response = FetchResponse::random(&mut Source::new(version, bytes));
            let mut body = encoded(&response, version).to_vec();
            for change in bytes.chunks_exact(2) {
                let at = usize::from(change[0]) % body.len();
                body[at] = change[1];
                let body = Bytes::from(body.clone());
                let generated = FetchResponse::decode_exact(version, body.clone());
                let mut by_hand = None;
                let meter = allocation_counter::measure(|| by_hand = Some(FetchReply::decode(version, body.clone())));
                assert!(meter.bytes_max <= 64 * body.len() as u64 + (64 << 10), "{meter:?}");
                match (by_hand.unwrap(), generated) {
                    (Ok(reply), Ok(response)) => assert_same(version, &reply, &response),
                    (Err(_), Err(_)) => {}
                    // A snapshot id is skipped, whatever is in it.
                    (Ok(_), Err(_)) if version >= 12 => {}
                    (reply, response) => panic!("{reply:?} but {response:?}"),
                }
            }
        });
    }
}

#[test]
fn records_are_slices_of_the_frame() {
    use milena_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
    let partition = PartitionData { records: Some(Bytes::from(vec![7; 100_000])), ..Default::default() };
    let mut topic = FetchableTopicResponse::default();
    topic.partitions.push(partition);
    let mut response = FetchResponse::default();
    response.responses.push(topic);
    let body = encoded(&response, 17);
    let mut reply = None;
    let meter = allocation_counter::measure(|| reply = Some(FetchReply::decode(17, body.clone()).unwrap()));
    assert!(meter.bytes_total < 4096, "{meter:?}");
    let records = &reply.unwrap().partitions[0].records;
    assert!(body.as_ptr_range().contains(&records.as_ptr()));
}

#[test]
fn every_prefix_and_every_longer_body_is_an_error() {
    for version in VERSIONS.min..=VERSIONS.max {
        let seed: Vec<u8> = (1..=255).collect();
        let body = encoded(&FetchResponse::random(&mut Source::new(version, &seed)), version);
        for end in 0..body.len() {
            assert!(FetchReply::decode(version, body.slice(..end)).is_err(), "version {version}, {end} bytes");
        }
        let longer = Bytes::from([body.as_ref(), &[0]].concat());
        assert_eq!(FetchReply::decode(version, longer), Err(DecodeError::TrailingBytes { left: 1 }));
    }
}
