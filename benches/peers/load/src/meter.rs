//! What a run costs: CPU of this process alone, user and system, all threads; wall time; allocations where they are
//! counted; peak memory.

use std::fs;
use std::time::{Duration, Instant};

use cpu_time::ProcessTime;
use stats_alloc::Stats;

use crate::{Counter, Failure};

/// Runs from the end of the warm-up.
pub struct Meter {
    cpu: ProcessTime,
    start: Instant,
    counter: Option<(&'static Counter, Stats)>,
}

/// What a run did and cost.
#[derive(Debug)]
pub struct Measured {
    /// Records acknowledged, or received.
    pub(crate) records: usize,
    /// Bytes of keys and values received: the same for all, or somebody lost some. 0 for a producer.
    pub(crate) payload_bytes: u64,
    /// Time from a record's send to its acknowledgement, of one in 1,024.
    pub(crate) latencies: Vec<Duration>,
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
    /// How often, and how many bytes.
    pub(crate) allocated: Option<(usize, usize)>,
}

impl Meter {
    /// Starts.
    pub fn start(counter: Option<&'static Counter>) -> Self {
        Self {
            counter: counter.map(|counter| (counter, counter.stats())),
            start: Instant::now(),
            cpu: ProcessTime::now(),
        }
    }

    /// Stops, when the last record is acknowledged and before anything is closed.
    pub fn acknowledged(self, records: usize, latencies: Vec<Duration>) -> Measured {
        Measured { latencies, ..self.stop(records) }
    }

    /// Stops, when the last record is received and before anything is closed.
    pub fn received(self, records: usize, payload_bytes: u64) -> Measured {
        Measured { payload_bytes, ..self.stop(records) }
    }

    fn stop(self, records: usize) -> Measured {
        let (cpu, wall) = (self.cpu.elapsed(), self.start.elapsed());
        let allocated = self.counter.map(|(counter, before)| {
            let change = counter.stats() - before;
            (change.allocations + change.reallocations, change.bytes_allocated)
        });
        Measured { records, payload_bytes: 0, latencies: Vec::new(), cpu, wall, allocated }
    }
}

/// Most memory that this process ever had resident, in bytes.
pub(crate) fn peak_resident() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM in /proc/self/status")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}
