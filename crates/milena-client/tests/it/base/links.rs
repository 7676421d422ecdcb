//! The embedded broker as these tests reach it: over in-memory links that can be pointed elsewhere, or nowhere.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use milena_broker::Broker;
use milena_client::{BoxFuture, BrokerAddress, Client, ClientBuilder, Connector, Transport};

/// Opens links to an embedded broker, and notes which hosts were dialled.
pub(crate) struct Links {
    broker: Broker,
    routes: Mutex<BTreeMap<String, Route>>,
    dials: Mutex<Vec<String>>,
}

/// Where a host leads that is not simply a node of the broker.
#[derive(Clone)]
pub(crate) enum Route {
    /// To a node of a broker.
    Node(Broker, &'static str),
    /// Nowhere: connections are refused.
    Refused,
}

impl Links {
    pub(crate) fn new(broker: &Broker) -> Arc<Self> {
        Arc::new(Self { broker: broker.clone(), routes: Mutex::default(), dials: Mutex::default() })
    }

    pub(crate) fn route(&self, host: &str, route: Route) {
        self.routes.lock().expect("no panic holds it").insert(host.to_owned(), route);
    }

    /// How often a host was dialled.
    pub(crate) fn dials(&self, host: &str) -> usize {
        self.dials.lock().expect("no panic holds it").iter().filter(|dialled| *dialled == host).count()
    }

    fn open(&self, address: &BrokerAddress) -> io::Result<Transport> {
        let host = address.host().to_owned();
        self.dials.lock().expect("no panic holds it").push(host.clone());
        let route = self.routes.lock().expect("no panic holds it").get(&host).cloned();
        let link = match route {
            None => self.broker.connect(&host, address.port())?,
            Some(Route::Node(broker, node)) => broker.connect(node, address.port())?,
            Some(Route::Refused) => return Err(io::ErrorKind::ConnectionRefused.into()),
        };
        Ok(Transport::memory(link, address.to_string()))
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Links")
    }
}

impl Connector for Links {
    fn connect(&self, address: BrokerAddress) -> BoxFuture<'static, io::Result<Transport>> {
        let opened = self.open(&address);
        Box::pin(async move { opened })
    }

    fn is_virtual(&self) -> bool {
        true
    }
}

/// A client of `broker`, to be set up further.
pub(crate) fn builder(broker: &Broker) -> ClientBuilder {
    let builder = Client::builder().bootstrap(broker.bootstrap()).expect("addresses of the broker");
    builder.connector(Links::new(broker)).seed(1)
}

/// A client of `broker`.
pub(crate) async fn client(broker: &Broker) -> Client {
    builder(broker).build().await.expect("the broker answers")
}
