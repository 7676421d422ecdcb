//! A wave: what is ready for one broker, in one produce request; and the answer to it, taken in by the connection's own
//! task.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Instant;

use milena_core::producer::failure::{Cause, ProduceFailure};
use milena_core::producer::identity::ProducerIdentity;
use milena_core::producer::partition_queue::{Answer, Blocked, Ticket};
use milena_net::{Broker, Connection, Purpose, RequestFrame};
use milena_protocol::produce::{ProduceEntry, ProduceSettings, encode_produce};
use milena_protocol::record::SealedBatch;
use milena_protocol::{ApiKey, Uuid, VersionRange};

use super::config::Acks;
use super::node::Node;
use super::partition::{Partition, State};
use super::seal::{self, Later};
use super::shared::{Shared, lock};
use super::timers::Due;
use crate::error::RequestError;

/// The first version that names topics by id (KIP-516).
const FIRST_WITH_TOPIC_IDS: i16 = 13;

/// Batches that go into one request.
pub(super) struct Sent {
    pub(super) partition: Arc<Partition>,
    pub(super) ticket: Ticket,
    /// Of the log that it was taken for.
    pub(super) topic_id: Uuid,
}

struct Wave<'a> {
    node: &'a Node,
    now: Instant,
    identity: Option<ProducerIdentity>,
    sent: Vec<Sent>,
    batches: Vec<SealedBatch>,
    bytes: usize,
    /// Whether batches that need not go yet may, once that was asked.
    token: Option<bool>,
    /// Looked at in vain: still listed, for the next wave.
    left: Vec<Arc<Partition>>,
    /// Other brokers that have something now.
    elsewhere: Vec<i32>,
    later: Later,
}

impl Shared {
    /// Sends what is ready for a broker, as far as it takes it.
    pub(super) fn pump(self: &Arc<Self>, node: i32) {
        let node = self.node(node);
        let mut elsewhere = Vec::new();
        node.take_turns(|| self.wave(&node, &mut elsewhere));
        for other in elsewhere {
            self.pump(other);
        }
    }

    /// One request. Returns whether there may be another.
    fn wave(self: &Arc<Self>, node: &Arc<Node>, elsewhere: &mut Vec<i32>) -> bool {
        if node.lock().ready.is_empty() {
            self.held_back(node, false);
            return false;
        }
        let Some(connection) = self.connection(node) else {
            self.held_back(node, true);
            return false;
        };
        let Some(permit) = connection.try_permit() else {
            self.held_back(node, true);
            self.await_permit(node, &connection);
            return false;
        };
        self.held_back(node, false);
        let ready = std::mem::take(&mut node.lock().ready);
        let mut wave = Wave {
            node,
            now: self.client.clock.now(),
            identity: self.identity(),
            sent: Vec::new(),
            batches: Vec::new(),
            bytes: 0,
            token: None,
            left: Vec::new(),
            elsewhere: Vec::new(),
            later: Later::default(),
        };
        for partition in ready {
            self.visit(&mut wave, partition);
        }
        let Wave { sent, batches, left, later, elsewhere: found, .. } = wave;
        elsewhere.extend(found);
        node.lock().ready.extend(left);
        later.run(self);
        if sent.is_empty() {
            return false;
        }
        self.submit(node, &connection, permit, sent, &batches);
        true
    }

    /// Takes one batch of the partition into the wave, if it has one to send.
    fn visit(self: &Arc<Self>, wave: &mut Wave<'_>, partition: Arc<Partition>) {
        let Some(mut guard) = partition.lock_listed() else { return };
        let state = &mut *guard;
        let leader = match state.leader {
            Some(leader) if leader.node == wave.node.id => leader,
            _ => {
                state.listed = false;
                match self.list(&partition, state) {
                    Some(node) => wave.elsewhere.push(node),
                    None => self.arm_linger(&partition, state),
                }
                return;
            }
        };
        // One sealed batch in hand is enough: what is sealed later may be larger.
        let in_flight = state.queue.in_flight();
        if state.queue.len() == in_flight && in_flight < partition.settings().queue.max_in_flight {
            let open = state.taking.has_open();
            if state.closing.is_empty() && open && (state.ripe || in_flight == 0) {
                state.must_linger =
                    !state.ripe && !self.config.low_latency && !self.may_go_early(wave, &partition, state);
                if !state.must_linger {
                    state.close_oldest();
                    // Shares that were opened together have lingered together.
                    state.ripen(wave.now, partition.settings().linger);
                    self.arm_age(&partition, state);
                }
            }
            seal::advance(self, &partition, state, &mut wave.later);
        }
        let largest = self.config.max_request_size;
        match state.queue.sendable(wave.now, &partition.settings().queue, leader, wave.identity) {
            Ok(batch) if wave.bytes > 0 && wave.bytes + batch.sealed().wire_len() > largest => {
                drop(guard);
                wave.left.push(partition);
                return;
            }
            Ok(_) => {
                let (ticket, batch) = state
                    .queue
                    .take(wave.now, &partition.settings().queue, leader, wave.identity)
                    .expect("sendable said so, and the lock was held since");
                wave.bytes += batch.sealed().wire_len();
                wave.batches.push(batch.sealed().clone());
                if state.waits() {
                    wave.left.push(Arc::clone(&partition));
                } else {
                    state.listed = false;
                }
                partition.publish(state);
                let topic_id = state.topic_id;
                wave.sent.push(Sent { partition: Arc::clone(&partition), ticket, topic_id });
            }
            Err(Blocked::Identity) => {
                if self.await_identity(&partition, wave.identity) {
                    wave.identity = self.identity();
                    drop(guard);
                    return self.visit(wave, partition);
                }
            }
            Err(Blocked::Backoff(at)) => {
                state.listed = false;
                self.arm(at, &partition, Due::Retry);
            }
            // An answer, or a batch that was compressed elsewhere, lists it again.
            Err(Blocked::Busy | Blocked::Empty) => state.listed = false,
        }
        self.arm_linger(&partition, state);
    }

    /// Whether an open batch may go that need not yet. One that may not waits for its linger, unless that is in vain.
    fn may_go_early(&self, wave: &mut Wave<'_>, partition: &Arc<Partition>, state: &mut State) -> bool {
        let settings = partition.settings();
        // Of a partition that is spread no more is known than that tasks are in each other's way.
        let Some(open) = &state.taking.whole.open else { return wave.has_token() };
        let may_go = state.company.may_go(settings.linger, settings.batch_size, || wave.has_token());
        if may_go {
            state.company.went(wave.now, open.record_count(), open.len());
        } else {
            let at = state.company.waits(wave.now, open.record_count(), open.created() + settings.linger);
            self.arm(at, partition, Due::Company(state.opened));
        }
        may_go
    }

    /// Whether something is ready for the node that can't be sent now: the partitioner wants to know for how long.
    fn held_back(&self, node: &Node, is_held_back: bool) {
        if !self.config.partition_availability_timeout.is_zero() {
            node.held_back(is_held_back.then(|| self.client.clock.now()));
        }
    }

    /// The connection for the node's produce requests; opened in the background if there is none.
    fn connection(self: &Arc<Self>, node: &Arc<Node>) -> Option<Connection> {
        let known = node.lock().connection.clone();
        match known {
            Some(connection) if !connection.is_closed() => return Some(connection),
            // To hang up is all that a broker can say of records that nobody awaits an answer for (acks=0).
            Some(lost) if lost.close_reason().is_some_and(|reason| !reason.is_ours()) => {
                self.client.metadata.request_refresh();
            }
            Some(_) | None => {}
        }
        let found = self.client.pool.try_get(&Broker::Node(node.id), Purpose::Produce);
        node.connected(found.clone());
        if found.is_none() && !node.connecting.swap(true, SeqCst) {
            let (shared, node) = (Arc::clone(self), Arc::clone(node));
            let task = async move { shared.connect(&node).await };
            let _ = self.client.tasks.spawn("connect for produce", task);
        }
        found
    }

    /// Sees to it that the wave is repeated when there is a permit again. The next answer does so, if we wait for one;
    /// if not, other producers of the client have all the permits, or the connection is about to close.
    fn await_permit(self: &Arc<Self>, node: &Arc<Node>, connection: &Connection) {
        if node.in_flight.load(SeqCst) > 0 || node.awaiting_permit.swap(true, SeqCst) {
            return;
        }
        let (shared, node, connection) = (Arc::clone(self), Arc::clone(node), connection.clone());
        let task = async move {
            drop(connection.permit().await);
            node.awaiting_permit.store(false, SeqCst);
            shared.pump(node.id);
        };
        let _ = self.client.tasks.spawn("wait for a permit", task);
    }

    /// Tries to reach the node for as long as something is ready for it.
    async fn connect(self: &Arc<Self>, node: &Arc<Node>) {
        loop {
            let outcome = self.client.pool.get(&Broker::Node(node.id), Purpose::Produce).await;
            match outcome {
                Ok(connection) => node.connected(Some(connection)),
                Err(error) => {
                    tracing::debug!(node = node.id, %error, "no connection for produce requests");
                    node.lock().trouble = Some(Cause(Arc::new(RequestError::from(error))));
                    self.client.metadata.request_refresh();
                    if !node.lock().ready.is_empty() && !self.client.metadata.is_stopped() {
                        let wait = self.retry.delay(0, &mut lock(&self.rng));
                        tokio::time::sleep(wait).await;
                        continue;
                    }
                }
            }
            node.connecting.store(false, SeqCst);
            return self.pump(node.id);
        }
    }

    fn submit(
        self: &Arc<Self>,
        node: &Arc<Node>,
        connection: &Connection,
        permit: milena_net::Permit,
        sent: Vec<Sent>,
        batches: &[SealedBatch],
    ) {
        let with_ids = sent.iter().all(|sent| !sent.topic_id.is_zero());
        let cap = if with_ids { FIRST_WITH_TOPIC_IDS } else { FIRST_WITH_TOPIC_IDS - 1 };
        let Some(version) = connection.versions().highest_up_to(ApiKey::Produce, cap) else {
            let ours = VersionRange::new(ApiKey::Produce.versions().min, cap);
            let failure = ProduceFailure::NoCommonVersion {
                broker: format!("broker {} at {}", node.id, connection.address()).into(),
                theirs: connection.versions().offered(ApiKey::Produce),
                ours,
            };
            tracing::warn!(%failure, "records fail");
            for sent in &sent {
                self.settle(sent, Answer::Unsendable(failure.clone()), None);
            }
            return;
        };
        let mut entries: Vec<_> = sent
            .iter()
            .zip(batches)
            .map(|(sent, batch)| ProduceEntry {
                topic: sent.partition.topic(),
                topic_id: sent.topic_id,
                partition: sent.partition.index,
                batch,
            })
            .collect();
        entries.sort_by_key(|entry| entry.topic);
        let settings = ProduceSettings {
            transactional_id: None,
            acks: self.config.acks.wire(),
            timeout_ms: i32::try_from(self.config.request_timeout.as_millis()).unwrap_or(i32::MAX),
        };
        let body = encode_produce(version, settings, &entries)
            .expect("the version is one of ours, and topic names are checked when they are resolved");
        drop(entries);
        self.counters.requests.fetch_add(1, Relaxed);
        let frame = RequestFrame {
            api_key: ApiKey::Produce,
            api_version: version,
            body,
            timeout: self.config.request_timeout,
            expects_reply: self.config.acks != Acks::None,
        };
        node.in_flight.fetch_add(1, SeqCst);
        let handler = {
            let (shared, node, connection) = (Arc::clone(self), Arc::clone(node), connection.clone());
            let stake = self.client.stakes.take();
            move |reply| {
                drop(stake);
                node.in_flight.fetch_sub(1, SeqCst);
                shared.answered(node.id, &connection, &sent, reply);
            }
        };
        if let Err(rejected) = connection.submit(permit, frame, Box::new(handler)) {
            // Not a byte was written; the handler says so to every partition.
            rejected.handler.handle(Err(rejected.error));
        }
    }
}

impl Wave<'_> {
    /// One token allows for all early batches of one request.
    fn has_token(&mut self) -> bool {
        let (node, now) = (self.node, self.now);
        *self.token.get_or_insert_with(|| node.take_token(now))
    }
}
