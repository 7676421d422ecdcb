//! Every check, on the embedded broker and on real Kafka, one node and three (see CONTRIBUTING.md).

use crate::{checks, cluster};

macro_rules! suite {
    ($($check:ident),* $(,)?) => {
        mod embedded {
            use super::*;
            $(
                #[tokio::test(start_paused = true)]
                async fn $check() {
                    let (_broker, client) = cluster::embedded(3).await;
                    checks::$check(&client).await;
                }
            )*
        }

        mod one_node {
            use super::*;
            $(
                #[tokio::test]
                #[ignore = "needs a real Kafka: cargo xtask test"]
                async fn $check() {
                    checks::$check(&cluster::kafka("MILENA_KAFKA_1").await).await;
                }
            )*
        }

        mod three_nodes {
            use super::*;
            $(
                #[tokio::test]
                #[ignore = "needs a real Kafka: cargo xtask test"]
                async fn $check() {
                    checks::$check(&cluster::kafka("MILENA_KAFKA_3").await).await;
                }
            )*
        }
    };
}

suite!(topics, configs, broker_configs, offsets, several_offsets_of_one_partition, groups);
