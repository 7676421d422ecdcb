//! An embedded Kafka-protocol broker: a real one as far as clients can tell, in memory, in this process.
//!
//! Tests, demos and development use topics, groups and offsets as in production. In the same process it is reached
//! over in-memory links ([`Broker::connect`]), under a paused clock if need be; any Kafka tool reaches it over TCP
//! ([`Broker::listen`]). Several nodes live in one broker, and [`Faults`] make requests go wrong on purpose.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use milena_broker::Broker;
//!
//! let broker = Broker::builder().nodes(3).topic("orders", 6).build();
//! let addresses = broker.listen("127.0.0.1:0").await?;
//! println!("bootstrap servers: {addresses:?}, or in this process {}", broker.bootstrap());
//! broker.shutdown().await;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod api;
mod broker;
mod builder;
mod clock;
mod cluster;
mod core;
mod fault;
mod fetch_session;
mod group;
mod lock;
mod log;
mod net;
mod request_log;

pub use broker::{Broker, BrokerError};
pub use builder::{BrokerBuilder, BuildError};
pub use cluster::CoordinatorType;
pub use fault::{Fault, FaultId, Faults, Rule};
pub use request_log::RequestCount;
