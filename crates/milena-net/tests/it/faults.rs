//! Peers that lie, cut, stall or are no brokers at all: each a typed error within its limit, and never another's answer.

use std::time::Duration;

use bytes::Bytes;
use milena_net::{CloseReason, ConnectError, ConnectionConfig, NotKafka, RequestError};
use milena_protocol::ErrorCode;
use milena_protocol::messages::HeartbeatRequest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::peer::{LIMIT, attempt, open, reply, request};

/// The reason in an error about a connection that ended.
fn reason(error: &RequestError) -> String {
    match error {
        RequestError::Disconnected { reason, .. } => reason.to_string(),
        other => panic!("not a disconnect: {other:?}"),
    }
}

#[tokio::test]
async fn an_answer_split_at_every_byte_is_the_same() {
    let whole = reply(1, b"the body of the answer");
    for cut in 0..=whole.len() {
        let (connection, mut peer, _tasks) = open(1024, ConnectionConfig::default()).await;
        let play = async {
            peer.request().await.expect("the request");
            peer.write(&whole[..cut]).await;
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            peer.write(&whole[cut..]).await;
        };
        let (answer, ()) = tokio::join!(connection.call(request("ask")), play);
        assert_eq!(answer.expect("an answer").body[..], b"the body of the answer"[..], "cut at {cut}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_number_closes_and_never_answers_anyone() {
    for wrong in [0, 2, -1, i32::MAX] {
        let (connection, mut peer, _tasks) = open(1024, ConnectionConfig::default()).await;
        let play = async {
            peer.request().await.expect("the first request");
            peer.request().await.expect("the second request");
            peer.reply(wrong, b"whose?").await;
        };
        let (first, second, ()) =
            tokio::join!(connection.call(request("first")), connection.call(request("second")), play);
        for outcome in [first, second] {
            let error = outcome.expect_err("nobody may have it");
            assert!(error.written());
            assert_eq!(reason(&error), format!("answer number {wrong} came where number 1 was due"));
        }
        assert!(connection.is_closed());
    }
}

#[tokio::test]
async fn an_answer_to_nothing_closes() {
    let (connection, mut peer, _tasks) = open(1024, ConnectionConfig::default()).await;
    peer.reply(1, b"unasked").await;
    connection.closed().await;
    assert!(matches!(connection.close_reason().as_deref(), Some(CloseReason::Unsolicited)));
}

#[tokio::test]
async fn an_answer_twice_closes_and_the_first_counts() {
    let (connection, mut peer, _tasks) = open(1024, ConnectionConfig::default()).await;
    let play = async {
        let (header, _) = peer.request().await.expect("the request");
        let twice = [reply(header.correlation_id, b"once"), reply(header.correlation_id, b"twice")].concat();
        peer.write(&twice).await;
    };
    let (answer, ()) = tokio::join!(connection.call(request("ask")), play);
    assert_eq!(answer.expect("the first").body, Bytes::from("once"));
    connection.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_times_out_and_its_late_answer_is_never_matched() {
    let (connection, mut peer, tasks) = open(1024, ConnectionConfig::default()).await;
    let start = Instant::now();
    let mut patient = request("patient");
    patient.timeout = LIMIT * 2;
    let (late, other) = tokio::join!(connection.call(request("late")), connection.call(patient));
    assert_eq!(start.elapsed(), LIMIT);
    let late = late.expect_err("no answer");
    assert!(matches!(late, RequestError::TimedOut { written: true, timeout: LIMIT, .. }), "{late:?}");
    let other = other.expect_err("its connection is gone");
    assert!(other.written());
    assert_eq!(reason(&other), "closed because the Metadata request had no answer in time");
    assert!(peer.request().await.is_some());
    assert!(peer.request().await.is_some());
    assert!(peer.request().await.is_none(), "the stream is closed");
    tasks.join().await;
}

#[tokio::test(start_paused = true)]
async fn what_never_left_is_told_apart_from_what_may_have_arrived() {
    // The peer reads nothing: the first frame is cut in the pipe, the second never begun.
    let config = ConnectionConfig { max_in_flight: 5, ..ConnectionConfig::default() };
    let (connection, _peer, _tasks) = open(64, config).await;
    let mut large = request("x".repeat(1_000));
    large.timeout = LIMIT * 2;
    // More slices than one write carries stand between the two.
    let stuffed = milena_net::RequestFrame { body: vec![Bytes::from("y"); 200], ..request("") };
    let (first, second, third) = tokio::join!(
        connection.call(large),
        connection.call(milena_net::RequestFrame { timeout: LIMIT * 2, ..stuffed }),
        connection.call(request("never"))
    );
    assert!(first.expect_err("cut").written());
    drop(second.expect_err("cut"));
    let third = third.expect_err("never written");
    assert!(matches!(third, RequestError::TimedOut { written: false, .. }), "{third:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dripping_peer_is_bounded_by_the_whole_request() {
    let (connection, mut peer, _tasks) = open(1024, ConnectionConfig::default()).await;
    let start = Instant::now();
    let drip = tokio::spawn(async move {
        let (header, _) = peer.request().await.expect("the request");
        for byte in reply(header.correlation_id, &[0; 2_000]) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if peer.stream.write_all(&[byte]).await.is_err() {
                return;
            }
        }
    });
    let error = connection.call(request("drip")).await.expect_err("too slow");
    assert!(matches!(error, RequestError::TimedOut { .. }));
    assert_eq!(start.elapsed(), LIMIT);
    drip.await.expect("the peer saw the end");
}

#[tokio::test]
async fn a_stream_cut_after_any_byte_of_an_answer_yields_no_answer() {
    let whole = reply(1, b"body");
    for cut in 0..whole.len() {
        let (connection, mut peer, _tasks) = open(1024, ConnectionConfig::default()).await;
        let sent = whole[..cut].to_vec();
        let play = async move {
            peer.request().await.expect("the request");
            peer.write(&sent).await;
        };
        let (answer, ()) = tokio::join!(connection.call(request("ask")), play);
        let error = answer.expect_err("cut");
        assert!(error.written());
        let wanted = if cut == 0 { "closed by the broker" } else { "closed by the broker in the middle of a frame" };
        assert_eq!(reason(&error), wanted, "cut at {cut} of {}", whole.len());
    }
}

#[tokio::test]
async fn a_half_closed_stream_ends_the_connection() {
    let (connection, mut peer, tasks) = open(1024, ConnectionConfig::default()).await;
    let play = async {
        peer.request().await.expect("the request");
        peer.stream.shutdown().await.expect("its own half");
        peer.request().await
    };
    let (answer, next) = tokio::join!(connection.call(request("ask")), play);
    assert_eq!(reason(&answer.expect_err("no answer")), "closed by the broker");
    assert!(next.is_none());
    tasks.join().await;
}

#[tokio::test]
async fn a_frame_above_the_limit_is_refused_unread() {
    let config = ConnectionConfig { max_frame: 10_000, ..ConnectionConfig::default() };
    let (connection, mut peer, _tasks) = open(1024, config).await;
    let play = async {
        peer.request().await.expect("the request");
        peer.write(&10_001_i32.to_be_bytes()).await;
    };
    let (answer, ()) = tokio::join!(connection.call(request("ask")), play);
    assert_eq!(reason(&answer.expect_err("refused")), "a frame announces 10001 bytes, outside 1 to 10000");
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_closes() {
    let (connection, mut peer, _tasks) = open(1024, ConnectionConfig::default()).await;
    let play = async {
        let (header, _) = peer.request().await.expect("the request");
        peer.reply(header.correlation_id, b"!").await;
    };
    let asked = HeartbeatRequest { group_id: "g".into(), ..HeartbeatRequest::default() };
    let (answer, ()) = tokio::join!(connection.request(&asked, Some(3), LIMIT), play);
    assert!(matches!(answer, Err(RequestError::Decode { version: 3, .. })), "{answer:?}");
    connection.closed().await;
    assert!(matches!(connection.close_reason().as_deref(), Some(CloseReason::Undecodable(_))));
}

#[tokio::test]
async fn services_that_are_no_brokers_are_named() {
    let http = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".as_slice();
    let tls = [21, 3, 3, 0, 2, 2, 70].as_slice();
    let ssh = b"SSH-2.0-OpenSSH_9.6\r\n".as_slice();
    for (bytes, wanted) in [(http, NotKafka::Http), (tls, NotKafka::Tls), (ssh, NotKafka::Unknown)] {
        let outcome = attempt(ConnectionConfig::default(), async |mut peer| {
            peer.request().await.expect("ApiVersions");
            peer.write(bytes).await;
        })
        .await;
        match outcome.expect_err("no broker") {
            ConnectError::NotKafka { what, address } => {
                assert_eq!((what, address.to_string()), (wanted, "broker:9092".to_owned()));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_peer_that_hangs_up_on_the_handshake_is_named() {
    let outcome = attempt(ConnectionConfig::default(), async |mut peer| drop(peer.request().await)).await;
    let error = outcome.expect_err("no broker");
    assert!(matches!(error, ConnectError::HandshakeInterrupted { .. }), "{error:?}");
    assert!(error.to_string().contains("broker:9092 ended the connection during the handshake"));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_silent_from_the_start_is_given_up_in_time() {
    let start = Instant::now();
    let outcome = attempt(ConnectionConfig::default(), async |mut peer| {
        let mut all = Vec::new();
        peer.stream.read_to_end(&mut all).await.expect("the client hangs up");
    })
    .await;
    assert!(matches!(outcome, Err(ConnectError::TimedOut { .. })), "{outcome:?}");
    assert_eq!(start.elapsed(), Duration::from_secs(30));
}

#[tokio::test]
async fn an_old_broker_is_met_at_its_version() {
    let outcome = attempt(ConnectionConfig::default(), async |mut peer| {
        let (header, _) = peer.request().await.expect("ApiVersions");
        assert!(header.api_version > 0);
        // Error 35 and no list, in the layout of version 0.
        peer.reply(header.correlation_id, &[0, 35, 0, 0, 0, 0]).await;
        let (header, _) = peer.request().await.expect("ApiVersions again");
        assert_eq!(header.api_version, 0);
        peer.reply(header.correlation_id, &[0, 0, 0, 0, 0, 1, 0, 3, 0, 0, 0, 5]).await;
    })
    .await;
    let connection = outcome.expect("a handshake in two steps");
    assert_eq!(connection.versions().highest(milena_protocol::ApiKey::Metadata), Some(5));
    let asked = HeartbeatRequest::default();
    let error = connection.request(&asked, None, LIMIT).await.expect_err("not served");
    assert!(matches!(error, RequestError::UnsupportedVersion { .. }), "{error:?}");
}

#[tokio::test]
async fn a_refused_handshake_names_the_error() {
    let outcome = attempt(ConnectionConfig::default(), async |mut peer| {
        let (header, _) = peer.request().await.expect("ApiVersions");
        let code = ErrorCode::CLUSTER_AUTHORIZATION_FAILED.0.to_be_bytes();
        peer.reply(header.correlation_id, &[&code[..], &[1, 0, 0, 0, 0, 0]].concat()).await;
    })
    .await;
    let error = outcome.expect_err("refused");
    let ConnectError::Handshake { source, .. } = &error else { panic!("{error:?}") };
    assert!(source.to_string().contains("CLUSTER_AUTHORIZATION_FAILED"), "{source}");
}
