//! For unit tests: what a consumer's parts share, without its tasks, so that a test takes each step itself.

use std::sync::Arc;

use milena_broker::Broker;
use milena_core::consumer::TopicPartition;
use milena_core::consumer::prefetch::{Charge, Wish};

use super::config::ConsumerConfig;
use super::shared::Shared;
use crate::client::Client;
use crate::clock::TimeSource;
use crate::test_link::client_of;

/// Of a client that has nothing else to do; it lives as long as what is returned with it.
pub(super) async fn shared(config: ConsumerConfig) -> (Arc<Shared>, Client) {
    shared_on(Broker::builder().nodes(1).topic("t", 2).build(), config).await
}

/// As [`shared`], on these nodes.
pub(super) async fn shared_on(broker: Broker, config: ConsumerConfig) -> (Arc<Shared>, Client) {
    let client = client_of(broker)
        .clock(TimeSource::virtual_from(std::time::UNIX_EPOCH))
        .build()
        .await
        .expect("the broker answers");
    (Shared::new(Arc::clone(client.inner()), config), client)
}

pub(super) fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

/// As a small fetch has it.
pub(super) fn charge(shared: &Shared) -> Charge {
    let wish = Wish { most: 1, least: 1, slices: 1 };
    shared.client.prefetch.budget.open().reserve(wish, || 0).expect("an account without charges may borrow")
}
