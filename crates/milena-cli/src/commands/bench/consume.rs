//! Reading by assignment, borrowed records; latency is what `next` took to give a batch.

use std::time::{Duration, Instant};

use milena_client::Client;
use milena_client::TopicPartition;
use milena_client::consumer::{Consumer, ConsumerEvent, Start};

use super::{Measured, histogram, micros};
use crate::connect;
use crate::failure::{Failure, Trying as _};
use crate::usage::CpuMeter;

const CLOSE: Duration = Duration::from_secs(5);

pub(crate) async fn run(client: &Client, topic: &str, records: u64) -> Result<Measured, Failure> {
    let consumer = Consumer::builder(client).build().trying("cannot make a consumer")?;
    let partitions = connect::partitions(client, topic).await?;
    let there = available(&consumer, &partitions).await?;
    if there < records {
        return Err(Failure::Usage(format!("topic {topic} holds {there} records, {records} are asked for")));
    }
    let cpu = CpuMeter::start();
    let started = Instant::now();
    let assigned = partitions.iter().map(|held| (&held.topic, held.partition, Start::Beginning));
    consumer.assign(assigned).trying(format_args!("cannot read {topic}"))?;
    let mut latency = histogram();
    let (mut consumed, mut bytes) = (0, 0_usize);
    while consumed < records {
        let asked = Instant::now();
        let event = consumer.next().await.trying(format_args!("cannot consume {topic}"))?;
        let ConsumerEvent::Records(set) = event else { continue };
        latency.saturating_record(micros(asked.elapsed()));
        for record in set.iter().take(usize::try_from(records - consumed).unwrap_or(usize::MAX)) {
            bytes += record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
            consumed += 1;
        }
    }
    let measured = Measured { done: consumed, wall: started.elapsed(), cpu: cpu.elapsed(), latency };
    tracing::info!(bytes, "keys and values read");
    consumer.close(CLOSE).await.trying("cannot close the consumer")?;
    Ok(measured)
}

/// Records between the partitions' beginnings and ends.
async fn available(consumer: &Consumer, partitions: &[TopicPartition]) -> Result<u64, Failure> {
    let starts = consumer.beginning_offsets(partitions.iter().cloned()).await.trying("cannot find the beginnings")?;
    let ends = consumer.end_offsets(partitions.iter().cloned()).await.trying("cannot find the ends")?;
    let total: i64 = ends.iter().map(|(partition, end)| end - starts.get(partition).copied().unwrap_or(0)).sum();
    Ok(u64::try_from(total).unwrap_or(0))
}
