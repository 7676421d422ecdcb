//! The clusters that a check may run on: an embedded broker over TCP, or a real Kafka that `cargo xtask test` names in
//! `MILENA_KAFKA_1` and `MILENA_KAFKA_3`. Where the variable is missing the check fails: nothing is skipped in silence.

use std::time::SystemTime;

use milena_broker::Broker;
use milena_client::Client;
use milena_client::raw::Target;
use milena_protocol::ErrorCode;
use milena_protocol::messages::CreateTopicsRequest;
use milena_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};

/// Where a check runs.
pub(crate) struct Cluster {
    servers: String,
    replicas: i16,
    /// Serves for as long as the check runs.
    _broker: Option<Broker>,
}

impl Cluster {
    /// Ours, for this check alone, with the settings of the real ones: topics must be created.
    pub(crate) async fn embedded(nodes: u16) -> Self {
        let selector = "org.apache.kafka.common.replica.RackAwareReplicaSelector";
        let broker = Broker::builder().nodes(nodes).auto_create(false).config("replica.selector.class", selector);
        let broker = broker.racks((0..nodes).map(|node| format!("r{node}"))).build();
        let addresses = broker.listen("127.0.0.1:0").await.expect("a free port");
        let servers = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        Self { servers, replicas: nodes.cast_signed(), _broker: Some(broker) }
    }

    /// The real one in `variable`.
    pub(crate) fn real(variable: &str, replicas: i16) -> Self {
        let servers = std::env::var(variable).unwrap_or_else(|_| {
            panic!("{variable} isn't set: run `cargo xtask test`, or set it to what `cargo xtask kafka up` prints")
        });
        Self { servers, replicas, _broker: None }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::builder().bootstrap(&self.servers).expect("addresses").build().await.expect("the cluster answers")
    }

    /// A new topic that no other check uses, and that serves.
    pub(crate) async fn topic(&self, client: &Client, name: &str, partitions: i32) -> String {
        self.topic_with(client, name, partitions, &[]).await
    }

    /// As [`Self::topic`], with settings.
    pub(crate) async fn topic_with(
        &self,
        client: &Client,
        name: &str,
        partitions: i32,
        configs: &[(&str, &str)],
    ) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_nanos();
        let topic = format!("{name}-{now}");
        // The rig's records are old: Kafka's retention would delete them under the tests' eyes.
        let configs = [("retention.ms", "-1")].iter().chain(configs);
        let configs = configs.map(|(name, value)| CreatableTopicConfig {
            name: (*name).to_owned().into(),
            value: Some((*value).to_owned().into()),
        });
        let request = CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: topic.clone().into(),
                num_partitions: partitions,
                replication_factor: self.replicas,
                configs: configs.collect(),
                ..CreatableTopic::default()
            }],
            timeout_ms: 30_000,
            ..CreateTopicsRequest::default()
        };
        let created = client.raw().send(Target::Controller, request).await.expect("the controller answers");
        assert_eq!(created.topics[0].error_code, ErrorCode::NONE, "{created:?}");
        client.partitions(&topic).await.expect("it was created");
        topic
    }
}

/// Makes a test of each named function (`async fn(Cluster)`) on the embedded broker, and on one real node and three.
macro_rules! on_every_cluster {
    ($($function:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $function() {
                super::$function($crate::cluster::Cluster::embedded(3).await).await;
            })+
        }
        mod one_node {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "needs a real Kafka: cargo xtask test"]
            async fn $function() {
                super::$function($crate::cluster::Cluster::real("MILENA_KAFKA_1", 1)).await;
            })+
        }
        mod three_nodes {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "needs a real Kafka: cargo xtask test"]
            async fn $function() {
                super::$function($crate::cluster::Cluster::real("MILENA_KAFKA_3", 3)).await;
            })+
        }
    };
}

pub(crate) use on_every_cluster;
