//! What this process has used so far: CPU time and peak memory.

use std::time::Duration;

use cpu_time::ProcessTime;

/// CPU time (user and system) of this process, measured from a start.
#[derive(Debug)]
pub(crate) struct CpuMeter(ProcessTime);

impl CpuMeter {
    pub(crate) fn start() -> Self {
        Self(ProcessTime::now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// The largest resident size of this process so far, in MiB, as Linux tells it; `None` elsewhere.
pub(crate) fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_memory() {
        if cfg!(target_os = "linux") {
            assert!(peak_rss_mib().unwrap() > 0.1);
        }
    }
}
