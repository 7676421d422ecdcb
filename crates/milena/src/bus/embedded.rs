//! Joins the client to an embedded broker by links inside the process.

use std::io;

use milena_broker::Broker;
use milena_client::{BoxFuture, BrokerAddress, Connector, Transport};

/// Opens links to the nodes of one embedded broker.
#[derive(Debug)]
pub(super) struct EmbeddedConnector {
    broker: Broker,
}

impl EmbeddedConnector {
    pub(super) fn new(broker: Broker) -> Self {
        Self { broker }
    }
}

impl Connector for EmbeddedConnector {
    fn connect(&self, address: BrokerAddress) -> BoxFuture<'static, io::Result<Transport>> {
        let broker = self.broker.clone();
        Box::pin(async move {
            let link = broker.connect(address.host(), address.port())?;
            Ok(Transport::memory(link, address.to_string()))
        })
    }

    fn is_virtual(&self) -> bool {
        true
    }
}
