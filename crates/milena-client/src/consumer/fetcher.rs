//! Fetches from one broker, as long as it leads a partition of ours: one request after the other, on a connection of its
//! own and in a session (KIP-227), never waiting for another broker or, within the budget, for the application.
//!
//! A partition that becomes fetchable while the request is parked at the broker is fetched *aside*, without a session and
//! on other connections: first by a request that waits for nothing, and when there was nothing, by one that is parked,
//! too, for no longer than the session's, so that the next of those takes the partition in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use milena_core::consumer::TopicPartition;
use milena_core::consumer::aborted::AbortedFilter;
use milena_core::consumer::fetch_session::{FINAL_EPOCH, FetchSession, FetchTarget, SessionFetch};
use milena_core::consumer::prefetch::Charge;
use milena_net::{Broker, Connection, Purpose, RequestFrame};
use milena_protocol::fetch::{FetchReply, FetchedPartition, FetchedTopic};
use milena_protocol::messages::FetchRequest;
use milena_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use milena_protocol::record::RecordBatches;
use milena_protocol::{ApiKey, ErrorCode, Uuid};
use tokio::time::sleep_until;

use super::config::Isolation;
use super::error::ConsumeError;
use super::hand_over::Fetched;
use super::outages::Awaited;
use super::shared::{Shared, State};
use crate::error::RequestError;

/// A parked request that has this little time left takes in by itself what became fetchable.
const SOON: Duration = Duration::from_millis(15);
/// An aside fetch ends this much before the parked request may.
const MARGIN: Duration = Duration::from_millis(10);
/// After an error that a retry won't mend soon.
const REFUSED: Duration = Duration::from_secs(1);

/// What one fetch asks for: versions to tell whether an answer still counts.
struct Asked {
    targets: BTreeMap<TopicPartition, FetchTarget>,
    versions: BTreeMap<TopicPartition, u64>,
}

/// Which fetch is to be planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Of the session: everything.
    Session,
    /// Aside, at once: what no fetch has asked for yet.
    Quick,
    /// Aside, parked: what had nothing when it was asked for at once.
    Parked,
}

enum Plan {
    Fetch(Asked, Charge),
    /// Nothing to do before then, or before something changes.
    Wait(Option<Instant>),
    /// The broker leads nothing of ours.
    Leave,
}

/// The fetcher of one broker.
pub(super) async fn run(shared: Arc<Shared>, node: i32) {
    let mut session = FetchSession::new();
    let mut failures = 0;
    loop {
        let changed = shared.fetchers.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        match shared.plan(node, Kind::Session) {
            Plan::Leave => break,
            Plan::Wait(until) => wait(changed, until).await,
            Plan::Fetch(asked, mut charge) => {
                let begun = shared.client.clock.now();
                // The end does not wait for what the broker holds back.
                let outcome = tokio::select! {
                    biased;
                    outcome = fetch(&shared, node, &mut session, &asked, &mut charge) => outcome,
                    () = shared.ended() => break,
                };
                match outcome {
                    Ok(reply) => {
                        failures = 0;
                        shared.answered(&Awaited::Broker(node));
                        shared.take_in(Kind::Session, asked, reply, charge);
                    }
                    Err(RequestError::Closed) => shared.end(),
                    Err(error) => {
                        shared.state().forget_asked(&asked);
                        drop(charge);
                        tracing::debug!(node, %error, "fetch failed");
                        shared.failed(Awaited::Broker(node), begun, &error);
                        shared.client.metadata.request_refresh();
                        let backoff = shared.client.retry_backoff();
                        let wait = shared.client.chance.with(|rng| backoff.delay(failures, rng));
                        failures += 1;
                        tokio::select! {
                            biased;
                            () = shared.ended() => break,
                            () = tokio::time::sleep(wait) => {}
                        }
                    }
                }
            }
        }
    }
}

async fn wait(changed: impl Future<Output = ()>, until: Option<Instant>) {
    match until {
        Some(until) => tokio::select! {
            biased;
            () = changed => {}
            () = sleep_until(until.into()) => {}
        },
        None => changed.await,
    }
}

/// One fetch in the session; meanwhile, fetches aside.
async fn fetch(
    shared: &Arc<Shared>,
    node: i32,
    session: &mut FetchSession,
    asked: &Asked,
    charge: &mut Charge,
) -> Result<FetchReply, RequestError> {
    let connection = shared.client.pool.get(&Broker::Node(node), Purpose::Own(shared.connections.fetch)).await?;
    shared.remember(&connection);
    let wait = shared.config.fetch_max_wait;
    let version = version_for(&connection, &asked.targets)?;
    let planned = session.plan(asked.targets.clone());
    let frame = frame(shared, planned, version, wait, charge.bytes())?;
    let parked_until = shared.client.clock.now() + wait;
    let answer = connection.call(frame);
    tokio::pin!(answer);
    let answered = loop {
        let changed = shared.fetchers.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        begin_aside(shared, node, parked_until);
        tokio::select! {
            biased;
            answered = &mut answer => break answered,
            () = changed => {}
        }
    };
    let reply =
        answered.map_err(RequestError::from).and_then(|reply| read(&connection, reply.api_version, reply.body, charge));
    match reply {
        Ok(reply) => {
            match session.handle_response(reply.error_code, reply.session_id) {
                Ok(()) => Ok(reply),
                // The broker has dropped our session: nothing is wrong, the next fetch opens another.
                Err(error) if is_of_session(error) => Ok(FetchReply::default()),
                Err(error) => Err(RequestError::broker(format!("fetch from broker {node}"), error, None)),
            }
        }
        Err(error) => {
            session.handle_failure();
            Err(error)
        }
    }
}

fn is_of_session(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::FETCH_SESSION_ID_NOT_FOUND
            | ErrorCode::INVALID_FETCH_SESSION_EPOCH
            | ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR
    )
}

/// Starts fetches aside of what is fetchable and in no request, one of each kind at a time.
fn begin_aside(shared: &Arc<Shared>, node: i32, parked_until: Instant) {
    let left = parked_until.saturating_duration_since(shared.client.clock.now());
    begin_one_aside(shared, node, Kind::Quick, Duration::ZERO);
    if left > SOON {
        begin_one_aside(shared, node, Kind::Parked, left - MARGIN);
    }
}

fn begin_one_aside(shared: &Arc<Shared>, node: i32, kind: Kind, wait: Duration) {
    if !shared.state().asides.insert((node, kind)) {
        return;
    }
    let Plan::Fetch(asked, charge) = shared.plan(node, kind) else {
        shared.state().asides.remove(&(node, kind));
        return;
    };
    let task = {
        let shared = Arc::clone(shared);
        async move { aside(shared, node, kind, asked, charge, wait).await }
    };
    if shared.client.tasks.spawn("fetch aside", task).is_err() {
        shared.end();
    }
}

async fn aside(shared: Arc<Shared>, node: i32, kind: Kind, asked: Asked, mut charge: Charge, wait: Duration) {
    let outcome = tokio::select! {
        biased;
        outcome = fetch_aside(&shared, node, kind, &asked, &mut charge, wait) => outcome,
        () = shared.ended() => return,
    };
    match outcome {
        Ok(reply) => shared.take_in(kind, asked, reply, charge),
        Err(error) => {
            tracing::debug!(node, %error, "fetch aside failed");
            let again = shared.client.clock.now() + shared.client.config.retry_backoff;
            let mut state = shared.state();
            state.forget_asked(&asked);
            state.not_before.extend(asked.targets.into_keys().map(|partition| (partition, again)));
        }
    }
    shared.state().asides.remove(&(node, kind));
    shared.fetchers.notify_waiters();
}

async fn fetch_aside(
    shared: &Shared,
    node: i32,
    kind: Kind,
    asked: &Asked,
    charge: &mut Charge,
    limit: Duration,
) -> Result<FetchReply, RequestError> {
    let number = if kind == Kind::Quick { shared.connections.aside } else { shared.connections.parked };
    let connection = shared.client.pool.get(&Broker::Node(node), Purpose::Own(number)).await?;
    shared.remember(&connection);
    let version = version_for(&connection, &asked.targets)?;
    let send = asked.targets.iter().map(|(partition, target)| (partition.clone(), *target)).collect();
    let planned = SessionFetch { epoch: FINAL_EPOCH, send, ..SessionFetch::default() };
    let frame = frame(shared, planned, version, limit, charge.bytes())?;
    let reply = connection.call(frame).await?;
    let reply = read(&connection, reply.api_version, reply.body, charge)?;
    match reply.error_code {
        ErrorCode::NONE => Ok(reply),
        error => Err(RequestError::broker(format!("fetch from broker {node}"), error, None)),
    }
}

fn read(
    connection: &Connection,
    version: i16,
    body: bytes::Bytes,
    charge: &mut Charge,
) -> Result<FetchReply, RequestError> {
    charge.settle(body.len());
    FetchReply::decode(version, body).map_err(|error| {
        connection.close_undecodable(error.clone());
        RequestError::Malformed {
            address: connection.address().to_string(),
            api: ApiKey::Fetch.name(),
            source: Arc::new(error),
        }
    })
}

/// The highest version both speak; by topic name unless the id of every topic is known.
fn version_for(connection: &Connection, targets: &BTreeMap<TopicPartition, FetchTarget>) -> Result<i16, RequestError> {
    let by_id = targets.values().all(|target| !target.topic_id.is_zero());
    let cap = if by_id { milena_protocol::fetch::VERSIONS.max } else { 12 };
    connection.versions().highest_up_to(ApiKey::Fetch, cap).ok_or_else(|| RequestError::UnsupportedVersion {
        address: connection.address().to_string(),
        api: ApiKey::Fetch.name(),
    })
}

fn frame(
    shared: &Shared,
    planned: SessionFetch,
    version: i16,
    wait: Duration,
    max_bytes: usize,
) -> Result<RequestFrame, RequestError> {
    let by_id = version >= 13;
    let mut topics: Vec<FetchTopic> = Vec::new();
    // The session's own order keeps the partitions of one topic together.
    for (partition, target) in planned.send {
        let topic = match topics.last_mut() {
            Some(topic) if by_id && topic.topic_id == target.topic_id => topic,
            Some(topic) if !by_id && *topic.topic == *partition.topic => topic,
            _ => {
                topics.push(FetchTopic {
                    topic: if by_id { "".into() } else { (&*partition.topic).into() },
                    topic_id: if by_id { target.topic_id } else { Uuid::ZERO },
                    partitions: Vec::new(),
                });
                topics.last_mut().expect("pushed just now")
            }
        };
        topic.partitions.push(FetchPartition {
            partition: partition.partition,
            current_leader_epoch: if version >= 9 { target.leader_epoch } else { -1 },
            fetch_offset: target.offset,
            partition_max_bytes: target.max_bytes,
            ..FetchPartition::default()
        });
    }
    let forgotten_topics_data = planned
        .forget
        .into_iter()
        .map(|(partition, topic_id)| ForgottenTopic {
            topic: if by_id { "".into() } else { (&*partition.topic).into() },
            topic_id: if by_id { topic_id } else { Uuid::ZERO },
            partitions: vec![partition.partition],
        })
        .collect();
    let in_session = version >= 7;
    let request = FetchRequest {
        max_wait_ms: i32::try_from(wait.as_millis()).unwrap_or(i32::MAX),
        min_bytes: shared.config.fetch_min_bytes,
        max_bytes: i32::try_from(max_bytes).unwrap_or(i32::MAX),
        isolation_level: i8::from(shared.config.isolation == Isolation::ReadCommitted),
        session_id: if in_session { planned.id } else { 0 },
        session_epoch: if in_session { planned.epoch } else { FINAL_EPOCH },
        topics,
        forgotten_topics_data,
        // No rack: a leader that has a nearer replica for it would answer with that replica's name in place of records
        // (KIP-392), and only leaders are fetched from here. The rack goes to the assignors.
        ..FetchRequest::default()
    };
    Ok(RequestFrame::encode(&request, version, wait + shared.client.config.request_timeout)?)
}

impl Shared {
    /// What to fetch next from `node`, entered as asked. Its fetcher leaves when nothing is led there.
    fn plan(&self, node: i32, kind: Kind) -> Plan {
        let now = self.client.clock.now();
        let snapshot = self.client.metadata.snapshot();
        let mut guard = self.state();
        let state = &mut *guard;
        let leads =
            state.positions.iter().any(|(_, position)| position.leader.is_some_and(|(leader, _)| leader == node));
        if kind == Kind::Session && (state.closed || !leads) {
            state.fetching.remove(&node);
            return Plan::Leave;
        }
        let held = state.positions.iter().count().max(1);
        let share = (self.config.prefetch / held).max(self.config.max_partition_fetch_bytes);
        let mut asked = Asked { targets: BTreeMap::new(), versions: BTreeMap::new() };
        let mut later: Option<Instant> = None;
        for (partition, position) in state.positions.fetchable(node) {
            let under_way = state.asked.get(partition) == Some(&position.version);
            let full = state.buffers.get(partition).is_some_and(|buffer| buffer.bytes() >= share);
            let quiet = state.quiet.get(partition) == Some(&position.version);
            let other_kind = match kind {
                Kind::Session => false,
                Kind::Quick => quiet,
                Kind::Parked => !quiet,
            };
            if under_way || full || other_kind {
                continue;
            }
            if let Some(at) = state.not_before.get(partition).copied().filter(|at| now < *at) {
                later = Some(later.map_or(at, |known| known.min(at)));
                continue;
            }
            let (Some(offset), Some((_, leader_epoch))) = (position.fetch_offset(), position.leader) else { continue };
            let topic_id = snapshot.topic(&partition.topic).map_or(Uuid::ZERO, |topic| topic.id);
            let max_bytes = i32::try_from(self.config.max_partition_fetch_bytes).unwrap_or(i32::MAX);
            asked.targets.insert(partition.clone(), FetchTarget { topic_id, offset, leader_epoch, max_bytes });
            asked.versions.insert(partition.clone(), position.version);
        }
        if asked.targets.is_empty() {
            return Plan::Wait(later);
        }
        let Some(charge) = self.reserve(state, kind, asked.targets.len()) else { return Plan::Wait(later) };
        if kind == Kind::Session {
            state.quiet.retain(|partition, _| !asked.versions.contains_key(partition));
        }
        state.asked.extend(asked.versions.iter().map(|(partition, version)| (partition.clone(), *version)));
        Plan::Fetch(asked, charge)
    }

    fn reserve(&self, state: &State, kind: Kind, partitions: usize) -> Option<Charge> {
        let least = self.config.max_partition_fetch_bytes.min(self.config.fetch_max_bytes);
        let brokers: BTreeSet<i32> =
            state.positions.iter().filter_map(|(_, position)| position.leader).map(|(leader, _)| leader).collect();
        let most = self.config.max_partition_fetch_bytes.saturating_mul(partitions).min(self.config.fetch_max_bytes);
        // A parked poll holds its reservation: one share is left for what is fetched aside.
        let sharers = if kind == Kind::Session { brokers.len() + 1 } else { 4 * (brokers.len() + 1) };
        if let Some(charge) = self.budget.reserve(most, least, sharers) {
            return Some(charge);
        }
        // What is fetched ahead of paused partitions may fill the budget, and would wait for ever: the others go on in
        // small steps, in debt.
        let stuck = state.ready.is_empty() && state.parked_bytes() + least * brokers.len() > self.config.prefetch / 2;
        (stuck && state.asked.is_empty()).then(|| self.budget.charge(least))
    }

    /// Takes an answer in. In one step with the end of the request: a fetch that is planned between the two would ask for
    /// the same again.
    fn take_in(&self, kind: Kind, asked: Asked, reply: FetchReply, charge: Charge) {
        let names: BTreeMap<[u8; 16], Arc<str>> = asked
            .targets
            .iter()
            .map(|(partition, target)| (*target.topic_id.as_bytes(), Arc::clone(&partition.topic)))
            .collect();
        let charge = Arc::new(charge);
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
                // Sought, revoked or lost since: void.
                if state.closed || state.positions.current(&partition, version).is_none() {
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
    fn take_partition(
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
        let bytes = fetched.records.len();
        let batches = RecordBatches::new(fetched.records);
        let Some(from) = state.positions.current(&partition, version).and_then(|position| position.fetch_offset())
        else {
            return false;
        };
        // Headers alone say where to go on; a damaged one is met again, and reported, when its turn comes.
        let mut next = from;
        let mut damaged = false;
        for batch in batches.clone() {
            match batch {
                Ok(batch) => next = next.max(batch.next_offset()),
                Err(_) => damaged = true,
            }
        }
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
        });
        state.make_ready(&partition);
        false
    }
}

impl State {
    fn forget_asked(&mut self, asked: &Asked) {
        for (partition, version) in &asked.versions {
            if self.asked.get(partition) == Some(version) {
                self.asked.remove(partition);
            }
        }
    }
}

#[cfg(test)]
mod tests;
