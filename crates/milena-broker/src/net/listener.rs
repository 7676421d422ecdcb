//! A node's TCP listener: accepts until its node stops.

use std::{net::SocketAddr, sync::Arc};

use milena_protocol::NodeId;
use tokio::net::TcpListener;
use tracing::{debug, warn};

use super::{Via, connection::Link, serve};
use crate::core::{Core, NodeRun};

/// Accepts connections to `node` on `socket` in a task that ends when `run` does.
pub(crate) fn listen(core: &Arc<Core>, node: NodeId, listener: usize, socket: TcpListener, mut run: NodeRun) {
    let core = Arc::clone(core);
    tokio::spawn(async move {
        let accepting = async {
            loop {
                match socket.accept().await {
                    Ok((stream, peer)) => accept(&core, node, listener, stream, peer),
                    // Out of descriptors, or the peer was gone before it was accepted: the next one may do better.
                    Err(error) => {
                        warn!(%node, %error, "accept failed");
                        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    }
                }
            }
        };
        tokio::select! {
            () = run.stopped.wait() => {}
            () = accepting => {}
        }
    });
}

fn accept(core: &Arc<Core>, node: NodeId, listener: usize, stream: tokio::net::TcpStream, peer: SocketAddr) {
    let Some(run) = core.enter(node) else {
        debug!(%node, %peer, "connection refused: the node is stopping or has too many connections");
        return;
    };
    let Ok(local) = stream.local_addr() else { return };
    // Best effort: a connection without it is only slower.
    let _ = stream.set_nodelay(true);
    let link = Link { node, via: Via::Tcp { listener, local_ip: local.ip() }, peer: peer.ip().to_string() };
    tokio::spawn(serve(Arc::clone(core), link, stream, run));
}
