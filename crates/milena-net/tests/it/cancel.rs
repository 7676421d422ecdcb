//! Futures that are dropped half-way: the wire stays whole, and answers find their owners.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use milena_net::ConnectionConfig;

use crate::peer::{open, request};

/// Polls `future` `polls` times, letting everything else run in between, then drops it.
async fn poll_and_drop<F: Future>(future: F, polls: usize) -> bool {
    let mut future = Box::pin(future);
    for _ in 0..polls {
        let done = poll_fn(|cx| Poll::Ready(Pin::new(&mut future).poll(cx).is_ready())).await;
        if done {
            return true;
        }
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }
    false
}

#[tokio::test]
async fn a_request_dropped_at_any_poll_leaves_the_wire_whole() {
    // A pipe far smaller than the frame: the frame is cut at many places while the future is dropped.
    for pipe in [1, 7, 64, 4096] {
        for polls in 0..6 {
            let (connection, peer, _tasks) = open(pipe.max(1), ConnectionConfig::default()).await;
            let echo = tokio::spawn(peer.echo());
            poll_and_drop(connection.call(request("d".repeat(300))), polls).await;
            let reply = connection.call(request("kept")).await.expect("an answer");
            assert_eq!(reply.body[..], b"kept"[..], "pipe of {pipe}, dropped after {polls} polls");
            connection.close();
            echo.await.expect("the peer saw whole frames only");
        }
    }
}

#[tokio::test]
async fn an_abandoned_request_keeps_its_slot_until_its_answer() {
    let config = ConnectionConfig { max_in_flight: 1, ..ConnectionConfig::default() };
    let (connection, mut peer, _tasks) = open(1024, config).await;
    assert!(!poll_and_drop(connection.call(request("abandoned")), 1).await);
    assert_eq!(connection.in_flight(), 1);
    assert!(connection.try_permit().is_none());

    let (header, _) = peer.request().await.expect("it is sent all the same");
    let next = tokio::spawn({
        let connection = connection.clone();
        async move { connection.call(request("next")).await.map(|reply| reply.body) }
    });
    peer.reply(header.correlation_id, b"for nobody").await;
    let (header, body) = peer.request().await.expect("the slot is free again");
    assert_eq!(body[..], b"next"[..]);
    peer.reply(header.correlation_id, b"for next").await;
    assert_eq!(next.await.expect("no panic").expect("an answer")[..], b"for next"[..]);
}

#[tokio::test]
async fn a_request_dropped_before_its_permit_is_never_sent() {
    let config = ConnectionConfig { max_in_flight: 1, ..ConnectionConfig::default() };
    let (connection, mut peer, _tasks) = open(1024, config).await;
    let permit = connection.try_permit().expect("one is free");
    assert!(!poll_and_drop(connection.call(request("never")), 2).await);
    drop(permit);
    let call = tokio::spawn({
        let connection = connection.clone();
        async move { connection.call(request("sent")).await.map(drop) }
    });
    assert_eq!(peer.request().await.expect("a request").1[..], b"sent"[..]);
    call.abort();
}

#[test]
fn a_runtime_that_ends_answers_every_request() {
    let (done, outcome) = std::sync::mpsc::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (connection, _peer, _tasks) = open(1024, ConnectionConfig::default()).await;
        let permit = connection.try_permit().expect("five are free");
        connection.submit(permit, request("orphan"), Box::new(move |reply| drop(done.send(reply)))).expect("open");
    });
    drop(runtime);
    let outcome = outcome.recv_timeout(Duration::from_secs(10)).expect("the handler is called");
    let error = outcome.expect_err("there is no answer");
    assert!(error.written(), "the bytes were in the stream: {error}");
}
