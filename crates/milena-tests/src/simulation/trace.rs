//! What happened, when, in one number: two runs that agree in it did the same, byte for byte.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::lock;

/// Notes events with their virtual time; may print them.
#[derive(Debug)]
pub(super) struct Trace {
    started: Instant,
    hash: Mutex<u64>,
    prints: bool,
}

impl Trace {
    pub(super) fn new(prints: bool) -> Self {
        Self { started: Instant::now(), hash: Mutex::new(0xcbf2_9ce4_8422_2325), prints }
    }

    pub(super) fn note(&self, what: fmt::Arguments<'_>) {
        let line = format!("{:>12.6}  {what}", self.started.elapsed().as_secs_f64());
        // FNV-1a: this only has to tell runs apart.
        let mut hash = lock(&self.hash);
        for byte in line.bytes().chain([b'\n']) {
            *hash = (*hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.prints {
            eprintln!("{line}");
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn hash(&self) -> u64 {
        *lock(&self.hash)
    }
}
