//! What every message is made of: integers, varints, strings, bytes, arrays and tagged fields, read and written in
//! either of Kafka's two encodings (KIP-482 calls the newer one *flexible*). Knows no message.

mod reader;
mod str_bytes;
#[cfg(test)]
mod tests;
mod uuid;
mod writer;

pub(crate) use reader::Reader;
pub use str_bytes::StrBytes;
pub use uuid::{ParseUuidError, Uuid};
pub(crate) use writer::Writer;
