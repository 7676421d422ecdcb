//! The clusters under test.

use std::fmt;
use std::io;
use std::sync::Arc;

use milena_broker::Broker;
use milena_client::{BoxFuture, BrokerAddress, Client, Connector, Transport};

struct Links(Broker);

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Links")
    }
}

impl Connector for Links {
    fn connect(&self, address: BrokerAddress) -> BoxFuture<'static, io::Result<Transport>> {
        let link = self.0.connect(address.host(), address.port());
        Box::pin(async move { Ok(Transport::memory(link?, address.to_string())) })
    }

    fn is_virtual(&self) -> bool {
        true
    }
}

/// An embedded broker that creates no topic by itself, and a client of it.
pub(crate) async fn embedded(nodes: u16) -> (Broker, Client) {
    let broker = Broker::builder().nodes(nodes).auto_create(false).build();
    let builder = Client::builder().bootstrap(broker.bootstrap()).expect("addresses of the broker");
    let client = builder.connector(Arc::new(Links(broker.clone()))).seed(1).build().await;
    (broker, client.expect("the broker answers"))
}

/// A client of the real Kafka in `variable`. Where it is missing the check fails: nothing is skipped in silence.
pub(crate) async fn kafka(variable: &str) -> Client {
    let servers = std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} isn't set: run `cargo xtask test`, or set it to what `cargo xtask kafka up` prints")
    });
    let builder = Client::builder().bootstrap(servers).expect("addresses");
    builder.build().await.expect("Kafka answers")
}

/// A name that no other run uses.
pub(crate) fn unique(name: &str) -> String {
    format!("milena-admin-{name}-{:08x}", random())
}

fn random() -> u32 {
    use std::hash::{BuildHasher as _, RandomState};
    (RandomState::new().hash_one(std::process::id()) >> 32) as u32
}
