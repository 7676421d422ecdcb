//! The end of a run: whether everything came to one, what is in the logs, and the judgement. The logs are read by requests
//! of their own, with nothing of the consumer in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use milena_broker::Broker;
use milena_client::raw::Target;
use milena_client::{BoxFuture, BrokerAddress, Client, Connector, TimeSource, Transport};
use milena_protocol::messages::FetchRequest;
use milena_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use milena_protocol::record::RecordBatches;
use tokio::time::{Instant, sleep};

use super::consumers::Batches;
use super::{DRAIN, GROUP, Report, TOPIC, World, load, lock};
use crate::history::{Place, Value, Violation};
use crate::kafka::Outcome;

/// The log end offset of each partition.
pub(super) fn log_ends(world: &World) -> Outcome<Vec<i64>> {
    (0..world.plan.partitions).map(|partition| Ok(world.broker.log_offsets(TOPIC, partition)?.1)).collect()
}

/// Waits until the group has handled what is there; what it has not by then, the judgement tells.
pub(super) async fn wait_until_handled(world: &World) -> Outcome {
    let ends = log_ends(world)?;
    for (partition, end) in (0..).zip(&ends) {
        lock(&world.history).handles_until(partition, *end);
    }
    let deadline = Instant::now() + DRAIN;
    let is_behind = || {
        let history = lock(&world.history);
        (0..).zip(&ends).any(|(partition, end)| history.handled_below(partition) < *end)
    };
    while world.plan.members > 0 && is_behind() && Instant::now() < deadline {
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Reads the logs and judges.
pub(super) async fn conclude(world: &Arc<World>, mut report: Report) -> Outcome<Report> {
    for partition in 0..world.plan.partitions {
        if let Some(committed) = world.broker.committed(GROUP, TOPIC, partition) {
            lock(&world.history).is_committed(partition, committed);
        }
    }
    let (log, batches) = read_log(world).await?;
    world.judge_prefetch(batches);
    world.broker.shutdown().await;
    let history = std::mem::take(&mut *lock(&world.history));
    let (acknowledged, failed, unknown) = history.counts();
    report.outcomes = [acknowledged as u64, failed as u64, unknown as u64];
    report.written = log.len() as u64;
    report.read = history.readings;
    report.violations = history.judge(&log);
    for violation in &report.violations {
        world.trace.note(format_args!("{violation}"));
    }
    report.elapsed = world.trace.elapsed();
    report.hash = world.trace.hash();
    Ok(report)
}

/// A link that nothing ever happens to.
#[derive(Debug)]
struct Straight(Broker);

impl Connector for Straight {
    fn connect(&self, address: BrokerAddress) -> BoxFuture<'static, std::io::Result<Transport>> {
        let stream = self.0.connect(address.host(), address.port());
        Box::pin(async move { Ok(Transport::memory(stream?, address.to_string())) })
    }

    fn is_virtual(&self) -> bool {
        true
    }
}

async fn read_log(world: &World) -> Outcome<(BTreeMap<Place, Value>, Batches)> {
    let clock = TimeSource::virtual_from(UNIX_EPOCH + Duration::from_millis(1_700_000_000_000));
    let builder = Client::builder().bootstrap(world.broker.bootstrap())?.clock(clock).seed(1);
    let client = builder.connector(Arc::new(Straight(world.broker.clone()))).build().await?;
    let (mut log, mut all) = (BTreeMap::new(), Batches::default());
    for (partition, end) in (0..).zip(log_ends(world)?) {
        let mut next = 0;
        while next < end {
            let records = fetch(&client, partition, next).await?;
            let before = next;
            let mut batches = RecordBatches::new(records);
            loop {
                let left = batches.rest().len();
                let Some(batch) = batches.next().transpose()? else { break };
                batch.verify_crc()?;
                let records = batch.records(1 << 26)?;
                // A fetch from within a batch brings all of it.
                let bytes = (left - batches.rest().len()) as u64;
                all.bytes += if batch.base_offset() >= next { bytes } else { 0 };
                all.largest = all.largest.max(bytes);
                all.inflated = all.inflated.max(records.data().len() as u64);
                for record in records.iter() {
                    let record = record?;
                    if record.offset < next {
                        continue;
                    }
                    next = record.offset + 1;
                    let place = Place { partition, offset: record.offset };
                    match load::read(record.value) {
                        Some(value) => drop(log.insert(place, value)),
                        None => lock(&world.history).violated(Violation::Damaged(place)),
                    }
                }
            }
            if next == before {
                return Err(format!("{TOPIC}-{partition} can't be read at {next} of {end}").into());
            }
        }
    }
    client.close(Duration::from_secs(5)).await;
    Ok((log, all))
}

async fn fetch(client: &Client, partition: i32, fetch_offset: i64) -> Outcome<bytes::Bytes> {
    let partitions =
        vec![FetchPartition { partition, fetch_offset, partition_max_bytes: i32::MAX, ..FetchPartition::default() }];
    let request = FetchRequest {
        max_bytes: i32::MAX,
        session_epoch: -1,
        topics: vec![FetchTopic { topic: TOPIC.to_owned().into(), partitions, ..FetchTopic::default() }],
        ..FetchRequest::default()
    };
    let target = Target::Leader { topic: TOPIC.to_owned(), partition };
    let raw = client.raw();
    // The last version that names topics.
    let response = raw.send_versioned(target, 12, |_| request.clone(), |_, response| response.error_code).await?;
    let data = response.responses.first().and_then(|topic| topic.partitions.first()).ok_or("an answer without it")?;
    if !data.error_code.is_ok() {
        return Err(format!("{TOPIC}-{partition} can't be read: {}", data.error_code).into());
    }
    Ok(data.records.clone().unwrap_or_default())
}
