//! Links inside the process to an embedded broker.

use std::io;

use milena_broker::Broker;
use milena_client::{BoxFuture, BrokerAddress, Connector, Transport};

#[derive(Debug)]
pub(crate) struct Link(pub(crate) Broker);

impl Connector for Link {
    fn connect(&self, address: BrokerAddress) -> BoxFuture<'static, io::Result<Transport>> {
        let stream = self.0.connect(address.host(), address.port());
        Box::pin(async move { Ok(Transport::memory(stream?, address.to_string())) })
    }

    fn is_virtual(&self) -> bool {
        true
    }
}
