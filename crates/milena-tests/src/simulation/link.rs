//! Links of bytes between a client and the nodes: late, in pieces, cut within a frame, silent, damaged. Counts what is asked
//! for, and lets it be overheard.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use milena_broker::Broker;
use milena_client::{BoxFuture, BrokerAddress, Connector, Transport};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::overheard::{Heard, Talk};
use super::trace::Trace;
use super::{GROUP, TOPIC, World, lock};
use crate::frames::Frames;
use crate::history::{History, Violation};

/// What every value of a run carries, so that damage can be done to records and to nothing else.
pub(super) const MARK: &[u8] = b"milena";
/// Chunks under way in each direction of a link.
const UNDER_WAY: usize = 256;
/// Requests are counted within each window of this length.
const WINDOW: Duration = Duration::from_secs(1);
/// What an answer may take to be read once it has come, be it in drips.
const SOON: Duration = Duration::from_millis(100);

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Toward {
    Broker,
    Client,
}

/// What is done to a link.
#[derive(Clone, Copy, Debug)]
pub(super) enum Harm {
    /// Cut after so many more bytes in one direction. The client is told of a reset, or of an end; what the client had
    /// written by then may still reach the broker.
    Cut { toward: Toward, after: usize, reset: bool, lingers: bool },
    /// Nothing arrives for so long.
    Stall(Toward, Duration),
    /// A few bytes at a time from now on.
    Drip(Toward),
    /// A byte of the next record is inverted.
    Damage(Toward),
}

/// How links are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quality {
    /// How long a chunk travels, at most.
    pub(super) latency: Duration,
    /// Bytes that the client's side holds.
    pub(super) pipe: usize,
}

/// All links of one client. Its faults are drawn from its own random numbers, so that one client's traffic does not
/// change another's.
#[derive(Debug)]
pub(super) struct Links {
    broker: Broker,
    client: u32,
    quality: Quality,
    partitions: i32,
    trace: Arc<Trace>,
    history: Arc<Mutex<History>>,
    state: Mutex<State>,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct State {
    rng: fastrand::Rng,
    made: u32,
    open: BTreeMap<u32, Arc<Wire>>,
    /// Nobody gets an answer to a dial until then.
    silent_until: Option<Instant>,
    asked: BTreeMap<(i32, Asked), Rate>,
}

/// What a node is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asked {
    /// A connection, in vain.
    Dial,
    Request(i16),
    /// A fetch, which it answered with nothing but errors.
    VainFetch,
}

/// The most that fell into one window, and what is needed to go on counting.
#[derive(Debug, Default)]
struct Rate {
    recent: VecDeque<Instant>,
    most: usize,
}

impl Rate {
    fn count(&mut self) {
        let now = Instant::now();
        while self.recent.front().is_some_and(|at| *at + WINDOW <= now) {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        self.most = self.most.max(self.recent.len());
    }
}

/// One link.
#[derive(Debug)]
struct Wire {
    id: u32,
    node: i32,
    cut: watch::Sender<Option<Cut>>,
    ways: [Mutex<Way>; 2],
    talk: Mutex<Talk>,
    /// From when on, and until when, the client is to say nothing.
    muted: Mutex<Option<(Instant, Instant)>>,
}

#[derive(Clone, Copy, Debug)]
struct Cut {
    reset: bool,
    lingers: bool,
}

/// One direction of a link.
#[derive(Debug, Default)]
struct Way {
    cut_after: Option<(usize, Cut)>,
    stalled_until: Option<Instant>,
    drips: bool,
    damages: bool,
    last_due: Option<Instant>,
    /// Nothing of what comes arrives any more.
    is_cut: bool,
    frames: Frames,
}

impl Wire {
    fn way(&self, toward: Toward) -> &Mutex<Way> {
        &self.ways[usize::from(toward == Toward::Client)]
    }
}

impl Links {
    pub(super) fn new(world: &World, client: u32, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            broker: world.broker.clone(),
            client,
            quality: world.plan.quality,
            partitions: world.plan.partitions,
            trace: Arc::clone(&world.trace),
            history: Arc::clone(&world.history),
            state: Mutex::new(State {
                rng: fastrand::Rng::with_seed(seed),
                made: 0,
                open: BTreeMap::new(),
                silent_until: None,
                asked: BTreeMap::new(),
            }),
            tasks: Mutex::new(JoinSet::new()),
        })
    }

    /// Does something to one of the open links, if there is one.
    pub(super) fn harm(&self, which: usize, harm: Harm) {
        let state = lock(&self.state);
        let Some(wire) = state.open.values().nth(which % state.open.len().max(1)) else { return };
        self.trace.note(format_args!("client {} link {}: {harm:?}", self.client, wire.id));
        match harm {
            Harm::Cut { toward, after, reset, lingers } => {
                lock(wire.way(toward)).cut_after = Some((after, Cut { reset, lingers }));
            }
            Harm::Stall(toward, length) => lock(wire.way(toward)).stalled_until = Some(Instant::now() + length),
            Harm::Drip(toward) => lock(wire.way(toward)).drips = true,
            Harm::Damage(toward) => lock(wire.way(toward)).damages = true,
        }
    }

    /// Lets dials hang for so long.
    pub(super) fn silence_dials(&self, length: Duration) {
        lock(&self.state).silent_until = Some(Instant::now() + length);
    }

    /// From now on nothing is done to any link any more.
    pub(super) fn heal(&self) {
        let mut state = lock(&self.state);
        state.silent_until = None;
        for way in state.open.values().flat_map(|wire| &wire.ways) {
            let mut way = lock(way);
            (way.cut_after, way.stalled_until, way.drips, way.damages) = (None, None, false, false);
        }
    }

    /// Cuts everything for good: the machine is gone.
    pub(super) fn unplug(&self) {
        let mut state = lock(&self.state);
        state.silent_until = Some(Instant::now() + Duration::from_secs(1 << 30));
        for wire in state.open.values() {
            wire.cut.send_replace(Some(Cut { reset: false, lingers: true }));
        }
    }

    /// The most of each kind that a node was asked within a second.
    pub(super) fn rates(&self) -> Vec<(i32, Asked, usize)> {
        lock(&self.state).asked.iter().map(|(&(node, asked), rate)| (node, asked, rate.most)).collect()
    }

    /// Notes what the coordinator holds.
    fn look_at_commits(&self) {
        let mut history = lock(&self.history);
        for partition in 0..self.partitions {
            if let Some(committed) = self.broker.committed(GROUP, TOPIC, partition) {
                history.is_committed(partition, committed);
            }
        }
    }

    /// Lets bytes that pass be overheard.
    fn overhear(&self, wire: &Wire, toward: Toward, bytes: &[u8], due: Instant) {
        let mut talk = lock(&wire.talk);
        if toward == Toward::Broker {
            let now = Instant::now();
            if lock(&wire.muted).is_some_and(|(from, until)| from < now && now < until) {
                lock(&self.history).violated(Violation::NotMuted { node: wire.node });
            }
            return talk.asks(bytes, &mut lock(&self.history));
        }
        let heard = talk.answers(bytes, &mut lock(&self.history));
        for heard in heard {
            match heard {
                Heard::Commit => self.look_at_commits(),
                Heard::VainFetch => self.count(wire.node, Asked::VainFetch),
                // What is said before the answer has come, or while it comes, is none of it.
                Heard::Throttle(length) => *lock(&wire.muted) = Some((due + SOON, due + length)),
            }
        }
    }

    fn count(&self, node: i32, asked: Asked) {
        lock(&self.state).asked.entry((node, asked)).or_default().count();
    }

    fn dial(self: &Arc<Self>, address: &BrokerAddress) -> io::Result<(DuplexStream, Arc<Wire>)> {
        let theirs = self.broker.connect(address.host(), address.port())?;
        let node = node_of(address);
        let (ours, inner) = tokio::io::duplex(self.quality.pipe);
        let wire = {
            let mut state = lock(&self.state);
            state.made += 1;
            let (id, ways) = (state.made, [Mutex::default(), Mutex::default()]);
            let talk = Mutex::new(Talk::new(self.client));
            let wire = Arc::new(Wire { id, node, cut: watch::Sender::new(None), ways, talk, muted: Mutex::default() });
            state.open.insert(id, Arc::clone(&wire));
            wire
        };
        self.trace.note(format_args!("client {} link {} to node {node}", self.client, wire.id));
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(carry(Arc::clone(self), Arc::clone(&wire), inner, theirs));
        Ok((ours, wire))
    }
}

fn node_of(address: &BrokerAddress) -> i32 {
    address.host().rsplit('-').next().and_then(|node| node.parse().ok()).unwrap_or(-1)
}

/// The way to the nodes that a client is given.
#[derive(Debug)]
pub(super) struct Dialler(pub(super) Arc<Links>);

impl Connector for Dialler {
    fn connect(&self, address: BrokerAddress) -> BoxFuture<'static, io::Result<Transport>> {
        let links = Arc::clone(&self.0);
        Box::pin(async move {
            links.trace.note(format_args!("client {} dials {address}", links.client));
            let (wait, silent_until) = {
                let mut state = lock(&links.state);
                (travel(&mut state.rng, links.quality.latency), state.silent_until)
            };
            sleep(wait).await;
            if let Some(until) = silent_until {
                sleep_until(until).await;
            }
            // One that succeeds is no sign of haste.
            let (stream, wire) = links.dial(&address).inspect_err(|_| links.count(node_of(&address), Asked::Dial))?;
            let (reader, writer) = tokio::io::split(stream);
            let reader = Reading { inner: reader, wire };
            Ok(Transport { reader: Box::new(reader), writer: Box::new(writer), peer: address.to_string() })
        })
    }

    fn is_virtual(&self) -> bool {
        true
    }
}

/// The client's reading side: an end by reset is an error.
struct Reading {
    inner: ReadHalf<DuplexStream>,
    wire: Arc<Wire>,
}

impl AsyncRead for Reading {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        let is_end = matches!(polled, Poll::Ready(Ok(()))) && buf.filled().len() == before;
        let is_reset = || self.wire.cut.borrow().is_some_and(|cut| cut.reset);
        if is_end && is_reset() { Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())) } else { polled }
    }
}

fn travel(rng: &mut fastrand::Rng, most: Duration) -> Duration {
    Duration::from_micros(rng.u64(0..=u64::try_from(most.as_micros()).unwrap_or(0)))
}

/// Bytes under way, and the cut behind them, if one is to come.
struct Chunk {
    due: Instant,
    bytes: Vec<u8>,
    cut: Option<Cut>,
}

/// Carries bytes both ways until an end closes or the link is cut.
async fn carry(links: Arc<Links>, wire: Arc<Wire>, client: DuplexStream, broker: DuplexStream) {
    let (client_out, client_in) = tokio::io::split(client);
    let (broker_out, broker_in) = tokio::io::split(broker);
    let (up, up_end) = mpsc::channel(UNDER_WAY);
    let (down, down_end) = mpsc::channel(UNDER_WAY);
    let client_side = async {
        tokio::select! {
            biased;
            _ = was_cut(&wire) => {}
            () = deliver(&wire, Toward::Client, down_end, client_in) => {}
            () = take(&links, &wire, Toward::Broker, client_out, up) => {}
        }
    };
    let broker_side = async {
        let cut_off = async {
            if was_cut(&wire).await.lingers {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = cut_off => {}
            () = deliver(&wire, Toward::Broker, up_end, broker_in) => {}
            () = take(&links, &wire, Toward::Client, broker_out, down) => {}
        }
    };
    tokio::join!(client_side, broker_side);
    lock(&links.state).open.remove(&wire.id);
    // A commit may have been applied without an answer.
    links.look_at_commits();
    links.trace.note(format_args!("client {} link {} is over", links.client, wire.id));
}

async fn was_cut(wire: &Wire) -> Cut {
    let mut cuts = wire.cut.subscribe();
    // The sender lives as long as the wire.
    let cut = cuts.wait_for(Option::is_some).await.ok().and_then(|cut| *cut);
    cut.unwrap_or(Cut { reset: false, lingers: false })
}

/// Reads what one end says, and puts it on its way. Goes on reading where nobody waits for it: the other end is not held
/// up by that.
async fn take(
    links: &Links,
    wire: &Wire,
    toward: Toward,
    mut from: ReadHalf<DuplexStream>,
    under_way: mpsc::Sender<Chunk>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(n_bytes @ 1..) = from.read(&mut buffer).await else { return };
        let mut bytes = buffer[..n_bytes].to_vec();
        let (due, cut) = {
            let mut state = lock(&links.state);
            let mut way = lock(wire.way(toward));
            if way.is_cut {
                continue;
            }
            let cut = way.cut_after.filter(|(after, _)| *after < bytes.len());
            match cut {
                Some((after, _)) => {
                    bytes.truncate(after);
                    way.is_cut = true;
                }
                None => way.cut_after = way.cut_after.map(|(after, cut)| (after - bytes.len(), cut)),
            }
            let now = Instant::now();
            let arrives = now + travel(&mut state.rng, links.quality.latency);
            // Bytes don't overtake each other.
            let due = [way.last_due, way.stalled_until].into_iter().flatten().fold(arrives, Instant::max);
            way.last_due = Some(due);
            if way.damages && damage(&mut bytes, &mut state.rng) {
                way.damages = false;
            }
            (due, cut)
        };
        if toward == Toward::Broker {
            let asked = lock(wire.way(toward)).frames.pass(&bytes);
            asked.into_iter().for_each(|asked| links.count(wire.node, Asked::Request(asked.api)));
        }
        links.overhear(wire, toward, &bytes, due);
        let crc = crc32c::crc32c(&bytes);
        let (client, id, length) = (links.client, wire.id, bytes.len());
        links.trace.note(format_args!("client {client} link {id} {toward:?} {length} {crc:08x}"));
        // Fails where the other end is gone.
        let _ = under_way.send(Chunk { due, bytes, cut: cut.map(|(_, cut)| cut) }).await;
    }
}

/// Hands over what has arrived.
async fn deliver(wire: &Wire, toward: Toward, mut under_way: mpsc::Receiver<Chunk>, mut to: WriteHalf<DuplexStream>) {
    while let Some(Chunk { due, bytes, cut }) = under_way.recv().await {
        sleep_until(due).await;
        let drips = lock(wire.way(toward)).drips;
        let piece = if drips { 1 + bytes.len() / 16 } else { bytes.len() };
        for piece in bytes.chunks(piece.max(1)) {
            if to.write_all(piece).await.is_err() {
                return;
            }
            if drips {
                sleep(Duration::from_millis(1)).await;
            }
        }
        if cut.is_some() {
            wire.cut.send_replace(cut);
            return;
        }
    }
}

/// Inverts a byte behind a mark, if there is one here.
fn damage(bytes: &mut [u8], rng: &mut fastrand::Rng) -> bool {
    let marks: Vec<usize> =
        bytes.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK).map(|(at, _)| at).collect();
    if marks.is_empty() {
        return false;
    }
    let at = marks[rng.usize(0..marks.len())] + rng.usize(0..MARK.len());
    bytes[at] ^= 0xff;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_done_to_records_alone() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut bytes = b"head milena tail".to_vec();
        assert!(damage(&mut bytes, &mut rng));
        assert_eq!((&bytes[..5], &bytes[11..]), (&b"head "[..], &b" tail"[..]));
        assert_ne!(&bytes[5..11], MARK);
        assert!(!damage(&mut bytes, &mut rng), "there is no record left");
    }
}
