//! The producer's own task: ends lingers, retries and deadlines, follows the metadata, asks for a producer id. It sends
//! nothing that somebody else could have sent sooner, and sleeps while there is nothing to do.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use milena_core::producer::budget::headroom::Headroom;
use milena_core::producer::completion::BatchOutcome;
use milena_core::producer::failure::{Cause, Hindrance, ProduceFailure};
use milena_core::producer::identity::ProducerIdentity;
use milena_core::producer::partition_queue::Leader;
use milena_net::Purpose;
use milena_protocol::ErrorCode;
use milena_protocol::messages::InitProducerIdRequest;
use milena_protocol::{ApiKey, ProducerId};

use super::company::Look;
use super::partition::{Closing, Partition, State};
use super::shared::{Shared, lock};
use super::timers::Due;
use crate::error::RequestError;

/// With nothing to do the driver looks around so often, which costs nothing.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
/// After so many timers what they made ready is sent, and other tasks have their turn.
const AT_A_TIME: usize = 500;

/// Answers for what is left, however the driver ends.
pub(super) struct Driver {
    shared: Arc<Shared>,
    /// Once it ends, nothing is compressed any more.
    _headroom: Option<Headroom>,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let headroom = shared.keep_headroom();
        Self { shared, _headroom: headroom }
    }

    pub(super) async fn run(self) {
        let shared = &self.shared;
        let mut changes = shared.client.metadata.changes();
        let closed = shared.client.metadata.stopped();
        tokio::pin!(closed);
        loop {
            let now = shared.client.clock.now();
            let is_done = shared.fire(now);
            if shared.poll_init() {
                let shared = Arc::clone(shared);
                let task = async move { initialize(&shared).await };
                let _ = self.shared.client.tasks.spawn("init producer id", task);
            }
            if shared.ending.load(SeqCst) && !shared.has_work() {
                return;
            }
            if !is_done {
                tokio::task::yield_now().await;
                continue;
            }
            let until = shared.timers().sleep(now + LONGEST_SLEEP);
            tokio::select! {
                // Whatever is due is done in the next turn, whichever of them woke it.
                biased;
                () = &mut closed => return,
                () = shared.wake.notified() => {}
                () = tokio::time::sleep_until(until.into()) => {}
                changed = changes.changed() => match changed {
                    Ok(()) => shared.update_leaders(),
                    Err(_) => return,
                },
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.refuse();
        self.shared.abort(&ProduceFailure::Closed);
        for topic in self.shared.topics() {
            self.shared.client.metadata.unpin(&topic.name);
        }
    }
}

impl Shared {
    /// Whether anything is open, queued or in flight.
    pub(super) fn has_work(&self) -> bool {
        self.active_partitions.load(Relaxed) > 0
            && self.topics().iter().any(|topic| {
                topic.partitions().iter().any(|partition| partition.lock().is_some_and(|state| state.has_work()))
            })
    }

    /// Does what is due, and sends what is ready by that. Returns whether it was all, or was much and there may be more.
    fn fire(self: &Arc<Self>, now: Instant) -> bool {
        let mut nodes = Vec::new();
        let mut is_done = false;
        for _ in 0..AT_A_TIME {
            // Its own statement: the lock must be free again before the partition's is taken.
            let timer = self.timers().pop(now);
            let Some((partition, due)) = timer else {
                is_done = true;
                break;
            };
            nodes.extend(match due {
                Due::Linger(number) => self.end_linger(&partition, number),
                Due::Company(number) => self.look_for_company(&partition, number, now),
                Due::Age => self.end_age(&partition, now),
                Due::Retry => partition.lock().and_then(|mut state| self.list(&partition, &mut state)),
                Due::Deadline => self.expire(&partition, now),
            });
        }
        nodes.sort_unstable();
        nodes.dedup();
        for node in nodes {
            self.pump(node);
        }
        is_done
    }

    /// The open batch may go. It is not closed here: while the broker is behind, a batch closed at every linger's end
    /// would be one of a few records, and more of them than the broker can answer.
    fn end_linger(&self, partition: &Arc<Partition>, number: u64) -> Option<i32> {
        let mut state = partition.lock()?;
        if state.opened != number || !state.taking.has_open() {
            return None;
        }
        state.ripe = true;
        self.arm_age(partition, &mut state);
        self.list(partition, &mut state)
    }

    /// A batch whose linger is in vain goes at once.
    fn look_for_company(&self, partition: &Arc<Partition>, number: u64, now: Instant) -> Option<i32> {
        let mut guard = partition.lock()?;
        let state = &mut *guard;
        let waiting = state.taking.whole.open.as_ref().filter(|_| state.opened == number && state.must_linger);
        let Some(open) = waiting else {
            // It was full, or flushed, or its linger is over.
            state.company.came();
            return None;
        };
        match state.company.look(now, open.record_count()) {
            Look::Go => state.must_linger = false,
            Look::Again(at) => self.arm(at, partition, Due::Company(number)),
            Look::Wait => {}
        }
        self.list(partition, state)
    }

    /// What could not be sent for long takes no more records: they would run out of time with its first one.
    fn end_age(&self, partition: &Arc<Partition>, now: Instant) -> Option<i32> {
        let mut state = partition.lock()?;
        state.age_armed = false;
        if !state.ripe {
            return None;
        }
        let is_old = state.taking.oldest().is_some_and(|created| created + partition.settings().patience <= now);
        if !is_old {
            self.arm_age(partition, &mut state);
            return None;
        }
        state.close();
        partition.publish(&state);
        self.list(partition, &mut state)
    }

    /// At most one timer a partition, and none for a batch that has gone by then.
    pub(super) fn arm_age(&self, partition: &Arc<Partition>, state: &mut State) {
        let Some(created) = state.taking.oldest().filter(|_| state.ripe && !state.age_armed) else { return };
        state.age_armed = true;
        self.arm(created + partition.settings().patience, partition, Due::Age);
    }

    /// Reports what ran out of time, and sets the timer for the next look; or ends it with the partition's state, where
    /// nothing was opened since the last one.
    fn expire(self: &Arc<Self>, partition: &Arc<Partition>, now: Instant) -> Option<i32> {
        let mut state = partition.lock()?;
        let queue = &partition.settings().queue;
        let timeout = queue.delivery_timeout;
        while state.taking.oldest().is_some_and(|created| created + timeout <= now) {
            state.close_oldest();
        }
        let mut late = Vec::new();
        for closing in &mut state.closing {
            let created = match &*closing {
                Closing::Whole(open, _) => open.created(),
                Closing::Sealed { created, .. } => *created,
                Closing::Away { .. } | Closing::Void => continue,
            };
            if created + timeout <= now {
                late.push(std::mem::replace(closing, Closing::Void));
            }
        }
        state.sweep();
        state.queue.expire(now, queue);
        let mut done = state.queue.take_done();
        let bump = state.queue.poll_bump();
        partition.publish(&state);
        let node = self.list(partition, &mut state);
        let leader = state.leader;
        let next_look = now + partition.settings().look_after;
        let next = state.next_deadline(queue).map_or(next_look, |deadline| deadline.min(next_look));
        let is_quiet = state.opened_before == state.opened;
        state.opened_before = state.opened;
        if !(is_quiet && partition.retire(self, &mut state)) {
            self.arm(next, partition, Due::Deadline);
        }
        drop(state);
        for done in &mut done {
            let Some((_, outcome)) = &mut done.report else { continue };
            let was_sent = matches!(outcome, BatchOutcome::PossiblyWritten(_));
            if let BatchOutcome::Failed(failure) | BatchOutcome::PossiblyWritten(failure) = outcome
                && let ProduceFailure::DeliveryTimeout { hindrance, .. } = failure
            {
                *hindrance = self.hindrance(leader, was_sent);
            }
        }
        if !late.is_empty() {
            let hindrance = self.hindrance(leader, false);
            self.fail(late, &ProduceFailure::DeliveryTimeout { limit: timeout, last: None, hindrance });
        }
        if let Some(used) = bump {
            self.bump(used);
        }
        self.finish(done);
        node
    }

    /// What keeps a batch for `leader` from being sent, if that is known. One that was sent before has a producer id.
    fn hindrance(&self, leader: Option<Leader>, was_sent: bool) -> Option<(Hindrance, Option<Cause>)> {
        if let Some(cause) = self.no_producer_id().filter(|_| !was_sent) {
            return Some((Hindrance::NoProducerId, Some(cause)));
        }
        let Some(leader) = leader else {
            // Who leads is known, and that nobody does, unless no broker could be asked.
            let cause = self.client.metadata.last_error().map(|error| Cause(Arc::new(error)));
            return Some((Hindrance::NoLeader, cause));
        };
        let cause = self.node(leader.node).lock().trouble.clone()?;
        Some((Hindrance::NoConnection, Some(cause)))
    }

    fn fail(&self, closing: Vec<Closing>, failure: &ProduceFailure) {
        for closing in closing {
            let share = match closing {
                Closing::Whole(open, _) => open.share(),
                Closing::Sealed { share, .. } => share,
                Closing::Away { .. } | Closing::Void => continue,
            };
            self.answer(share, BatchOutcome::Failed(failure.clone()));
        }
    }

    /// Gives everything up.
    pub(super) fn abort(self: &Arc<Self>, failure: &ProduceFailure) {
        for topic in self.topics() {
            for partition in topic.partitions().iter() {
                let Some(mut guard) = partition.lock() else { continue };
                let state: &mut State = &mut guard;
                state.close();
                let closing = std::mem::take(&mut state.closing).into();
                state.queue.abort(&partition.settings().queue, failure);
                let done = state.queue.take_done();
                let bump = state.queue.poll_bump();
                partition.publish(state);
                drop(guard);
                self.fail(closing, failure);
                if let Some(used) = bump {
                    self.bump(used);
                }
                self.finish(done);
            }
        }
    }

    /// Closes every open batch and starts sending; returns what was not answered for then.
    pub(super) fn start_flush(self: &Arc<Self>) -> Vec<Arc<milena_core::producer::completion::Completion>> {
        let mut unanswered = Vec::new();
        let mut nodes = Vec::new();
        for topic in self.topics() {
            for partition in topic.partitions().iter() {
                let Some(mut state) = partition.lock() else { continue };
                state.close();
                unanswered.extend(state.unanswered());
                partition.publish(&state);
                nodes.extend(self.list(partition, &mut state));
            }
        }
        nodes.sort_unstable();
        nodes.dedup();
        for node in nodes {
            self.pump(node);
        }
        unanswered
    }
}

/// Asks for a producer id until there is one. What can't be had fails what waits for it.
async fn initialize(shared: &Arc<Shared>) {
    for attempt in 0.. {
        match ask(shared).await {
            Ok(identity) => return shared.initialized(identity),
            Err(error) => {
                if is_for_good(&error) {
                    tracing::warn!(%error, "no producer id: records fail");
                    let code = error.error_code().map(ErrorCode);
                    let failure = ProduceFailure::NoProducerId { code, reason: error.to_string().into() };
                    return shared.init_refused(&failure);
                }
                tracing::debug!(%error, "no producer id yet");
                shared.init_delayed(error);
                if shared.client.metadata.is_stopped() || (shared.ending.load(SeqCst) && !shared.has_work()) {
                    return shared.init_failed();
                }
                let wait = shared.retry.delay(attempt, &mut lock(&shared.rng));
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// Whether asking again is in vain until somebody has changed something in the cluster.
fn is_for_good(error: &RequestError) -> bool {
    match error {
        RequestError::UnsupportedVersion { .. } => true,
        RequestError::Broker { code, .. } => {
            let code = ErrorCode(*code);
            !code.is_retriable() && code != ErrorCode::UNKNOWN_SERVER_ERROR
        }
        _ => false,
    }
}

async fn ask(shared: &Shared) -> Result<ProducerIdentity, RequestError> {
    let client = &shared.client;
    let broker = client.metadata.candidates().into_iter().next().ok_or(RequestError::NoBroker)?;
    let connection = client.pool.get(&broker, Purpose::General).await?;
    let request = InitProducerIdRequest {
        transactional_id: None,
        transaction_timeout_ms: i32::MAX,
        producer_id: ProducerId(-1),
        producer_epoch: -1,
    };
    let version = connection.versions().highest(ApiKey::InitProducerId);
    let response = connection.request(&request, version, client.config.request_timeout).await?;
    match response.error_code {
        ErrorCode::NONE => Ok(ProducerIdentity { id: response.producer_id.0, epoch: response.producer_epoch }),
        code => Err(RequestError::broker(format!("producer id from {}", connection.address()), code, None)),
    }
}

#[cfg(test)]
mod tests;
