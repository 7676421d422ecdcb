//! What a consumer waits for and can't reach: a broker that leads partitions of its own, the coordinator of its group, a
//! leader. The application is told once it has lasted for `default.api.timeout.ms` and an attempt failed after that, and
//! told again when it is over; the consumer goes on trying all the same, for brokers come back. That nothing was tried
//! for as long is no outage: a coordinator holds joins back for minutes, and a busy application has no room for more.
//! Does no I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use milena_core::consumer::TopicPartition;
use milena_net::Broker;

use super::error::ConsumeError;
use super::event::ConsumerEvent;
use super::shared::{Shared, State, Subscription};
use crate::error::RequestError;

/// More addresses or partitions than these are counted, not named.
const MOST_NAMED: usize = 5;

/// What a consumer waits for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Awaited {
    /// The broker with this node id, which leads partitions of the consumer.
    Broker(i32),
    /// The coordinator of this group.
    Coordinator(String),
    /// A leader for this partition.
    Leader(TopicPartition),
}

impl Awaited {
    fn leader(&self) -> Option<&TopicPartition> {
        match self {
            Self::Leader(partition) => Some(partition),
            _ => None,
        }
    }
}

/// What could not be reached, for how long, and where it was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outage {
    /// What is waited for.
    pub awaited: Awaited,
    /// How long it has been.
    pub lasting: Duration,
    /// Addresses (`host:port`) that were tried, as far as they are known.
    pub addresses: Vec<String>,
    /// Partitions of which nothing is read meanwhile. None, if it is about a coordinator: what is held is read on.
    pub partitions: Vec<TopicPartition>,
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = some(&self.addresses);
        // A time limit is told, not a measurement.
        let lasting = Duration::from_secs(self.lasting.as_secs());
        let partitions = some(&self.partitions);
        match &self.awaited {
            Awaited::Broker(node) => write!(
                f,
                "broker {node} at {at} could not be read from for {lasting:?}, so nothing is read of {partitions}: check \
                 that it runs and can be reached there"
            ),
            Awaited::Coordinator(group) => write!(
                f,
                "no coordinator of group `{group}` could be used for {lasting:?}, so no partitions are assigned and \
                 nothing is committed: check that the brokers run and can be reached at {at}"
            ),
            Awaited::Leader(partition) => write!(
                f,
                "{partition} has had no leader for {lasting:?}, as far as the brokers at {at} tell, so nothing is read \
                 of it: check that the brokers of its replicas run, and that the topic was not deleted"
            ),
        }
    }
}

fn some(items: &[impl fmt::Display]) -> String {
    let mut named: Vec<String> = items.iter().take(MOST_NAMED).map(ToString::to_string).collect();
    match items.len().checked_sub(MOST_NAMED) {
        None | Some(0) if named.is_empty() => return "no known place".to_owned(),
        None | Some(0) => {}
        Some(more) => named.push(format!("{more} more")),
    }
    named.join(", ")
}

struct Trouble {
    since: Instant,
    /// When the last attempt failed.
    failed: Instant,
    is_told: bool,
    /// Of the last attempt.
    error: RequestError,
    /// Kept from then: metadata may forget brokers that don't answer, and begin again with the bootstrap servers.
    addresses: Vec<String>,
    partitions: Vec<TopicPartition>,
}

impl Trouble {
    /// Whether it has lasted for that long, as the last attempt showed.
    fn has_lasted(&self, limit: Duration) -> bool {
        self.failed >= self.since + limit
    }
}

/// What is not reached at present.
#[derive(Default)]
pub(super) struct Outages {
    known: BTreeMap<Awaited, Trouble>,
}

impl Shared {
    /// An attempt that began at `since` failed.
    pub(super) fn failed(&self, awaited: Awaited, since: Instant, error: &RequestError) {
        if matches!(error, RequestError::Closed) {
            return;
        }
        let (now, limit) = (self.client.clock.now(), self.client.config.api_timeout);
        let addresses = self.addresses_of(&awaited);
        let mut state = self.state();
        let partitions = state.partitions_of(&awaited);
        let mut is_new = false;
        let trouble = state.outages.known.entry(awaited).or_insert_with(|| {
            is_new = true;
            let (addresses, partitions) = (Vec::new(), Vec::new());
            Trouble { since, failed: now, is_told: false, error: error.clone(), addresses, partitions }
        });
        trouble.failed = now;
        // That no broker is known says less than what became of those that were.
        if !matches!(error, RequestError::NoBroker) {
            trouble.error = error.clone();
        }
        if !addresses.is_empty() {
            trouble.addresses = addresses;
        }
        if !partitions.is_empty() {
            trouble.partitions = partitions;
        }
        let is_due = !trouble.is_told && trouble.has_lasted(limit);
        drop(state);
        if is_new || is_due {
            // It has a time limit from now on, or is to be told.
            self.driver.notify_one();
        }
    }

    fn addresses_of(&self, awaited: &Awaited) -> Vec<String> {
        let metadata = &self.client.metadata;
        match awaited {
            Awaited::Broker(node) => {
                let known = metadata.snapshot().broker(*node).is_some();
                known.then(|| metadata.address_of(&Broker::Node(*node))).into_iter().collect()
            }
            Awaited::Coordinator(_) | Awaited::Leader(_) => {
                let mut tried: Vec<String> =
                    metadata.candidates().iter().map(|broker| metadata.address_of(broker)).collect();
                tried.sort();
                tried
            }
        }
    }

    /// It answers, or did just now.
    pub(super) fn answered(&self, awaited: &Awaited) {
        let mut state = self.state();
        if let Some(trouble) = state.outages.known.remove(awaited)
            && state.tell_end(awaited.clone(), &trouble)
        {
            drop(state);
            self.app.notify_waiters();
        }
    }

    pub(super) fn coordinator(&self) -> Awaited {
        Awaited::Coordinator(self.config.group.clone().unwrap_or_default())
    }

    /// Tells what has lasted too long, and ends what nobody waits for any more. Returns when to look again.
    pub(super) fn tell_outages(&self, now: Instant) -> Option<Instant> {
        let limit = self.client.config.api_timeout;
        let mut guard = self.state();
        let state = &mut *guard;
        if state.outages.known.is_empty() || state.closed {
            return None;
        }
        let mut known = std::mem::take(&mut state.outages.known);
        let leaderless: BTreeSet<TopicPartition> = known.keys().filter_map(Awaited::leader).cloned().collect();
        let is_over =
            |awaited: &Awaited, trouble: &mut Trouble| !state.waits_for(awaited, trouble.is_told, &leaderless);
        let over: Vec<_> = known.extract_if(.., is_over).collect();
        let mut is_news = false;
        for (awaited, trouble) in over {
            is_news |= state.tell_end(awaited, &trouble);
        }
        let mut next: Option<Instant> = None;
        for (awaited, trouble) in known.iter_mut().filter(|(_, trouble)| !trouble.is_told) {
            let is_seen = trouble.has_lasted(limit) || !state.is_tried(awaited) && now >= trouble.since + limit;
            if !is_seen {
                // If its time has passed, the next attempt that fails calls again.
                let at = Some(trouble.since + limit).filter(|at| now < *at);
                next = next.into_iter().chain(at).min();
                continue;
            }
            is_news = true;
            trouble.is_told = true;
            trouble.partitions.retain(|partition| state.is_read_from(partition, awaited, &leaderless));
            let outage = Outage {
                awaited: awaited.clone(),
                lasting: now.saturating_duration_since(trouble.since),
                addresses: trouble.addresses.clone(),
                partitions: trouble.partitions.clone(),
            };
            tracing::warn!(%outage, error = %trouble.error, "a consumer waits, and goes on trying");
            let source = Box::new(trouble.error.clone());
            state.push(Err(ConsumeError::Unreachable { outage, source }));
        }
        state.outages.known = known;
        drop(guard);
        // Each time whoever waits for records looks for them in vain.
        if is_news {
            self.app.notify_waiters();
        }
        next
    }
}

impl State {
    /// Whether there was something to tell.
    fn tell_end(&mut self, awaited: Awaited, trouble: &Trouble) -> bool {
        let is_news = trouble.is_told && !self.closed;
        if is_news {
            tracing::warn!(?awaited, "what the consumer waited for is there again, or not needed any more");
            self.push(Ok(ConsumerEvent::Reached(awaited)));
        }
        is_news
    }

    /// Whether it is tried again and again, and each attempt that fails is told of. Of a leader, and of a broker that
    /// metadata has forgotten, metadata alone is asked: until it says another thing, what it said last holds.
    fn is_tried(&self, awaited: &Awaited) -> bool {
        match awaited {
            Awaited::Broker(_) => !self.partitions_of(awaited).is_empty(),
            Awaited::Coordinator(_) => true,
            Awaited::Leader(_) => false,
        }
    }

    /// Whether it still matters. Where all is paused nothing is tried, and there is nothing new to tell.
    fn waits_for(&self, awaited: &Awaited, is_told: bool, leaderless: &BTreeSet<TopicPartition>) -> bool {
        match awaited {
            Awaited::Broker(_) => self.positions.iter().any(|(partition, position)| {
                (is_told || position.is_wanted()) && self.is_read_from(partition, awaited, leaderless)
            }),
            Awaited::Leader(partition) => self.is_read_from(partition, awaited, leaderless),
            Awaited::Coordinator(_) => match self.subscription {
                Subscription::Topics(_) | Subscription::Matching(_) => true,
                Subscription::None | Subscription::Assigned => {
                    self.positions.iter().any(|(_, position)| position.position().is_none())
                }
            },
        }
    }

    /// Whether a partition is held and can't be read before `awaited` is there.
    fn is_read_from(
        &self,
        partition: &TopicPartition,
        awaited: &Awaited,
        leaderless: &BTreeSet<TopicPartition>,
    ) -> bool {
        let Some(position) = self.positions.get(partition) else { return false };
        match (awaited, position.leader) {
            (Awaited::Broker(node), Some((leader, _))) => leader == *node,
            // Metadata that has forgotten its brokers names no leader: it may be this one.
            (Awaited::Broker(_), None) => !leaderless.contains(partition),
            (Awaited::Leader(_), leader) => leader.is_none(),
            (Awaited::Coordinator(_), _) => false,
        }
    }

    fn partitions_of(&self, awaited: &Awaited) -> Vec<TopicPartition> {
        match awaited {
            Awaited::Broker(node) => {
                let led =
                    self.positions.iter().filter(|(_, held)| held.leader.is_some_and(|(leader, _)| leader == *node));
                led.map(|(partition, _)| partition.clone()).collect()
            }
            Awaited::Leader(partition) => vec![partition.clone()],
            Awaited::Coordinator(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
