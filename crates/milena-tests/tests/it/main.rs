//! The whole stack, and the embedded broker beside Kafka. How the tests are sorted is said in the library.

mod client;
mod java_tools;
mod records;
mod wire_groups;
mod wire_logs;
mod wire_topics;
