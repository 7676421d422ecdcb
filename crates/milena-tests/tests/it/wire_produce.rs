//! What becomes of a produced batch, sound or not: the embedded broker answers, field by field, as Kafka does.

use bytes::Bytes;
use milena_protocol::ErrorCode;
use milena_protocol::compress::Compression;
use milena_protocol::messages::DeleteRecordsRequest;
use milena_protocol::messages::ProduceRequest;
use milena_protocol::messages::delete_records_request::DeleteRecordsPartition;
use milena_protocol::messages::delete_records_request::DeleteRecordsTopic;
use milena_protocol::messages::produce_request::PartitionProduceData;
use milena_protocol::messages::produce_request::TopicProduceData;
use milena_protocol::messages::produce_response::PartitionProduceResponse;
use milena_protocol::record::BatchEncoder;
use milena_protocol::record::RecordBatches;
use milena_protocol::record::SealedBatch;
use milena_protocol::record::TimestampType;
use milena_tests::cluster::Cluster;
use milena_tests::on_every_cluster;
use milena_tests::wire::Wires;

on_every_cluster!(
    odd_batches_are_taken_as_kafka_takes_them,
    bad_batches_are_refused_in_kafkas_words,
    sequences_are_judged_beside_the_log_start,
    records_at_fault_are_named,
    a_request_may_be_refused_as_a_whole,
    what_is_not_there_has_no_log_start,
    only_topics_that_delete_lose_records_on_demand,
);

const START: i64 = 1_700_000_000_000;

/// Where the log of each topic here starts, so that it is told from zero and from nothing.
const LOG_START: i64 = 2;

fn batch_from(timestamps: &[i64]) -> SealedBatch {
    let mut batch = BatchEncoder::new(Vec::new(), timestamps[0]);
    for timestamp in timestamps {
        batch.append(*timestamp, Some(b"key"), Some(&[b'v'; 100]), &[]).unwrap();
    }
    batch.seal(Compression::None, None).unwrap()
}

fn good() -> SealedBatch {
    batch_from(&[START, START + 10, START + 20])
}

/// A good batch in which `change` was made, its CRC right again.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut bytes = good().to_bytes().to_vec();
    change(&mut bytes);
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

/// A good batch with other bytes in its header.
fn set(at: usize, other: &[u8]) -> Bytes {
    changed(|bytes| bytes[at..at + other.len()].copy_from_slice(other))
}

fn stamped(producer_id: i64, epoch: i16, base_sequence: i32) -> Bytes {
    let mut batch = good();
    batch.stamp(producer_id, epoch, base_sequence, false);
    batch.to_bytes()
}

/// A message set of one record, as producers before 0.11 sent it: magic 0 or 1.
fn message_set(magic: u8) -> Bytes {
    let mut message = vec![magic, 0];
    if magic == 1 {
        message.extend_from_slice(&START.to_be_bytes());
    }
    message.extend_from_slice(&(-1_i32).to_be_bytes());
    message.extend_from_slice(&3_i32.to_be_bytes());
    message.extend_from_slice(b"old");
    // CRC-32, not CRC-32C.
    let crc = !message.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    });
    let length = i32::try_from(message.len()).unwrap() + 4;
    [&[0; 8][..], &length.to_be_bytes(), &crc.to_be_bytes(), &message].concat().into()
}

/// Milliseconds since 1970, for what is judged by the broker's clock.
fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// A topic whose log is from [`LOG_START`] to 5.
async fn topic(cluster: &Cluster, configs: &[(&str, &str)]) -> (Wires, String) {
    let mut wires = Wires::to(cluster);
    let topic = cluster.unique("produce");
    wires.create(&topic, 1, configs).await.unwrap();
    wires.produce(&topic, 0, batch_from(&[START; 5]).to_bytes()).await.unwrap();
    assert_eq!(delete_records(&mut wires, &topic).await, ErrorCode::NONE);
    (wires, topic)
}

async fn delete_records(wires: &mut Wires, topic: &str) -> ErrorCode {
    let partitions = vec![DeleteRecordsPartition { partition_index: 0, offset: LOG_START }];
    let topics = vec![DeleteRecordsTopic { name: topic.to_owned().into(), partitions }];
    let request = DeleteRecordsRequest { topics, timeout_ms: 10_000 };
    let response = wires.leader(topic, 0).await.unwrap().send(2, &request).await.unwrap();
    response.topics[0].partitions[0].error_code
}

async fn produce(wires: &mut Wires, topic: &str, records: Bytes) -> PartitionProduceResponse {
    wires.leader(topic, 0).await.unwrap().produce(topic, 0, Some(records), -1).await.unwrap()
}

/// Code, log start and message of a refusal, which has nothing else.
fn refusal(answer: &PartitionProduceResponse) -> (ErrorCode, i64, Option<&str>) {
    assert_eq!((answer.base_offset, answer.log_append_time_ms), (-1, -1), "{answer:?}");
    (answer.error_code, answer.log_start_offset, answer.error_message.as_deref())
}

async fn odd_batches_are_taken_as_kafka_takes_them(cluster: Cluster) {
    let (mut wires, topic) = topic(&cluster, &[]).await;
    let mut offset = 5;
    for (what, records) in [
        ("log append time, by the producer's word", set(22, &[0x08])),
        ("a delete horizon", set(22, &[0x40])),
        ("a leader epoch", set(12, &[0, 0, 0, 9])),
        ("a few stray bytes behind the batch", [&good().to_bytes()[..], &[0; 5]].concat().into()),
        ("no base timestamp", set(27, &[255; 8])),
        ("a wrong maximum of the timestamps", set(35, &[0; 8])),
        ("no maximum of the timestamps", set(35, &[255; 8])),
        ("attributes of a record", changed(|bytes| bytes[63] = 1)),
        ("a producer id without an epoch", stamped(1 << 40, -1, 0)),
        ("a producer id below -1", stamped(-2, -1, -1)),
        ("an epoch without a producer id", stamped(-1, 4, -1)),
        ("a sequence without a producer id", stamped(-1, -1, 4)),
    ] {
        let answer = produce(&mut wires, &topic, records).await;
        let expected = (ErrorCode::NONE, offset, -1, LOG_START, None);
        let PartitionProduceResponse { error_code, base_offset, log_append_time_ms, log_start_offset, .. } = answer;
        let found = (error_code, base_offset, log_append_time_ms, log_start_offset, answer.error_message.as_deref());
        assert_eq!(found, expected, "{what}");
        offset += 3;
    }
    // The broker says who has stamped the records, whatever the producer said.
    let fetched = wires.fetch(&topic, 0, 5, 1).await.unwrap().records.unwrap();
    let batch = RecordBatches::new(fetched).next().unwrap().unwrap();
    batch.verify_crc().unwrap();
    assert_eq!((batch.timestamp_type(), batch.max_timestamp()), (TimestampType::CreateTime, START + 20));
    let fetched = wires.fetch(&topic, 0, 20, 1).await.unwrap().records.unwrap();
    let batch = RecordBatches::new(fetched).next().unwrap().unwrap();
    assert_eq!((batch.base_offset(), batch.max_timestamp()), (20, START + 20), "corrected");
}

async fn bad_batches_are_refused_in_kafkas_words(cluster: Cluster) {
    let (mut wires, topic) = topic(&cluster, &[("max.message.bytes", "1000")]).await;
    let whole = good().to_bytes();
    let spoilt = |position: usize| {
        let mut bytes = whole.to_vec();
        bytes[position] ^= 0x55;
        Bytes::from(bytes)
    };
    let lz4 = {
        let mut batch = BatchEncoder::new(Vec::new(), START);
        batch.append(START, None, Some(&[b'v'; 500]), &[]).unwrap();
        batch.seal(Compression::Lz4, None).unwrap().to_bytes()
    };
    let mut large = batch_from(&[START; 20]).to_bytes().to_vec();
    let too_large = Bytes::from(large.clone());
    large[17] ^= 0x55;

    let at_once = |code| (code, -1, None);
    let by_log = |code| (code, LOG_START, None);
    let corrupt = ErrorCode::CORRUPT_MESSAGE;
    let invalid = ErrorCode::INVALID_RECORD;
    let unknown = ErrorCode::UNKNOWN_SERVER_ERROR;
    for (what, records, expected) in [
        ("nothing", Bytes::new(), at_once(invalid)),
        ("a wrong CRC", spoilt(17), at_once(corrupt)),
        ("a flipped bit in a record", spoilt(100), at_once(corrupt)),
        ("a flipped bit in the count", spoilt(60), at_once(corrupt)),
        ("a flipped bit in the attributes", spoilt(21), at_once(corrupt)),
        ("magic 0", message_set(0), at_once(invalid)),
        ("magic 1", message_set(1), at_once(invalid)),
        ("magic 3", set(16, &[3]), (corrupt, -1, Some("Invalid magic found in record: 3"))),
        ("magic -1", set(16, &[255]), (corrupt, -1, Some("Invalid magic found in record: -1"))),
        ("magic 1 on a batch", set(16, &[1]), at_once(invalid)),
        ("two batches", [whole.clone(), whole.clone()].concat().into(), at_once(invalid)),
        ("stray bytes like a batch", [&whole[..], &[0; 20]].concat().into(), at_once(corrupt)),
        ("cut off", whole.slice(..whole.len() - 10), at_once(invalid)),
        ("cut off in its header", whole.slice(..30), at_once(invalid)),
        ("cut off in its length", whole.slice(..10), at_once(invalid)),
        ("a length of 49", set(8, &[0, 0, 0, 49]), at_once(corrupt)),
        ("a length of 48", set(8, &[0, 0, 0, 48]), at_once(corrupt)),
        (
            "a length of 13",
            set(8, &[0, 0, 0, 13]),
            (corrupt, -1, Some("Record size 13 is less than the minimum record overhead (14)")),
        ),
        (
            "a negative length",
            set(8, &[255; 4]),
            (corrupt, -1, Some("Record size -1 is less than the minimum record overhead (14)")),
        ),
        ("too large", too_large, at_once(ErrorCode::MESSAGE_TOO_LARGE)),
        ("too large, and its CRC wrong", large.into(), at_once(ErrorCode::MESSAGE_TOO_LARGE)),
        ("a base offset", set(7, &[7]), by_log(invalid)),
        ("a control batch", set(22, &[0x20]), by_log(invalid)),
        ("codec 5", set(22, &[0x05]), by_log(unknown)),
        ("codec 7", set(22, &[0x07]), by_log(unknown)),
        ("gzip that is none", set(22, &[0x01]), by_log(unknown)),
        ("snappy that is none", set(22, &[0x02]), by_log(unknown)),
        ("lz4 that is none", set(22, &[0x03]), by_log(unknown)),
        ("zstd that is none", set(22, &[0x04]), by_log(unknown)),
        (
            "lz4 that says it is plain",
            {
                let mut bytes = lz4.to_vec();
                bytes[22] = 0;
                let crc = crc32c::crc32c(&bytes[21..]);
                bytes[17..21].copy_from_slice(&crc.to_be_bytes());
                bytes.into()
            },
            by_log(invalid),
        ),
        ("a count of 2 for 3", set(57, &[0, 0, 0, 2]), by_log(invalid)),
        ("a count of 4 for 3", set(57, &[0, 0, 0, 4]), by_log(invalid)),
        ("a count of 0 for 3", set(57, &[0; 4]), by_log(invalid)),
        ("a negative count", set(57, &[255; 4]), by_log(invalid)),
        ("a last offset too low", set(23, &[0, 0, 0, 1]), by_log(invalid)),
        ("a last offset too high", set(23, &[0, 0, 0, 3]), by_log(invalid)),
        ("a negative last offset", set(23, &[255; 4]), by_log(invalid)),
        ("a record that says it is longer", changed(|bytes| bytes[61] = 0x7f), by_log(invalid)),
        ("a record of negative length", changed(|bytes| bytes[61] = 0x01), by_log(invalid)),
        ("a producer id without a sequence", stamped(1 << 40, 0, -1), by_log(invalid)),
    ] {
        let answer = produce(&mut wires, &topic, records).await;
        assert_eq!(refusal(&answer), expected, "{what}");
        assert_eq!(answer.record_errors, [], "{what}");
    }
    assert_eq!(wires.list_offset(&topic, 0, -1).await.unwrap(), (ErrorCode::NONE, -1, 5), "nothing was written");
}

async fn sequences_are_judged_beside_the_log_start(cluster: Cluster) {
    let (mut wires, topic) = topic(&cluster, &[]).await;
    let id = (1 << 41) + i64::from(fastrand::u32(..));
    let gap = ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER;
    for (what, (epoch, sequence), expected) in [
        ("the first", (3, 0), (ErrorCode::NONE, 5, -1)),
        // Kafka tells a duplicate's largest timestamp.
        ("again", (3, 0), (ErrorCode::NONE, 5, START + 20)),
        ("a gap", (3, 9), (gap, -1, -1)),
        ("an old epoch", (2, 3), (ErrorCode::INVALID_PRODUCER_EPOCH, -1, -1)),
        ("a new epoch in the middle", (4, 5), (gap, -1, -1)),
        ("the next", (3, 3), (ErrorCode::NONE, 8, -1)),
    ] {
        let answer = produce(&mut wires, &topic, stamped(id, epoch, sequence)).await;
        let found = (answer.error_code, answer.base_offset, answer.log_append_time_ms);
        assert_eq!((found, answer.log_start_offset), (expected, LOG_START), "{what}");
        assert_eq!(answer.error_message, None, "{what}");
    }
}

async fn records_at_fault_are_named(cluster: Cluster) {
    let named = |answer: &PartitionProduceResponse| {
        let named = answer.record_errors.iter();
        named
            .map(|at| (at.batch_index, at.batch_index_error_message.as_deref().unwrap().to_owned()))
            .collect::<Vec<_>>()
    };
    let bad_time = "One or more records have been rejected due to invalid timestamp";
    let bad_time = (ErrorCode::INVALID_TIMESTAMP, LOG_START, Some(bad_time));

    let (mut wires, times) = topic(&cluster, &[]).await;
    let ahead = now() + 2 * 3_600_000;
    let answer = produce(&mut wires, &times, batch_from(&[START, ahead, ahead + 1]).to_bytes()).await;
    assert_eq!(refusal(&answer), bad_time);
    let found = named(&answer);
    assert_eq!(found.len(), 2, "{found:?}");
    let expected =
        format!("Timestamp {ahead} of message with offset 1 is out of range. The timestamp should be within [");
    assert!(found[0].0 == 1 && found[0].1.starts_with(&expected), "{found:?}");

    let (mut wires, stamps) = topic(&cluster, &[("message.timestamp.type", "LogAppendTime")]).await;
    let answer = produce(&mut wires, &stamps, set(22, &[0x08])).await;
    assert_eq!(refusal(&answer), bad_time);
    let expected = |index| {
        let record = format!("offset={index}, timestamp={}, key=3 bytes, value=100 bytes", START + 20);
        let what = format!("Invalid timestamp type in message DefaultRecord({record}). ");
        (index, what + "Producer should not set timestamp type to LogAppendTime.")
    };
    assert_eq!(named(&answer), (0..3).map(expected).collect::<Vec<_>>());
    let answer = produce(&mut wires, &stamps, batch_from(&[ahead]).to_bytes()).await;
    assert_eq!((answer.error_code, answer.base_offset), (ErrorCode::NONE, 5), "whatever the producer's clock says");
    assert!((now() - answer.log_append_time_ms).abs() < 60_000, "{answer:?}");

    let (mut wires, keys) = topic(&cluster, &[("cleanup.policy", "compact,delete")]).await;
    let mut keyless = BatchEncoder::new(Vec::new(), START);
    for key in [Some(&b"key"[..]), None, None] {
        keyless.append(START, key, Some(b"value"), &[]).unwrap();
    }
    let answer = produce(&mut wires, &keys, keyless.seal(Compression::None, None).unwrap().to_bytes()).await;
    let message = format!("Compacted topic cannot accept message without key in topic partition {keys}-0");
    assert_eq!(named(&answer), [(1, message.clone()), (2, message.clone())]);
    let all = format!(
        "One or more records have been rejected due to 2 record errors in total, and only showing the first three errors \
         at most: [RecordError(batchIndex=1, message='{message}'), RecordError(batchIndex=2, message='{message}')]"
    );
    assert_eq!(refusal(&answer), (ErrorCode::INVALID_RECORD, LOG_START, Some(&*all)));
}

async fn a_request_may_be_refused_as_a_whole(cluster: Cluster) {
    let (mut wires, topic) = topic(&cluster, &[]).await;
    // Two topics in one request, and the first of them is not even there.
    let mut send = async |records: [Bytes; 2]| {
        let data = ["nonesuch", &topic].into_iter().zip(records).map(|(name, records)| {
            let partition_data = vec![PartitionProduceData { index: 0, records: Some(records) }];
            TopicProduceData { name: name.to_owned().into(), partition_data, ..Default::default() }
        });
        let topic_data = data.collect();
        let request = ProduceRequest { acks: -1, timeout_ms: 10_000, topic_data, ..Default::default() };
        let response = wires.leader(&topic, 0).await.unwrap().send(12, &request).await.unwrap();
        // Kafka answers in an order of its own.
        let mut answers = response.responses.iter().collect::<Vec<_>>();
        answers.sort_by_key(|answered| *answered.name == *topic);
        answers.into_iter().map(|topic| topic.partition_responses[0].clone()).collect::<Vec<_>>()
    };
    let whole = good().to_bytes();
    let answers = send([whole.clone(), set(22, &[0x10])]).await;
    let unnamed = (ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED, -1, None);
    assert_eq!(answers.iter().map(refusal).collect::<Vec<_>>(), [unnamed; 2], "a transaction without a name");
    let answers = send([set(16, &[9]), whole.clone()]).await;
    let unread = (ErrorCode::CORRUPT_MESSAGE, -1, Some("Invalid magic found in record: 9"));
    assert_eq!(answers.iter().map(refusal).collect::<Vec<_>>(), [unread; 2], "what can't be looked into");
    // What is found later concerns its own partition alone.
    let answers = send([set(16, &[1]), whole]).await;
    let codes: Vec<_> = answers.iter().map(|answer| answer.error_code).collect();
    assert_eq!(codes, [ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, ErrorCode::NONE]);
}

async fn what_is_not_there_has_no_log_start(cluster: Cluster) {
    let (mut wires, topic) = topic(&cluster, &[]).await;
    let missing = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
    for (what, asked, partition, acks, expected) in [
        ("an unknown topic", "nonesuch", 0, -1, missing),
        ("no topic's name", "no/name", 0, -1, missing),
        ("an unknown partition", &*topic, 7, -1, missing),
        ("a negative partition", &*topic, -1, -1, missing),
        ("unknown acks", &*topic, 0, 2, ErrorCode::INVALID_REQUIRED_ACKS),
        ("unknown acks of an unknown topic", "nonesuch", 0, 2, missing),
    ] {
        let wire = wires.leader(&topic, 0).await.unwrap();
        let answer = wire.produce(asked, partition, Some(good().to_bytes()), acks).await.unwrap();
        assert_eq!(refusal(&answer), (expected, -1, None), "{what}");
    }
}

async fn only_topics_that_delete_lose_records_on_demand(cluster: Cluster) {
    let mut wires = Wires::to(&cluster);
    let topic = cluster.unique("compacted");
    wires.create(&topic, 1, &[("cleanup.policy", "compact")]).await.unwrap();
    wires.produce(&topic, 0, good().to_bytes()).await.unwrap();
    assert_eq!(delete_records(&mut wires, &topic).await, ErrorCode::POLICY_VIOLATION);
    assert_eq!(wires.list_offset(&topic, 0, -2).await.unwrap(), (ErrorCode::NONE, -1, 0));
}
