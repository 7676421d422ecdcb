//! Keys and values like those of JSON events, other from record to record, written before anything is measured.
//!
//! They live as long as the process, so that a client which can take them without a copy may do so.

use crate::arguments::KEY_BYTES;

/// Distinct bytes before they come round again: several batches, so that no compressor and no branch predictor has an
/// easier life than with real data.
const DISTINCT_BYTES: usize = 4 * 1024 * 1024;

/// One record.
#[derive(Clone, Copy, Debug)]
pub struct Payload {
    /// 16 bytes.
    pub key: &'static [u8],
    /// As many bytes as the arguments say.
    pub value: &'static [u8],
}

/// The records to send, in a circle.
#[derive(Clone, Copy, Debug)]
pub struct Payloads(&'static [Payload]);

impl Payloads {
    /// Writes them.
    pub fn write(value_bytes: usize) -> Self {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let records = (DISTINCT_BYTES / (value_bytes + KEY_BYTES)).clamp(64, 65_536);
        Self((0..records).map(|_| payload(&mut seed, value_bytes)).collect::<Vec<_>>().leak())
    }

    /// The records that a task sends, each task beginning at another. An iterator, so that no division is paid per record.
    pub fn from_task(self, task: usize) -> impl Iterator<Item = Payload> + Send {
        self.0.iter().copied().cycle().skip(task * 7919 % self.0.len())
    }
}

fn payload(seed: &mut u64, bytes: usize) -> Payload {
    let mut next = || {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed
    };
    let key = format!("{:016x}", next()).into_bytes().leak();
    let mut value = Vec::with_capacity(bytes + 64);
    while value.len() < bytes {
        let text = format!("{{\"order\":\"{:08x}\",\"cents\":{},\"state\":\"paid\"}},", next() as u32, next() % 10_000);
        value.extend_from_slice(text.as_bytes());
    }
    value.truncate(bytes);
    Payload { key, value: value.leak() }
}
