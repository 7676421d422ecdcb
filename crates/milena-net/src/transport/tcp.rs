//! TCP: resolves at every dial and tries each address in turn (KIP-302, KIP-602). Never sets buffer sizes: small fixed
//! ones hurt long links, and the system tunes them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};

use super::{BoxFuture, Connector, Transport};
use crate::address::BrokerAddress;

/// Idle time before the first keep-alive probe: below the few minutes after which firewalls forget a connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Dials brokers over TCP, with `TCP_NODELAY` and keep-alive.
#[derive(Debug, Clone)]
pub struct TcpConnector {
    address_timeout: Duration,
}

impl Default for TcpConnector {
    fn default() -> Self {
        Self::new(Duration::from_secs(10))
    }
}

impl TcpConnector {
    /// A connector that gives each resolved address up after `address_timeout` and tries the next
    /// (`socket.connection.setup.timeout.ms`). The whole dial is bounded by its caller.
    pub fn new(address_timeout: Duration) -> Self {
        Self { address_timeout }
    }
}

impl Connector for TcpConnector {
    fn connect(&self, address: BrokerAddress) -> BoxFuture<'static, io::Result<Transport>> {
        let address_timeout = self.address_timeout;
        Box::pin(async move { dial(&address, address_timeout).await.map(Transport::tcp) })
    }
}

async fn dial(address: &BrokerAddress, address_timeout: Duration) -> io::Result<TcpStream> {
    let resolved = lookup_host((address.host(), address.port())).await?;
    tune(first_reached(address, resolved, address_timeout, TcpStream::connect).await?)
}

/// Tries what a name was resolved to, in its order, until `connect` succeeds.
async fn first_reached<S, F: Future<Output = io::Result<S>>>(
    address: &BrokerAddress,
    resolved: impl IntoIterator<Item = SocketAddr>,
    address_timeout: Duration,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<S> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name resolves to no address");
    for candidate in resolved {
        last = match tokio::time::timeout(address_timeout, connect(candidate)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => io::Error::new(error.kind(), format!("{candidate}: {error}")),
            Err(_) => io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{candidate}: no answer to the connection attempt within {address_timeout:?}"),
            ),
        };
        tracing::debug!(%address, error = %last, "dial failed, trying the next address");
    }
    Err(last)
}

fn tune(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn named() -> BrokerAddress {
        BrokerAddress::new("broker.example", 9092).expect("an address")
    }

    async fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        (listener, address)
    }

    #[tokio::test]
    async fn the_second_address_is_reached_when_the_first_refuses() {
        let (dead, refuses) = listen().await;
        drop(dead);
        let (_listener, live) = listen().await;
        let stream = first_reached(&named(), [refuses, live], LIMIT, TcpStream::connect).await.expect("one is live");
        assert_eq!(stream.peer_addr().expect("connected"), live);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_stays_silent_costs_its_time_limit_and_no_more() {
        let addresses =
            ["[2001:db8::1]:9092", "192.0.2.1:9092", "192.0.2.2:9092"].map(|a| a.parse().expect("a literal"));
        let [silent, refuses, live] = addresses;
        let connect = async |candidate: SocketAddr| {
            if candidate == silent {
                std::future::pending::<()>().await;
            }
            if candidate == refuses { Err(io::ErrorKind::ConnectionRefused.into()) } else { Ok(candidate) }
        };
        let start = tokio::time::Instant::now();
        assert_eq!(first_reached(&named(), addresses, LIMIT, connect).await.expect("the third is live"), live);
        assert_eq!(start.elapsed(), LIMIT);

        let error = first_reached(&named(), [refuses, silent], LIMIT, connect).await.expect_err("none is live");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().starts_with("[2001:db8::1]:9092: no answer"), "{error}");
        let error = first_reached(&named(), [], LIMIT, connect).await.expect_err("there is none");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn sockets_send_at_once_and_notice_a_peer_that_is_gone() {
        let (_listener, address) = listen().await;
        let address = BrokerAddress::new("127.0.0.1", address.port().into()).expect("an address");
        let stream = dial(&address, LIMIT).await.expect("connected");
        assert!(stream.nodelay().expect("a socket"));
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().expect("a socket"));
        assert_eq!(socket.tcp_keepalive_time().expect("a socket"), KEEPALIVE_IDLE);
    }
}
