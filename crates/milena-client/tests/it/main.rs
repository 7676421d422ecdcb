//! The client against the embedded broker, and against peers that are played step by step.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test itself")]

mod base;
mod cluster;
mod consumer_aside;
mod consumer_assigned;
mod consumer_close;
mod consumer_commits;
mod consumer_costs;
mod consumer_decoding;
mod consumer_group;
mod consumer_latency;
mod consumer_listing;
mod consumer_outages;
mod consumer_parked;
mod consumer_pauses;
mod consumer_prefetch;
mod consumer_real;
mod consumer_replicas;
mod consumer_rig;
mod consumer_scale;
mod consumer_truncation;
mod counted_link;
mod link;
mod producer_basics;
mod producer_cancel;
mod producer_compression;
mod producer_costs;
mod producer_faults;
mod producer_handles;
mod producer_identity;
mod producer_idle;
mod producer_log;
mod producer_ordering;
mod producer_partitioning;
mod producer_real;
mod producer_recreated;
