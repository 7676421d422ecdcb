//! One line of JSON for a run.

use serde::Serialize;

use crate::Failure;
use crate::arguments::{Arguments, Mode};
use crate::meter::{Measured, peak_resident};

#[derive(Serialize)]
struct Line<'a> {
    client: &'a str,
    records: usize,
    payload_bytes: u64,
    cpu_us_per_record: f64,
    records_per_second: f64,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
    allocations_per_record: Option<f64>,
    allocated_bytes_per_record: Option<f64>,
    peak_resident_mib: f64,
}

/// What is printed; a failure when not every record was acknowledged or received.
pub(crate) fn line(client: &str, arguments: &Arguments, mut measured: Measured) -> Result<String, Failure> {
    if measured.records != arguments.records {
        let what = if arguments.mode == Mode::Consume { "received" } else { "acknowledged" };
        return Err(format!("{} of {} records {what}", measured.records, arguments.records).into());
    }
    let records = measured.records as f64;
    measured.latencies.sort_unstable();
    let percentile = |percent: usize| {
        let last = measured.latencies.len().checked_sub(1)?;
        Some(measured.latencies[last * percent / 100].as_secs_f64() * 1e6)
    };
    let line = Line {
        client,
        records: measured.records,
        payload_bytes: measured.payload_bytes,
        cpu_us_per_record: measured.cpu.as_secs_f64() * 1e6 / records,
        records_per_second: records / measured.wall.as_secs_f64(),
        p50_us: percentile(50),
        p99_us: percentile(99),
        allocations_per_record: measured.allocated.map(|(times, _)| times as f64 / records),
        allocated_bytes_per_record: measured.allocated.map(|(_, bytes)| bytes as f64 / records),
        peak_resident_mib: peak_resident()? as f64 / f64::from(1 << 20),
    };
    Ok(serde_json::to_string(&line)?)
}
