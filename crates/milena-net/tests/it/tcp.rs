//! The same over real sockets, where it differs: resets, refusals, addresses that are dead.

use std::time::Duration;

use milena_net::{BrokerAddress, ConnectError, Connection, ConnectionConfig, Connector as _, NotKafka, TcpConnector};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::peer::tasks;

async fn listen() -> (TcpListener, BrokerAddress) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    (listener, BrokerAddress::new("127.0.0.1", port.into()).expect("an address"))
}

#[tokio::test]
async fn a_refused_connection_names_the_address() {
    let (listener, address) = listen().await;
    drop(listener);
    let tasks = tasks();
    let outcome =
        Connection::connect(&TcpConnector::default(), address.clone(), ConnectionConfig::default(), &tasks).await;
    let error = outcome.expect_err("nobody listens");
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains(&address.to_string()));
    assert!(tasks.is_empty());
}

#[tokio::test]
async fn a_name_is_resolved_and_reached() {
    // On many machines `localhost` is ::1 and 127.0.0.1, and only the second is listened on.
    let (listener, address) = listen().await;
    let named = BrokerAddress::new("localhost", address.port().into()).expect("an address");
    let (transport, accepted) = tokio::join!(TcpConnector::default().connect(named), listener.accept());
    assert!(transport.is_ok() && accepted.is_ok());
}

#[tokio::test]
async fn a_reset_in_the_middle_of_an_answer_is_an_error_within_time() {
    let (listener, address) = listen().await;
    let tasks = tasks();
    let serve = async {
        let (mut stream, _) = listener.accept().await.expect("a client");
        stream.read_u8().await.expect("its request");
        stream.write_all(&[0, 0, 0, 50, 0, 0]).await.expect("the beginning of an answer");
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket");
    };
    let connector = TcpConnector::default();
    let connect = Connection::connect(&connector, address, ConnectionConfig::default(), &tasks);
    let (outcome, ()) = tokio::join!(connect, serve);
    assert!(matches!(outcome, Err(ConnectError::HandshakeInterrupted { .. })), "{outcome:?}");
    tasks.join().await;
}

#[tokio::test]
async fn an_http_server_behind_the_port_is_named() {
    let (listener, address) = listen().await;
    let tasks = tasks();
    let serve = async {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let mut request = [0; 64];
        let _ = stream.read(&mut request).await.expect("its request");
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("room");
    };
    let connector = TcpConnector::default();
    let connect = Connection::connect(&connector, address, ConnectionConfig::default(), &tasks);
    let (outcome, ()) = tokio::join!(connect, serve);
    assert!(matches!(outcome, Err(ConnectError::NotKafka { what: NotKafka::Http, .. })), "{outcome:?}");
}
