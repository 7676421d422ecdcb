//! Fetches from one broker, as long as it leads a partition of ours or is the replica to read one from: one request after
//! the other, on a connection of its own and in a session (KIP-227), never waiting for another broker or, within the
//! budget, for the application.
//!
//! A partition that becomes fetchable while the request is parked at the broker is fetched *aside*, without a session and
//! on other connections: first by a request that waits for nothing, and when there was nothing, by one that is parked,
//! too, for no longer than the session's, so that the next of those takes the partition in.

mod intake;
mod plan;
mod rhythm;

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use milena_core::consumer::fetch_session::{FINAL_EPOCH, FetchSession, SessionFetch};
use milena_core::consumer::prefetch::Charge;
use milena_net::{Broker, Connection, Purpose, RequestFrame};
use milena_protocol::fetch::{FetchReply, FetchedPartition};
use milena_protocol::messages::FetchRequest;
use milena_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use milena_protocol::{ApiKey, ErrorCode, Uuid};
use tokio::time::sleep_until;

use self::plan::{Asked, Plan, Until};
use self::rhythm::Rhythm;
use super::config::Isolation;
use super::outages::Awaited;
use super::pauses::Pauses;
use super::shared::Shared;
use crate::error::RequestError;

/// A parked request that has this little time left takes in by itself what became fetchable.
const SOON: Duration = Duration::from_millis(15);
/// An aside fetch ends this much before the parked request may.
const MARGIN: Duration = Duration::from_millis(10);
/// After an error that a retry won't mend soon.
const REFUSED: Duration = Duration::from_secs(1);

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

/// The fetcher of one broker.
pub(super) async fn run(shared: Arc<Shared>, node: i32) {
    let mut session = FetchSession::new();
    let mut failures = 0;
    let mut rhythm = Rhythm::new(shared.created, shared.config.fetch_max_wait);
    loop {
        match plan_or_wait(&shared, node, session.names_all()).await {
            Plan::Leave => break,
            Plan::Wait(_) => {}
            Plan::Fetch(mut asked, mut charge) => {
                let begun = shared.client.clock.now();
                let wait = rhythm.begin(begun);
                // The end does not wait for what the broker holds back.
                let outcome = tokio::select! {
                    biased;
                    outcome = fetch(&shared, node, &mut session, (&mut asked, wait), &mut charge) => outcome,
                    () = shared.ended() => break,
                };
                match outcome {
                    Ok(reply) => {
                        failures = 0;
                        rhythm.end(shared.client.clock.now(), reply.partitions.iter().all(has_nothing));
                        shared.answered(&Awaited::Broker(node));
                        shared.take_in(asked, reply, charge);
                    }
                    Err(RequestError::Closed) => shared.end(),
                    Err(error) => {
                        // Whatever it was to be told, it may not know.
                        session.handle_failure();
                        shared.state().forget_asked(&asked);
                        drop(charge);
                        tracing::debug!(node, %error, "fetch failed");
                        shared.client.metadata.request_refresh();
                        if shared.give_up_replica(node) {
                            continue;
                        }
                        shared.failed(Awaited::Broker(node), begun, &error);
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

/// Plans the next fetch of the session. Where there is none yet, waits until there may be.
async fn plan_or_wait(shared: &Shared, node: i32, names_all: bool) -> Plan {
    let (changed, room) = (shared.fetchers.notified(), shared.client.prefetch.room.notified());
    tokio::pin!(changed, room);
    changed.as_mut().enable();
    room.as_mut().enable();
    let plan = shared.plan(node, Kind::Session, names_all);
    if let Plan::Wait(until) = plan {
        tokio::select! {
            biased;
            () = changed => {}
            () = room, if until.room => {}
            () = reach(until.time) => {}
        }
    }
    plan
}

async fn reach(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => pending().await,
    }
}

/// One fetch in the session; meanwhile, fetches aside.
async fn fetch(
    shared: &Arc<Shared>,
    node: i32,
    session: &mut FetchSession,
    (asked, wait): (&mut Asked, Duration),
    charge: &mut Charge,
) -> Result<FetchReply, RequestError> {
    let connection = shared.client.pool.get(&Broker::Node(node), Purpose::Own(shared.connections.fetch)).await?;
    shared.remember(&connection);
    let version = version_for(&connection, asked.have_ids)?;
    let planned = session.plan(std::mem::take(&mut asked.send), std::mem::take(&mut asked.forget));
    let frame = frame(shared, planned, version, wait, charge.bytes(), asked.may_follow)?;
    let parked_until = shared.client.clock.now() + wait;
    let answer = connection.call(frame);
    tokio::pin!(answer);
    let answered = loop {
        let (changed, room) = (shared.fetchers.notified(), shared.client.prefetch.room.notified());
        tokio::pin!(changed, room);
        changed.as_mut().enable();
        room.as_mut().enable();
        let until = begin_aside(shared, node, parked_until);
        tokio::select! {
            biased;
            answered = &mut answer => break answered,
            () = changed => {}
            () = room, if until.room => {}
            () = reach(until.time) => {}
        }
    };
    let reply = answered?;
    let reply = read(&connection, reply.api_version, reply.body, charge)?;
    match session.handle_response(reply.error_code, reply.session_id) {
        Ok(()) => Ok(reply),
        // The broker has dropped our session: nothing is wrong, the next fetch opens another.
        Err(error) if is_of_session(error) => Ok(FetchReply::default()),
        Err(error) => Err(RequestError::broker(format!("fetch from broker {node}"), error, None)),
    }
}

/// Without a session an answer has all partitions, also those that there is nothing to say of.
fn has_nothing(fetched: &FetchedPartition) -> bool {
    !fetched.error_code.is_error()
        && fetched.records.is_empty()
        && fetched.diverging_epoch.is_none()
        && fetched.preferred_read_replica.is_none()
}

fn is_of_session(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::FETCH_SESSION_ID_NOT_FOUND
            | ErrorCode::INVALID_FETCH_SESSION_EPOCH
            | ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR
    )
}

/// Starts fetches aside of what is fetchable and in no request, one of each kind at a time. Returns when there may be
/// another to start.
fn begin_aside(shared: &Arc<Shared>, node: i32, parked_until: Instant) -> Until {
    if !shared.state().positions.has_changed(node) {
        return Until::default();
    }
    let left = parked_until.saturating_duration_since(shared.client.clock.now());
    let quick = begin_one_aside(shared, node, Kind::Quick, Duration::ZERO);
    if left > SOON {
        return quick.or(begin_one_aside(shared, node, Kind::Parked, left - MARGIN));
    }
    quick
}

/// While one is under way there is no other of its kind: its end is a change, and wakes whoever waits here.
fn begin_one_aside(shared: &Arc<Shared>, node: i32, kind: Kind, wait: Duration) -> Until {
    if !shared.state().asides.insert((node, kind)) {
        return Until::default();
    }
    let (asked, charge) = match shared.plan(node, kind, false) {
        Plan::Fetch(asked, charge) => (asked, charge),
        plan => {
            shared.state().asides.remove(&(node, kind));
            return if let Plan::Wait(until) = plan { until } else { Until::default() };
        }
    };
    let task = {
        let shared = Arc::clone(shared);
        async move { aside(shared, asked, charge, wait).await }
    };
    if shared.client.tasks.spawn("fetch aside", task).is_err() {
        shared.end();
    }
    Until::default()
}

async fn aside(shared: Arc<Shared>, asked: Asked, mut charge: Charge, wait: Duration) {
    let (node, kind) = (asked.node, asked.kind);
    let outcome = tokio::select! {
        biased;
        outcome = fetch_aside(&shared, &asked, &mut charge, wait) => outcome,
        () = shared.ended() => return,
    };
    match outcome {
        Ok(reply) => shared.take_in(asked, reply, charge),
        Err(error) => {
            tracing::debug!(node, %error, "fetch aside failed");
            shared.client.metadata.request_refresh();
            // The leaders are asked at once.
            shared.give_up_replica(node);
            let (now, pauses) = (shared.client.clock.now(), Pauses::new(&shared.client));
            let mut state = shared.state();
            state.forget_asked(&asked);
            for (partition, _) in &asked.send {
                if state.positions.get(partition).is_some_and(|position| position.read_from() == Some(node)) {
                    state.fail(partition, now, &pauses);
                }
            }
        }
    }
    shared.state().asides.remove(&(node, kind));
    shared.fetchers.notify_waiters();
}

async fn fetch_aside(
    shared: &Shared,
    asked: &Asked,
    charge: &mut Charge,
    limit: Duration,
) -> Result<FetchReply, RequestError> {
    let number = if asked.kind == Kind::Quick { shared.connections.aside } else { shared.connections.parked };
    let connection = shared.client.pool.get(&Broker::Node(asked.node), Purpose::Own(number)).await?;
    shared.remember(&connection);
    let version = version_for(&connection, asked.have_ids)?;
    let planned = SessionFetch { epoch: FINAL_EPOCH, send: asked.send.clone(), ..SessionFetch::default() };
    let frame = frame(shared, planned, version, limit, charge.bytes(), asked.may_follow)?;
    let reply = connection.call(frame).await?;
    let reply = read(&connection, reply.api_version, reply.body, charge)?;
    match reply.error_code {
        ErrorCode::NONE => Ok(reply),
        error => Err(RequestError::broker(format!("fetch from broker {}", asked.node), error, None)),
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
fn version_for(connection: &Connection, have_ids: bool) -> Result<i16, RequestError> {
    let cap = if have_ids { milena_protocol::fetch::VERSIONS.max } else { 12 };
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
    may_follow: bool,
) -> Result<RequestFrame, RequestError> {
    let by_id = version >= 13;
    let mut forget = planned.forget;
    if !by_id {
        // By name a topic that was created anew is the same, and brokers forget last.
        forget.retain(|(gone, _)| !planned.send.iter().any(|(partition, _)| partition == gone));
    }
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
            last_fetched_epoch: if version >= 12 { target.last_fetched_epoch } else { -1 },
            partition_max_bytes: target.max_bytes,
            ..FetchPartition::default()
        });
    }
    let forgotten_topics_data = forget
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
        // A leader that has a nearer replica for it answers with that replica's name in place of records (KIP-392).
        rack_id: shared.config.rack.as_deref().filter(|_| version >= 11 && may_follow).unwrap_or_default().into(),
        ..FetchRequest::default()
    };
    Ok(RequestFrame::encode(&request, version, wait + shared.client.config.request_timeout)?)
}

#[cfg(test)]
mod tests;
