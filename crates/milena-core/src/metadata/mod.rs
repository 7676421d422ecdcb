//! What is known of the cluster, and when to ask again.
//!
//! [`ClusterSnapshot`] is one consistent view, shared by `Arc` and never changed; [`Metadata`] is the machine that
//! makes each from the last and an answer. Neither holds a socket or a clock.

mod machine;
mod merge;
mod shared_map;
mod snapshot;

pub use machine::{LeaderHint, Metadata, MetadataConfig, MetadataError, MetadataQuery};
pub use snapshot::{BrokerMetadata, ClusterSnapshot, PartitionMetadata, TopicMetadata};
