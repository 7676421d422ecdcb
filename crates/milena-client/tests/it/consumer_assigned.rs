//! Partitions assigned by hand: order, positions, seeks, pauses, resets, parked polls, transactions, damage.

use std::time::Duration;

use milena_broker::{Fault, Rule};
use milena_client::ErrorClass;
use milena_client::consumer::{ConsumeError, Isolation, OffsetReset, Start};
use milena_protocol::compress::Compression;
use milena_protocol::record::BatchEncoder;
use milena_protocol::{ApiKey, ErrorCode};
use tokio::time::{Instant, timeout};

use crate::consumer_rig::{LIMIT, Rig, WALL, assert_quiet, read, records, tp, values, write};

fn all(partitions: i32) -> impl Iterator<Item = (&'static str, i32, Start)> {
    (0..partitions).map(|partition| ("t", partition, Start::Beginning))
}

#[tokio::test(start_paused = true)]
async fn every_record_of_every_broker_comes_once_and_in_order() {
    let rig = Rig::new(3, "t", 6).await;
    for partition in 0..6 {
        for batch in 0..10 {
            rig.produce("t", partition, batch * 10..batch * 10 + 10).await;
        }
    }
    let consumer = rig.consumer().build().unwrap();
    consumer.assign(all(6)).unwrap();
    let read = read(&consumer, 600).await;
    for partition in 0..6 {
        assert_eq!(read[&partition], (0..100).collect::<Vec<_>>());
        assert_eq!(consumer.position(&tp("t", partition)), Some(100));
    }
    assert_quiet(&consumer, Duration::from_secs(3)).await;
    assert_eq!(consumer.lag(&tp("t", 0)), Some(0));
}

#[tokio::test(start_paused = true)]
async fn records_are_whole_with_every_codec() {
    let rig = Rig::new(1, "t", 1).await;
    let codecs = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    for (index, codec) in codecs.into_iter().enumerate() {
        let from = index as i64 * 200;
        rig.produce_batch("t", 0, from..from + 200, None, codec).await;
    }
    let consumer = rig.consumer().build().unwrap();
    consumer.assign(all(1)).unwrap();
    let mut expected = 0;
    while expected < 1000 {
        let set = records(&consumer).await;
        for record in &set {
            let text = expected.to_string();
            assert_eq!((record.offset, record.timestamp, record.key), (expected, WALL + expected, Some(&b"k"[..])));
            let header = record.headers.iter().next().unwrap();
            assert_eq!(
                (record.value, header.key, header.value),
                (Some(text.as_bytes()), &b"n"[..], Some(text.as_bytes()))
            );
            let owned = record.to_owned();
            assert_eq!(set.slice(record.value.unwrap()), owned.slice(owned.value().unwrap()));
            expected += 1;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn position_moves_only_as_records_are_handed_over() {
    let rig = Rig::new(1, "t", 1).await;
    rig.produce("t", 0, 0..10).await;
    rig.produce("t", 0, 10..20).await;
    let consumer = rig.consumer().build().unwrap();
    consumer.assign(all(1)).unwrap();
    let first = records(&consumer).await;
    assert_eq!((values(&first), first.next_offset()), ((0..10).collect(), 10));
    assert_eq!(consumer.position(&tp("t", 0)), Some(10), "the second batch is here but was not handed over");
    assert_eq!(first.high_watermark(), 20);
}

#[tokio::test(start_paused = true)]
async fn seek_into_a_batch_starts_at_that_record_and_disturbs_nobody() {
    let rig = Rig::new(1, "t", 2).await;
    for partition in 0..2 {
        rig.produce("t", partition, 0..100).await;
    }
    let consumer = rig.consumer().build().unwrap();
    consumer.assign(all(2)).unwrap();
    read(&consumer, 200).await;
    consumer.seek(&tp("t", 0), Start::Offset(42)).unwrap();
    rig.produce("t", 1, 100..110).await;
    let mut seen = [Vec::new(), Vec::new()];
    while seen[0].len() < 58 || seen[1].len() < 10 {
        let set = records(&consumer).await;
        seen[set.partition() as usize].extend(values(&set));
    }
    assert_eq!(seen[0], (42..100).collect::<Vec<_>>());
    assert_eq!(seen[1], (100..110).collect::<Vec<_>>(), "the other partition goes on where it was");
    assert!(matches!(consumer.seek(&tp("t", 9), Start::End), Err(ConsumeError::NotAssigned(_))));
}

#[tokio::test(start_paused = true)]
async fn paused_partition_keeps_what_was_fetched_and_loses_nothing() {
    let rig = Rig::new(1, "t", 2).await;
    for batch in 0..5 {
        rig.produce("t", 0, batch * 10..batch * 10 + 10).await;
    }
    rig.produce("t", 1, 0..10).await;
    let consumer = rig.consumer().build().unwrap();
    consumer.assign(all(2)).unwrap();
    let mut first = records(&consumer).await;
    while first.partition() != 0 {
        first = records(&consumer).await;
    }
    consumer.pause(&tp("t", 0)).unwrap();
    rig.produce("t", 1, 10..20).await;
    loop {
        let set = records(&consumer).await;
        assert_eq!(set.partition(), 1, "paused");
        if values(&set).contains(&19) {
            break;
        }
    }
    assert_quiet(&consumer, Duration::from_secs(3)).await;
    consumer.resume(&tp("t", 0)).unwrap();
    let mut rest = Vec::new();
    while rest.len() < 40 {
        rest.extend(values(&records(&consumer).await));
    }
    assert_eq!(rest, (10..50).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn each_start_begins_where_it_says() {
    let rig = Rig::new(1, "t", 1).await;
    rig.produce("t", 0, 0..50).await;
    rig.produce("t", 0, 50..100).await;
    for (start, first) in [(Start::Beginning, 0), (Start::Offset(30), 30), (Start::Timestamp(WALL + 50), 50)] {
        let consumer = rig.consumer().build().unwrap();
        consumer.assign([("t", 0, start)]).unwrap();
        assert_eq!(values(&records(&consumer).await)[0], first, "{start:?}");
    }
    let consumer = rig.consumer().build().unwrap();
    consumer.assign([("t", 0, Start::End)]).unwrap();
    assert_quiet(&consumer, Duration::from_secs(2)).await;
    assert_eq!(consumer.position(&tp("t", 0)), Some(100));
    rig.produce("t", 0, 100..101).await;
    assert_eq!(values(&records(&consumer).await), vec![100]);
}

#[tokio::test(start_paused = true)]
async fn position_out_of_range_is_reset_by_policy() {
    for (policy, first) in
        [(OffsetReset::Earliest, Some(0)), (OffsetReset::Latest, Some(100)), (OffsetReset::None, None)]
    {
        let rig = Rig::new(1, "t", 1).await;
        rig.produce("t", 0, 0..100).await;
        let consumer = rig.consumer().auto_offset_reset(policy).build().unwrap();
        consumer.assign([("t", 0, Start::Offset(5000))]).unwrap();
        match first {
            Some(first) => {
                assert!(timeout(Duration::from_secs(2), consumer.next()).await.is_err() || first == 0);
                rig.produce("t", 0, 100..101).await;
                if first == 100 {
                    assert_eq!(values(&records(&consumer).await), vec![100]);
                } else {
                    assert!(consumer.position(&tp("t", 0)).is_some_and(|position| position >= 100));
                }
            }
            None => {
                let error = timeout(LIMIT, consumer.next()).await.unwrap().unwrap_err();
                assert!(matches!(error, ConsumeError::NoOffset(_)), "{error}");
                assert_eq!(error.class(), ErrorClass::ApplicationRecoverable);
                consumer.seek(&tp("t", 0), Start::Beginning).unwrap();
                assert_eq!(values(&records(&consumer).await)[0], 0);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn reset_by_duration_begins_with_what_is_that_young() {
    let rig = Rig::new(1, "t", 1).await;
    rig.produce("t", 0, 0..100).await;
    tokio::time::advance(Duration::from_secs(10)).await;
    let now = rig.client.time().wall_millis();
    let age = Duration::from_millis((now - WALL - 60) as u64);
    let consumer = rig.consumer().auto_offset_reset(OffsetReset::ByDuration(age)).build().unwrap();
    consumer.assign([("t", 0, Start::Offset(5000))]).unwrap();
    let first = values(&records(&consumer).await)[0];
    assert!((60..=99).contains(&first), "{first}: virtual time may pass on the way");
}

#[tokio::test(start_paused = true)]
async fn partition_made_fetchable_during_a_parked_poll_is_served_at_once() {
    let rig = Rig::new(1, "t", 3).await;
    rig.produce("t", 1, 0..10).await;
    rig.produce("t", 2, 0..10).await;
    let consumer = rig.consumer().fetch_max_wait(Duration::from_secs(30)).build().unwrap();
    consumer.assign([("t", 0, Start::End), ("t", 2, Start::End)]).unwrap();
    assert_quiet(&consumer, Duration::from_secs(2)).await;
    // Newly assigned, then sought, then resumed: each while the broker holds the long poll of the others.
    let start = Instant::now();
    consumer.assign([("t", 0, Start::Committed), ("t", 2, Start::Committed), ("t", 1, Start::Offset(0))]).unwrap();
    assert_eq!(values(&records(&consumer).await)[0], 0);
    assert!(start.elapsed() < Duration::from_millis(10), "assigned: {:?}", start.elapsed());
    let start = Instant::now();
    consumer.seek(&tp("t", 2), Start::Offset(3)).unwrap();
    let set = records(&consumer).await;
    assert_eq!((set.partition(), values(&set)[0]), (2, 3));
    assert!(start.elapsed() < Duration::from_millis(10), "sought: {:?}", start.elapsed());
    consumer.pause(&tp("t", 1)).unwrap();
    tokio::time::sleep(Duration::from_secs(31)).await;
    rig.produce("t", 1, 10..20).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    consumer.resume(&tp("t", 1)).unwrap();
    assert_eq!(values(&records(&consumer).await)[0], 10);
    assert!(start.elapsed() < Duration::from_millis(10), "resumed: {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn evicted_session_costs_nothing_but_a_full_fetch() {
    let rig = Rig::new(1, "t", 4).await;
    let consumer = rig.consumer().build().unwrap();
    consumer.assign(all(4)).unwrap();
    rig.broker.faults().add(Rule::new(Fault::EvictFetchSession).api(ApiKey::Fetch).nth(3).times(5));
    let mut expected = [0i64; 4];
    for round in 0..10 {
        for partition in 0..4 {
            rig.produce("t", partition, round * 10..round * 10 + 10).await;
        }
        let mut left = 40;
        while left > 0 {
            let set = records(&consumer).await;
            for record in &set {
                let slot = &mut expected[record.partition as usize];
                assert_eq!(record.offset, *slot);
                *slot += 1;
            }
            left -= set.len();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn moved_leader_is_followed_without_loss_or_repeat() {
    let rig = Rig::new(3, "t", 1).await;
    let consumer = rig.consumer().build().unwrap();
    consumer.assign(all(1)).unwrap();
    let mut expected = 0;
    for round in 0..6 {
        rig.produce("t", 0, round * 10..round * 10 + 10).await;
        while expected < (round + 1) * 10 {
            for record in &records(&consumer).await {
                assert_eq!(record.offset, expected);
                expected += 1;
            }
        }
        rig.broker.move_leader("t", 0, (round as i32 + 1) % 3).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn stopped_broker_delays_its_partitions_only() {
    let rig = Rig::new(3, "t", 3).await;
    let consumer = rig.consumer().build().unwrap();
    consumer.assign(all(3)).unwrap();
    for partition in 0..3 {
        rig.produce("t", partition, 0..10).await;
    }
    read(&consumer, 30).await;
    let node = rig.broker.leader("t", 0).unwrap().unwrap();
    rig.broker.stop_node(node).await.unwrap();
    let others: Vec<i32> = (1..3).filter(|p| rig.broker.leader("t", *p).unwrap() != Some(node)).collect();
    for &partition in &others {
        rig.produce("t", partition, 10..20).await;
    }
    let start = Instant::now();
    let mut count = 0;
    while count < others.len() * 10 {
        count += records(&consumer).await.len();
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    rig.broker.start_node(node).await.unwrap();
    rig.produce("t", 0, 10..20).await;
    let set = records(&consumer).await;
    assert_eq!((set.partition(), values(&set)), (0, (10..20).collect()));
}

#[tokio::test(start_paused = true)]
async fn damaged_batch_is_an_error_with_the_position_before_it() {
    let rig = Rig::new(1, "t", 1).await;
    let value = vec![b'7'; 2000];
    let mut batch = BatchEncoder::new(Vec::new(), WALL);
    batch.append(WALL, None, Some(&value), &[]).expect("fits");
    let batch = batch.seal(Compression::None, None).expect("seals").to_bytes();
    write(&rig.client, "t", 0, batch, false).await;
    let faults = rig.broker.faults();
    // In the midst of the value: nothing but the CRC tells.
    let damage = faults.add(Rule::new(Fault::FlipReplyByte { at: 1000 }).api(ApiKey::Fetch).always());
    let consumer = rig.consumer().build().unwrap();
    consumer.assign([("t", 0, Start::Offset(0))]).unwrap();
    let error = timeout(LIMIT, consumer.next()).await.unwrap().unwrap_err();
    let ConsumeError::Corrupt { partition, offset, .. } = &error else { panic!("{error:?}") };
    assert_eq!((partition, *offset), (&tp("t", 0), 0));
    assert_eq!(consumer.position(&tp("t", 0)), Some(0));
    assert!(faults.remove(damage) >= 3, "fetched again before the application hears of it");
    let set = records(&consumer).await;
    assert_eq!(set.iter().next().unwrap().value, Some(&value[..]));
}

#[tokio::test(start_paused = true)]
async fn aborted_transactions_and_markers_are_not_shown() {
    let rig = Rig::new(1, "t", 1).await;
    rig.produce_batch("t", 0, 0..10, Some((500, 0)), Compression::None).await;
    rig.produce_batch("t", 0, 10..20, Some((501, 0)), Compression::Zstd).await;
    rig.produce("t", 0, 20..30).await;
    rig.broker.end_transaction("t", 0, 500, 0, false).unwrap();
    rig.broker.end_transaction("t", 0, 501, 0, true).unwrap();
    rig.produce_batch("t", 0, 30..40, Some((500, 10)), Compression::None).await;
    rig.broker.end_transaction("t", 0, 500, 0, true).unwrap();
    rig.produce("t", 0, 40..50).await;
    for (isolation, expected) in
        [(Isolation::ReadCommitted, (10..50).collect::<Vec<i64>>()), (Isolation::ReadUncommitted, (0..50).collect())]
    {
        let consumer = rig.consumer().isolation(isolation).build().unwrap();
        consumer.assign(all(1)).unwrap();
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            seen.extend(values(&records(&consumer).await));
        }
        assert_eq!(seen, expected, "{isolation:?}");
        assert_quiet(&consumer, Duration::from_secs(1)).await;
        assert_eq!(consumer.position(&tp("t", 0)), Some(53), "markers count as read");
    }
}

#[tokio::test(start_paused = true)]
async fn committed_reader_stops_before_an_open_transaction() {
    let rig = Rig::new(1, "t", 1).await;
    rig.produce("t", 0, 0..10).await;
    rig.produce_batch("t", 0, 10..20, Some((500, 0)), Compression::None).await;
    rig.produce("t", 0, 20..30).await;
    let consumer = rig.consumer().build().unwrap();
    consumer.assign(all(1)).unwrap();
    assert_eq!(values(&records(&consumer).await), (0..10).collect::<Vec<_>>());
    assert_quiet(&consumer, Duration::from_secs(2)).await;
    rig.broker.end_transaction("t", 0, 500, 0, true).unwrap();
    let mut seen = Vec::new();
    while seen.len() < 20 {
        seen.extend(values(&records(&consumer).await));
    }
    assert_eq!(seen, (10..30).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn prefetch_stays_within_its_budget_and_goes_on_as_sets_are_dropped() {
    let budget = 16 << 10;
    let rig = Rig::new(1, "t", 4).await.with_prefetch(budget).await;
    for partition in 0..4 {
        for batch in 0..20 {
            rig.produce("t", partition, batch * 100..batch * 100 + 100).await;
        }
    }
    let consumer = rig.consumer().max_partition_fetch_bytes(4 << 10).build().unwrap();
    consumer.assign(all(4)).unwrap();
    let mut held = Vec::new();
    // Holding on to every set, the consumer must stop; how early depends on the size of batches.
    while let Ok(Ok(event)) = timeout(Duration::from_secs(5), consumer.next()).await {
        held.push(event);
        let used = consumer.metrics().prefetch_used;
        assert!(used <= budget as u64 + (8 << 10), "{used}");
    }
    assert!(held.len() < 80, "{} sets in a budget for fewer", held.len());
    let mut count = held.len();
    held.clear();
    while count < 80 {
        records(&consumer).await;
        count += 1;
    }
    drop(consumer);
}

#[tokio::test(start_paused = true)]
async fn paused_backlog_does_not_starve_the_others() {
    let rig = Rig::new(1, "t", 2).await.with_prefetch(8 << 10).await;
    for batch in 0..40 {
        rig.produce("t", 0, batch * 100..batch * 100 + 100).await;
    }
    let consumer = rig.consumer().max_partition_fetch_bytes(4 << 10).build().unwrap();
    consumer.assign(all(2)).unwrap();
    records(&consumer).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    consumer.pause(&tp("t", 0)).unwrap();
    rig.produce("t", 1, 0..10).await;
    let set = records(&consumer).await;
    assert_eq!((set.partition(), set.len()), (1, 10));
}

#[tokio::test(start_paused = true)]
async fn offsets_are_found_by_time_and_at_both_ends() {
    let rig = Rig::new(2, "t", 2).await;
    rig.produce("t", 0, 0..100).await;
    rig.produce("t", 0, 100..200).await;
    let consumer = rig.consumer().build().unwrap();
    let both = || [tp("t", 0), tp("t", 1)];
    assert_eq!(consumer.beginning_offsets(both()).await.unwrap()[&tp("t", 0)], 0);
    let ends = consumer.end_offsets(both()).await.unwrap();
    assert_eq!((ends[&tp("t", 0)], ends[&tp("t", 1)]), (200, 0));
    let found = consumer.offsets_for_times([(tp("t", 0), WALL + 100), (tp("t", 1), WALL)]).await.unwrap();
    assert_eq!(found.into_iter().collect::<Vec<_>>(), vec![(tp("t", 0), (100, WALL + 100))]);
    // A leader that moves in between is looked up anew.
    rig.broker.move_leader("t", 0, 0).unwrap();
    rig.broker.move_leader("t", 0, 1).unwrap();
    assert_eq!(consumer.end_offsets([tp("t", 0)]).await.unwrap()[&tp("t", 0)], 200);
}

#[tokio::test(start_paused = true)]
async fn unknown_topic_and_partition_are_errors_that_name_them() {
    let rig = Rig::new(1, "t", 1).await;
    let consumer = rig.consumer().build().unwrap();
    consumer.assign([("nowhere", 0, Start::Beginning), ("t", 7, Start::Beginning)]).unwrap();
    let mut text = String::new();
    for _ in 0..2 {
        let error = timeout(LIMIT, consumer.next()).await.unwrap().unwrap_err();
        text += &format!("{error}: {}\n", std::error::Error::source(&error).unwrap());
    }
    assert!(text.contains("`nowhere` does not exist") && text.contains("`t` has no partition 7"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn broker_errors_are_retried_and_never_lose_the_place() {
    let rig = Rig::new(1, "t", 1).await;
    let faults = rig.broker.faults();
    for (nth, fault) in [
        (1, Fault::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER)),
        (2, Fault::Error(ErrorCode::UNKNOWN_LEADER_EPOCH)),
        (3, Fault::DropBeforeApply),
        (4, Fault::DropAfterApply),
        (5, Fault::CutReply { after_bytes: 40 }),
        (6, Fault::WrongCorrelationId),
    ] {
        faults.add(Rule::new(fault).api(ApiKey::Fetch).nth(nth));
    }
    for batch in 0..10 {
        rig.produce("t", 0, batch * 10..batch * 10 + 10).await;
    }
    let consumer = rig.consumer().build().unwrap();
    consumer.assign(all(1)).unwrap();
    assert_eq!(read(&consumer, 100).await[&0], (0..100).collect::<Vec<_>>());
}

/// Waits until only the tasks are left that were there before, and those of connections that are the client's.
async fn settled(rig: &Rig, most: usize) {
    let wait = async {
        while rig.client.task_count() > most {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), wait).await.expect("tasks end");
}

#[tokio::test(start_paused = true)]
async fn closing_ends_every_task_and_the_stream() {
    let rig = Rig::new(3, "t", 6).await;
    // A connection to each broker for what is answered at once stays with the client.
    let most = rig.client.task_count() + 3;
    let consumer = rig.consumer().build().unwrap();
    consumer.assign(all(6)).unwrap();
    assert_quiet(&consumer, Duration::from_secs(2)).await;
    let clone = consumer.clone();
    let waiting = tokio::spawn(async move { clone.next().await });
    tokio::task::yield_now().await;
    consumer.close(Duration::from_secs(5)).await.unwrap();
    assert!(matches!(waiting.await.unwrap(), Err(ConsumeError::Closed)));
    assert!(matches!(consumer.next().await, Err(ConsumeError::Closed)));
    settled(&rig, most).await;
    drop(consumer);
    assert!(rig.client.close(Duration::from_secs(5)).await.clean);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_every_task() {
    let rig = Rig::new(3, "t", 6).await;
    let most = rig.client.task_count() + 4;
    for group in [None, Some("g")] {
        let builder = rig.consumer();
        let builder = group.map_or(builder, |group| rig.member(group));
        let consumer = builder.build().unwrap();
        match group {
            Some(_) => consumer.subscribe(["t"]).unwrap(),
            None => consumer.assign(all(6)).unwrap(),
        }
        let _ = timeout(Duration::from_secs(2), consumer.next()).await;
        drop(consumer);
        settled(&rig, most).await;
    }
}

#[tokio::test(start_paused = true)]
async fn client_that_closes_first_ends_the_consumer() {
    let rig = Rig::new(1, "t", 1).await;
    let consumer = rig.consumer().build().unwrap();
    consumer.assign(all(1)).unwrap();
    assert_quiet(&consumer, Duration::from_secs(2)).await;
    let report = rig.client.close(Duration::from_secs(10)).await;
    assert!(report.clean, "{report:?}");
    assert!(matches!(timeout(LIMIT, consumer.next()).await.unwrap(), Err(ConsumeError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_for_a_parked_poll() {
    const PARKED: Duration = Duration::from_secs(30);
    // Closed by itself before its client, by its client under it, and dropped.
    for how in ["consumer", "client", "drop"] {
        for group in [None, Some("g")] {
            let rig = Rig::new(3, "t", 6).await;
            let consumer = group.map_or_else(|| rig.consumer(), |group| rig.member(group));
            let consumer = consumer.fetch_max_wait(PARKED).build().unwrap();
            match group {
                Some(_) => consumer.subscribe(["t"]).unwrap(),
                None => consumer.assign(all(6)).unwrap(),
            }
            // Longer than a poll is parked, so that some are aside of others.
            while timeout(PARKED, consumer.next()).await.is_ok() {}
            consumer.seek(&tp("t", 0), Start::Offset(0)).unwrap();
            assert_quiet(&consumer, Duration::from_secs(1)).await;
            let start = Instant::now();
            match how {
                "consumer" => consumer.close(PARKED).await.unwrap(),
                "client" => {}
                _ => drop(consumer),
            }
            let report = rig.client.close(PARKED).await;
            assert!(report.clean && start.elapsed() < Duration::from_millis(500), "{how} {group:?}: {report:?}");
        }
    }
}
