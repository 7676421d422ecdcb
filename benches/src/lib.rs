//! What is measured with: a broker that answers at once, over TCP or inside the process, pieces of work whose cost is
//! counted per record, and the same payloads each time.
#![forbid(unsafe_code)]

pub mod answer_at_once;
pub mod link;
pub mod payloads;
pub mod workloads;
