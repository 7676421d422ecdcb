//! Takes answers in: where each partition goes on, and what of the answer is kept for the application. Nothing is decoded
//! here but the headers of batches.

use std::collections::BTreeMap;
use std::sync::Arc;

use milena_core::consumer::TopicPartition;
use milena_core::consumer::aborted::AbortedFilter;
use milena_core::consumer::prefetch::Charge;
use milena_protocol::ErrorCode;
use milena_protocol::fetch::{FetchReply, FetchedPartition, FetchedTopic};
use milena_protocol::record::RecordBatches;

use super::plan::Asked;
use super::{Kind, REFUSED};
use crate::consumer::error::ConsumeError;
use crate::consumer::hand_over::Fetched;
use crate::consumer::metrics::add;
use crate::consumer::shared::{Shared, State};
use crate::error::RequestError;

impl Shared {
    /// Takes an answer in. In one step with the end of the request: a fetch that is planned between the two would ask for
    /// the same again.
    pub(super) fn take_in(&self, kind: Kind, asked: Asked, reply: FetchReply, charge: Charge) {
        let names: BTreeMap<[u8; 16], Arc<str>> = asked
            .targets
            .iter()
            .map(|(partition, target)| (*target.topic_id.as_bytes(), Arc::clone(&partition.topic)))
            .collect();
        let charge = Arc::new(charge);
        add(&self.counters.fetches, 1);
        add(&self.counters.fetches_aside, usize::from(kind != Kind::Session));
        let mut stale = false;
        {
            let mut state = self.state();
            state.forget_asked(&asked);
            if kind != Kind::Session {
                // Whoever has something to say is taken off again.
                state.quiet.extend(asked.versions.iter().map(|(partition, version)| (partition.clone(), *version)));
            }
            for fetched in reply.partitions {
                let topic = match &fetched.topic {
                    FetchedTopic::Name(name) => Arc::from(&**name),
                    FetchedTopic::Id(id) => match names.get(id.as_bytes()) {
                        Some(name) => Arc::clone(name),
                        None => continue,
                    },
                };
                let partition = TopicPartition::new(topic, fetched.partition);
                let Some(version) = asked.versions.get(&partition).copied() else { continue };
                add(&self.counters.bytes_fetched, fetched.records.len());
                // Sought, revoked or lost since: void.
                if state.closed || state.positions.current(&partition, version).is_none() {
                    add(&self.counters.bytes_voided, fetched.records.len());
                    continue;
                }
                stale |= self.take_partition(&mut state, partition, version, fetched, &charge);
            }
        }
        if stale {
            self.client.metadata.request_refresh();
        }
        self.app.notify_waiters();
        self.driver.notify_one();
    }

    /// Takes one partition's part in; says whether it shows the metadata to be stale.
    pub(super) fn take_partition(
        &self,
        state: &mut State,
        partition: TopicPartition,
        version: u64,
        fetched: FetchedPartition,
        charge: &Arc<Charge>,
    ) -> bool {
        let now = self.client.clock.now();
        match fetched.error_code {
            ErrorCode::NONE => {}
            ErrorCode::OFFSET_OUT_OF_RANGE => {
                if state.buffers.get(&partition).is_some_and(|buffer| !buffer.is_empty()) {
                    // What was fetched before is good and comes first.
                    state.not_before.insert(partition, now + self.client.config.retry_backoff);
                    return false;
                }
                let wall = self.client.clock.wall_millis();
                tracing::warn!(%partition, "the position is out of range: resetting it");
                if let Err(error) = state.positions.handle_out_of_range(wall, &partition, version) {
                    state.push(Err(error.into()));
                }
                return false;
            }
            error => {
                let refresh = error.is_retriable() || error == ErrorCode::UNKNOWN_TOPIC_ID;
                let pause = if refresh { self.client.config.retry_backoff } else { REFUSED };
                state.not_before.insert(partition.clone(), now + pause);
                if !refresh {
                    let source = RequestError::broker(format!("fetch of {partition}"), error, None);
                    state.push(Err(ConsumeError::Partition { partition, source }));
                }
                return refresh;
            }
        }
        let (high, stable, start) = (fetched.high_watermark, fetched.last_stable_offset, fetched.log_start_offset);
        state.positions.observe(&partition, version, high, stable, start);
        let batches = RecordBatches::new(fetched.records);
        let Some(from) = state.positions.current(&partition, version).and_then(|position| position.fetch_offset())
        else {
            return false;
        };
        // Headers alone say where to go on; a damaged one is met again, and reported, when its turn comes.
        let mut next = from;
        let mut damaged = false;
        let mut headers = batches.clone();
        for batch in headers.by_ref() {
            match batch {
                Ok(batch) => next = next.max(batch.next_offset()),
                Err(_) => damaged = true,
            }
        }
        let cut_off = headers.rest().len();
        add(&self.counters.bytes_cut_off, cut_off);
        let bytes = batches.rest().len() - cut_off;
        if next == from && !damaged {
            return false;
        }
        if damaged {
            state.not_before.insert(partition.clone(), now + REFUSED);
        }
        state.positions.fetched(&partition, version, next);
        state.quiet.remove(&partition);
        let aborted = fetched.aborted_transactions.iter().map(|aborted| (aborted.producer_id.0, aborted.first_offset));
        state.buffers.entry(partition.clone()).or_default().push(Fetched {
            version,
            batches,
            filter: AbortedFilter::new(aborted),
            charge: Arc::clone(charge),
            high_watermark: high,
            bytes,
            cut_off,
        });
        state.make_ready(&partition);
        false
    }
}
