//! Producing, fetching and finding offsets, request by request: the embedded broker answers as Kafka does.

use bytes::Bytes;
use milena_protocol::ErrorCode;
use milena_protocol::ProducerId;
use milena_protocol::TopicName;
use milena_protocol::compress::Compression;
use milena_protocol::messages::DeleteRecordsRequest;
use milena_protocol::messages::InitProducerIdRequest;
use milena_protocol::messages::delete_records_request::DeleteRecordsPartition;
use milena_protocol::messages::delete_records_request::DeleteRecordsTopic;
use milena_protocol::record::BatchEncoder;
use milena_protocol::record::RecordBatches;
use milena_protocol::record::SealedBatch;
use milena_tests::cluster::Cluster;
use milena_tests::on_every_cluster;
use milena_tests::wire::Wires;

on_every_cluster!(
    what_is_produced_is_fetched,
    a_batch_sent_again_is_written_once,
    a_gap_in_the_sequence_is_refused,
    an_old_epoch_is_refused,
    odd_records_are_stored_and_read,
    spoilt_batches_are_refused,
    a_batch_too_large_is_refused,
    offsets_beyond_the_log_are_out_of_range,
    offsets_are_found_by_time,
    deleted_records_are_out_of_range,
);

const START: i64 = 1_700_000_000_000;

/// `n_records` with the timestamps `START`, `START` + 10, …
fn batch(n_records: i64, compression: Compression) -> SealedBatch {
    let mut batch = BatchEncoder::new(Vec::new(), START);
    for record in 0..n_records {
        batch.append(START + 10 * record, Some(b"key"), Some(&[b'v'; 100]), &[]).unwrap();
    }
    batch.seal(compression, None).unwrap()
}

fn stamped(producer: (ProducerId, i16), base_sequence: i32, n_records: i64) -> Bytes {
    let mut batch = batch(n_records, Compression::None);
    batch.stamp(producer.0.0, producer.1, base_sequence, false);
    batch.to_bytes()
}

async fn producer_id(wires: &mut Wires) -> (ProducerId, i16) {
    let request = InitProducerIdRequest {
        transactional_id: None,
        transaction_timeout_ms: i32::MAX,
        producer_id: ProducerId(-1),
        producer_epoch: -1,
    };
    // Right after its start a broker may have no block of ids yet, and says so by this code.
    for _ in 0..200 {
        let response = wires.any().await.unwrap().send(4, &request).await.unwrap();
        if response.error_code != ErrorCode::COORDINATOR_LOAD_IN_PROGRESS {
            assert_eq!(response.error_code, ErrorCode::NONE);
            return (response.producer_id, response.producer_epoch);
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("no producer id");
}

async fn topic(cluster: &Cluster, configs: &[(&str, &str)]) -> (Wires, String) {
    let mut wires = Wires::to(cluster);
    let topic = cluster.unique("log");
    wires.create(&topic, 1, configs).await.unwrap();
    (wires, topic)
}

async fn what_is_produced_is_fetched(cluster: Cluster) {
    let (mut wires, topic) = topic(&cluster, &[]).await;
    let codecs = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    for (turn, codec) in codecs.into_iter().enumerate() {
        let offset = turn as i64 * 20;
        let produced = wires.produce(&topic, 0, batch(20, codec).to_bytes()).await.unwrap();
        assert_eq!(produced, (ErrorCode::NONE, offset), "{codec}");
    }
    // From the middle of a batch: the whole batch comes.
    let fetched = wires.fetch(&topic, 0, 25, 1 << 20).await.unwrap();
    assert_eq!(fetched.error_code, ErrorCode::NONE);
    assert_eq!((fetched.log_start_offset, fetched.high_watermark, fetched.last_stable_offset), (0, 100, 100));
    let batches: Vec<_> = RecordBatches::new(fetched.records.unwrap()).collect::<Result<_, _>>().unwrap();
    assert_eq!(batches.len(), 4);
    for (batch, (turn, codec)) in batches.iter().zip(codecs.into_iter().enumerate().skip(1)) {
        batch.verify_crc().unwrap();
        assert_eq!((batch.base_offset(), batch.record_count()), (turn as i64 * 20, 20));
        assert_eq!(batch.compression(), codec, "kept as it was sent");
        assert_eq!(batch.partition_leader_epoch(), 0);
        assert_eq!(batch.max_timestamp(), START + 190);
    }
    // At the end there is nothing, and that is no error.
    let fetched = wires.fetch(&topic, 0, 100, 1 << 20).await.unwrap();
    assert_eq!(fetched.error_code, ErrorCode::NONE);
    assert_eq!(fetched.records.unwrap_or_default().len(), 0);
    // The first batch comes even if it is larger than what was asked for (KIP-74), and alone.
    let fetched = wires.fetch(&topic, 0, 0, 1).await.unwrap();
    let batches: Vec<_> = RecordBatches::new(fetched.records.unwrap()).collect::<Result<_, _>>().unwrap();
    assert_eq!(batches.len(), 1);
}

async fn a_batch_sent_again_is_written_once(cluster: Cluster) {
    let (mut wires, topic) = topic(&cluster, &[]).await;
    let producer = producer_id(&mut wires).await;
    for turn in 0..6 {
        let produced = wires.produce(&topic, 0, stamped(producer, turn * 3, 3)).await.unwrap();
        assert_eq!(produced, (ErrorCode::NONE, i64::from(turn) * 3));
    }
    // The last five are remembered, with their offsets.
    for turn in 1..6 {
        let produced = wires.produce(&topic, 0, stamped(producer, turn * 3, 3)).await.unwrap();
        assert_eq!(produced, (ErrorCode::NONE, i64::from(turn) * 3), "sent again");
    }
    // What came before them is forgotten, and so out of order.
    let produced = wires.produce(&topic, 0, stamped(producer, 0, 3)).await.unwrap();
    assert_eq!(produced, (ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, -1));
    assert_eq!(wires.list_offset(&topic, 0, -1).await.unwrap(), (ErrorCode::NONE, -1, 18));
}

async fn a_gap_in_the_sequence_is_refused(cluster: Cluster) {
    let (mut wires, topic) = topic(&cluster, &[]).await;
    let producer = producer_id(&mut wires).await;
    assert_eq!(wires.produce(&topic, 0, stamped(producer, 0, 2)).await.unwrap(), (ErrorCode::NONE, 0));
    let produced = wires.produce(&topic, 0, stamped(producer, 3, 2)).await.unwrap();
    assert_eq!(produced, (ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, -1));
    assert_eq!(wires.produce(&topic, 0, stamped(producer, 2, 2)).await.unwrap(), (ErrorCode::NONE, 2));
    // A producer that the partition doesn't know may start anywhere: its earlier records may have been deleted.
    let stranger = producer_id(&mut wires).await;
    assert_ne!(stranger, producer);
    assert_eq!(wires.produce(&topic, 0, stamped(stranger, 7, 1)).await.unwrap(), (ErrorCode::NONE, 4));
    // A new epoch starts at sequence 0.
    let bumped = (producer.0, producer.1 + 1);
    let produced = wires.produce(&topic, 0, stamped(bumped, 4, 1)).await.unwrap();
    assert_eq!(produced, (ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, -1));
    assert_eq!(wires.produce(&topic, 0, stamped(bumped, 0, 1)).await.unwrap(), (ErrorCode::NONE, 5));
}

async fn an_old_epoch_is_refused(cluster: Cluster) {
    let (mut wires, topic) = topic(&cluster, &[]).await;
    let producer = producer_id(&mut wires).await;
    let bumped = (producer.0, producer.1 + 1);
    assert_eq!(wires.produce(&topic, 0, stamped(bumped, 0, 2)).await.unwrap(), (ErrorCode::NONE, 0));
    let produced = wires.produce(&topic, 0, stamped(producer, 0, 2)).await.unwrap();
    assert_eq!(produced, (ErrorCode::INVALID_PRODUCER_EPOCH, -1));
}

/// A batch of one record, whose fields behind its offset are these bytes.
fn record(fields: &[u8]) -> Bytes {
    let mut bytes = batch(1, Compression::None).to_bytes()[..61].to_vec();
    // Length, attributes, timestamp delta, offset delta.
    let length = u32::try_from(fields.len() + 3).unwrap() * 2;
    let varint = [length as u8 | 0x80, (length >> 7) as u8 | 0x80, (length >> 14) as u8];
    bytes.extend_from_slice(&[&varint[..], &[0, 0, 0], fields].concat());
    let length = u32::try_from(bytes.len() - 12).unwrap();
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

/// Brokers don't look inside a record's headers, and no reader may stop before what they have stored.
async fn odd_records_are_stored_and_read(cluster: Cluster) {
    let (mut wires, topic) = topic(&cluster, &[]).await;
    let latin_1 = record(&[&[1, 1, 2][..], &[8, 0xfc, b'b', b'e', b'r', 2, b'v']].concat());
    let many = record(&[&[1, 1][..], &[0xc0, 0xb8, 0x02], &[2, b'n', 1].repeat(20_000)].concat());
    let nulls = record(&[3, 5, 2, 2, b'n', 7]);
    for (offset, batch) in [latin_1, many, nulls].into_iter().enumerate() {
        assert_eq!(wires.produce(&topic, 0, batch).await.unwrap(), (ErrorCode::NONE, offset as i64));
    }
    let fetched = wires.fetch(&topic, 0, 0, 1 << 20).await.unwrap().records.unwrap();
    let mut found = Vec::new();
    for batch in RecordBatches::new(fetched) {
        let records = batch.unwrap().records(1 << 20).unwrap();
        let record = records.iter().next().unwrap().unwrap();
        assert_eq!((record.key, record.value), (None, None));
        let last = record.headers.iter().last().unwrap();
        found.push((record.headers.len(), last.name().into_owned(), last.value.map(<[u8]>::to_vec)));
    }
    let expected = [(1, "\u{fffd}ber", Some(b"v".to_vec())), (20_000, "n", None), (1, "n", None)];
    assert_eq!(found, expected.map(|(count, name, value)| (count, name.to_owned(), value)));
}

async fn spoilt_batches_are_refused(cluster: Cluster) {
    let (mut wires, topic) = topic(&cluster, &[]).await;
    let whole = batch(3, Compression::None).to_bytes();
    let spoil = |position: usize, byte: u8| {
        let mut bytes = whole.to_vec();
        bytes[position] = byte;
        Bytes::from(bytes)
    };
    let last = whole.len() - 2;
    for (what, bytes, expected) in [
        ("a flipped bit in a record", spoil(last, 0x55), ErrorCode::CORRUPT_MESSAGE),
        ("a wrong CRC", spoil(17, 0x55), ErrorCode::CORRUPT_MESSAGE),
        ("two batches", [whole.clone(), whole.clone()].concat().into(), ErrorCode::INVALID_RECORD),
    ] {
        let (code, _) = wires.produce(&topic, 0, bytes).await.unwrap();
        assert_eq!(code, expected, "{what}");
    }
    assert_eq!(wires.list_offset(&topic, 0, -1).await.unwrap(), (ErrorCode::NONE, -1, 0), "nothing was written");
}

async fn a_batch_too_large_is_refused(cluster: Cluster) {
    let (mut wires, topic) = topic(&cluster, &[("max.message.bytes", "1000")]).await;
    let (code, _) = wires.produce(&topic, 0, batch(20, Compression::None).to_bytes()).await.unwrap();
    assert_eq!(code, ErrorCode::MESSAGE_TOO_LARGE);
    // It is the size on the wire that counts.
    assert_eq!(wires.produce(&topic, 0, batch(20, Compression::Zstd).to_bytes()).await.unwrap(), (ErrorCode::NONE, 0));
}

async fn offsets_beyond_the_log_are_out_of_range(cluster: Cluster) {
    let (mut wires, topic) = topic(&cluster, &[]).await;
    wires.produce(&topic, 0, batch(5, Compression::None).to_bytes()).await.unwrap();
    for offset in [-1, 6, i64::MAX] {
        let fetched = wires.fetch(&topic, 0, offset, 1 << 20).await.unwrap();
        assert_eq!(fetched.error_code, ErrorCode::OFFSET_OUT_OF_RANGE, "{offset}");
    }
}

async fn offsets_are_found_by_time(cluster: Cluster) {
    let (mut wires, topic) = topic(&cluster, &[]).await;
    assert_eq!(wires.list_offset(&topic, 0, START).await.unwrap(), (ErrorCode::NONE, -1, -1), "an empty log");
    wires.produce(&topic, 0, batch(5, Compression::Lz4).to_bytes()).await.unwrap();
    wires.produce(&topic, 0, batch(5, Compression::None).to_bytes()).await.unwrap();
    for (timestamp, expected) in [
        (-2, (-1, 0)),
        (-1, (-1, 10)),
        (-3, (START + 40, 4)),
        (0, (START, 0)),
        (START + 1, (START + 10, 1)),
        (START + 40, (START + 40, 4)),
        (START + 41, (-1, -1)),
    ] {
        let (code, found, offset) = wires.list_offset(&topic, 0, timestamp).await.unwrap();
        assert_eq!((code, (found, offset)), (ErrorCode::NONE, expected), "at {timestamp}");
    }
}

async fn deleted_records_are_out_of_range(cluster: Cluster) {
    let (mut wires, topic) = topic(&cluster, &[]).await;
    wires.produce(&topic, 0, batch(5, Compression::None).to_bytes()).await.unwrap();
    wires.produce(&topic, 0, batch(5, Compression::None).to_bytes()).await.unwrap();
    for (offset, expected) in [
        (7, (ErrorCode::NONE, 7)),
        (3, (ErrorCode::NONE, 7)),
        (11, (ErrorCode::OFFSET_OUT_OF_RANGE, -1)),
        (-1, (ErrorCode::NONE, 10)),
    ] {
        let partitions = vec![DeleteRecordsPartition { partition_index: 0, offset }];
        let topics = vec![DeleteRecordsTopic { name: TopicName::from(topic.clone()), partitions }];
        let request = DeleteRecordsRequest { topics, timeout_ms: 10_000 };
        let response = wires.leader(&topic, 0).await.unwrap().send(2, &request).await.unwrap();
        let partition = &response.topics[0].partitions[0];
        assert_eq!((partition.error_code, partition.low_watermark), expected, "below {offset}");
        if offset == 7 {
            assert_eq!(wires.list_offset(&topic, 0, -2).await.unwrap(), (ErrorCode::NONE, -1, 7));
            assert_eq!(wires.fetch(&topic, 0, 6, 1 << 20).await.unwrap().error_code, ErrorCode::OFFSET_OUT_OF_RANGE);
            assert_eq!(wires.fetch(&topic, 0, 7, 1 << 20).await.unwrap().error_code, ErrorCode::NONE);
        }
    }
}
