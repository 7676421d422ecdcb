//! Keeps the metadata: one task, single flight, on the client's lifetime. Callers want topics, read snapshots and wait
//! for changes; none of them ever sends a metadata request of its own, and none that gives up stops one.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use milena_core::metadata::{
    BrokerMetadata, ClusterSnapshot, LeaderHint, Metadata, MetadataConfig, MetadataError, MetadataQuery, TopicMetadata,
};
use milena_net::{Broker, BrokerAddress, ConnectError, Pool, Purpose, watch};
use milena_protocol::messages::MetadataRequest;
use milena_protocol::messages::metadata_request::MetadataRequestTopic;
use milena_protocol::{ApiKey, ErrorCode};
use tokio::sync::Notify;
use tokio::time::{sleep_until, timeout};

use crate::client::chance::Chance;
use crate::clock::TimeSource;
use crate::error::RequestError;
use crate::topic_name;

/// How long one of several brokers may take to give metadata before the next is asked: one that hangs must not hold
/// up the discovery of new leaders for a whole request timeout.
const IMPATIENT: Duration = Duration::from_secs(5);

/// The metadata of one client, and its refresh.
#[derive(Debug)]
pub(crate) struct MetadataKeeper {
    machine: Mutex<Metadata>,
    snapshot: ArcSwap<ClusterSnapshot>,
    // How many refreshes were begun. Changed with the machine's lock held.
    begun: AtomicU64,
    // How many of them have ended, well or not: waiters look again at each.
    refreshes: watch::Sender<u64>,
    generation: watch::Sender<u64>,
    last_error: Mutex<Option<RequestError>>,
    wake: Notify,
    stop: Notify,
    stopped: AtomicBool,
    clock: TimeSource,
    chance: Chance,
    pool: Pool,
    bootstrap: Vec<BrokerAddress>,
    request_timeout: Duration,
    unknown_topic_timeout: Duration,
}

pub(crate) struct MetadataKeeperConfig {
    pub(crate) machine: MetadataConfig,
    pub(crate) bootstrap: Vec<BrokerAddress>,
    pub(crate) request_timeout: Duration,
    pub(crate) unknown_topic_timeout: Duration,
}

impl MetadataKeeper {
    pub(crate) fn new(config: MetadataKeeperConfig, clock: TimeSource, chance: Chance, pool: Pool) -> Self {
        Self {
            machine: Mutex::new(Metadata::new(clock.now(), config.machine)),
            snapshot: ArcSwap::default(),
            begun: AtomicU64::new(0),
            refreshes: watch::channel(0).0,
            generation: watch::channel(0).0,
            last_error: Mutex::new(None),
            wake: Notify::new(),
            stop: Notify::new(),
            stopped: AtomicBool::new(false),
            clock,
            chance,
            pool,
            bootstrap: config.bootstrap,
            request_timeout: config.request_timeout,
            unknown_topic_timeout: config.unknown_topic_timeout,
        }
    }

    /// The latest view of the cluster. Cheap; hold it for one decision, not for long.
    pub(crate) fn snapshot(&self) -> Arc<ClusterSnapshot> {
        self.snapshot.load_full()
    }

    /// Tells of each change of the snapshot: the value is its generation.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Asks for `topic` from now on. Whoever uses a topic for long says so again now and then, or pins it.
    pub(crate) fn want(&self, topic: &str) {
        if self.machine().want(self.clock.now(), topic) {
            self.wake.notify_one();
        }
    }

    /// As [`Self::want`], until a matching [`Self::unpin`].
    pub(crate) fn pin(&self, topic: &str) {
        if self.machine().pin(self.clock.now(), topic) {
            self.wake.notify_one();
        }
    }

    /// Takes one [`Self::pin`] back.
    pub(crate) fn unpin(&self, topic: &str) {
        self.machine().unpin(self.clock.now(), topic);
    }

    /// Asks for all topics from now on, until a matching [`Self::unpin_all`]. For subscriptions by pattern.
    pub(crate) fn pin_all(&self) {
        self.machine().pin_all();
        self.wake.notify_one();
    }

    /// Takes one [`Self::pin_all`] back.
    pub(crate) fn unpin_all(&self) {
        self.machine().unpin_all();
    }

    /// Something showed that the metadata is out of date: a broker said so, or a connection failed. Call it as often
    /// as that happens; refreshes keep their backoff.
    pub(crate) fn request_refresh(&self) {
        self.machine().request_refresh();
        self.wake.notify_one();
    }

    /// What a broker said of leaders while it was asked for something else (KIP-951): believed at once, where it is news.
    pub(crate) fn take_hints(&self, leaders: &[LeaderHint], brokers: &[BrokerMetadata]) {
        let mut machine = self.machine();
        if machine.handle_hints(leaders, brokers) {
            self.publish(&machine);
        }
    }

    /// A refresh that begins after this call.
    pub(crate) async fn refresh(&self, limit: Duration) -> Result<(), RequestError> {
        let mut refreshes = self.refreshes.subscribe();
        self.open()?;
        let deadline = self.clock.now() + limit;
        // One that is under way may have been answered before what the caller knows of.
        let next = {
            let mut machine = self.machine();
            machine.request_refresh_now();
            self.begun.load(Ordering::Relaxed) + 1
        };
        self.wake.notify_one();
        // Several may end before this task looks: what counts is how far they have come.
        let ended = refreshes.wait_for(|ended| *ended >= next || self.is_stopped());
        match tokio::time::timeout_at(deadline.into(), ended).await.map(|ended| ended.map(drop)) {
            Ok(Ok(())) => self.last_error().map_or(Ok(()), Err),
            Ok(Err(_)) => Err(RequestError::Closed),
            Err(_) => Err(self.late(limit)),
        }
    }

    /// Waits for the next answer or failure.
    async fn await_refresh(
        &self,
        refreshes: &mut watch::Receiver<u64>,
        deadline: Instant,
        limit: Duration,
    ) -> Result<(), RequestError> {
        match tokio::time::timeout_at(deadline.into(), refreshes.changed()).await {
            Ok(Ok(())) => self.last_error().map_or(Ok(()), Err),
            Ok(Err(_)) => Err(RequestError::Closed),
            Err(_) => Err(self.late(limit)),
        }
    }

    fn late(&self, limit: Duration) -> RequestError {
        let source = Box::new(self.last_error().unwrap_or(RequestError::NoBroker));
        RequestError::Exhausted { api: "Metadata", timeout: limit, attempts: 1, source }
    }

    /// Why the last refresh failed, if it did.
    pub(crate) fn last_error(&self) -> Option<RequestError> {
        self.last_error.lock().expect("no code that holds this lock can panic").clone()
    }

    /// The topic with its partitions, asked for if it is not known.
    ///
    /// # Errors
    /// [`RequestError::InvalidTopicName`] at once; [`RequestError::UnknownTopic`] when brokers have said so for
    /// `unknown_topic_timeout` (or `limit`, if shorter); the broker's error if it refuses; else
    /// [`RequestError::Exhausted`] at `limit`.
    pub(crate) async fn topic(&self, topic: &str, limit: Duration) -> Result<Arc<TopicMetadata>, RequestError> {
        if let Some(reason) = topic_name::fault(topic) {
            return Err(RequestError::InvalidTopicName { topic: topic.to_owned(), reason });
        }
        let start = self.clock.now();
        let mut refreshes = self.refreshes.subscribe();
        let mut unknown_since = None;
        loop {
            self.open()?;
            self.want(topic);
            let now = self.clock.now();
            if let Some(known) = self.snapshot().topic(topic) {
                match known.error {
                    ErrorCode::NONE if !known.partitions.is_empty() => return Ok(Arc::clone(known)),
                    ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => {
                        let since = *unknown_since.get_or_insert(now);
                        if now.saturating_duration_since(since) >= self.unknown_topic_timeout.min(limit) {
                            return Err(RequestError::UnknownTopic { topic: topic.to_owned() });
                        }
                    }
                    error if !error.is_ok() && !error.is_retriable() => {
                        return Err(RequestError::broker(format!("metadata of topic `{topic}`"), error, None));
                    }
                    _ => unknown_since = None,
                }
            }
            let left = limit.saturating_sub(now.saturating_duration_since(start));
            match timeout(left, refreshes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(RequestError::Closed),
                Err(_) if unknown_since.is_some() => {
                    return Err(RequestError::UnknownTopic { topic: topic.to_owned() });
                }
                Err(_) => return Err(self.late(limit)),
            }
        }
    }

    /// Resolves when at least one broker has given metadata.
    ///
    /// # Errors
    /// The last broker's error, at `limit`, or as soon as every bootstrap server has shown that it is none.
    pub(crate) async fn first(&self, limit: Duration) -> Result<(), RequestError> {
        let deadline = self.clock.now() + limit;
        let mut refreshes = self.refreshes.subscribe();
        loop {
            if self.snapshot().generation() > 0 {
                return Ok(());
            }
            match self.await_refresh(&mut refreshes, deadline, limit).await {
                Err(RequestError::Exhausted { source, .. }) => return Err(*source),
                Err(error) if !error.class().is_retriable() => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// Ends the task; whoever waits for metadata, now or later, learns that the client is closed.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.stop.notify_one();
        self.settle(Some(RequestError::Closed));
    }

    /// Whether the client is closed.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Resolves when the client is closed: tasks that end with it wait for this.
    pub(crate) async fn stopped(&self) {
        let mut refreshes = self.refreshes.subscribe();
        // `stop` says so before it settles, so the change after a look that was too early is seen.
        while !self.is_stopped() && refreshes.changed().await.is_ok() {}
    }

    fn open(&self) -> Result<(), RequestError> {
        if self.stopped.load(Ordering::Acquire) { Err(RequestError::Closed) } else { Ok(()) }
    }

    /// The task.
    pub(crate) async fn run(self: Arc<Self>) {
        tokio::select! {
            // First, or a refresh that fails because of the end would be told as one that failed.
            biased;
            () = self.stop.notified() => {}
            () = self.refresh_for_ever() => {}
        }
    }

    async fn refresh_for_ever(&self) {
        loop {
            let now = self.clock.now();
            match self.next_query(now) {
                Ok(query) => self.answer(&query).await,
                Err(next) => {
                    tokio::select! {
                        biased;
                        () = self.wake.notified() => {}
                        () = sleep_until(next.into()) => {}
                    }
                }
            }
        }
    }

    fn next_query(&self, now: Instant) -> Result<MetadataQuery, Instant> {
        let mut machine = self.machine();
        if machine.is_rebootstrap_due(now) {
            tracing::warn!("no broker of the cluster has answered: starting again from the bootstrap servers");
            machine.rebootstrap(now);
            self.publish(&machine);
        }
        match machine.poll_query(now) {
            Some(query) => {
                self.begun.fetch_add(1, Ordering::Relaxed);
                Ok(query)
            }
            None => Err(machine.next_timeout(now).expect("nothing is in flight: this task is the only one that asks")),
        }
    }

    /// Asks one broker after the other until one gives metadata.
    async fn answer(&self, query: &MetadataQuery) {
        let candidates = self.candidates();
        let mut failure = RequestError::NoBroker;
        let last = candidates.len().saturating_sub(1);
        for (index, candidate) in candidates.iter().enumerate() {
            let limit = if index < last { IMPATIENT.min(self.request_timeout) } else { self.request_timeout };
            match self.ask(candidate, query, limit).await {
                Ok(()) => {
                    self.settle(None);
                    return;
                }
                Err(error) => {
                    tracing::debug!(broker = %candidate, %error, "no metadata");
                    // Of several bootstrap servers one may be mistyped: what a retry can mend is reported first.
                    if index == 0 || !failure.class().is_retriable() || error.class().is_retriable() {
                        failure = error;
                    }
                }
            }
        }
        self.chance.with(|rng| self.machine().handle_failure(self.clock.now(), rng));
        self.settle(Some(failure));
    }

    fn settle(&self, error: Option<RequestError>) {
        *self.last_error.lock().expect("no code that holds this lock can panic") = error;
        self.refreshes.send_modify(|count| *count += 1);
    }

    async fn ask(&self, broker: &Broker, query: &MetadataQuery, limit: Duration) -> Result<(), RequestError> {
        let unreachable = |error: ConnectError| {
            // That we dial no more says nothing of the broker.
            if let (Broker::Node(node), false) = (broker, matches!(error, ConnectError::Closed)) {
                self.machine().handle_unreachable(*node);
            }
            RequestError::from(error)
        };
        let connection = match timeout(limit, self.pool.get(broker, Purpose::General)).await {
            Ok(connection) => connection.map_err(unreachable)?,
            Err(_) => {
                if let Broker::Node(node) = broker {
                    self.machine().handle_unreachable(*node);
                }
                return Err(self.no_connection(broker, limit));
            }
        };
        // A request that is late closes its connection, and with it the requests of others. Ours is late after a whole
        // request timeout, as theirs; that we look elsewhere meanwhile is nothing to them.
        let message = request(query);
        let response = match timeout(limit, connection.request(&message, None, self.request_timeout)).await {
            Ok(response) => response?,
            Err(_) => {
                let (address, api) = (connection.address().to_string(), ApiKey::Metadata.name());
                return Err(RequestError::TimedOut { address, api, timeout: limit, written: true });
            }
        };
        let now = self.clock.now();
        let taken = self.chance.with(|rng| {
            let mut machine = self.machine();
            let taken = machine.handle_response(now, &response, rng);
            if let Err(MetadataError::RebootstrapRequired) = taken {
                machine.rebootstrap(now);
            }
            self.publish(&machine);
            taken
        });
        taken.map(drop).map_err(RequestError::from)
    }

    /// What to say of a broker to which no connection came about in time.
    pub(crate) fn no_connection(&self, broker: &Broker, limit: Duration) -> RequestError {
        let source = io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}"));
        RequestError::Unreachable { address: self.address_of(broker), source: Arc::new(source) }
    }

    pub(crate) fn address_of(&self, broker: &Broker) -> String {
        match broker {
            Broker::Bootstrap(address) => address.to_string(),
            Broker::Node(node) => {
                let snapshot = self.snapshot();
                let known = snapshot.broker(*node);
                known.map_or_else(|| broker.to_string(), |known| format!("{}:{}", known.host, known.port))
            }
        }
    }

    /// Whom to ask, best first: brokers that are not in their backoff, the least loaded first; none known, the
    /// bootstrap servers.
    pub(crate) fn candidates(&self) -> Vec<Broker> {
        let snapshot = self.snapshot();
        let mut brokers = snapshot.brokers().map(|broker| Broker::Node(broker.node)).collect::<Vec<_>>();
        if brokers.is_empty() {
            brokers = self.bootstrap.iter().cloned().map(Broker::Bootstrap).collect();
        }
        // Equal ones in random order, so that clients spread over the brokers.
        self.chance.with(|rng| rng.shuffle(&mut brokers));
        brokers.sort_by_cached_key(|broker| {
            // One with a connection costs no dial, if it is of the purpose that questions have: or a client that writes to
            // all brokers would open a second one to each, as it asks for its topics one by one.
            let costs_dial = !self.pool.is_open(broker, Purpose::General);
            (self.pool.backoff(broker).is_some(), self.pool.in_flight(broker).unwrap_or(usize::MAX), costs_dial)
        });
        brokers
    }

    /// Shows a new snapshot to everyone: to the pool first, so that whoever acts on it finds the addresses there.
    fn publish(&self, machine: &Metadata) {
        let snapshot = machine.snapshot();
        if snapshot.generation() == self.snapshot.load().generation() {
            return;
        }
        let mut addresses = BTreeMap::new();
        for broker in snapshot.brokers() {
            match BrokerAddress::new(&broker.host, broker.port) {
                Ok(address) => drop(addresses.insert(broker.node, address)),
                Err(error) => tracing::warn!(node = broker.node, %error, "a broker advertises no usable address"),
            }
        }
        self.pool.update_brokers(addresses);
        self.snapshot.store(Arc::clone(snapshot));
        self.generation.send(snapshot.generation());
    }

    fn machine(&self) -> MutexGuard<'_, Metadata> {
        self.machine.lock().expect("no code that holds this lock can panic")
    }
}

fn request(query: &MetadataQuery) -> MetadataRequest {
    let topic =
        |name: &Arc<str>| MetadataRequestTopic { name: Some((&**name).into()), ..MetadataRequestTopic::default() };
    MetadataRequest {
        topics: query.topics.as_ref().map(|topics| topics.iter().map(topic).collect()),
        allow_auto_topic_creation: query.allow_auto_create,
        ..MetadataRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use milena_broker::Broker as Embedded;

    use super::*;
    use crate::test_link::client_of;

    #[tokio::test]
    async fn a_client_that_ends_takes_no_broker_for_unreachable() {
        let client = client_of(Embedded::builder().build()).build().await.expect("the broker answers");
        let inner = client.inner();
        let keeper = &inner.metadata;
        inner.pool.drain().await;
        let node = keeper.snapshot().brokers().next().expect("it has one").node;
        let now = inner.clock.now();
        let query = {
            let mut machine = keeper.machine();
            machine.request_refresh_now();
            machine.poll_query(now).expect("it is due")
        };
        let asked = keeper.ask(&Broker::Node(node), &query, Duration::from_secs(1)).await;
        assert!(matches!(asked, Err(RequestError::Closed)), "{asked:?}");
        assert!(!keeper.machine().is_rebootstrap_due(now));
    }
}
