//! For unit tests: a client of an embedded broker, over links inside the process.

use std::io;
use std::sync::Arc;

use milena_broker::Broker;
use milena_net::{BoxFuture, BrokerAddress, Connector, Transport};

use crate::client::{Client, ClientBuilder};

#[derive(Debug)]
struct Link(Broker);

impl Connector for Link {
    fn connect(&self, address: BrokerAddress) -> BoxFuture<'static, io::Result<Transport>> {
        let stream = self.0.connect(address.host(), address.port());
        Box::pin(async move { Ok(Transport::memory(stream?, address.to_string())) })
    }

    fn is_virtual(&self) -> bool {
        true
    }
}

pub(crate) fn client_of(broker: Broker) -> ClientBuilder {
    Client::builder().bootstrap(broker.bootstrap()).expect("addresses").connector(Arc::new(Link(broker)))
}
