//! A duplex stream of bytes to a broker, and the factory of such streams. Knows nothing of Kafka's frames.

mod tcp;

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpStream;

use crate::address::BrokerAddress;
pub use tcp::TcpConnector;

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Opens streams to brokers: TCP, or a link inside the process.
pub trait Connector: fmt::Debug + Send + Sync + 'static {
    /// Opens a stream to `address`. The caller bounds the wait and may drop the future.
    fn connect(&self, address: BrokerAddress) -> BoxFuture<'static, io::Result<Transport>>;

    /// The stream to `address` whose other end is `peer` led to no broker: it was closed, or stayed silent, before the
    /// first answer. Where there are several ways to `address`, the next dial should begin with another.
    fn led_nowhere(&self, address: &BrokerAddress, peer: &str) {
        let _ = (address, peer);
    }

    /// Whether the streams live inside this process, so that they work under a paused clock. Over a real network a
    /// paused clock would fire every time limit at once; the client refuses the pair.
    fn is_virtual(&self) -> bool {
        false
    }
}

/// Both halves of an open stream.
pub struct Transport {
    /// Bytes from the broker.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// Bytes to the broker.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// Who is at the other end, for logs and errors.
    pub peer: String,
}

impl Transport {
    /// A link inside the process.
    pub fn memory(stream: DuplexStream, peer: impl Into<String>) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self { reader: Box::new(reader), writer: Box::new(writer), peer: peer.into() }
    }

    /// An open TCP connection.
    pub fn tcp(stream: TcpStream) -> Self {
        let peer = stream.peer_addr().map_or_else(|_| "unknown peer".to_owned(), |address| address.to_string());
        let (reader, writer) = stream.into_split();
        Self { reader: Box::new(reader), writer: Box::new(writer), peer }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("peer", &self.peer).finish_non_exhaustive()
    }
}
