//! The other end of a connection, played step by step, and the connector that leads to it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use milena_net::{
    BoxFuture, BrokerAddress, ConnectError, Connection, ConnectionConfig, Connector, RequestFrame, TaskSet, Transport,
};
use milena_protocol::frame::{RequestHeader, decode_request_header, encode_response_header};
use milena_protocol::messages::ApiVersionsResponse;
use milena_protocol::messages::api_versions_response::ApiVersion;
use milena_protocol::{ApiKey, Encode as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// A version of Metadata whose headers are plain and whose answer carries no throttle that counts.
pub(crate) const VERSION: i16 = 1;
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Peer {
    pub(crate) stream: DuplexStream,
}

impl Peer {
    /// The next request, or nothing at the end of the stream.
    pub(crate) async fn request(&mut self) -> Option<(RequestHeader, Bytes)> {
        let length = self.stream.read_i32().await.ok()?;
        let mut frame = vec![0; usize::try_from(length).expect("a length")];
        self.stream.read_exact(&mut frame).await.ok()?;
        let mut frame = Bytes::from(frame);
        let header = decode_request_header(&mut frame).expect("a header");
        Some((header, frame))
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the client reads");
    }

    pub(crate) async fn reply(&mut self, correlation_id: i32, body: &[u8]) {
        self.write(&reply(correlation_id, body)).await;
    }

    /// Answers version negotiation with everything that we speak.
    pub(crate) async fn handshake(&mut self) {
        let (header, _) = self.request().await.expect("ApiVersions");
        assert_eq!(header.api_key, i16::from(ApiKey::ApiVersions));
        let api = |key: &ApiKey| ApiVersion {
            api_key: (*key).into(),
            min_version: key.versions().min,
            max_version: key.versions().max,
        };
        let api_keys = ApiKey::ALL.iter().map(api).collect();
        let response = ApiVersionsResponse { api_keys, ..ApiVersionsResponse::default() };
        let mut body = BytesMut::new();
        response.encode(header.api_version, &mut body).expect("the answer fits");
        self.reply(header.correlation_id, &body).await;
    }

    /// Answers every request with its own body, until the client leaves.
    pub(crate) async fn echo(mut self) {
        while let Some((header, body)) = self.request().await {
            self.reply(header.correlation_id, &body).await;
        }
    }
}

/// The frame of an answer.
pub(crate) fn reply(correlation_id: i32, body: &[u8]) -> Vec<u8> {
    let mut frame = BytesMut::new();
    frame.extend_from_slice(&[0; 4]);
    encode_response_header(&mut frame, ApiKey::Metadata, VERSION, correlation_id);
    frame.extend_from_slice(body);
    let length = i32::try_from(frame.len() - 4).expect("a short frame");
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame.to_vec()
}

/// A request whose body the peer can tell.
pub(crate) fn request(body: impl Into<Bytes>) -> RequestFrame {
    RequestFrame {
        api_key: ApiKey::Metadata,
        api_version: VERSION,
        body: vec![body.into()],
        timeout: LIMIT,
        expects_reply: true,
    }
}

/// Hands the other end of every stream to the test, which plays it.
pub(crate) struct Stage {
    pub(crate) dials: AtomicUsize,
    pub(crate) dialed: Mutex<Vec<(BrokerAddress, Instant)>>,
    // How many dials fail before one succeeds.
    pub(crate) refuse: AtomicUsize,
    led_nowhere: AtomicUsize,
    pipe: usize,
    peers: mpsc::UnboundedSender<Peer>,
}

impl Stage {
    pub(crate) fn new(pipe: usize) -> (Arc<Self>, mpsc::UnboundedReceiver<Peer>) {
        let (peers, played) = mpsc::unbounded_channel();
        let stage = Self {
            dials: AtomicUsize::new(0),
            dialed: Mutex::default(),
            refuse: AtomicUsize::new(0),
            led_nowhere: AtomicUsize::new(0),
            pipe,
            peers,
        };
        (Arc::new(stage), played)
    }
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stage")
    }
}

impl Connector for Stage {
    fn connect(&self, address: BrokerAddress) -> BoxFuture<'static, io::Result<Transport>> {
        self.dials.fetch_add(1, Relaxed);
        self.dialed.lock().expect("no panic holds it").push((address.clone(), Instant::now()));
        if self.refuse.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
            return Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) });
        }
        let (client, broker) = tokio::io::duplex(self.pipe);
        self.peers.send(Peer { stream: broker }).expect("the test plays the peer");
        Box::pin(async move { Ok(Transport::memory(client, address.to_string())) })
    }

    fn led_nowhere(&self, _: &BrokerAddress, _: &str) {
        self.led_nowhere.fetch_add(1, Relaxed);
    }

    fn is_virtual(&self) -> bool {
        true
    }
}

pub(crate) fn address() -> BrokerAddress {
    "broker:9092".parse().expect("an address")
}

pub(crate) fn tasks() -> TaskSet {
    TaskSet::new(Handle::current())
}

/// A connection whose handshake is done, and its peer.
pub(crate) async fn open(pipe: usize, config: ConnectionConfig) -> (Connection, Peer, TaskSet) {
    let (stage, mut peers) = Stage::new(pipe);
    let tasks = tasks();
    let connect = Connection::connect(&*stage, address(), config, &tasks);
    let play = async {
        let mut peer = peers.recv().await.expect("a dial");
        peer.handshake().await;
        peer
    };
    let (connection, peer) = tokio::join!(connect, play);
    (connection.expect("the handshake succeeds"), peer, tasks)
}

/// Plays `script` against a connection attempt and returns how that ended.
pub(crate) async fn attempt<F>(
    config: ConnectionConfig,
    script: impl FnOnce(Peer) -> F,
) -> Result<Connection, ConnectError>
where
    F: Future<Output = ()>,
{
    let (stage, mut peers) = Stage::new(64 * 1024);
    let tasks = tasks();
    let connect = Connection::connect(&*stage, address(), config, &tasks);
    let play = async { script(peers.recv().await.expect("a dial")).await };
    let (outcome, ()) = tokio::join!(connect, play);
    let told = stage.led_nowhere.load(Relaxed);
    assert_eq!(told, usize::from(outcome.is_err()), "the connector learns which of its streams leads to no broker");
    outcome
}
