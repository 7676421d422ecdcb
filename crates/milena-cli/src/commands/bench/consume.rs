//! Reading by assignment, borrowed records; latency is what `next` took to give a batch.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use milena_client::Client;
use milena_client::TopicPartition;
use milena_client::consumer::{Consumer, ConsumerEvent, Start};

use super::{Measured, histogram, micros};
use crate::connect;
use crate::failure::{Failure, Trying as _};
use crate::usage::CpuMeter;

const CLOSE: Duration = Duration::from_secs(5);
/// How often it looks whether there is anything left to come while nothing does.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(crate) async fn run(client: &Client, topic: &str, records: u64) -> Result<Measured, Failure> {
    let consumer = Consumer::builder(client).build().trying("cannot make a consumer")?;
    let partitions = connect::partitions(client, topic).await?;
    let starts = consumer.beginning_offsets(partitions.iter().cloned()).await.trying("cannot find the beginnings")?;
    let ends = consumer.end_offsets(partitions.iter().cloned()).await.trying("cannot find the ends")?;
    let offsets: i64 = ends.iter().map(|(partition, end)| end - starts.get(partition).copied().unwrap_or(0)).sum();
    let too_few = |there| Failure::Usage(format!("topic {topic} holds {there} records, {records} are asked for"));
    // Not every offset is a record that is still there, and shown; but there are no more records than offsets.
    let offsets = u64::try_from(offsets).unwrap_or(0);
    if offsets < records {
        return Err(too_few(offsets));
    }
    let cpu = CpuMeter::start();
    let started = Instant::now();
    let assigned = partitions.iter().map(|held| (&held.topic, held.partition, Start::Beginning));
    consumer.assign(assigned).trying(format_args!("cannot read {topic}"))?;
    let mut latency = histogram();
    let (mut consumed, mut bytes) = (0, 0_usize);
    while consumed < records {
        let asked = Instant::now();
        let event = loop {
            match tokio::time::timeout(LOOK_EVERY, consumer.next()).await {
                Ok(event) => break event.trying(format_args!("cannot consume {topic}"))?,
                Err(_) if is_at_end(&consumer, &ends) => return Err(too_few(consumed)),
                Err(_) => {}
            }
        };
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

fn is_at_end(consumer: &Consumer, ends: &BTreeMap<TopicPartition, i64>) -> bool {
    ends.iter().all(|(partition, end)| consumer.position(partition).is_some_and(|position| position >= *end))
}
