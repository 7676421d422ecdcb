//! A TCP proxy before one node of a real Kafka, which advertises the proxy's address: connections are cut within a frame,
//! stalled or slowed down on command, and who asks how much is counted. Knows where frames begin, and nothing of what is
//! in them.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::frames::Frames;

/// Requests are counted within windows of this length.
const WINDOW: Duration = Duration::from_secs(1);

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toward {
    /// Requests.
    Broker,
    /// Answers.
    Client,
}

/// What somebody wants of the node: a connection, of whom nobody knows; or a request by its API key, of a client by its
/// name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// A connection while the node was there.
    Connection,
    /// A connection while it was not.
    ConnectionInVain,
    /// A request.
    Request(String, i16),
}

/// The proxy. Ends, with all its connections, when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    made: u64,
    open: BTreeMap<u64, Arc<Line>>,
    cuts: [u64; 2],
    wanted: BTreeMap<Wanted, Rate>,
    /// Bytes a second and direction of a connection.
    pace: Option<u64>,
}

#[derive(Debug, Default)]
struct Rate {
    recent: VecDeque<Instant>,
    most: usize,
}

/// One connection through the proxy.
#[derive(Debug, Default)]
struct Line {
    /// Which direction is to be cut within its next frame.
    cut: Mutex<Option<Toward>>,
    stalled_until: Mutex<Option<Instant>>,
    over: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Listens on `address` and passes on to `upstream`.
    ///
    /// # Errors
    /// What binding the address gave.
    pub async fn start(address: SocketAddr, upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { upstream, state: Mutex::default() });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(Arc::clone(&shared), listener));
        Ok(Self { shared, address, _tasks: tasks })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        lock(&self.shared.state).open.len()
    }

    /// Has one of the open connections cut within the next frame that goes this way; false if there is none. It is cut by
    /// a reset as soon as a frame passes that can be cut.
    #[must_use]
    pub fn cut(&self, which: usize, toward: Toward) -> bool {
        self.with_line(which, |line| *lock(&line.cut) = Some(toward))
    }

    /// Holds back what one of the open connections carries, in both directions; false if there is none.
    #[must_use]
    pub fn stall(&self, which: usize, length: Duration) -> bool {
        self.with_line(which, |line| *lock(&line.stalled_until) = Some(Instant::now() + length))
    }

    /// Lets so many bytes a second pass, in each direction of each connection; `None` as many as there are.
    pub fn pace(&self, bytes_per_second: Option<u64>) {
        lock(&self.shared.state).pace = bytes_per_second.map(|bytes| bytes.max(1));
    }

    /// How many connections were cut within a frame, toward the broker and toward the client.
    #[must_use]
    pub fn cuts(&self) -> [u64; 2] {
        lock(&self.shared.state).cuts
    }

    /// The most that was wanted of each kind within a second.
    #[must_use]
    pub fn most_wanted(&self) -> Vec<(Wanted, usize)> {
        lock(&self.shared.state).wanted.iter().map(|(wanted, rate)| (wanted.clone(), rate.most)).collect()
    }

    fn with_line(&self, which: usize, act: impl FnOnce(&Line)) -> bool {
        let state = lock(&self.shared.state);
        let line = state.open.values().nth(which % state.open.len().max(1));
        line.inspect(|line| act(line)).is_some()
    }
}

impl Shared {
    fn count(&self, wanted: Wanted) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        let rate = state.wanted.entry(wanted).or_default();
        while rate.recent.front().is_some_and(|at| *at + WINDOW <= now) {
            rate.recent.pop_front();
        }
        rate.recent.push_back(now);
        rate.most = rate.most.max(rate.recent.len());
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let mut tasks = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                tasks.spawn(serve(Arc::clone(&shared), client));
            }
            // Out of descriptors, or the client was gone already: the next one may do better.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
        while tasks.try_join_next().is_some() {}
    }
}

async fn serve(shared: Arc<Shared>, client: TcpStream) {
    let Ok(broker) = TcpStream::connect(shared.upstream).await else {
        shared.count(Wanted::ConnectionInVain);
        return reset(client);
    };
    shared.count(Wanted::Connection);
    // Best effort: without it everything is only slower.
    let _ = (client.set_nodelay(true), broker.set_nodelay(true));
    let line = Arc::new(Line::default());
    let id = {
        let mut state = lock(&shared.state);
        state.made += 1;
        let id = state.made;
        state.open.insert(id, Arc::clone(&line));
        id
    };
    let (client_out, client_in) = client.into_split();
    let (broker_out, broker_in) = broker.into_split();
    let ended = {
        let (mut up, mut down) = (Way::new(client_out, broker_in), Way::new(broker_out, client_in));
        tokio::select! {
            () = line.over.notified() => {}
            () = up.carry(&shared, &line, Toward::Broker) => {}
            () = down.carry(&shared, &line, Toward::Client) => {}
        }
        (up, down)
    };
    lock(&shared.state).open.remove(&id);
    let (up, down) = ended;
    if let (Ok(client), Ok(broker)) = (up.from.reunite(down.to), down.from.reunite(up.to)) {
        reset(client);
        reset(broker);
    }
}

/// Closes so that the peer sees a reset, and not an end.
fn reset(stream: TcpStream) {
    let _ = stream.set_zero_linger();
}

/// One direction of a connection.
struct Way {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    frames: Frames,
}

impl Way {
    fn new(from: OwnedReadHalf, to: OwnedWriteHalf) -> Self {
        Self { from, to, frames: Frames::default() }
    }

    /// Until one end closes, or the line is cut here.
    async fn carry(&mut self, shared: &Shared, line: &Line, toward: Toward) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let Ok(n_bytes @ 1..) = self.from.read(&mut buffer).await else { return };
            let stalled_until = *lock(&line.stalled_until);
            if let Some(until) = stalled_until {
                sleep_until(until).await;
            }
            let pace = lock(&shared.state).pace;
            if let Some(pace) = pace {
                sleep(Duration::from_secs_f64(n_bytes as f64 / pace as f64)).await;
            }
            let bytes = &buffer[..n_bytes];
            let is_cut = *lock(&line.cut) == Some(toward);
            let part = if is_cut { self.within(bytes) } else { None };
            let asked = self.frames.pass(&bytes[..part.unwrap_or(n_bytes)]);
            if toward == Toward::Broker {
                asked.into_iter().for_each(|asked| shared.count(Wanted::Request(asked.client, asked.api)));
            }
            if self.to.write_all(&bytes[..part.unwrap_or(n_bytes)]).await.is_err() {
                return;
            }
            if part.is_some() {
                lock(&shared.state).cuts[usize::from(toward == Toward::Client)] += 1;
                line.over.notify_one();
                return;
            }
        }
    }

    /// How many of the bytes may pass so that a frame has begun and not ended; the middle ones first.
    fn within(&self, bytes: &[u8]) -> Option<usize> {
        let middle = bytes.len() / 2;
        (middle..bytes.len()).chain(0..middle).find(|part| {
            let mut frames = self.frames.clone();
            frames.pass(&bytes[..*part]);
            frames.is_within()
        })
    }
}
