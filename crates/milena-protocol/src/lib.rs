//! The Kafka wire protocol: messages, record batches, compression. No I/O, no clock.
#![forbid(unsafe_code)]

mod api_key;
mod codec;
mod error;
mod error_code;
mod ids;
mod primitives;

pub use api_key::{ApiKey, UnknownApiKey};
pub use codec::{Decode, Encode, Message, Request, VersionRange};
pub use error::{DecodeError, EncodeError};
pub use error_code::ErrorCode;
pub use ids::{GroupId, NodeId, ProducerId, TopicName, TransactionalId};
pub use primitives::{ParseUuidError, StrBytes, Uuid};

pub mod compress;
pub mod fetch;
pub mod frame;
pub mod messages;
pub mod produce;
pub mod record;
