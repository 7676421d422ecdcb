//! The consumers: members of one group that handle and commit, some of which leave in good order, some of which vanish.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use milena_client::consumer::{
    AssignmentEpoch, Assignor, Consumer, ConsumerEvent, OffsetAndMetadata, OffsetReset, RecordSet, TopicPartition,
};
use milena_tests::history::Place;
use milena_tests::kafka::Outcome;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Run;

const MEMBERS: usize = 3;
/// Between two changes of the membership.
const CHANGE: Duration = Duration::from_secs(13);
/// Between two commits of a member.
const COMMIT: Duration = Duration::from_millis(100);
const CLOSE: Duration = Duration::from_secs(30);

/// A member on a runtime of its own, so that it can vanish as a killed process does: without a word to anybody.
struct Member {
    stop: watch::Sender<bool>,
    task: JoinHandle<Outcome>,
    runtime: Runtime,
}

/// The members that are left when the changes end, and how many joined or left.
pub(crate) struct Left {
    members: Vec<Member>,
    changes: usize,
}

/// Keeps three members and replaces one now and then, until told to stop; those of that moment go on.
pub(crate) async fn run(run: Arc<Run>, mut stopped: watch::Receiver<bool>) -> Outcome<Left> {
    let mut left = Left { members: Vec::new(), changes: 0 };
    for _ in 0..MEMBERS {
        left.members.push(join(&run).await?);
        left.changes += 1;
    }
    for turn in 0_usize.. {
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(left),
            () = tokio::time::sleep(CHANGE) => {}
        }
        let member = left.members.remove(0);
        if turn.is_multiple_of(2) {
            run.say("a member leaves");
            leave(member).await?;
        } else {
            // In the middle of whatever it does; the group learns of it when its session ends.
            run.say("a member vanishes");
            member.runtime.shutdown_background();
        }
        left.members.push(join(&run).await?);
        left.changes += 2;
    }
    Ok(left)
}

/// Ends the members that are left.
pub(crate) async fn end(run: &Run, members: JoinHandle<Outcome<Left>>) -> Outcome<usize> {
    let left = members.await??;
    for member in left.members {
        leave(member).await?;
    }
    run.say("all members have left");
    Ok(left.changes)
}

async fn leave(member: Member) -> Outcome {
    let _ = member.stop.send(true);
    let left = member.task.await?;
    member.runtime.shutdown_background();
    left
}

async fn join(run: &Arc<Run>) -> Outcome<Member> {
    let (stop, stopped) = watch::channel(false);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let task = runtime.spawn(member(Arc::clone(run), stopped));
    Ok(Member { stop, task, runtime })
}

async fn member(run: Arc<Run>, stopped: watch::Receiver<bool>) -> Outcome {
    let client = run.client(&format!("member-{}", run.next_member())).await?;
    let consumer = Consumer::builder(&client)
        .group(&run.group)
        .assignors([Assignor::CooperativeSticky])
        .auto_offset_reset(OffsetReset::Earliest)
        .session_timeout(Duration::from_secs(10))
        .heartbeat_interval(Duration::from_secs(1))
        .build()?;
    consumer.subscribe([&run.topic])?;
    handle(run, consumer, stopped).await
}

async fn handle(run: Arc<Run>, consumer: Consumer, mut stopped: watch::Receiver<bool>) -> Outcome {
    let mut handled = Handled { run, consumer: consumer.clone(), uncommitted: BTreeMap::new() };
    let mut commit_times = tokio::time::interval(COMMIT);
    loop {
        let event = tokio::select! {
            event = consumer.next() => event,
            _ = commit_times.tick() => {
                handled.commit().await;
                continue;
            }
            () = told(&mut stopped) => break,
        };
        match event {
            Ok(ConsumerEvent::Records(set)) => handled.note(&set),
            // Given up when the guard drops: what was handled is committed before.
            Ok(ConsumerEvent::Revoked(_guard)) => handled.commit().await,
            Ok(ConsumerEvent::Lost(partitions)) => {
                handled.uncommitted.retain(|partition, _| !partitions.contains(partition));
            }
            Ok(_) => {}
            Err(error) => handled.run.say(format_args!("a member got: {error}")),
        }
    }
    handled.commit().await;
    consumer.close(CLOSE).await?;
    Ok(())
}

/// Resolves when it is time to stop, or nobody is left to say so.
async fn told(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// What a member has handled and not committed yet.
struct Handled {
    run: Arc<Run>,
    consumer: Consumer,
    uncommitted: BTreeMap<TopicPartition, (i64, AssignmentEpoch)>,
}

impl Handled {
    fn note(&mut self, set: &RecordSet) {
        let mut history = self.run.history();
        for record in set.iter() {
            history.handled(Place { partition: record.partition, offset: record.offset });
        }
        self.uncommitted.insert(set.topic_partition().clone(), (set.next_offset(), set.epoch()));
    }

    async fn commit(&mut self) {
        let uncommitted = std::mem::take(&mut self.uncommitted);
        {
            let mut history = self.run.history();
            uncommitted.iter().for_each(|(held, (offset, _))| history.commits(held.partition, *offset));
        }
        let offsets =
            uncommitted.into_iter().map(|(held, (offset, epoch))| (held, OffsetAndMetadata::from(offset), epoch));
        if let Err(error) = self.consumer.commit(offsets).await {
            // The partition has moved on, or its coordinator is gone: somebody handles these again.
            self.run.say(format_args!("a commit was refused: {error}"));
        }
    }
}
