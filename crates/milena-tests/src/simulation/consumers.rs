//! What must hold of the consumers of a run at any time: no partition is held by two members of one generation, and no
//! client holds more of what it fetched ahead than it may; and in the end, that nothing is held and little was wasted.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use milena_client::consumer::{Consumer, ConsumerMetrics};
use tokio::time::{Instant, sleep};

use super::{World, lock};
use crate::history::Violation;

/// What an answer has around the batches of one partition, at most.
const FRAMING: u64 = 200;
/// Fetches that one broker is asked at a time: within the session, and two kinds aside of it.
const AT_A_TIME: u64 = 3;

/// Those that run, by the number of the reader.
#[derive(Debug, Default)]
pub(super) struct Consumers(Mutex<BTreeMap<u64, Watched>>);

#[derive(Debug)]
struct Watched {
    /// None once it is closed.
    consumer: Option<Consumer>,
    /// Another one of the same client, which reads nothing: what it says of `prefetch` outlives the first.
    gauge: Consumer,
    /// The most that its client was seen to hold of what it fetched ahead.
    most: u64,
    /// What it counted until it was closed.
    counted: ConsumerMetrics,
}

/// What the logs came to, as far as it says how much has to be fetched.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Batches {
    /// Bytes of all of them, as they are in the logs.
    pub(super) bytes: u64,
    /// Those of the largest one.
    pub(super) largest: u64,
    /// The most that one inflates to.
    pub(super) inflated: u64,
}

impl World {
    pub(super) fn watch(&self, reader: u64, consumer: &Consumer) {
        let Ok(gauge) = Consumer::builder(consumer.client()).max_partition_fetch_bytes(self.plan.fetch_bytes).build()
        else {
            return self.stuck("a gauge can't be built");
        };
        let counted = ConsumerMetrics::default();
        lock(&self.consumers.0).insert(reader, Watched { consumer: Some(consumer.clone()), gauge, most: 0, counted });
    }

    /// Nothing is expected of it any more: it vanished.
    pub(super) fn forget(&self, reader: u64) {
        lock(&self.consumers.0).remove(&reader);
    }

    /// Looks at all of them.
    pub(super) fn look_at_consumers(&self) {
        let mut consumers = lock(&self.consumers.0);
        let mut owners = Vec::new();
        for (reader, Watched { consumer, most, .. }) in consumers.iter_mut() {
            let Some(consumer) = consumer else { continue };
            *most = consumer.metrics().prefetch_used.max(*most);
            let held = consumer.assignment().into_iter().map(|(held, _)| held.partition).collect();
            owners.push((*reader, held));
        }
        lock(&self.history).owns(&owners);
    }

    /// The reader is closed: nothing of what it fetched ahead is held any more.
    pub(super) async fn gives_back(&self, reader: u64) {
        let deadline = Instant::now() + Duration::from_secs(40);
        loop {
            let metrics = lock(&self.consumers.0).get(&reader).map(|watched| watched.gauge.metrics());
            let held = metrics.map_or(0, |metrics| metrics.prefetch_used);
            if held == 0 {
                break;
            }
            if Instant::now() > deadline {
                lock(&self.history).violated(Violation::OverPrefetch { held, limit: 0 });
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        // What a clone of it keeps must be nothing: it was closed.
        if let Some(watched) = lock(&self.consumers.0).get_mut(&reader)
            && let Some(consumer) = watched.consumer.take()
        {
            watched.counted = consumer.metrics();
        }
    }

    /// Judges what was held and what was wasted, once it is known what there was.
    pub(super) fn judge_prefetch(&self, batches: Batches) {
        let consumers = lock(&self.consumers.0);
        for (reader, Watched { counted: metrics, most, .. }) in consumers.iter() {
            // Whoever holds nothing borrows a fetch, and a broker sends one whole batch whatever it was asked for.
            let loan = self.plan.fetch_bytes as u64;
            let partitions = u64::try_from(self.plan.partitions).unwrap_or(0);
            let answer = loan + batches.largest + FRAMING * partitions;
            let limit = self.plan.prefetch as u64 + u64::from(self.plan.nodes) * AT_A_TIME * answer + batches.inflated;
            // What vanished may have been larger.
            if *most > limit && !self.plan.is_unclean() {
                lock(&self.history).violated(Violation::OverPrefetch { held: *most, limit });
            }
            let fetched = metrics.bytes_fetched - metrics.bytes_cut_off;
            let is_wasteful = metrics.bytes_voided > 0 || fetched > batches.bytes;
            if *reader == 0 && is_wasteful && self.plan.mishaps.is_empty() && !self.plan.wanders {
                let (voided, written) = (metrics.bytes_voided, batches.bytes);
                lock(&self.history).violated(Violation::Wasted { fetched, voided, written });
            }
        }
    }
}
