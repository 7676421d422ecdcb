//! The consumers of a run: one that reads every partition by assignment, and the members of a group, who handle and commit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use milena_client::Client;
use milena_client::consumer::{
    AssignmentEpoch, Assignor, Consumer, ConsumerBuilder, ConsumerEvent, LogTruncation, OffsetAndMetadata, OffsetReset,
    RecordSet, Start, TopicPartition,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::{GROUP, RACKS, SLACK, TOPIC, World, load, lock};
use crate::history::{Place, Violation};

/// Between two commits of a member.
const COMMIT: Duration = Duration::from_millis(200);
const CLOSE: Duration = Duration::from_secs(5);

/// Reads all partitions from their beginning, until `ends` are known and reached. Now and then it goes back, or leaves a
/// partition alone for a while.
pub(super) async fn read_all(world: Arc<World>, client: Client, mut ends: watch::Receiver<Option<Vec<i64>>>) {
    let mut rng = fastrand::Rng::with_seed(world.plan.seed ^ 0x5eed);
    let builder = Consumer::builder(&client).auto_offset_reset(OffsetReset::Earliest);
    let Ok(consumer) = planned(&world, 0, builder).build() else { return stuck(&world, "the reader can't be built") };
    world.watch(0, &consumer);
    let partitions = 0..world.plan.partitions;
    if consumer.assign(partitions.clone().map(|partition| (TOPIC, partition, Start::Beginning))).is_err() {
        return stuck(&world, "the reader can't be assigned");
    }
    partitions.for_each(|partition| lock(&world.history).begins(0, partition, Some(0)));
    let mut positions = vec![0; usize::try_from(world.plan.partitions).unwrap_or(0)];
    let mut paused: Option<(TopicPartition, Instant)> = None;
    let mut n_sets = 0_u32;
    loop {
        let known = ends.borrow_and_update().clone();
        if let Some(ends) = known {
            if positions.iter().zip(&ends).all(|(position, end)| position >= end) {
                break;
            }
            paused.take().into_iter().for_each(|(partition, _)| drop(consumer.resume(&partition)));
        }
        let event = tokio::select! {
            biased;
            _ = ends.changed() => continue,
            () = over(&paused) => {
                paused.take().into_iter().for_each(|(partition, _)| drop(consumer.resume(&partition)));
                continue;
            }
            event = consumer.next() => event,
        };
        let set = match event {
            Ok(ConsumerEvent::Records(set)) => set,
            Ok(ConsumerEvent::Truncated(lost)) => {
                let goes_on = truncated(&world, 0, &lost);
                positions[usize::try_from(lost.partition.partition).unwrap_or(0)] = goes_on.unwrap_or(0);
                continue;
            }
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
            _ if !world.plan.wanders => {}
            // Not for ever: it must come to an end.
            0 if n_sets < 60 && !world.plan.is_unclean() => {
                let back = rng.i64(0..=set.next_offset());
                positions[index] = back;
                lock(&world.history).begins(0, set.partition(), Some(back));
                let _ = consumer.seek(set.topic_partition(), Start::Offset(back));
            }
            1 if paused.is_none() && ends.borrow().is_none() => {
                let _ = consumer.pause(set.topic_partition());
                paused =
                    Some((set.topic_partition().clone(), Instant::now() + Duration::from_millis(rng.u64(1..3_000))));
            }
            _ => {}
        }
    }
    close(&world, &consumer).await;
}

/// Resolves when a pause is over.
async fn over(paused: &Option<(TopicPartition, Instant)>) {
    match paused {
        Some((_, until)) => sleep_until(*until).await,
        None => std::future::pending().await,
    }
}

/// What is the same for all who read.
fn planned(world: &World, reader: u64, builder: ConsumerBuilder) -> ConsumerBuilder {
    let builder = builder.max_partition_fetch_bytes(world.plan.fetch_bytes);
    let rack = usize::try_from(reader).unwrap_or(0) % RACKS.len();
    if world.plan.racks { builder.rack(RACKS[rack]) } else { builder }
}

/// Records that a reader was handed vanished: it goes on where the logs part, which is returned if that is known.
fn truncated(world: &World, reader: u64, lost: &LogTruncation) -> Option<i64> {
    let partition = lost.partition.partition;
    world.trace.note(format_args!("reader {reader}: {lost:?}"));
    let mut history = lock(&world.history);
    if !history.is_unclean(partition) {
        history.violated(Violation::NotTruncated { partition });
    }
    let goes_on = lost.diverged.map(|at| at.offset);
    history.begins(reader, partition, goes_on);
    goes_on
}

/// Notes the records of a set as read by `reader`, and as handled if that is a member.
fn hand_over(world: &World, reader: u64, set: &RecordSet) {
    world.look_at_consumers();
    world.trace.note(format_args!("reader {reader}: {} to {}", set.topic_partition(), set.next_offset()));
    let mut history = lock(&world.history);
    for record in set.iter() {
        let place = Place { partition: record.partition, offset: record.offset };
        match load::read(record.value) {
            Some(value) => {
                history.read(reader, place, value);
                if reader > 0 {
                    history.handled_as(place, value);
                }
            }
            None => history.violated(Violation::Damaged(place)),
        }
    }
}

/// A member of the group, until it is told to stop. Now and then it goes back, or leaves a partition alone for a while.
pub(super) async fn member(world: Arc<World>, client: Client, number: u64, mut stopped: watch::Receiver<bool>) {
    let builder = Consumer::builder(&client)
        .group(GROUP)
        .assignors([if world.plan.seed.is_multiple_of(2) { Assignor::CooperativeSticky } else { Assignor::Range }])
        .auto_offset_reset(OffsetReset::Earliest)
        .session_timeout(Duration::from_secs(6))
        .heartbeat_interval(Duration::from_secs(1));
    let Ok(consumer) = planned(&world, number, builder).build() else {
        return stuck(&world, "a member can't be built");
    };
    world.watch(number, &consumer);
    if consumer.subscribe([TOPIC]).is_err() {
        return stuck(&world, "a member can't subscribe");
    }
    let mut handling = Handling::new(&world, number, &consumer);
    let mut commits = tokio::time::interval(COMMIT);
    loop {
        let event = tokio::select! {
            biased;
            () = told(&mut stopped) => break,
            _ = commits.tick() => {
                handling.commit().await;
                handling.resume();
                continue;
            }
            event = consumer.next() => event,
        };
        match event {
            Ok(ConsumerEvent::Records(set)) => handling.handle(&set),
            Ok(ConsumerEvent::Assigned(assignment)) => handling.begin(assignment.partitions()),
            // Given up when the guard drops: what was handled is committed before.
            Ok(ConsumerEvent::Revoked(_guard)) => handling.commit().await,
            Ok(ConsumerEvent::Lost(lost)) => handling.uncommitted.retain(|partition, _| !lost.contains(partition)),
            Ok(ConsumerEvent::Truncated(lost)) => handling.go_back(&lost),
            Ok(_) => {}
            Err(error) => world.trace.note(format_args!("member {number} got: {error}")),
        }
    }
    handling.commit().await;
    close(&world, &consumer).await;
}

/// Resolves when it is time to stop, or nobody is left to say so.
async fn told(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// What a member does with what it is handed.
struct Handling {
    world: Arc<World>,
    number: u64,
    consumer: Consumer,
    rng: fastrand::Rng,
    /// What it has handled and not committed yet.
    uncommitted: BTreeMap<TopicPartition, (OffsetAndMetadata, AssignmentEpoch)>,
    /// Up to where it has committed, or is about to: what it handles again is no reason to commit less.
    handled: BTreeMap<TopicPartition, i64>,
    paused: Vec<TopicPartition>,
}

impl Handling {
    fn new(world: &Arc<World>, number: u64, consumer: &Consumer) -> Self {
        Self {
            world: Arc::clone(world),
            number,
            consumer: consumer.clone(),
            rng: fastrand::Rng::with_seed(world.plan.seed ^ number),
            uncommitted: BTreeMap::new(),
            handled: BTreeMap::new(),
            paused: Vec::new(),
        }
    }

    fn begin(&mut self, assigned: &[TopicPartition]) {
        let mut history = lock(&self.world.history);
        for held in assigned {
            history.begins(self.number, held.partition, None);
            self.handled.remove(held);
        }
        drop(history);
        self.world.look_at_consumers();
    }

    fn handle(&mut self, set: &RecordSet) {
        hand_over(&self.world, self.number, set);
        let (held, next) = (set.topic_partition(), set.next_offset());
        let handled = self.handled.entry(held.clone()).or_insert(0);
        if next > *handled {
            *handled = next;
            // With the epoch, whoever begins there can tell whether it is still there (KIP-320).
            let leader_epoch = Some(set.leader_epoch());
            let offset = OffsetAndMetadata { leader_epoch, ..OffsetAndMetadata::from(next) };
            self.uncommitted.insert(held.clone(), (offset, set.epoch()));
        }
        if self.world.plan.wanders {
            self.wander(set);
        }
    }

    fn wander(&mut self, set: &RecordSet) {
        let (held, number) = (set.topic_partition(), self.number);
        match self.rng.u8(0..30) {
            0 if !self.world.plan.is_unclean() => {
                let first = set.iter().next().map_or(0, |record| record.offset);
                let back = self.rng.i64(first..=set.next_offset());
                // It may have been given up, and come back, since the records were handed over.
                let is_held = self.consumer.assignment().contains(&(held.clone(), set.epoch()));
                if is_held && self.consumer.seek(held, Start::Offset(back)).is_ok() {
                    self.world.trace.note(format_args!("member {number} goes back to {back} of {held}"));
                    lock(&self.world.history).begins(number, held.partition, Some(back));
                }
            }
            1 if self.consumer.pause(held).is_ok() => self.paused.push(held.clone()),
            _ => {}
        }
    }

    fn resume(&mut self) {
        if self.rng.bool() {
            self.paused.drain(..).for_each(|held| drop(self.consumer.resume(&held)));
        }
    }

    fn go_back(&mut self, lost: &LogTruncation) {
        let goes_on = truncated(&self.world, self.number, lost);
        lock(&self.world.history).rewinds(lost.partition.partition, goes_on.unwrap_or(0));
        self.uncommitted.remove(&lost.partition);
        self.handled.remove(&lost.partition);
    }

    async fn commit(&mut self) {
        let uncommitted = std::mem::take(&mut self.uncommitted);
        if uncommitted.is_empty() {
            return;
        }
        {
            let mut history = lock(&self.world.history);
            uncommitted.iter().for_each(|(held, (offset, _))| history.commits(held.partition, offset.offset));
        }
        let offsets = uncommitted.into_iter().map(|(held, (offset, epoch))| (held, offset, epoch));
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
