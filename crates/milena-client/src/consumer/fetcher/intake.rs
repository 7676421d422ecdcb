//! Takes answers in: where each partition goes on, and what of the answer is kept for the application. Nothing is decoded
//! here but the headers of batches.

use std::sync::Arc;
use std::time::Duration;

use milena_core::consumer::TopicPartition;
use milena_core::consumer::aborted::AbortedFilter;
use milena_core::consumer::positions::EpochOffset;
use milena_core::consumer::prefetch::Charge;
use milena_core::metadata::{BrokerMetadata, ClusterSnapshot, LeaderHint};
use milena_protocol::fetch::{FetchReply, FetchedPartition, FetchedTopic};
use milena_protocol::record::RecordBatches;
use milena_protocol::{ErrorCode, Uuid};

use super::plan::Asked;
use super::{Kind, REFUSED};
use crate::consumer::error::ConsumeError;
use crate::consumer::hand_over::Fetched;
use crate::consumer::metrics::add;
use crate::consumer::pauses::Pauses;
use crate::consumer::shared::{Shared, State};
use crate::error::RequestError;

/// How long a partition stays with its leader after a replica failed, before another is asked for.
const STAY: Duration = Duration::from_secs(5);

impl Shared {
    /// Takes an answer in. In one step with the end of the request: a fetch that is planned between the two would ask for
    /// the same again.
    pub(super) fn take_in(self: &Arc<Self>, asked: Asked, reply: FetchReply, charge: Charge) {
        let (node, kind) = (asked.node, asked.kind);
        let snapshot = self.client.metadata.snapshot();
        self.take_hints(&snapshot, &reply);
        let is_news = !reply.partitions.is_empty() || kind != Kind::Session;
        // Then another node may have something to fetch that it had not, and its fetcher may wait for just that.
        let moves = reply.partitions.iter().any(|fetched| {
            fetched.error_code.is_error()
                || fetched.preferred_read_replica.is_some()
                || fetched.current_leader.is_some()
        });
        let charge = Arc::new(charge);
        add(&self.counters.fetches, 1);
        add(&self.counters.fetches_aside, usize::from(kind != Kind::Session));
        let pauses = Pauses::new(&self.client);
        let mut stale = false;
        let came: Vec<TopicPartition> = {
            let mut came = Vec::new();
            let mut state = self.state();
            state.forget_asked(&asked);
            if state.is_replica(&asked) {
                add(&self.counters.fetches_from_replicas, 1);
            }
            if kind != Kind::Session {
                // Whoever has something, or can't say, is taken off again.
                state.note_quiet(&asked);
            }
            for fetched in reply.partitions {
                add(&self.counters.bytes_fetched, fetched.records.len());
                let current = partition_of(&snapshot, &fetched).and_then(|partition| {
                    let version = state.asked_version(&asked, &partition)?;
                    state.positions.current(&partition, version)?;
                    Some((partition, version))
                });
                // Sought, revoked or lost since: void.
                let Some((partition, version)) = current.filter(|_| !state.closed) else {
                    add(&self.counters.bytes_voided, fetched.records.len());
                    continue;
                };
                if !fetched.records.is_empty() {
                    came.push(partition.clone());
                }
                stale |= self.take_partition(&mut state, node, (partition, version), fetched, &charge, &pauses);
            }
            came
        };
        if stale {
            self.client.metadata.request_refresh();
        }
        came.iter().for_each(|partition| self.send_away(self.state(), partition));
        if moves {
            self.fetchers.notify_waiters();
        }
        if is_news {
            self.app.notify_waiters();
            self.driver.notify_one();
        }
    }

    /// Takes one partition's part in; says whether it shows the metadata to be stale.
    pub(super) fn take_partition(
        &self,
        state: &mut State,
        node: i32,
        (partition, version): (TopicPartition, u64),
        fetched: FetchedPartition,
        charge: &Arc<Charge>,
        pauses: &Pauses<'_>,
    ) -> bool {
        let now = self.client.clock.now();
        let error = fetched.error_code;
        if error.is_error() && state.positions.give_up_replica(&partition, node, now + STAY) {
            // What a replica can't serve, be it gone from there or not there yet, the leader may: it decides.
            tracing::debug!(%partition, node, %error, "a replica can't be read from: back to the leader");
            return error.is_retriable();
        }
        let (reads_here, leads) = state.positions.get(&partition).map_or((false, false), |position| {
            (position.read_from() == Some(node), position.leader.is_some_and(|(leader, _)| leader == node))
        });
        if error.is_error() && !reads_here {
            // It was asked before the partition went elsewhere: a replica that was given up meanwhile, or a leader that is
            // none any more, decides nothing. Above all no reset (KIP-392).
            return false;
        }
        match error {
            ErrorCode::NONE => {}
            ErrorCode::OFFSET_OUT_OF_RANGE => {
                if state.buffers.get(&partition).is_some_and(|buffer| !buffer.is_empty()) {
                    // What was fetched before is good and comes first, however long the application takes over it.
                    state.drain(&partition, now + REFUSED);
                    return false;
                }
                state.paused.forget(&partition);
                let wall = self.client.clock.wall_millis();
                tracing::warn!(%partition, "the position is out of range: resetting it");
                if let Err(error) = state.positions.handle_out_of_range(wall, &partition, version) {
                    state.push(Err(error.into()));
                }
                return false;
            }
            // The answer said who leads instead: it is read from there, without waiting.
            error if error.is_retriable() && self.is_elsewhere(state, &partition, node) => return true,
            error => {
                let refresh = error.is_retriable() || error == ErrorCode::UNKNOWN_TOPIC_ID;
                if refresh {
                    state.fail(&partition, now, pauses);
                } else {
                    state.delay(&partition, now + REFUSED);
                    let source = RequestError::broker(format!("fetch of {partition}"), error, None);
                    state.push(Err(ConsumeError::Partition { partition, source }));
                }
                return refresh;
            }
        }
        if !leads && (fetched.diverging_epoch.is_some() || fetched.preferred_read_replica.is_some()) {
            // For the present leader alone to say, and that is asked.
            return false;
        }
        if let Some(end) = fetched.diverging_epoch {
            let end = EpochOffset { offset: end.end_offset, epoch: end.epoch };
            let wall = self.client.clock.wall_millis();
            if let Some(divergence) = state.positions.handle_epoch_end(wall, &partition, version, Some(end)) {
                state.take_divergence(&partition, divergence);
            }
            return false;
        }
        if let Some(replica) = fetched.preferred_read_replica {
            return self.follow(state, (&partition, version), replica.0, pauses);
        }
        let (high, stable) = (fetched.high_watermark, fetched.last_stable_offset);
        state.positions.observe(&partition, version, high, stable);
        state.paused.forget(&partition);
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
                Ok(batch) if batch.next_offset() > next.offset => {
                    next = EpochOffset { offset: batch.next_offset(), epoch: batch.partition_leader_epoch() };
                }
                Ok(_) => {}
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
            state.delay(&partition, now + REFUSED);
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
            prepared: None,
        });
        state.make_ready(&partition);
        false
    }

    /// The leader named a replica to read from.
    fn follow(
        &self,
        state: &mut State,
        (partition, version): (&TopicPartition, u64),
        replica: i32,
        pauses: &Pauses<'_>,
    ) -> bool {
        let now = self.client.clock.now();
        if self.client.metadata.snapshot().broker(replica).is_some() {
            state.positions.prefer(partition, version, replica, now + self.client.config.metadata_max_age);
            return false;
        }
        // Nobody knows where that is: the leader is asked again when metadata may tell.
        state.fail(partition, now, pauses);
        true
    }

    /// Whether the partition is to be read from another node by now.
    fn is_elsewhere(&self, state: &mut State, partition: &TopicPartition, node: i32) -> bool {
        let leader = self.client.metadata.snapshot().leader(&partition.topic, partition.partition);
        let Some((leader, epoch)) = leader else { return false };
        state.set_leader(partition, Some((leader, epoch.unwrap_or(-1))));
        leader != node
    }

    /// Passes on what the answer says of leaders (KIP-951), for all of the client to use.
    fn take_hints(&self, snapshot: &ClusterSnapshot, reply: &FetchReply) {
        if reply.partitions.iter().all(|fetched| fetched.current_leader.is_none()) {
            return;
        }
        let hints: Vec<LeaderHint> = reply
            .partitions
            .iter()
            .filter_map(|fetched| {
                let leader = fetched.current_leader.filter(|leader| leader.leader_epoch >= 0)?;
                let partition = partition_of(snapshot, fetched)?;
                let topic_id = match &fetched.topic {
                    FetchedTopic::Id(id) => *id,
                    FetchedTopic::Name(name) => snapshot.topic(name).map_or(Uuid::ZERO, |topic| topic.id),
                };
                let (node, epoch) = (leader.leader_id.0, leader.leader_epoch);
                Some(LeaderHint { topic: partition.topic, topic_id, partition: partition.partition, node, epoch })
            })
            .collect();
        let brokers = reply.endpoints.iter().map(|endpoint| BrokerMetadata {
            node: endpoint.node_id.0,
            host: Arc::from(endpoint.host.as_str()),
            port: endpoint.port,
            rack: endpoint.rack.as_ref().map(|rack| Arc::from(rack.as_str())),
        });
        self.client.metadata.take_hints(&hints, &brokers.collect::<Vec<_>>());
    }

    /// The node can't be reached: what is read there as from a replica goes back to its leader. Says whether there was any.
    pub(super) fn give_up_replica(&self, node: i32) -> bool {
        let until = self.client.clock.now() + STAY;
        let mut state = self.state();
        if !state.positions.is_followed(node) {
            return false;
        }
        let read: Vec<TopicPartition> = state.positions.iter().map(|(partition, _)| partition.clone()).collect();
        let mut given_up = false;
        for partition in read {
            given_up |= state.positions.give_up_replica(&partition, node, until);
        }
        drop(state);
        if given_up {
            self.wake_all();
        }
        given_up
    }
}

impl State {
    /// Those that a fetch aside asked for and that are still read from there had nothing.
    fn note_quiet(&mut self, asked: &Asked) {
        for (partition, version) in &asked.versions {
            let position = self.positions.current(partition, *version);
            if position.is_some_and(|position| position.read_from() == Some(asked.node)) {
                self.quiet.insert(partition.clone(), (asked.node, *version));
            }
        }
    }

    /// Whether the node was asked as a replica of one of these.
    fn is_replica(&self, asked: &Asked) -> bool {
        let is_other = |leader: Option<(i32, i32)>| leader.is_some_and(|(leader, _)| leader != asked.node);
        match asked.kind {
            Kind::Session => self.positions.is_followed(asked.node),
            Kind::Quick | Kind::Parked => asked
                .versions
                .keys()
                .any(|partition| is_other(self.positions.get(partition).and_then(|position| position.leader))),
        }
    }
}

/// The partition that an answer is about.
fn partition_of(snapshot: &ClusterSnapshot, fetched: &FetchedPartition) -> Option<TopicPartition> {
    let topic = match &fetched.topic {
        FetchedTopic::Name(name) => Arc::from(&**name),
        FetchedTopic::Id(id) => Arc::clone(&snapshot.topic_by_id(id)?.name),
    };
    Some(TopicPartition::new(topic, fetched.partition))
}
