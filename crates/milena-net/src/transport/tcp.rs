//! TCP: resolves at every dial and tries each address in turn (KIP-302, KIP-602). Never sets buffer sizes: small fixed
//! ones hurt long links, and the system tunes them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};

use super::{BoxFuture, Connector, Transport};
use crate::address::BrokerAddress;

/// Idle time before the first keep-alive probe: below the few minutes after which firewalls forget a connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Dials brokers over TCP, with `TCP_NODELAY` and keep-alive.
///
/// Clones share what they have learnt about which of a name's addresses answer.
#[derive(Debug, Clone)]
pub struct TcpConnector {
    address_timeout: Duration,
    routes: Routes,
}

/// With which address the next dial of a name begins. Kept over dials, since one dial may have no time for all: its
/// caller bounds it, whatever the number of addresses.
#[derive(Debug, Clone, Default)]
struct Routes(Arc<Mutex<BTreeMap<BrokerAddress, Route>>>);

#[derive(Debug, Clone, Copy)]
enum Route {
    /// It answered, or its turn has not come yet.
    From(SocketAddr),
    /// It was tried last, and in vain.
    After(SocketAddr),
}

impl Routes {
    /// `resolved` in the order in which to try it.
    fn order(&self, address: &BrokerAddress, mut resolved: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let place = |candidate: SocketAddr| resolved.iter().position(|other| *other == candidate);
        let first = match self.lock().get(address) {
            Some(Route::From(candidate)) => place(*candidate),
            Some(Route::After(candidate)) => place(*candidate).map(|place| place + 1),
            None => None,
        };
        let middle = first.unwrap_or(0) % resolved.len().max(1);
        resolved.rotate_left(middle);
        resolved
    }

    fn note(&self, address: &BrokerAddress, route: Route) {
        self.lock().insert(address.clone(), route);
    }

    /// The address that answered led to no broker. Another dial may have found a better one since.
    fn leave(&self, address: &BrokerAddress, peer: &str) {
        if let Some(route) = self.lock().get_mut(address)
            && let Route::From(candidate) = *route
            && candidate.to_string() == peer
        {
            *route = Route::After(candidate);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BrokerAddress, Route>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        Self { address_timeout, routes: Routes::default() }
    }
}

impl Connector for TcpConnector {
    fn connect(&self, address: BrokerAddress) -> BoxFuture<'static, io::Result<Transport>> {
        let this = self.clone();
        Box::pin(async move { dial(&address, this.address_timeout, &this.routes).await.map(Transport::tcp) })
    }

    fn led_nowhere(&self, address: &BrokerAddress, peer: &str) {
        self.routes.leave(address, peer);
    }
}

async fn dial(address: &BrokerAddress, address_timeout: Duration, routes: &Routes) -> io::Result<TcpStream> {
    let resolved = lookup_host((address.host(), address.port())).await?;
    tune(first_reached(address, resolved, address_timeout, routes, TcpStream::connect).await?)
}

/// Tries what a name was resolved to until `connect` succeeds: in its order, from where the last dial left off.
async fn first_reached<S, F: Future<Output = io::Result<S>>>(
    address: &BrokerAddress,
    resolved: impl IntoIterator<Item = SocketAddr>,
    address_timeout: Duration,
    routes: &Routes,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<S> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name resolves to no address");
    let resolved: Vec<_> = resolved.into_iter().collect();
    let has_choice = resolved.len() > 1;
    for candidate in routes.order(address, resolved) {
        if has_choice {
            // Before the attempt: it may be cut off with the whole dial.
            routes.note(address, Route::After(candidate));
        }
        last = match tokio::time::timeout(address_timeout, connect(candidate)).await {
            Ok(Ok(stream)) => {
                if has_choice {
                    routes.note(address, Route::From(candidate));
                }
                return Ok(stream);
            }
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
        let stream = first_reached(&named(), [refuses, live], LIMIT, &Routes::default(), TcpStream::connect)
            .await
            .expect("one is live");
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
        assert_eq!(
            first_reached(&named(), addresses, LIMIT, &Routes::default(), connect).await.expect("the third is live"),
            live
        );
        assert_eq!(start.elapsed(), LIMIT);

        let error = first_reached(&named(), [refuses, silent], LIMIT, &Routes::default(), connect)
            .await
            .expect_err("none is live");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().starts_with("[2001:db8::1]:9092: no answer"), "{error}");
        let error = first_reached(&named(), [], LIMIT, &Routes::default(), connect).await.expect_err("there is none");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test(start_paused = true)]
    async fn every_address_is_reached_however_many_before_it_are_silent() {
        let addresses: Vec<SocketAddr> = (1..=7).map(|last| SocketAddr::new([192, 0, 2, last].into(), 9092)).collect();
        let live = addresses[6];
        let connect = async |candidate: SocketAddr| {
            if candidate != live {
                std::future::pending::<()>().await;
            }
            Ok(candidate)
        };
        let routes = Routes::default();
        let named = named();
        let dial = || {
            let dial = first_reached(&named, addresses.clone(), LIMIT, &routes, connect);
            tokio::time::timeout(Duration::from_secs(30), dial)
        };
        // Each dial has time for three of the six silent ones, and may begin with a fourth.
        let mut dials = 1;
        while dial().await.is_err() {
            dials += 1;
        }
        assert!((2..=3).contains(&dials), "{dials}");
        let start = tokio::time::Instant::now();
        assert_eq!(dial().await.expect("in time").expect("live"), live);
        assert_eq!(start.elapsed(), Duration::ZERO, "the one that answered is tried first from now on");
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_answers_but_leads_nowhere_is_not_the_first_to_be_tried_again() {
        let addresses = ["192.0.2.1:9092", "192.0.2.2:9092"].map(|a| a.parse::<SocketAddr>().expect("a literal"));
        let connector = TcpConnector::default();
        let connect = async |candidate: SocketAddr| Ok(candidate);
        for wanted in [addresses[0], addresses[1], addresses[0]] {
            let reached = first_reached(&named(), addresses, LIMIT, &connector.routes, connect).await;
            assert_eq!(reached.expect("both accept"), wanted);
            connector.led_nowhere(&named(), "192.0.2.3:9092");
            connector.led_nowhere(&named(), &wanted.to_string());
        }
    }

    #[tokio::test]
    async fn sockets_send_at_once_and_notice_a_peer_that_is_gone() {
        let (_listener, address) = listen().await;
        let address = BrokerAddress::new("127.0.0.1", address.port().into()).expect("an address");
        let stream = dial(&address, LIMIT, &Routes::default()).await.expect("connected");
        assert!(stream.nodelay().expect("a socket"));
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().expect("a socket"));
        assert_eq!(socket.tcp_keepalive_time().expect("a socket"), KEEPALIVE_IDLE);
    }
}
