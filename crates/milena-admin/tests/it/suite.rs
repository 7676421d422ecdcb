//! Every check, on every cluster at hand.

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

        mod real {
            use super::*;
            $(
                #[tokio::test]
                async fn $check() {
                    if let Some(client) = cluster::kafka().await {
                        checks::$check(&client).await;
                    }
                }
            )*
        }
    };
}

suite!(topics, configs, broker_configs, offsets, groups);
