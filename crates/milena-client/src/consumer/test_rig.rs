//! For unit tests: what a consumer's parts share, without its tasks, so that a test takes each step itself.

use std::io;
use std::sync::Arc;

use milena_broker::Broker;
use milena_core::consumer::TopicPartition;
use milena_net::{BoxFuture, BrokerAddress, Connector, Transport};

use super::config::ConsumerConfig;
use super::shared::Shared;
use crate::client::Client;
use crate::clock::TimeSource;

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

/// Of a client that has nothing else to do; it lives as long as what is returned with it.
pub(super) async fn shared(config: ConsumerConfig) -> (Arc<Shared>, Client) {
    let broker = Broker::builder().nodes(1).topic("t", 2).build();
    let bootstrap = broker.bootstrap();
    let client = Client::builder()
        .bootstrap(bootstrap)
        .expect("addresses")
        .connector(Arc::new(Link(broker)))
        .clock(TimeSource::virtual_from(std::time::UNIX_EPOCH))
        .build()
        .await
        .expect("the broker answers");
    (Shared::new(Arc::clone(client.inner()), config), client)
}

pub(super) fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}
