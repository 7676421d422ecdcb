//! Administration of a Kafka cluster: topics, partitions, configs, groups, offsets.
#![forbid(unsafe_code)]
