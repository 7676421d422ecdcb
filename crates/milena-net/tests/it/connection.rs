//! What a connection does when all is well.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use milena_net::{CloseReason, ConnectionConfig, RequestError};
use milena_protocol::ApiKey;
use milena_protocol::messages::{HeartbeatRequest, HeartbeatResponse};
use milena_protocol::{Decode as _, Encode as _, ErrorCode};
use tokio::time::Instant;

use crate::peer::{LIMIT, open, request};

#[tokio::test]
async fn many_concurrent_requests_get_each_its_own_answer() {
    let config = ConnectionConfig { max_in_flight: 100, ..ConnectionConfig::default() };
    let (connection, peer, _tasks) = open(512, config).await;
    tokio::spawn(peer.echo());
    let calls = (0..500_u32).map(|number| {
        let connection = connection.clone();
        tokio::spawn(async move {
            let body = Bytes::from(format!("request {number} {}", "x".repeat(number as usize)));
            let reply = connection.call(request(body.clone())).await.expect("an answer");
            assert_eq!(reply.body, body);
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.expect("the answer is its own");
    }
    assert_eq!(connection.in_flight(), 0);
}

#[tokio::test]
async fn a_lone_request_costs_one_write_and_two_task_hops() {
    let (connection, mut peer, _tasks) = open(64 * 1024, ConnectionConfig::default()).await;
    tokio::task::yield_now().await;
    let before = connection.stats();
    let polls = AtomicUsize::new(0);
    let mut call = pin!(connection.call(request("lone")));
    let counted = poll_fn(|cx| {
        polls.fetch_add(1, Relaxed);
        call.as_mut().poll(cx)
    });
    let play = async {
        let (header, body) = peer.request().await.expect("the request");
        assert_eq!(connection.stats().task_polls, before.task_polls, "the sending task wrote it, in its own poll");
        peer.reply(header.correlation_id, &body).await;
    };
    // One after the other, so that no poll of the peer's script counts as one of the caller's.
    let mut caller = pin!(async {
        let reply = counted.await.expect("an answer");
        assert_eq!(reply.body, Bytes::from("lone"));
    });
    poll_fn(|cx| {
        assert!(caller.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    play.await;
    caller.await;

    let after = connection.stats();
    assert_eq!(after.write_calls - before.write_calls, 1);
    assert_eq!(after.frames_written - before.frames_written, 1);
    // The caller is polled twice by hand before it sleeps; each poll after that is a hop.
    let hops = (after.task_polls - before.task_polls) as usize + polls.load(Relaxed) - 2;
    assert!(hops <= 2, "{hops} task hops: the reply wakes the connection, which wakes the caller");
}

#[tokio::test]
async fn a_wave_of_frames_that_wait_for_room_is_one_write() {
    let (connection, mut peer, _tasks) = open(64, ConnectionConfig::default()).await;
    let calls = ["a".repeat(200), "b".repeat(200), "c".repeat(200)].map(|body| {
        let connection = connection.clone();
        tokio::spawn(async move { connection.call(request(body)).await.map(|reply| reply.body) })
    });
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert_eq!(connection.in_flight(), 3);
    for letter in *b"abc" {
        let (header, body) = peer.request().await.expect("a whole frame");
        assert_eq!(body[..], [letter; 200][..]);
        peer.reply(header.correlation_id, &body[..1]).await;
    }
    for (call, letter) in calls.into_iter().zip([b"a", b"b", b"c"]) {
        assert_eq!(call.await.expect("no panic").expect("an answer")[..], letter[..]);
    }
}

#[tokio::test]
async fn requests_are_versioned_encoded_and_decoded() {
    let (connection, mut peer, _tasks) = open(1024, ConnectionConfig::default()).await;
    let play = async {
        let (header, body) = peer.request().await.expect("the request");
        assert_eq!((header.api_key, header.api_version), (i16::from(ApiKey::Heartbeat), 3));
        let asked = HeartbeatRequest::decode_exact(3, body).expect("a heartbeat");
        assert_eq!((&*asked.group_id, asked.generation_id), ("g", 7));
        let mut body = bytes::BytesMut::new();
        let response =
            HeartbeatResponse { error_code: ErrorCode::REBALANCE_IN_PROGRESS, ..HeartbeatResponse::default() };
        response.encode(3, &mut body).expect("it fits");
        peer.reply(header.correlation_id, &body).await;
    };
    let asked = HeartbeatRequest { group_id: "g".into(), generation_id: 7, ..HeartbeatRequest::default() };
    let (answer, ()) = tokio::join!(connection.request(&asked, Some(3), LIMIT), play);
    assert_eq!(answer.expect("an answer").error_code, ErrorCode::REBALANCE_IN_PROGRESS);
}

#[tokio::test]
async fn permits_bound_what_is_in_flight_and_come_back_before_the_handler_runs() {
    let config = ConnectionConfig { max_in_flight: 2, ..ConnectionConfig::default() };
    let (connection, mut peer, _tasks) = open(1024, config).await;
    let free = Arc::new(Mutex::new(None));
    let handler = {
        let (connection, free) = (connection.clone(), Arc::clone(&free));
        move |_reply| *free.lock().expect("no panic holds it") = Some(connection.try_permit().is_some())
    };
    let permit = connection.try_permit().expect("two are free");
    connection.submit(permit, request("first"), Box::new(handler)).expect("open");
    let held = connection.try_permit().expect("one is free");
    assert!(connection.try_permit().is_none(), "two are in use");

    let (header, _) = peer.request().await.expect("the request");
    peer.reply(header.correlation_id, b"").await;
    drop(held);
    let again = connection.permit().await.expect("given back");
    while free.lock().expect("no panic holds it").is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(*free.lock().expect("no panic holds it"), Some(true));
    drop(again);
}

#[tokio::test]
async fn a_request_without_reply_ends_when_it_is_written() {
    let (connection, mut peer, _tasks) = open(64, ConnectionConfig::default()).await;
    let (done, outcome) = tokio::sync::oneshot::channel();
    let permit = connection.try_permit().expect("five are free");
    let mut frame = request("z".repeat(300));
    frame.expects_reply = false;
    connection.submit(permit, frame, Box::new(move |reply| drop(done.send(reply)))).expect("open");
    let call = tokio::spawn({
        let connection = connection.clone();
        async move { connection.call(request("after")).await.map(|reply| reply.body) }
    });
    tokio::task::yield_now().await;
    assert_eq!(connection.in_flight(), 2, "the pipe is full, so it is not written yet");

    assert_eq!(peer.request().await.expect("whole").1[..], [b'z'; 300][..]);
    assert!(outcome.await.expect("its handler runs").expect("written").body.is_empty());
    let (header, _) = peer.request().await.expect("the next");
    peer.reply(header.correlation_id, b"answer").await;
    assert_eq!(call.await.expect("no panic").expect("an answer")[..], b"answer"[..]);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_closes_and_a_used_one_does_not() {
    let (connection, mut peer, tasks) = open(1024, ConnectionConfig::default()).await;
    let start = Instant::now();
    tokio::time::sleep(Duration::from_secs(500)).await;
    let play = async {
        let (header, _) = peer.request().await.expect("the request");
        peer.reply(header.correlation_id, b"").await;
    };
    let (answer, ()) = tokio::join!(connection.call(request("still there")), play);
    answer.expect("an answer");

    connection.closed().await;
    assert_eq!(start.elapsed().as_secs(), 500 + 540);
    assert!(matches!(connection.close_reason().as_deref(), Some(CloseReason::Idle(_))));
    assert!(peer.request().await.is_none(), "the stream is closed although a handle remains");
    tasks.join().await;
    let refused = connection.call(request("too late")).await.expect_err("closed");
    assert!(!refused.written());
}

#[tokio::test(start_paused = true)]
async fn a_throttled_connection_holds_back_and_no_time_limit_runs() {
    let (connection, mut peer, _tasks) = open(1024, ConnectionConfig::default()).await;
    connection.throttle(Duration::from_secs(40));
    assert!(connection.is_throttled());
    let start = Instant::now();
    let play = async {
        let (header, _) = peer.request().await.expect("the request");
        assert_eq!(start.elapsed().as_secs(), 40, "nothing is written before");
        tokio::time::sleep(Duration::from_secs(20)).await;
        peer.reply(header.correlation_id, b"").await;
    };
    let (answer, ()) = tokio::join!(connection.call(request("throttled")), play);
    answer.expect("the limit of 30 s began with the end of the throttle");
}

#[tokio::test(start_paused = true)]
async fn a_throttle_in_an_answer_is_kept_and_lengthens_running_limits() {
    let (connection, mut peer, _tasks) = open(1024, ConnectionConfig::default()).await;
    let mut asks = request("asks");
    asks.api_key = ApiKey::Heartbeat;
    asks.api_version = 2;
    let play = async {
        let (first, _) = peer.request().await.expect("the first request");
        let (second, _) = peer.request().await.expect("the second request");
        peer.reply(first.correlation_id, &[0, 0, 0x75, 0x30, 0, 0]).await;
        tokio::time::sleep(Duration::from_secs(50)).await;
        peer.reply(second.correlation_id, b"late but in time").await;
    };
    let (first, second, ()) = tokio::join!(connection.call(asks), connection.call(request("waits")), play);
    assert_eq!(first.expect("an answer").body.len(), 6);
    assert_eq!(second.expect("30 s of throttle were added").body[..], b"late but in time"[..]);
}

#[tokio::test]
async fn draining_waits_for_no_answer_that_nobody_awaits() {
    for given_up_before in [true, false] {
        let (connection, mut peer, tasks) = open(1024, ConnectionConfig::default()).await;
        let call = tokio::spawn({
            let connection = connection.clone();
            async move { connection.call(request("never answered")).await.map(drop) }
        });
        peer.request().await.expect("the whole request");
        if given_up_before {
            call.abort();
            let _ = call.await;
            connection.close_when_idle();
        } else {
            connection.close_when_idle();
            tokio::task::yield_now().await;
            assert_eq!(tasks.len(), 1, "it is waited for");
            call.abort();
        }
        connection.closed().await;
    }
}

#[tokio::test]
async fn draining_lets_requests_end_and_takes_no_more() {
    let (connection, mut peer, tasks) = open(1024, ConnectionConfig::default()).await;
    let call = tokio::spawn({
        let connection = connection.clone();
        async move { connection.call(request("last")).await.map(|reply| reply.body) }
    });
    let (header, _) = peer.request().await.expect("the request");
    connection.close_when_idle();
    assert!(connection.is_closed());
    let refused = connection.call(request("refused")).await.expect_err("draining");
    assert!(matches!(refused, RequestError::Disconnected { written: false, .. }), "{refused:?}");
    peer.reply(header.correlation_id, b"done").await;
    assert_eq!(call.await.expect("no panic").expect("an answer")[..], b"done"[..]);
    connection.closed().await;
    tasks.join().await;
    assert_eq!(tasks.len(), 0);
}
