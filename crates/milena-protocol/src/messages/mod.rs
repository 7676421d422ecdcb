//! The messages of Kafka 4.4.0, generated from its schemas.

pub(crate) mod api_keys;
