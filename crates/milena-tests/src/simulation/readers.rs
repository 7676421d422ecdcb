//! The consumers of a run: one that reads every partition by assignment, and the members of a group, who handle and commit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use milena_client::Client;
use milena_client::consumer::{
    AssignmentEpoch, Assignor, Consumer, ConsumerEvent, OffsetAndMetadata, OffsetReset, RecordSet, Start,
    TopicPartition,
};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::{GROUP, SLACK, TOPIC, World, load, lock};
use crate::history::{Place, Violation};

/// Between two commits of a member.
const COMMIT: Duration = Duration::from_millis(200);
const CLOSE: Duration = Duration::from_secs(5);

/// Reads all partitions from their beginning, until `ends` are known and reached. Now and then it goes back, or leaves a
/// partition alone for a while.
pub(super) async fn read_all(
    world: Arc<World>,
    client: Client,
    fetch_bytes: usize,
    mut ends: watch::Receiver<Option<Vec<i64>>>,
) {
    let mut rng = fastrand::Rng::with_seed(world.plan.seed ^ 0x5eed);
    let built = Consumer::builder(&client).max_partition_fetch_bytes(fetch_bytes).build();
    let Ok(consumer) = built else { return stuck(&world, "the reader can't be built") };
    let partitions = 0..world.plan.partitions;
    if consumer.assign(partitions.clone().map(|partition| (TOPIC, partition, Start::Beginning))).is_err() {
        return stuck(&world, "the reader can't be assigned");
    }
    partitions.for_each(|partition| lock(&world.history).begins(0, partition, Some(0)));
    let mut positions = vec![0; usize::try_from(world.plan.partitions).unwrap_or(0)];
    let mut paused: Option<TopicPartition> = None;
    let mut n_sets = 0_u32;
    loop {
        let known = ends.borrow_and_update().clone();
        if let Some(ends) = known {
            if positions.iter().zip(&ends).all(|(position, end)| position >= end) {
                break;
            }
            paused.take().into_iter().for_each(|partition| drop(consumer.resume(&partition)));
        }
        let event = tokio::select! {
            biased;
            _ = ends.changed() => continue,
            event = consumer.next() => event,
        };
        let set = match event {
            Ok(ConsumerEvent::Records(set)) => set,
            Ok(_) => continue,
            Err(error) => {
                world.trace.note(format_args!("the reader got: {error}"));
                continue;
            }
        };
        hand_over(&world, 0, &set);
        let index = usize::try_from(set.partition()).unwrap_or(0);
        positions[index] = set.next_offset();
        n_sets += 1;
        match rng.u8(0..20) {
            // Not for ever: it must come to an end.
            0 if n_sets < 60 => {
                let back = rng.i64(0..=set.next_offset());
                positions[index] = back;
                lock(&world.history).begins(0, set.partition(), Some(back));
                let _ = consumer.seek(set.topic_partition(), Start::Offset(back));
            }
            1 if paused.is_none() && ends.borrow().is_none() => {
                let _ = consumer.pause(set.topic_partition());
                paused = Some(set.topic_partition().clone());
            }
            _ => {}
        }
        if n_sets.is_multiple_of(4)
            && let Some(partition) = paused.take()
        {
            let _ = consumer.resume(&partition);
        }
    }
    close(&world, &consumer).await;
}

/// Notes the records of a set as read by `reader`.
fn hand_over(world: &World, reader: u64, set: &RecordSet) {
    world.trace.note(format_args!("reader {reader}: {} to {}", set.topic_partition(), set.next_offset()));
    let mut history = lock(&world.history);
    for record in set.iter() {
        let place = Place { partition: record.partition, offset: record.offset };
        match load::read(record.value) {
            Some(value) => history.read(reader, place, value),
            None => history.violated(Violation::Damaged(place)),
        }
    }
}

/// A member of the group, until it is told to stop.
pub(super) async fn member(world: Arc<World>, client: Client, number: u64, mut stopped: watch::Receiver<bool>) {
    let built = Consumer::builder(&client)
        .group(GROUP)
        .assignors([if world.plan.seed.is_multiple_of(2) { Assignor::CooperativeSticky } else { Assignor::Range }])
        .auto_offset_reset(OffsetReset::Earliest)
        .session_timeout(Duration::from_secs(6))
        .heartbeat_interval(Duration::from_secs(1))
        .build();
    let Ok(consumer) = built else { return stuck(&world, "a member can't be built") };
    if consumer.subscribe([TOPIC]).is_err() {
        return stuck(&world, "a member can't subscribe");
    }
    let mut handled = Handled { world: Arc::clone(&world), consumer: consumer.clone(), uncommitted: BTreeMap::new() };
    let mut commits = tokio::time::interval(COMMIT);
    loop {
        let event = tokio::select! {
            biased;
            () = told(&mut stopped) => break,
            _ = commits.tick() => {
                handled.commit().await;
                continue;
            }
            event = consumer.next() => event,
        };
        match event {
            Ok(ConsumerEvent::Records(set)) => {
                hand_over(&world, number, &set);
                let mut history = lock(&world.history);
                set.iter().for_each(|at| history.handled(Place { partition: at.partition, offset: at.offset }));
                handled.uncommitted.insert(set.topic_partition().clone(), (set.next_offset(), set.epoch()));
            }
            Ok(ConsumerEvent::Assigned(assignment)) => {
                let mut history = lock(&world.history);
                assignment.partitions().iter().for_each(|held| history.begins(number, held.partition, None));
            }
            // Given up when the guard drops: what was handled is committed before.
            Ok(ConsumerEvent::Revoked(_guard)) => handled.commit().await,
            Ok(ConsumerEvent::Lost(lost)) => handled.uncommitted.retain(|partition, _| !lost.contains(partition)),
            Ok(_) => {}
            Err(error) => world.trace.note(format_args!("member {number} got: {error}")),
        }
    }
    handled.commit().await;
    close(&world, &consumer).await;
}

/// Resolves when it is time to stop, or nobody is left to say so.
async fn told(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// What a member has handled and not committed yet.
struct Handled {
    world: Arc<World>,
    consumer: Consumer,
    uncommitted: BTreeMap<TopicPartition, (i64, AssignmentEpoch)>,
}

impl Handled {
    async fn commit(&mut self) {
        let uncommitted = std::mem::take(&mut self.uncommitted);
        if uncommitted.is_empty() {
            return;
        }
        {
            let mut history = lock(&self.world.history);
            uncommitted.iter().for_each(|(held, (offset, _))| history.commits(held.partition, *offset));
        }
        let offsets =
            uncommitted.into_iter().map(|(held, (offset, epoch))| (held, OffsetAndMetadata::from(offset), epoch));
        if let Err(error) = self.consumer.commit(offsets).await {
            // The partition has moved on, or its coordinator is gone: somebody handles these again.
            self.world.trace.note(format_args!("a commit was refused: {error}"));
        }
    }
}

async fn close(world: &World, consumer: &Consumer) {
    let began = Instant::now();
    match timeout(CLOSE + SLACK, consumer.close(CLOSE)).await {
        Ok(_) => world.trace.note(format_args!("a consumer closed in {:?}", began.elapsed())),
        Err(_) => stuck(world, "the close of a consumer"),
    }
}

fn stuck(world: &World, what: &str) {
    lock(&world.history).violated(Violation::Stuck(what.to_owned()));
}
