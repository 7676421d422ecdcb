//! Senders and the connection's task take turns at the stream: no frame may be left between them.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use milena_net::{BoxFuture, BrokerAddress, Connection, ConnectionConfig, Connector, RequestFrame, Transport};
use tokio::io::{AsyncWrite, DuplexStream, WriteHalf};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::peer::{LIMIT, Peer, address, open, request, tasks};

type Meanwhile = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// A stream on which something happens once, while its writer is in use.
struct Interrupted {
    stream: Mutex<Option<DuplexStream>>,
    meanwhile: Meanwhile,
}

impl fmt::Debug for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Interrupted")
    }
}

impl Connector for Interrupted {
    fn connect(&self, _: BrokerAddress) -> BoxFuture<'static, io::Result<Transport>> {
        let stream = self.stream.lock().expect("no panic holds it").take().expect("one dial");
        let (reader, writer) = tokio::io::split(stream);
        let writer = Writer { inner: writer, meanwhile: Arc::clone(&self.meanwhile) };
        let transport = Transport { reader: Box::new(reader), writer: Box::new(writer), peer: "played".into() };
        Box::pin(async move { Ok(transport) })
    }

    fn is_virtual(&self) -> bool {
        true
    }
}

struct Writer {
    inner: WriteHalf<DuplexStream>,
    meanwhile: Meanwhile,
}

impl AsyncWrite for Writer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let meanwhile = self.meanwhile.lock().expect("no panic holds it").take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

fn later(connection: &Connection, frame: RequestFrame) -> (Box<dyn FnOnce() + Send>, oneshot::Receiver<Bytes>) {
    let (connection, permit) = (connection.clone(), connection.try_permit().expect("a permit"));
    let (answer, answered) = oneshot::channel();
    let submit = move || {
        let handler = |reply: Result<milena_net::ReplyFrame, _>| {
            answer.send(reply.expect("an answer").body).expect("the test waits");
        };
        connection.submit(permit, frame, Box::new(handler)).expect("the connection is open");
    };
    (Box::new(submit), answered)
}

#[tokio::test(start_paused = true)]
async fn a_frame_submitted_while_the_task_has_the_stream_is_written_at_once() {
    let (client, broker) = tokio::io::duplex(1024);
    let meanwhile = Meanwhile::default();
    let connector = Interrupted { stream: Mutex::new(Some(client)), meanwhile: Arc::clone(&meanwhile) };
    let mut peer = Peer { stream: broker };
    let tasks = tasks();
    let (connection, ()) =
        tokio::join!(Connection::connect(&connector, address(), ConnectionConfig::default(), &tasks), peer.handshake());
    let connection = connection.expect("the handshake succeeds");

    let first = tokio::spawn({
        let connection = connection.clone();
        async move { connection.call(request("first")).await.expect("an answer").body }
    });
    let (header, body) = peer.request().await.expect("the first request");
    // The reply wakes the task, which looks for something to write; while it has the stream, the second one comes.
    let (submit, answered) = later(&connection, request("second"));
    *meanwhile.lock().expect("no panic holds it") = Some(submit);
    let start = Instant::now();
    peer.reply(header.correlation_id, &body).await;
    assert_eq!(first.await.expect("no panic"), "first");
    let (header, body) = peer.request().await.expect("the second request");
    assert!(start.elapsed() < Duration::from_secs(1), "written {:?} late", start.elapsed());
    peer.reply(header.correlation_id, &body).await;
    assert_eq!(answered.await.expect("an answer"), "second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_call_waits_for_another_to_be_written() {
    let config = ConnectionConfig { max_in_flight: 64, ..ConnectionConfig::default() };
    let (connection, peer, _tasks) = open(64 * 1024, config).await;
    tokio::spawn(peer.echo());
    let callers = (0..8_u32).map(|caller| {
        let connection = connection.clone();
        tokio::spawn(async move {
            for call in 0..2_000_u32 {
                let body = Bytes::from(format!("{caller} {call}"));
                let answer = timeout(LIMIT / 3, connection.call(request(body.clone()))).await;
                assert_eq!(answer.expect("written at once").expect("an answer").body, body);
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.expect("every call was answered");
    }
}
