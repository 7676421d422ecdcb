//! The whole stack, and the embedded broker beside Kafka. How the tests are sorted is said in the library.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test itself")]

mod bus;
mod client;
mod disturbed;
mod java_tools;
mod proxy;
mod records;
mod simulation;
mod stall;
mod wire_fetches;
mod wire_groups;
mod wire_logs;
mod wire_produce;
mod wire_rebalances;
mod wire_topics;
