//! One connection per broker and purpose. Dials are single-flight and run in the client's task set, so that a caller
//! who gives up stops nobody else's dial; a broker that failed is left alone for a backoff. Retries nothing: who asks
//! again decides that.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use milena_core::retry::Backoff;
use tokio::time::{Instant, sleep_until};

use crate::address::BrokerAddress;
use crate::connection::{ConnectError, Connection, ConnectionConfig};
use crate::task_set::TaskSet;
use crate::transport::Connector;
use crate::watch;

/// Whom to connect to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Broker {
    /// A broker of the metadata, by node id.
    Node(i32),
    /// A bootstrap server, whose node id is not known.
    Bootstrap(BrokerAddress),
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "broker {node}"),
            Self::Bootstrap(address) => write!(f, "bootstrap server {address}"),
        }
    }
}

/// What a connection is for. Requests that may wait long, or that are many, must not delay those that may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Produce requests.
    Produce,
    /// Fetch requests, which the broker holds until there is something to fetch.
    Fetch,
    /// Group coordinators: heartbeats and commits, answered at once.
    Coordination,
    /// A connection of one caller's own, under a number it drew. A broker answers one request of a connection after
    /// the other, so long polls of two consumers, or a JoinGroup that waits for another member of the same client, must
    /// not share one.
    Own(u64),
    /// Everything else, answered at once.
    General,
}

/// How the pool connects.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// For every connection; `max_in_flight` applies to [`Purpose::Produce`].
    pub connection: ConnectionConfig,
    /// In-flight bound of the other purposes. High, for their requests are few and small.
    pub max_in_flight_other: usize,
    /// Between failed dials of a broker, and between welcomes of one that hangs up after each (`reconnect.backoff.ms`,
    /// `reconnect.backoff.max.ms`).
    pub reconnect_backoff: Backoff,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            connection: ConnectionConfig::default(),
            max_in_flight_other: 100,
            reconnect_backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(1)),
        }
    }
}

/// The connections of one client. Clones share them.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    connector: Arc<dyn Connector>,
    config: PoolConfig,
    tasks: TaskSet,
    state: Mutex<State>,
}

struct State {
    addresses: BTreeMap<i32, BrokerAddress>,
    slots: BTreeMap<(Broker, Purpose), Slot>,
    health: BTreeMap<Broker, Health>,
    rng: fastrand::Rng,
    closed: bool,
}

type Outcome = Option<Result<Connection, ConnectError>>;

enum Slot {
    Dialing { address: BrokerAddress, outcome: watch::Receiver<Outcome> },
    Open(Connection, Instant),
}

/// What keeps a broker from being dialled, whatever the purpose.
#[derive(Default)]
struct Health {
    /// Failed dials in a row.
    failures: u32,
    not_before: Option<Instant>,
    /// It hung up on whom it had just welcomed. A dial that succeeds says nothing against that.
    hung_up: Option<HungUp>,
}

struct HungUp {
    /// So often in a row, the first left out.
    again: u32,
    noticed: Instant,
    /// The end of the pause.
    until: Instant,
}

impl Health {
    /// The end of the backoff, if it is in one.
    fn backoff(&self, now: Instant) -> Option<Instant> {
        self.not_before.max(self.hung_up.as_ref().map(|hung_up| hung_up.until)).filter(|until| now < *until)
    }

    /// The broker hung up, and that is seen `now`, on whom it had welcomed at `opened`. The pause counts from the welcome
    /// and grows for as long as none is followed by the longest pause in peace: Kafka begins anew with each welcome, and
    /// so dials a broker that refuses all it gets (acks=0: by hanging up) twenty times a second.
    fn hang_up(&mut self, now: Instant, opened: Instant, backoff: &Backoff, rng: &mut fastrand::Rng) {
        let again = match &self.hung_up {
            _ if now >= opened + backoff.max => return,
            // One blow ended it and the one that was counted.
            Some(last) if opened < last.noticed => return,
            Some(last) if opened < last.until.max(last.noticed) + backoff.max => last.again.saturating_add(1),
            Some(_) | None => 0,
        };
        self.hung_up = Some(HungUp { again, noticed: now, until: opened + backoff.delay(again, rng) });
    }
}

impl Pool {
    /// An empty pool. Connections and dials run in `tasks`; `rng` spreads the backoff.
    pub fn new(connector: Arc<dyn Connector>, config: PoolConfig, tasks: TaskSet, rng: fastrand::Rng) -> Self {
        let state =
            State { addresses: BTreeMap::new(), slots: BTreeMap::new(), health: BTreeMap::new(), rng, closed: false };
        Self { inner: Arc::new(Inner { connector, config, tasks, state: Mutex::new(state) }) }
    }

    /// The connection, opened if there is none. Waits out the broker's backoff first, so it takes at most that and
    /// the set-up timeout.
    ///
    /// # Errors
    /// [`ConnectError`] of the dial that this call took part in.
    ///
    /// # Cancel safety
    /// The dial goes on for whoever asks next.
    pub async fn get(&self, broker: &Broker, purpose: Purpose) -> Result<Connection, ConnectError> {
        loop {
            let step = self.step(broker, purpose, Instant::now())?;
            match step {
                Step::Open(connection) => return Ok(connection),
                Step::Backoff(until) => sleep_until(until).await,
                Step::Dialing(mut outcome) => {
                    let Ok(outcome) = outcome.wait_for(Option::is_some).await else {
                        // The dial was aborted with the client's tasks.
                        return Err(ConnectError::Closed);
                    };
                    // Should it have closed already, its request says so: to dial again here would know no backoff.
                    return outcome.expect("waited until it is there");
                }
            }
        }
    }

    /// The connection, if it is open. Otherwise starts a dial, unless the broker is in its backoff, and returns
    /// nothing: ask again, or await [`Self::get`].
    pub fn try_get(&self, broker: &Broker, purpose: Purpose) -> Option<Connection> {
        match self.step(broker, purpose, Instant::now()) {
            Ok(Step::Open(connection)) => Some(connection),
            Ok(Step::Dialing(_) | Step::Backoff(_)) | Err(_) => None,
        }
    }

    /// When the broker may be dialled again, if it is in its backoff.
    pub fn backoff(&self, broker: &Broker) -> Option<Instant> {
        let now = Instant::now();
        self.state().health.get(broker)?.backoff(now)
    }

    /// Whether a connection for this purpose is open.
    pub fn is_open(&self, broker: &Broker, purpose: Purpose) -> bool {
        let slot = (broker.clone(), purpose);
        matches!(self.state().slots.get(&slot), Some(Slot::Open(connection, _)) if !connection.is_closed())
    }

    /// Requests in flight to a broker, over all its connections; `None` if none is open.
    pub fn in_flight(&self, broker: &Broker) -> Option<usize> {
        let state = self.state();
        let open = state.slots.iter().filter_map(|((other, _), slot)| match slot {
            Slot::Open(connection, _) if other == broker && !connection.is_closed() => Some(connection.in_flight()),
            _ => None,
        });
        open.reduce(|sum, connection| sum + connection)
    }

    /// Where the brokers of the cluster listen now. A connection to another address than before takes no more requests
    /// and closes when those in flight are answered; so does one to a broker that is gone.
    pub fn update_brokers(&self, addresses: BTreeMap<i32, BrokerAddress>) {
        let mut state = self.state();
        state.slots.retain(|(broker, _), slot| {
            let Broker::Node(node) = broker else { return true };
            let stays = addresses.get(node).is_some_and(|address| address == slot.address());
            if let (false, Slot::Open(connection, _)) = (stays, &*slot) {
                connection.close_when_idle();
            }
            // A dial to an old address ends by itself: whoever waits for it asks again.
            stays
        });
        let State { health, addresses: known, .. } = &mut *state;
        // Failures at an old address say nothing of the new one.
        health.retain(|broker, _| match broker {
            Broker::Node(node) => addresses.get(node).is_some_and(|address| known.get(node) == Some(address)),
            Broker::Bootstrap(_) => true,
        });
        *known = addresses;
    }

    /// Where a broker listens that the metadata does not name yet: a coordinator may be newer than it.
    pub fn learn_broker(&self, node: i32, address: BrokerAddress) {
        self.state().addresses.entry(node).or_insert(address);
    }

    /// Closes the connections of this purpose at once, to all brokers, and those that are being opened once they are:
    /// whoever asked for them is gone. Another [`Self::get`] opens one again.
    pub fn retire(&self, purpose: Purpose) {
        let retired = self.state().slots.extract_if(.., |(_, of), _| *of == purpose).collect::<Vec<_>>();
        for (_, slot) in retired {
            match slot {
                Slot::Open(connection, _) => connection.close(),
                // Finds its place taken away when it is done.
                Slot::Dialing { .. } => {}
            }
        }
    }

    /// Number of open connections.
    pub fn open_connections(&self) -> usize {
        let state = self.state();
        state.slots.values().filter(|slot| matches!(slot, Slot::Open(connection, _) if !connection.is_closed())).count()
    }

    /// Closes every connection at once and refuses new ones; resolves when all have ended.
    pub async fn close_all(&self) {
        self.end_all(Connection::close).await;
    }

    /// Refuses new connections and requests; each connection closes when its requests in flight are answered, and this
    /// resolves when all have ended. A fetch in flight is waited for as long as the broker holds it.
    pub async fn drain(&self) {
        self.end_all(Connection::close_when_idle).await;
    }

    async fn end_all(&self, end: impl Fn(&Connection)) {
        let slots = {
            let mut state = self.state();
            state.closed = true;
            std::mem::take(&mut state.slots)
        };
        let open = slots.into_values().filter_map(|slot| match slot {
            Slot::Open(connection, _) => Some(connection),
            // Finds the pool closed when it is done.
            Slot::Dialing { .. } => None,
        });
        let open = open.inspect(|connection| end(connection)).collect::<Vec<_>>();
        for connection in open {
            connection.closed().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().expect("no code that holds this lock can panic")
    }

    /// What there is, or the dial that this call starts.
    fn step(&self, broker: &Broker, purpose: Purpose, now: Instant) -> Result<Step, ConnectError> {
        let mut state = self.state();
        if state.closed {
            return Err(ConnectError::Closed);
        }
        let key = (broker.clone(), purpose);
        match state.slots.get(&key) {
            Some(Slot::Open(connection, _)) if !connection.is_closed() => return Ok(Step::Open(connection.clone())),
            Some(Slot::Dialing { outcome, .. }) => return Ok(Step::Dialing(outcome.clone())),
            Some(Slot::Open(..)) | None => {}
        }
        // Whatever the purpose: they come and go, and one that is forgotten without a word would be dialled at once.
        state.sweep(now, &self.inner.config.reconnect_backoff);
        let address = match broker {
            Broker::Bootstrap(address) => address.clone(),
            Broker::Node(node) => {
                state.addresses.get(node).cloned().ok_or(ConnectError::UnknownBroker { node: *node })?
            }
        };
        if let Some(until) = state.health.get(broker).and_then(|health| health.backoff(now)) {
            return Ok(Step::Backoff(until));
        }
        let (report, outcome) = watch::channel(None);
        state.slots.insert(key.clone(), Slot::Dialing { address: address.clone(), outcome: outcome.clone() });
        drop(state);
        let pool = self.clone();
        let dial = async move { pool.dial(key, address, report).await };
        if self.inner.tasks.spawn("dial", dial).is_err() {
            self.state().slots.remove(&(broker.clone(), purpose));
            return Err(ConnectError::Closed);
        }
        Ok(Step::Dialing(outcome))
    }

    async fn dial(&self, key: (Broker, Purpose), address: BrokerAddress, report: watch::Sender<Outcome>) {
        // An aborted dial must not leave a slot that nobody will ever fill.
        let mut unfinished = Unfinished { pool: self, key: &key, armed: true };
        let mut config = self.inner.config.connection.clone();
        if key.1 != Purpose::Produce {
            config.max_in_flight = self.inner.config.max_in_flight_other;
        }
        let dialed = Connection::connect(&*self.inner.connector, address.clone(), config, &self.inner.tasks).await;
        unfinished.armed = false;
        let outcome = self.settle(&key, &address, &report, dialed);
        if let Err(error) = &outcome {
            tracing::debug!(broker = %key.0, %address, %error, "dial failed");
        }
        report.send(Some(outcome));
    }

    /// Enters the outcome of a dial.
    fn settle(
        &self,
        key: &(Broker, Purpose),
        address: &BrokerAddress,
        report: &watch::Sender<Outcome>,
        dialed: Result<Connection, ConnectError>,
    ) -> Result<Connection, ConnectError> {
        let now = Instant::now();
        let mut state = self.state();
        // Another dial may have the place by now, to this very address even.
        let current = match state.slots.get(key) {
            Some(Slot::Dialing { address: dialing, outcome }) => {
                dialing == address && outcome.same_channel(&report.subscribe())
            }
            Some(Slot::Open(..)) | None => false,
        };
        match &dialed {
            // The address has changed meanwhile, or the pool was closed.
            Ok(connection) if !current || state.closed => {
                connection.close();
                return Err(if state.closed { ConnectError::Closed } else { moved(&key.0) });
            }
            Ok(connection) => {
                if let Some(health) = state.health.get_mut(&key.0) {
                    (health.failures, health.not_before) = (0, None);
                }
                state.slots.insert(key.clone(), Slot::Open(connection.clone(), now));
            }
            // That its old address is silent says nothing of where the broker is now.
            Err(_) if !current => {}
            Err(_) => {
                state.slots.remove(key);
                let State { health, rng, .. } = &mut *state;
                let health = health.entry(key.0.clone()).or_default();
                health.not_before = Some(now + self.inner.config.reconnect_backoff.delay(health.failures, rng));
                health.failures = health.failures.saturating_add(1);
            }
        }
        dialed
    }
}

fn moved(broker: &Broker) -> ConnectError {
    match broker {
        Broker::Node(node) => ConnectError::UnknownBroker { node: *node },
        Broker::Bootstrap(_) => ConnectError::Closed,
    }
}

impl State {
    /// Forgets the connections that have ended. A broker that hangs up on whom it has just welcomed is not dialled
    /// faster than one that can't be reached.
    fn sweep(&mut self, now: Instant, backoff: &Backoff) {
        let Self { slots, health, rng, .. } = self;
        slots.retain(|(broker, _), slot| match slot {
            Slot::Open(connection, opened) if connection.is_closed() => {
                // One that drains has no reason yet: that is our doing too.
                if connection.close_reason().is_some_and(|reason| !reason.is_ours()) {
                    health.entry(broker.clone()).or_default().hang_up(now, *opened, backoff, rng);
                }
                false
            }
            Slot::Open(..) | Slot::Dialing { .. } => true,
        });
    }
}

enum Step {
    Open(Connection),
    Dialing(watch::Receiver<Outcome>),
    Backoff(Instant),
}

impl Slot {
    fn address(&self) -> &BrokerAddress {
        match self {
            Self::Dialing { address, .. } => address,
            Self::Open(connection, _) => connection.address(),
        }
    }
}

struct Unfinished<'a> {
    pool: &'a Pool,
    key: &'a (Broker, Purpose),
    armed: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.pool.state().slots.remove(self.key);
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("open_connections", &self.open_connections()).finish_non_exhaustive()
    }
}
