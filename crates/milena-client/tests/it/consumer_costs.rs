//! What receiving a record costs, counted where the machine does not matter: allocations, copies, wake-ups, writes.

use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use milena_client::consumer::{ConsumerEvent, Start};
use milena_protocol::compress::Compression;
use milena_protocol::record::{BatchEncoder, RecordHeader};

use crate::consumer_rig::{LIMIT, Rig, WALL, next, records, write};
use crate::counted_link;

/// Records of a batch in these tests.
const PER_BATCH: usize = 1_000;

/// Writes so many batches, of records of 16 and 100 bytes without headers.
async fn fill(rig: &Rig, batches: usize) {
    for _ in 0..batches {
        let mut batch = BatchEncoder::new(Vec::new(), WALL);
        for _ in 0..PER_BATCH {
            batch.append(WALL, Some(b"a key of 16 byte"), Some(&[b'v'; 100]), &[]).expect("fits");
        }
        let sealed = batch.seal(Compression::None, None).expect("nothing to compress");
        write(&rig.client, "t", 0, sealed.to_bytes(), false).await;
    }
}

#[tokio::test(start_paused = true)]
async fn borrowed_records_are_parts_of_the_response_and_allocate_nothing() {
    let rig = Rig::new(1, "t", 1).await;
    fill(&rig, 1).await;
    let consumer = rig.consumer().build().unwrap();
    consumer.assign([("t", 0, Start::Beginning)]).unwrap();
    let set = records(&consumer).await;
    let mut seen = (0, 0);
    let iterated = allocation_counter::measure(|| {
        for record in &set {
            seen.0 += 1;
            seen.1 += record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        }
    });
    assert_eq!(seen, (PER_BATCH, PER_BATCH * 116));
    assert_eq!(iterated.count_total, 0, "{iterated:?}");

    let first = set.iter().next().unwrap().value.unwrap().as_ptr();
    let last = set.iter().last().unwrap().value.unwrap();
    // The last value lies where the wire had it: as far behind the first as the records between them are long.
    let apart = last.as_ptr() as usize - first as usize;
    assert!((124..=126).contains(&(apart / (PER_BATCH - 1))), "{apart} bytes between the first value and the last");
    let sliced = allocation_counter::measure(|| assert_eq!(set.slice(last).as_ptr(), last.as_ptr()));
    assert_eq!(sliced.count_total, 0, "{sliced:?}");
}

#[tokio::test(start_paused = true)]
async fn owned_record_is_one_allocation() {
    let rig = Rig::new(1, "t", 1).await;
    fill(&rig, 1).await;
    let consumer = rig.consumer().build().unwrap();
    consumer.assign([("t", 0, Start::Beginning)]).unwrap();
    let set = records(&consumer).await;
    let mut owned = Vec::with_capacity(PER_BATCH);
    let copied = allocation_counter::measure(|| owned.extend(set.iter().map(|record| record.to_owned())));
    assert_eq!(owned.len(), PER_BATCH);
    assert_eq!(copied.count_total, PER_BATCH as u64, "{copied:?}");
    drop(set);
    assert_eq!(owned[PER_BATCH - 1].value(), Some(&[b'v'; 100][..]), "they outlive their set");
}

/// Nothing, an empty string and a null are three things, kept or borrowed.
#[tokio::test(start_paused = true)]
async fn kept_records_are_what_the_borrowed_ones_were() {
    let rig = Rig::new(1, "t", 1).await;
    let headers = [
        RecordHeader { key: "a", value: Some(b"1") },
        RecordHeader { key: "", value: None },
        RecordHeader { key: "a", value: Some(b"") },
    ];
    let parts = [None, Some(&b""[..]), Some(b"some bytes")];
    let mut batch = BatchEncoder::new(Vec::new(), WALL);
    for key in parts {
        for value in parts {
            for count in 0..=headers.len() {
                batch.append(WALL, key, value, &headers[..count]).expect("fits");
            }
        }
    }
    let sealed = batch.seal(Compression::None, None).expect("nothing to compress");
    write(&rig.client, "t", 0, sealed.to_bytes(), false).await;
    let consumer = rig.consumer().build().unwrap();
    consumer.assign([("t", 0, Start::Beginning)]).unwrap();
    let set = records(&consumer).await;
    let mut records = set.iter();
    for key in parts {
        for value in parts {
            for count in 0..=headers.len() {
                let record = records.next().unwrap();
                for kept in [record.to_owned(), record.to_shared()] {
                    assert_eq!((kept.key(), kept.value(), kept.offset), (key, value, record.offset));
                    let found: Vec<_> = kept.headers().iter().map(|header| (header.name(), header.value)).collect();
                    let written: Vec<_> =
                        headers[..count].iter().map(|header| (header.key.into(), header.value)).collect();
                    assert_eq!(found, written);
                    assert_eq!(kept, record.to_owned());
                    if let Some(value) = kept.value() {
                        assert_eq!(kept.slice(value), value);
                    }
                }
            }
        }
    }
    let (first, second) = (set.iter().next().unwrap().to_owned(), set.iter().nth(1).unwrap().to_owned());
    assert_ne!(first, second);
}

/// All that happens between the log and the application, the broker's part included.
#[test]
fn whole_way_in_allocates_next_to_nothing_per_record() {
    const BATCHES: usize = 50;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let (rig, consumer) = runtime.block_on(async {
        let rig = Rig::new(1, "t", 1).await;
        fill(&rig, 1).await;
        let consumer = rig.consumer().build().unwrap();
        consumer.assign([("t", 0, Start::Beginning)]).unwrap();
        // Warm: the session is there, buffers have their size.
        records(&consumer).await;
        fill(&rig, BATCHES).await;
        (rig, consumer)
    });
    let mut received = 0;
    let read = allocation_counter::measure(|| {
        runtime.block_on(async {
            while received < BATCHES * PER_BATCH {
                received += records(&consumer).await.iter().count();
            }
        });
    });
    assert_eq!(received, BATCHES * PER_BATCH);
    let per_record = read.count_total as f64 / received as f64;
    assert!(per_record <= 0.05, "{per_record} allocations per record ({} in all)", read.count_total);
    // One buffer for the broker's answer, one for the response, one pipe between them: no copy beyond the response's own.
    let bytes = read.bytes_total as f64 / (received * 116) as f64;
    assert!(bytes <= 4.0, "{bytes} bytes allocated per byte of keys and values");
    drop(rig);
}

#[derive(Default)]
struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_task_is_woken_once_for_a_batch() {
    let rig = Rig::new(1, "t", 1).await;
    let consumer = rig.consumer().build().unwrap();
    consumer.assign([("t", 0, Start::Beginning)]).unwrap();
    fill(&rig, 1).await;
    records(&consumer).await;
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let mut waiting = pin!(consumer.next());
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    fill(&rig, 1).await;
    let handed = tokio::time::timeout(LIMIT, async {
        while woken.0.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    handed.await.expect("it is woken");
    let Poll::Ready(Ok(ConsumerEvent::Records(set))) = waiting.as_mut().poll(&mut context) else {
        panic!("woken in vain");
    };
    assert_eq!(set.len(), PER_BATCH);
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn each_request_is_one_write_and_a_fetch_carries_many_batches() {
    const BATCHES: usize = 40;
    let rig = Rig::new(1, "t", 1).await;
    fill(&rig, BATCHES).await;
    let (client, counts) = counted_link::client(&rig.broker).await;
    let before = counted_link::requests(&rig.broker);
    let written = counts.writes();
    let consumer = milena_client::consumer::Consumer::builder(&client).build().unwrap();
    consumer.assign([("t", 0, Start::Beginning)]).unwrap();
    let mut received = 0;
    while received < BATCHES * PER_BATCH {
        let ConsumerEvent::Records(set) = next(&consumer).await else { continue };
        received += set.len();
    }
    let (writes, requests) = (counts.writes() - written, counted_link::requests(&rig.broker) - before);
    // The last fetch may be on its way.
    assert!((requests..=requests + 1).contains(&writes), "{writes} writes for {requests} requests");
    assert!(writes <= 20, "{writes} writes for {BATCHES} batches of 125 KB, which a fetch takes up to 1 MiB of");
}
