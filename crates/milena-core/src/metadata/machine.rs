//! Which topics are wanted, when to ask for them, and what an answer changes. Decides only: the driver sends the query
//! that [`Metadata::poll_query`] yields, reports how it went, and sleeps until [`Metadata::next_timeout`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::{Duration, Instant};

use milena_protocol::messages::MetadataResponse;
use milena_protocol::messages::metadata_response::MetadataResponseTopic;
use milena_protocol::{ErrorCode, Uuid};

use super::merge::{self, NodeLists, SeenEpochs};
use super::snapshot::{BrokerMetadata, ClusterSnapshot, PartitionMetadata, TopicMetadata};
use crate::retry::Backoff;

/// How metadata is kept fresh.
#[derive(Debug, Clone)]
pub struct MetadataConfig {
    /// Wait between refreshes that left something open (`retry.backoff.ms`, `retry.backoff.max.ms`).
    pub backoff: Backoff,
    /// Age at which metadata is asked for anew though nothing went wrong (`metadata.max.age.ms`).
    pub max_age: Duration,
    /// Time after which a topic that nobody wants any more is forgotten (`metadata.max.idle.ms`).
    pub max_idle: Duration,
    /// How long the partitions of a topic outlive its disappearance: brokers may omit a topic for a moment.
    pub missing_grace: Duration,
    /// Time without any answer after which the bootstrap servers are asked (`metadata.recovery.rebootstrap.trigger.ms`).
    pub rebootstrap_after: Duration,
    /// Whether asking for a topic may create it (`allow.auto.create.topics`).
    pub allow_auto_create: bool,
}

impl Default for MetadataConfig {
    fn default() -> Self {
        Self {
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(1)),
            max_age: Duration::from_secs(300),
            max_idle: Duration::from_secs(300),
            missing_grace: Duration::from_secs(30),
            rebootstrap_after: Duration::from_secs(300),
            allow_auto_create: false,
        }
    }
}

/// A metadata request to be sent to any broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataQuery {
    /// The topics to ask for; `None` for all of the cluster.
    pub topics: Option<Vec<Arc<str>>>,
    /// Whether asking may create them.
    pub allow_auto_create: bool,
}

/// Why an answer was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// The broker asks for a new start from the bootstrap servers (KIP-1102).
    #[error("the broker asks to start again from the bootstrap servers")]
    RebootstrapRequired,
    /// The broker answered with an error.
    #[error("the broker refuses to give metadata with {0}")]
    Refused(ErrorCode),
    /// The answer names no broker: the one that gave it is not ready.
    #[error("the broker knows of no broker in its cluster: it may still be starting")]
    NoBrokers,
    /// The answer is about another cluster than those before.
    #[error("the broker belongs to cluster {found}, not to {expected}: check the bootstrap servers")]
    OtherCluster {
        /// The cluster of the answers before.
        expected: Arc<str>,
        /// The cluster of this one.
        found: Arc<str>,
    },
}

/// The metadata of one client.
#[derive(Debug)]
pub struct Metadata {
    config: MetadataConfig,
    snapshot: Arc<ClusterSnapshot>,
    wanted: BTreeMap<Arc<str>, Wanted>,
    // Of those wanted, the ones that were never asked for. No backoff applies to them, since nothing has failed.
    new: BTreeSet<Arc<str>>,
    // Of those wanted, the ones about which the last answer left something open.
    open: BTreeSet<Arc<str>>,
    // How many want all topics of the cluster.
    want_all: usize,
    // Of topics with a partition of which more was seen than is known.
    seen: BTreeMap<Arc<str>, SeenEpochs>,
    unreachable: BTreeSet<i32>,
    in_flight: Option<Asked>,
    // Something asked for a refresh of everything, or the last one failed.
    stale: bool,
    // No backoff applies to it.
    urgent: bool,
    // When everything was asked for last, and there was an answer.
    last_answer: Option<Instant>,
    // Rebootstrapping is due so long after this.
    silent_since: Instant,
    not_before: Instant,
    // Refreshes in a row that failed or left something open.
    attempts: u32,
}

/// What the query in flight is about.
#[derive(Debug)]
enum Asked {
    /// All of the cluster.
    All,
    /// All that was wanted.
    Wanted,
    /// What was new, and what was open if its backoff was over.
    Some { topics: Vec<Arc<str>>, with_open: bool },
}

#[derive(Debug)]
struct Wanted {
    last_used: Instant,
    pins: usize,
    missing_since: Option<Instant>,
}

/// What a broker said of a partition's leader when it was asked for something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderHint {
    /// The topic.
    pub topic: Arc<str>,
    /// Its id, as the request had it.
    pub topic_id: Uuid,
    /// The partition's index.
    pub partition: i32,
    /// The leader.
    pub node: i32,
    /// Its epoch.
    pub epoch: i32,
}

impl Metadata {
    /// Knows nothing and wants to be asked at once.
    pub fn new(now: Instant, config: MetadataConfig) -> Self {
        Self {
            config,
            snapshot: Arc::default(),
            wanted: BTreeMap::new(),
            new: BTreeSet::new(),
            open: BTreeSet::new(),
            want_all: 0,
            seen: BTreeMap::new(),
            unreachable: BTreeSet::new(),
            in_flight: None,
            stale: true,
            urgent: true,
            last_answer: None,
            silent_since: now,
            not_before: now,
            attempts: 0,
        }
    }

    /// The latest view.
    pub fn snapshot(&self) -> &Arc<ClusterSnapshot> {
        &self.snapshot
    }

    /// Asks for `topic` from now on, until nobody has wanted it for `max_idle`. Returns whether it is new.
    pub fn want(&mut self, now: Instant, topic: &str) -> bool {
        if let Some(wanted) = self.wanted.get_mut(topic) {
            wanted.last_used = now;
            return false;
        }
        let name = Arc::<str>::from(topic);
        self.wanted.insert(Arc::clone(&name), Wanted { last_used: now, pins: 0, missing_since: None });
        // Where all topics are asked for, those that are there are known already.
        let is_known = || self.snapshot.topic(topic).is_some_and(|known| known.error.is_ok());
        if self.want_all == 0 || !is_known() {
            self.new.insert(name);
        }
        true
    }

    /// As [`Self::want`], until a matching [`Self::unpin`].
    pub fn pin(&mut self, now: Instant, topic: &str) -> bool {
        let is_new = self.want(now, topic);
        if let Some(wanted) = self.wanted.get_mut(topic) {
            wanted.pins += 1;
        }
        is_new
    }

    /// Takes one [`Self::pin`] back.
    pub fn unpin(&mut self, now: Instant, topic: &str) {
        if let Some(wanted) = self.wanted.get_mut(topic) {
            wanted.pins = wanted.pins.saturating_sub(1);
            wanted.last_used = now;
        }
    }

    /// Asks for all topics of the cluster from now on, until a matching [`Self::unpin_all`].
    pub fn pin_all(&mut self) {
        self.want_all += 1;
        self.stale = true;
        self.urgent = true;
    }

    /// Takes one [`Self::pin_all`] back.
    pub fn unpin_all(&mut self) {
        self.want_all = self.want_all.saturating_sub(1);
    }

    /// Something showed that the metadata is out of date. However often it is called, refreshes keep their backoff.
    pub fn request_refresh(&mut self) {
        self.stale = true;
    }

    /// A refresh that does not wait for the backoff, because a person or a test asked for it.
    pub fn request_refresh_now(&mut self) {
        self.stale = true;
        self.urgent = true;
    }

    /// Whether a refresh is under way or owed.
    pub fn is_refreshing(&self) -> bool {
        self.in_flight.is_some() || self.stale || !self.new.is_empty() || !self.open.is_empty()
    }

    /// The query to send now, if one is due. Report its end by one of the `handle_` methods. Asks for everything only
    /// when all of it is due: what is new, or was left open, is asked for alone, however much else is wanted.
    pub fn poll_query(&mut self, now: Instant) -> Option<MetadataQuery> {
        if self.in_flight.is_some() || self.due(now) > now {
            return None;
        }
        let with_open = self.not_before <= now;
        let is_idle = |name: &Arc<str>| self.wanted.get(name).is_none_or(|wanted| self.is_idle(now, wanted));
        // What nobody wants any more is forgotten with the next refresh of everything.
        let asked = if self.is_everything_due(now) || (with_open && self.open.iter().any(is_idle)) {
            self.forget_idle(now);
            self.stale = false;
            self.urgent = false;
            self.new.clear();
            self.open.clear();
            if self.want_all > 0 { Asked::All } else { Asked::Wanted }
        } else {
            let mut topics = std::mem::take(&mut self.new);
            if with_open {
                topics.append(&mut self.open);
            }
            Asked::Some { topics: topics.into_iter().collect(), with_open }
        };
        let topics = match &asked {
            Asked::All => None,
            Asked::Wanted => Some(self.wanted.keys().cloned().collect()),
            Asked::Some { topics, .. } => Some(topics.clone()),
        };
        self.in_flight = Some(asked);
        Some(MetadataQuery { topics, allow_auto_create: self.config.allow_auto_create })
    }

    /// When [`Self::poll_query`] will next have something; `None` while a query is in flight.
    pub fn next_timeout(&self, now: Instant) -> Option<Instant> {
        self.in_flight.is_none().then(|| self.due(now))
    }

    fn due(&self, now: Instant) -> Instant {
        let everything = self.everything_due(now);
        if !self.new.is_empty() {
            now
        } else if !self.open.is_empty() {
            everything.min(self.not_before)
        } else {
            everything
        }
    }

    fn everything_due(&self, now: Instant) -> Instant {
        if self.stale {
            return if self.urgent { now } else { self.not_before };
        }
        self.last_answer.map_or(now, |at| at + self.config.max_age)
    }

    fn is_everything_due(&self, now: Instant) -> bool {
        self.everything_due(now) <= now
    }

    /// Takes an answer. Returns whether the snapshot is a new one.
    ///
    /// # Errors
    /// [`MetadataError`]: nothing was taken, and the query counts as failed.
    pub fn handle_response(
        &mut self,
        now: Instant,
        response: &MetadataResponse,
        rng: &mut fastrand::Rng,
    ) -> Result<bool, MetadataError> {
        if let Err(error) = self.check(response) {
            self.handle_failure(now, rng);
            return Err(error);
        }
        let asked = self.in_flight.take().unwrap_or(Asked::Wanted);
        self.unreachable.clear();
        self.silent_since = now;
        let mut next = ClusterSnapshot::clone(&self.snapshot);
        if let Some(id) = &response.cluster_id {
            next.cluster_id = Some(id.as_str().into());
        }
        next.controller = Some(response.controller_id.0).filter(|node| *node >= 0);
        next.brokers = read_brokers(response);
        let Merged { changed, open } = self.merge_topics(now, &asked, response, &mut next);
        match asked {
            // The time of what was open before is set, and that of what is open now too.
            Asked::Some { with_open: false, .. } if !open || self.not_before > now => {}
            Asked::Some { .. } => self.schedule(now, open, rng),
            Asked::All | Asked::Wanted => {
                self.last_answer = Some(now);
                self.schedule(now, open, rng);
            }
        }
        let was = &self.snapshot;
        let same =
            (&next.cluster_id, next.controller, &next.brokers) == (&was.cluster_id, was.controller, &was.brokers);
        if same && !changed {
            return Ok(false);
        }
        next.generation += 1;
        self.snapshot = Arc::new(next);
        Ok(true)
    }

    fn check(&self, response: &MetadataResponse) -> Result<(), MetadataError> {
        match response.error_code {
            ErrorCode::NONE => {}
            ErrorCode::REBOOTSTRAP_REQUIRED => return Err(MetadataError::RebootstrapRequired),
            error => return Err(MetadataError::Refused(error)),
        }
        if response.brokers.is_empty() {
            return Err(MetadataError::NoBrokers);
        }
        match (&self.snapshot.cluster_id, &response.cluster_id) {
            (Some(expected), Some(found)) if **expected != **found => {
                Err(MetadataError::OtherCluster { expected: Arc::clone(expected), found: found.as_str().into() })
            }
            _ => Ok(()),
        }
    }

    /// Brings the topics of `next`, so far those of the last view, up to date: those that were asked for and no others,
    /// and of them what differs.
    fn merge_topics(
        &mut self,
        now: Instant,
        asked: &Asked,
        response: &MetadataResponse,
        next: &mut ClusterSnapshot,
    ) -> Merged {
        let mut answered = BTreeMap::new();
        for topic in &response.topics {
            if let Some(name) = topic.name.as_deref() {
                answered.entry(name).or_insert(topic);
            }
        }
        let (mut merged, mut lists) = (Merged::default(), NodeLists::default());
        match asked {
            Asked::Some { topics, .. } => {
                for name in topics {
                    merged += self.merge_topic(now, name, answered.get(&**name).copied(), &mut lists, next);
                }
                // What the others of its partitions have for a leader now is not in this answer.
                self.stale |= self.snapshot.brokers.keys().any(|node| !next.brokers.contains_key(node));
            }
            Asked::All | Asked::Wanted => {
                let all = self.want_all > 0;
                let told = answered.keys().filter(|name| all || self.wanted.contains_key(**name));
                let told =
                    told.map(|name| self.snapshot.topic(name).map_or_else(|| (*name).into(), |t| Arc::clone(&t.name)));
                let names = told.chain(self.wanted.keys().cloned()).collect::<BTreeSet<Arc<str>>>();
                for topic in self.snapshot.topics().filter(|topic| !names.contains(&topic.name)) {
                    next.forget(&topic.name);
                    self.seen.remove(&topic.name);
                    merged.changed = true;
                }
                for name in &names {
                    let answer = answered.get(&**name).copied();
                    // Wanted since the query was sent: it was not asked for, so its absence says nothing.
                    if answer.is_some() || !self.new.contains(name) {
                        merged += self.merge_topic(now, name, answer, &mut lists, next);
                    }
                }
            }
        }
        merged
    }

    /// As [`Self::merge_topics`], for one topic; without an answer the broker knows of none.
    fn merge_topic(
        &mut self,
        now: Instant,
        name: &Arc<str>,
        answer: Option<&MetadataResponseTopic>,
        lists: &mut NodeLists,
        next: &mut ClusterSnapshot,
    ) -> Merged {
        let missing;
        let answer = match answer {
            Some(answer) => answer,
            None => {
                missing = MetadataResponseTopic {
                    error_code: ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                    ..MetadataResponseTopic::default()
                };
                &missing
            }
        };
        let known = self.snapshot.topics.get(&**name);
        let wanted = self.wanted.get_mut(name);
        let is_wanted = wanted.is_some();
        let topic = if answer.error_code.is_ok() {
            if let Some(wanted) = wanted {
                wanted.missing_since = None;
            }
            let mut seen = self.seen.remove(name).unwrap_or_default();
            let topic = merge::merge(name, known.map(|topic| &**topic), &mut seen, lists, answer);
            note_seen(&mut self.seen, name, seen);
            topic
        } else {
            let since = wanted.map_or(now, |wanted| *wanted.missing_since.get_or_insert(now));
            let kept = known.filter(|_| now.saturating_duration_since(since) < self.config.missing_grace);
            if kept.is_none() {
                self.seen.remove(name);
            }
            merge::keep(name, kept.map(|topic| &**topic), answer)
        };
        // A leader without an address is none: what is kept against a broker that lags may name one that has just
        // come back, or is just gone.
        let is_led =
            |partition: &PartitionMetadata| partition.leader.is_some_and(|node| next.brokers.contains_key(&node));
        let open = topic.error.is_retriable() || !topic.partitions.iter().all(is_led);
        if open && is_wanted {
            self.open.insert(Arc::clone(name));
        } else if open {
            // Not by its name, which nobody wants as such: asking could create it.
            self.stale = true;
        }
        let changed = known.is_none_or(|known| **known != topic);
        if changed {
            next.put(Arc::new(topic));
        }
        Merged { changed, open }
    }

    /// Takes in what an answer to a request of another kind said of leaders, and where they are (KIP-951). Returns whether
    /// any of it was news: an epoch that is not later than what is known, or a topic that is another by its id, is none.
    pub fn handle_hints(&mut self, leaders: &[LeaderHint], brokers: &[BrokerMetadata]) -> bool {
        let mut next = ClusterSnapshot::clone(&self.snapshot);
        let mut taken = BTreeSet::new();
        for hint in leaders {
            let Some(topic) = next.topics.get(&hint.topic).filter(|topic| topic.id == hint.topic_id) else {
                continue;
            };
            let at = topic.partitions.iter().position(|partition| partition.index == hint.partition);
            let Some(at) = at else { continue };
            let mut seen = self.seen.remove(&hint.topic).unwrap_or_default();
            let is_news = seen.raise(hint.partition, topic.partitions[at].leader_epoch, hint.epoch);
            note_seen(&mut self.seen, &hint.topic, seen);
            if !is_news {
                continue;
            }
            let mut topic = TopicMetadata::clone(topic);
            let partition = &mut topic.partitions[at];
            partition.leader = Some(hint.node);
            partition.leader_epoch = Some(hint.epoch);
            partition.error = ErrorCode::NONE;
            next.put(Arc::new(topic));
            taken.insert(hint.node);
        }
        // The address of a leader that is none is as old as what was said of it.
        for broker in brokers.iter().filter(|broker| taken.contains(&broker.node)) {
            next.brokers.insert(broker.node, broker.clone());
        }
        if taken.is_empty() {
            return false;
        }
        next.generation += 1;
        self.snapshot = Arc::new(next);
        true
    }

    /// No answer came, or none that can be used.
    pub fn handle_failure(&mut self, now: Instant, rng: &mut fastrand::Rng) {
        match self.in_flight.take() {
            // No longer without backoff.
            Some(Asked::Some { topics, .. }) => self.open.extend(topics),
            Some(Asked::All | Asked::Wanted) | None => self.stale = true,
        }
        self.schedule(now, true, rng);
    }

    /// A broker could not be reached for a query. When none of those known can, a new start is due (KIP-899).
    pub fn handle_unreachable(&mut self, node: i32) {
        self.unreachable.insert(node);
    }

    /// Whether the bootstrap servers should be asked instead of the brokers known.
    pub fn is_rebootstrap_due(&self, now: Instant) -> bool {
        let brokers = &self.snapshot.brokers;
        !brokers.is_empty()
            && (brokers.keys().all(|node| self.unreachable.contains(node))
                || now.saturating_duration_since(self.silent_since) >= self.config.rebootstrap_after)
    }

    /// Forgets the brokers, so that the bootstrap servers are asked at once. Topics keep their state.
    pub fn rebootstrap(&mut self, now: Instant) {
        self.unreachable.clear();
        self.silent_since = now;
        self.request_refresh();
        if !self.snapshot.brokers.is_empty() {
            let mut next = ClusterSnapshot::clone(&self.snapshot);
            next.brokers.clear();
            next.generation += 1;
            self.snapshot = Arc::new(next);
        }
    }

    fn schedule(&mut self, now: Instant, open: bool, rng: &mut fastrand::Rng) {
        // Even after a good refresh the next one keeps the first backoff: an error that comes once per request would
        // else cause a refresh per request.
        self.not_before = now + self.config.backoff.delay(self.attempts, rng);
        self.attempts = if open { self.attempts.saturating_add(1) } else { 0 };
    }

    fn is_idle(&self, now: Instant, wanted: &Wanted) -> bool {
        wanted.pins == 0 && now.saturating_duration_since(wanted.last_used) >= self.config.max_idle
    }

    fn forget_idle(&mut self, now: Instant) {
        let mut wanted = std::mem::take(&mut self.wanted);
        wanted.retain(|_, wanted| !self.is_idle(now, wanted));
        self.wanted = wanted;
    }
}

/// What an answer said of topics.
#[derive(Default)]
struct Merged {
    /// Anything that was not known.
    changed: bool,
    /// That some of them can't be used yet.
    open: bool,
}

impl AddAssign for Merged {
    fn add_assign(&mut self, other: Self) {
        self.changed |= other.changed;
        self.open |= other.open;
    }
}

fn note_seen(all: &mut BTreeMap<Arc<str>, SeenEpochs>, topic: &Arc<str>, seen: SeenEpochs) {
    if !seen.is_empty() {
        all.insert(Arc::clone(topic), seen);
    }
}

fn read_brokers(response: &MetadataResponse) -> BTreeMap<i32, BrokerMetadata> {
    let read = response.brokers.iter().map(|broker| {
        let node = broker.node_id.0;
        let rack = broker.rack.as_ref().map(|rack| Arc::from(rack.as_str()));
        (node, BrokerMetadata { node, host: broker.host.as_str().into(), port: broker.port, rack })
    });
    read.collect()
}

#[cfg(test)]
mod tests;
