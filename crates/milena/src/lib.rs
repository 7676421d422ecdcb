//! An event bus on Kafka: typed events, order per aggregate, a failure policy. Runs embedded or on a cluster.
#![forbid(unsafe_code)]
