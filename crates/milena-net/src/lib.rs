//! Connections to Kafka brokers on tokio: transports, framing, bounded in-flight requests.
#![forbid(unsafe_code)]
