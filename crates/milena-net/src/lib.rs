//! Connections to Kafka brokers on tokio: transports, framing, bounded in-flight requests, a pool.
//!
//! Knows no topics, no groups, no batches and no retry policy: it moves frames, matches answers, keeps time limits and
//! says what became of each request. Times are tokio's, so that a paused clock drives it over an in-memory link.
#![forbid(unsafe_code)]

mod address;
mod connection;
mod pool;
mod task_set;
mod throttle;
mod transport;
pub mod watch;

pub use address::{AddressError, BrokerAddress};
pub use connection::{
    CloseReason, ConnectError, Connection, ConnectionConfig, ConnectionStats, NotKafka, Permit, Rejected, ReplyFrame,
    RequestError, RequestFrame, ResponseHandler,
};
pub use pool::{Broker, Pool, PoolConfig, Purpose};
pub use task_set::{TaskSet, TaskSetClosed};
pub use transport::{BoxFuture, Connector, TcpConnector, Transport};
