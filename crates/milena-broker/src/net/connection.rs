//! One connection: frames in, answers out in the order of the requests.
//!
//! Like Kafka's `SocketServer`, a connection is muted while one of its requests is being answered: a long poll holds
//! back what is behind it on the same connection, and nothing else. Whatever a client sends, only its own connection
//! ends.

use std::{io, sync::Arc, time::Duration};

use milena_protocol::{NodeId, frame::FrameDecoder};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tracing::{debug, warn};

use super::Via;
use crate::{
    api::{self, Disconnect, Reply},
    core::{Core, NodeRun},
};

/// The most one read may bring; also what a frame's memory grows by.
const READ_CHUNK: usize = 64 * 1024;

/// Who is connected to whom.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) node: NodeId,
    pub(crate) via: Via,
    /// The client's host, for DescribeGroups and logs.
    pub(crate) peer: String,
}

/// Answers a connection until the client leaves, sends nonsense, or the node stops.
pub(crate) async fn serve<S>(core: Arc<Core>, link: Link, stream: S, mut run: NodeRun)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let ended = tokio::select! {
        biased;
        () = run.stopped.wait() => return,
        ended = exchange(&core, &link, stream) => ended,
    };
    match ended {
        Ok(()) => {}
        Err(Disconnect::Io(error)) => debug!(node = %link.node, peer = %link.peer, %error, "connection lost"),
        Err(reason @ (Disconnect::Idle | Disconnect::Fault)) => {
            debug!(node = %link.node, peer = %link.peer, %reason, "connection closed");
        }
        Err(reason) => warn!(node = %link.node, peer = %link.peer, %reason, "connection closed"),
    }
}

async fn exchange<S>(core: &Arc<Core>, link: &Link, mut stream: S) -> Result<(), Disconnect>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limit = usize::try_from(core.cluster.config.int("socket.request.max.bytes")).unwrap_or(usize::MAX);
    let idle = u64::try_from(core.cluster.config.long("connections.max.idle.ms")).ok().map(Duration::from_millis);
    let mut frames = FrameDecoder::new(limit);
    // The client has left. What it had written by then is served all the same, as Kafka serves what it has received:
    // a client that gave a request up can't know what becomes of those behind it.
    let mut deserted = false;
    loop {
        let frame = loop {
            if let Some(frame) = frames.next_frame()? {
                break frame;
            }
            let wanted = frames.missing().unwrap_or(0).clamp(4 * 1024, READ_CHUNK);
            let buffer = frames.buffer();
            buffer.reserve(wanted);
            let reading = stream.read_buf(buffer);
            let received = match idle {
                Some(idle) => tokio::time::timeout(idle, reading).await.map_err(|_| Disconnect::Idle)?,
                None => reading.await,
            }?;
            if received == 0 {
                // Half a frame means that the client was cut off, which is its own affair.
                return Ok(());
            }
        };
        if let Some(reply) = api::answer(core, link, frame).await? {
            if !deserted && let Err(error) = write(&mut stream, &reply).await {
                debug!(node = %link.node, peer = %link.peer, %error, "nobody waits for the answer");
                deserted = true;
            }
            if reply.cut_after.is_some() {
                return Err(Disconnect::Fault);
            }
            // KIP-219: the answer goes out at once, then the connection is muted for as long.
            if !reply.throttle.is_zero() {
                tokio::time::sleep(reply.throttle).await;
            }
        }
    }
}

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, reply: &Reply) -> io::Result<()> {
    let end = reply.cut_after.map_or(reply.frame.len(), |bytes| bytes.min(reply.frame.len()));
    stream.write_all(&reply.frame[..end]).await?;
    stream.flush().await
}
