//! Where each node says it can be reached, which depends on the way a client came: over TCP it is told the TCP
//! addresses of the same listener, over an in-memory link the embedded names.

use std::net::{IpAddr, SocketAddr};

use milena_protocol::NodeId;

use crate::lock::Shared;

/// The port of the embedded names.
pub(crate) const MEMORY_PORT: u16 = 9092;

/// The host name of a node on in-memory links.
pub(crate) fn memory_host(node: NodeId) -> String {
    format!("embedded-{node}")
}

/// The way a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// An in-memory link.
    Memory,
    /// A TCP listener. `local_ip` is the address the client dialled; it is advertised when the listener is bound to
    /// all addresses.
    Tcp { listener: usize, local_ip: IpAddr },
}

/// A host and port to advertise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// The TCP addresses of all listeners; each has one per node.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    listeners: Shared<Vec<Vec<SocketAddr>>>,
}

impl Endpoints {
    /// Adds a listener with its addresses in the order of the nodes; returns its number.
    pub(crate) fn add(&self, addresses: Vec<SocketAddr>) -> usize {
        let mut listeners = self.listeners.write();
        listeners.push(addresses);
        listeners.len() - 1
    }

    /// The address of `node` (by position) on each listener.
    pub(crate) fn addresses_of(&self, node: NodeId) -> Vec<(usize, SocketAddr)> {
        let Ok(position) = usize::try_from(node.0) else { return Vec::new() };
        let listeners = self.listeners.read();
        let addresses = listeners.iter().enumerate();
        addresses.filter_map(|(listener, nodes)| Some((listener, *nodes.get(position)?))).collect()
    }

    /// Where a client that came `via` is told to find `node`.
    pub(crate) fn advertised(&self, node: NodeId, via: Via) -> Endpoint {
        if let Via::Tcp { listener, local_ip } = via {
            let position = usize::try_from(node.0).unwrap_or(usize::MAX);
            let bound = self.listeners.read().get(listener).and_then(|nodes| nodes.get(position)).copied();
            if let Some(address) = bound {
                let ip = if address.ip().is_unspecified() { local_ip } else { address.ip() };
                return Endpoint { host: ip.to_string(), port: address.port() };
            }
        }
        Endpoint { host: memory_host(node), port: MEMORY_PORT }
    }
}
