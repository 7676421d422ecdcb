//! What a conformance test runs on: an embedded broker or a real Kafka, told apart only by how they are started. Both are
//! reached over TCP, so that a test is one function for both, and a difference between them a bug of the former.

use std::fmt;

use milena_broker::Broker;

use crate::kafka::Kafka;
use crate::kafka::Outcome;

/// A cluster, started for one test or shared by many.
pub enum Cluster {
    /// Ours, in this process, for this test alone.
    Embedded {
        /// The broker itself, for faults and for looking inside.
        broker: Broker,
        /// Its addresses.
        bootstrap: String,
    },
    /// A real one, shared with other tests: names must be unique.
    Real(Kafka),
}

impl Cluster {
    /// An embedded cluster of `n_nodes` with the settings of the real ones: topics must be created.
    ///
    /// # Errors
    /// It can't listen on the loopback address.
    pub async fn embedded(n_nodes: u16) -> Outcome<Self> {
        let broker = Broker::builder().nodes(n_nodes).auto_create(false).try_build()?;
        let addresses = broker.listen("127.0.0.1:0").await?;
        let bootstrap = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        Ok(Self::Embedded { broker, bootstrap })
    }

    /// The real cluster of one node.
    ///
    /// # Errors
    /// As [`Kafka::one_node`].
    pub fn one_node() -> Outcome<Self> {
        Kafka::one_node().map(Self::Real)
    }

    /// The real cluster of three nodes.
    ///
    /// # Errors
    /// As [`Kafka::three_nodes`].
    pub fn three_nodes() -> Outcome<Self> {
        Kafka::three_nodes().map(Self::Real)
    }

    /// The addresses of all nodes, `host:port,…`.
    #[must_use]
    pub fn bootstrap(&self) -> &str {
        match self {
            Self::Embedded { bootstrap, .. } => bootstrap,
            Self::Real(kafka) => kafka.bootstrap(),
        }
    }

    /// A name that no other test uses.
    #[must_use]
    pub fn unique(&self, name: &str) -> String {
        format!("{name}-{:016x}", fastrand::u64(..))
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if matches!(self, Self::Embedded { .. }) { "embedded" } else { "real" };
        write!(formatter, "Cluster({kind}, {})", self.bootstrap())
    }
}

/// Makes a test of each named function (`async fn(Cluster)`) on every kind of cluster: in the modules `embedded` and
/// `embedded_three`, and, left for `cargo xtask test`, `one_node` and `three_nodes`.
#[macro_export]
macro_rules! on_every_cluster {
    ($($function:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $function() {
                super::$function($crate::cluster::Cluster::embedded(1).await.unwrap()).await;
            })+
        }
        mod embedded_three {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $function() {
                super::$function($crate::cluster::Cluster::embedded(3).await.unwrap()).await;
            })+
        }
        mod one_node {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "needs a real Kafka: cargo xtask test"]
            async fn $function() {
                super::$function($crate::cluster::Cluster::one_node().unwrap()).await;
            })+
        }
        mod three_nodes {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "needs a real Kafka: cargo xtask test"]
            async fn $function() {
                super::$function($crate::cluster::Cluster::three_nodes().unwrap()).await;
            })+
        }
    };
}
