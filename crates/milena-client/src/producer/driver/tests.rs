use milena_broker::Broker;
use milena_core::producer::completion::Completion;
use milena_core::producer::open_batch::OpenBatch;

use super::*;
use crate::producer::{Producer, Record};
use crate::test_link::client_of;

/// However many timers are due at once, what the first makes ready is sent, and other tasks run, before the last.
#[tokio::test(start_paused = true)]
async fn many_timers_at_once_hold_up_neither_what_is_ready_nor_other_tasks() {
    let broker = Broker::builder().topic("t", 1).build();
    let client = client_of(broker).build().await.unwrap();
    let producer = Producer::builder(&client).build().unwrap();
    producer.send(Record::to("t").value("first")).await.unwrap().await.unwrap();
    let shared = &producer.handle.shared;
    let partition = Arc::clone(&shared.topic("t").unwrap().partitions().present()[0]);
    let now = shared.client.clock.now();
    let charge = shared.buffers.budget().try_reserve(4_096).unwrap();
    let mut open = OpenBatch::new(&shared.buffers, charge, Completion::new("t".into(), 0), now, 0);
    open.append(usize::MAX, 0, None, Some(b"second"), &[]).unwrap().expect("room");
    partition.lock().unwrap().closing.push_back(Closing::Whole(open, None));
    let before = shared.timers().len();
    for _ in 0..3 * AT_A_TIME {
        shared.arm(now, &partition, Due::Retry);
    }
    let mut turns = Vec::new();
    while shared.timers().len() > before {
        let left = shared.timers().len() - before;
        if turns.last().is_none_or(|(last, _)| *last != left) {
            turns.push((left, partition.lock().unwrap().waits()));
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(turns, [(1_500, true), (1_000, false), (500, false)]);
    producer.flush().await;
    assert_eq!(producer.metrics().records_acknowledged, 2);
}
