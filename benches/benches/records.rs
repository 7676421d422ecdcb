//! What each piece of work costs in time: `cargo bench -p milena-benches`, with a part of a name to run only that.
//! Times are a quiet machine's; `cargo xtask instructions` counts what the machine does not matter to.

use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};
use milena_benches::workloads::WORKLOADS;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for workload in &WORKLOADS {
        let mut group = criterion.benchmark_group("records");
        group.throughput(Throughput::Elements(workload.records as u64));
        group.bench_function(workload.name, |bencher| {
            let run = |mut work: milena_benches::workloads::Work| {
                work(workload.records);
                // Given back, so that what was prepared is not dropped on the clock.
                work
            };
            bencher.iter_batched(workload.prepare, run, BatchSize::PerIteration);
        });
        group.finish();
    }
    criterion.final_summary();
}
