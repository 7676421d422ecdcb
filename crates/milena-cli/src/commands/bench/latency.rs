//! One record at a time, each acknowledgement awaited before the next is sent.

use std::time::Instant;

use milena_client::Client;
use milena_client::producer::Record;

use super::payload::Payload;
use super::{Measured, histogram, micros};
use crate::args::BenchArgs;
use crate::connect;
use crate::failure::{Failure, Trying as _};
use crate::usage::CpuMeter;

/// Sends that are not counted: connections, metadata and producer id come first.
const WARM_UP: u64 = 100;

pub(crate) async fn run(client: &Client, args: &BenchArgs, topic: &str, records: u64) -> Result<Measured, Failure> {
    let producer = connect::producer(client, args.compression)?;
    let payload = Payload::new(args.size as usize);
    let mut latency = histogram();
    let (mut cpu, mut started) = (CpuMeter::start(), Instant::now());
    for index in 0..WARM_UP + records {
        if index == WARM_UP {
            (cpu, started) = (CpuMeter::start(), Instant::now());
        }
        let key = Payload::key(index);
        let sent = Instant::now();
        let delivery = producer.send(Record::to(topic).key(&key).value(payload.value(index))).await;
        delivery.trying("cannot send")?.await.trying("a record was not acknowledged")?;
        if index >= WARM_UP {
            latency.saturating_record(micros(sent.elapsed()));
        }
    }
    let measured = Measured { done: records, wall: started.elapsed(), cpu: cpu.elapsed(), latency };
    producer.close(args.timeout).await;
    Ok(measured)
}
