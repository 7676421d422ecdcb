//! One connection to one broker.
//!
//! A frame belongs to the connection before its first byte is written, so a caller that is dropped can never cut one
//! in half. Whoever holds the write lock writes: the sending task while the connection is idle, else the connection's
//! own task, which finishes every partial write. Replies are matched in order and their handlers run in that task, so
//! a lone request costs two task hops: the reply wakes the connection's task, its handler wakes the caller.
//!
//! Every accepted request has exactly one outcome, within its time limit; a request that is late closes the
//! connection, since what came after could no longer be told apart.

mod error;
mod frame;
mod reader;
mod state;
mod task;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use milena_core::handshake::{Handshake, HandshakeError, NegotiatedVersions, Software};
use milena_protocol::{ApiKey, Decode as _, Request};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

pub use error::{CloseReason, ConnectError, NotKafka, RequestError};
pub use frame::{Permit, Rejected, ReplyFrame, RequestFrame, ResponseHandler};

use self::reader::{FrameReader, Trust};
use self::state::Shared;
use self::task::ConnectionTask;
use crate::address::BrokerAddress;
use crate::task_set::TaskSet;
use crate::throttle;
use crate::transport::Connector;

/// How connections behave.
#[derive(Debug, Clone)]
pub struct ConnectionConfig {
    /// `client.id`, sent with every request.
    pub client_id: Option<Arc<str>>,
    /// What the broker is told about this software (KIP-511).
    pub software: Software,
    /// Requests that may be in flight at once (`max.in.flight.requests.per.connection`).
    pub max_in_flight: usize,
    /// Idle time after which the connection is closed (`connections.max.idle.ms`), below the broker's own limit.
    pub max_idle: Duration,
    /// Limit for the stream to open and the handshake to end (`socket.connection.setup.timeout.max.ms`).
    pub setup_timeout: Duration,
    /// Longest frame that the broker may send.
    pub max_frame: usize,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            client_id: None,
            software: Software::default(),
            max_in_flight: 5,
            max_idle: Duration::from_secs(540),
            setup_timeout: Duration::from_secs(30),
            max_frame: 100 * 1024 * 1024,
        }
    }
}

/// An open connection after its handshake. Clones share it.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

/// What a connection has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// Frames handed to the stream whole.
    pub frames_written: u64,
    /// Calls that wrote them.
    pub write_calls: u64,
    /// Turns of the connection's task.
    pub task_polls: u64,
}

impl Connection {
    /// Opens a stream to `address` and does the handshake. The connection's task runs in `tasks`.
    ///
    /// # Errors
    /// [`ConnectError`], within `config.setup_timeout`.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened.
    pub async fn connect(
        connector: &dyn Connector,
        address: BrokerAddress,
        config: ConnectionConfig,
        tasks: &TaskSet,
    ) -> Result<Self, ConnectError> {
        let limit = config.setup_timeout;
        match timeout(limit, Self::set_up(connector, address.clone(), config, tasks)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ConnectError::TimedOut { address, timeout: limit }),
        }
    }

    async fn set_up(
        connector: &dyn Connector,
        address: BrokerAddress,
        config: ConnectionConfig,
        tasks: &TaskSet,
    ) -> Result<Self, ConnectError> {
        let transport = connector
            .connect(address.clone())
            .await
            .map_err(|source| ConnectError::Unreachable { address: address.clone(), source: Arc::new(source) })?;
        let peer = transport.peer;
        tracing::debug!(%address, peer, "stream open");
        let max_frame = config.max_frame;
        let shared = Arc::new(Shared::new(address, transport.writer, config));
        let mut opening = Opening { connection: Some(Self { shared: Arc::clone(&shared) }), connector, peer };
        let task = ConnectionTask::new(Arc::clone(&shared), FrameReader::new(transport.reader));
        tasks.spawn("connection", task).map_err(|_| ConnectError::Closed)?;
        let connection = Self { shared };
        let versions = connection.handshake().await?;
        opening.connection = None;
        connection.shared.versions.set(versions).expect("one handshake sets it once");
        connection.shared.state().trust = Trust::Broker { limit: max_frame };
        Ok(connection)
    }

    async fn handshake(&self) -> Result<Arc<NegotiatedVersions>, ConnectError> {
        let refuse = |source: HandshakeError| ConnectError::Handshake {
            address: self.shared.address.clone(),
            source: Arc::new(source),
        };
        let mut handshake = Handshake::new(self.shared.config.software.clone());
        while let Some(request) = handshake.poll_request().map_err(refuse)? {
            let frame = RequestFrame {
                api_key: request.api_key,
                api_version: request.api_version,
                body: vec![request.body],
                timeout: self.shared.config.setup_timeout,
                expects_reply: true,
            };
            let reply = self.call_with(None, frame).await.map_err(|error| self.handshake_failed(error))?;
            handshake.handle_response(reply.body).map_err(refuse)?;
        }
        handshake.finish().map(Arc::new).map_err(refuse)
    }

    fn handshake_failed(&self, error: RequestError) -> ConnectError {
        let address = self.shared.address.clone();
        match &error {
            RequestError::Disconnected { reason, .. } => match &**reason {
                CloseReason::NotKafka(what) => return ConnectError::NotKafka { address, what: *what },
                CloseReason::CorrelationMismatch { .. } | CloseReason::Undecodable(_) => {
                    return ConnectError::NotKafka { address, what: NotKafka::Unknown };
                }
                _ => {}
            },
            RequestError::TimedOut { timeout, .. } => return ConnectError::TimedOut { address, timeout: *timeout },
            _ => {}
        }
        ConnectError::HandshakeInterrupted { address, source: Arc::new(error) }
    }

    /// Where the broker listens.
    pub fn address(&self) -> &BrokerAddress {
        &self.shared.address
    }

    /// What client and broker both speak.
    pub fn versions(&self) -> &NegotiatedVersions {
        self.shared.versions.get().expect("a connection is handed out after its handshake")
    }

    /// The right to one more request in flight, if one is free now.
    pub fn try_permit(&self) -> Option<Permit> {
        Arc::clone(&self.shared.permits).try_acquire_owned().ok().map(Permit)
    }

    /// The right to one more request in flight, once one is free. `None` when the connection has closed.
    pub async fn permit(&self) -> Option<Permit> {
        Arc::clone(&self.shared.permits).acquire_owned().await.ok().map(Permit)
    }

    /// Takes a request over: the frame is the connection's before its first byte is written, and `handler` will be
    /// called exactly once. Writes at once what the stream takes. Never waits.
    ///
    /// # Errors
    /// [`Rejected`] gives frame and handler back, unused, when the connection is closed.
    pub fn submit(
        &self,
        permit: Permit,
        frame: RequestFrame,
        handler: Box<dyn ResponseHandler>,
    ) -> Result<(), Rejected> {
        self.shared.submit(Some(permit), frame, handler)
    }

    /// Sends a frame and waits for its answer; the frame's time limit covers the wait for a permit too.
    ///
    /// # Errors
    /// [`RequestError`].
    ///
    /// # Cancel safety
    /// Dropped while it waits for a permit, nothing was sent. Later, the request is sent whole and its answer discarded.
    pub async fn call(&self, mut frame: RequestFrame) -> Result<ReplyFrame, RequestError> {
        let (api, limit, start) = (frame.api_key, frame.timeout, Instant::now());
        let permit = match timeout(limit, self.permit()).await {
            Ok(Some(permit)) => permit,
            Ok(None) => return Err(self.refused(api)),
            Err(_) => {
                let address = self.shared.address.clone();
                return Err(RequestError::TimedOut { api, address, timeout: limit, written: false });
            }
        };
        frame.timeout = limit.saturating_sub(start.elapsed());
        self.call_with(Some(permit), frame).await
    }

    async fn call_with(&self, permit: Option<Permit>, frame: RequestFrame) -> Result<ReplyFrame, RequestError> {
        let api = frame.api_key;
        let (answer, answered) = oneshot::channel();
        self.shared.submit(permit, frame, Box::new(Caller(answer))).map_err(|rejected| rejected.error)?;
        let mut waiting = Waiting { shared: &self.shared, answered };
        // The handler is called whatever happens; a panic between is the only way to lose the sender.
        (&mut waiting.answered).await.unwrap_or_else(|_| Err(self.refused(api)))
    }

    fn refused(&self, api: ApiKey) -> RequestError {
        let reason = self.shared.state().closing.clone().unwrap_or_else(|| Arc::new(CloseReason::Closed));
        RequestError::Disconnected { api, address: self.shared.address.clone(), written: false, reason }
    }

    /// Sends a request and decodes its answer, in `version` or else in the highest that both sides speak.
    ///
    /// # Errors
    /// [`RequestError`]; an answer that cannot be decoded closes the connection.
    ///
    /// # Cancel safety
    /// As [`Self::call`].
    pub async fn request<R: Request>(
        &self,
        request: &R,
        version: Option<i16>,
        timeout: Duration,
    ) -> Result<R::Response, RequestError> {
        let version = match version.or_else(|| self.versions().highest(R::API_KEY)) {
            Some(version) => version,
            None => {
                let address = self.shared.address.clone();
                return Err(RequestError::UnsupportedVersion { api: R::API_KEY, address });
            }
        };
        let reply = self.call(RequestFrame::encode(request, version, timeout)?).await?;
        R::Response::decode_exact(version, reply.body).map_err(|source| {
            self.shared.close(CloseReason::Undecodable(source.clone()));
            let address = self.shared.address.clone();
            RequestError::Decode { api: R::API_KEY, version, address, source: Arc::new(source) }
        })
    }

    /// Keeps a throttle that an answer asked for (KIP-219), unless the connection has found it itself: nothing more is
    /// written until it ends, and running time limits grow by as much. At most five minutes are kept.
    pub fn throttle(&self, throttle: Duration) {
        self.shared.mute_until(Instant::now() + throttle.min(throttle::LONGEST));
    }

    /// Whether a throttle holds requests back now.
    pub fn is_throttled(&self) -> bool {
        self.shared.state().is_muted(Instant::now())
    }

    /// Requests without an outcome.
    pub fn in_flight(&self) -> usize {
        self.shared.state().pending.len()
    }

    /// Whether the connection takes no more requests.
    pub fn is_closed(&self) -> bool {
        let state = self.shared.state();
        state.closing.is_some() || state.draining
    }

    /// Closes at once: every request in flight fails with [`CloseReason::Closed`].
    pub fn close(&self) {
        self.shared.close(CloseReason::Closed);
    }

    /// Closes because an answer could not be read: the broker and we no longer agree on what is on the wire.
    pub fn close_undecodable(&self, error: milena_protocol::DecodeError) {
        self.shared.close(CloseReason::Undecodable(error));
    }

    /// Takes nothing more, and closes when the requests in flight have their answers.
    pub fn close_when_idle(&self) {
        self.shared.drain();
    }

    /// Resolves when the connection has ended and every request of its own has had its outcome.
    pub async fn closed(&self) {
        let ended = self.shared.ended.notified();
        tokio::pin!(ended);
        ended.as_mut().enable();
        // In its own statement: the guard must be gone before the await.
        let over = self.shared.state().ended;
        if !over {
            ended.await;
        }
    }

    /// Why it closed, once it has.
    pub fn close_reason(&self) -> Option<Arc<CloseReason>> {
        self.shared.state().closing.clone()
    }

    /// Whether both are handles of one connection.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// What the connection has done so far.
    pub fn stats(&self) -> ConnectionStats {
        let counters = &self.shared.counters;
        ConnectionStats {
            frames_written: counters.frames_written.load(Relaxed),
            write_calls: counters.write_calls.load(Relaxed),
            task_polls: counters.task_polls.load(Relaxed),
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("address", &self.shared.address.to_string()).finish_non_exhaustive()
    }
}

/// Hands the answer to whoever called.
struct Caller(oneshot::Sender<Result<ReplyFrame, RequestError>>);

impl ResponseHandler for Caller {
    fn handle(self: Box<Self>, reply: Result<ReplyFrame, RequestError>) {
        // Nobody may be listening any more: then the answer is discarded, and its slot was kept until now.
        drop(self.0.send(reply));
    }

    fn is_awaited(&self) -> bool {
        !self.0.is_closed()
    }
}

/// Waits for an answer; whoever gives that up tells the connection, if it drains and waits for that answer alone.
struct Waiting<'a> {
    shared: &'a Shared,
    answered: oneshot::Receiver<Result<ReplyFrame, RequestError>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.answered.is_terminated() {
            return;
        }
        self.answered.close();
        if self.shared.state().draining {
            self.shared.wake_task();
        }
    }
}

/// Closes a connection whose set-up is dropped or fails, and tells the connector.
struct Opening<'a> {
    connection: Option<Connection>,
    connector: &'a dyn Connector,
    peer: String,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            connection.close();
            self.connector.led_nowhere(connection.address(), &self.peer);
        }
    }
}
