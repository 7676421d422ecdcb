//! What goes wrong, at its time; and the members of the group, since some of them go wrong, too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use milena_broker::CoordinatorType;
use milena_client::Client;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::link::Links;
use super::plan::Mishap;
use super::{GROUP, TOPIC, World, lock, readers};
use crate::kafka::Outcome;

/// Between two looks at what is held and committed.
const LOOK: Duration = Duration::from_millis(500);

/// What is to be done at some time.
enum Step<'a> {
    Strike(&'a Mishap),
    Start(i32),
    Lead(i32, i32),
    Look,
}

/// Lets everything go wrong as planned, and makes everything whole again at the end.
pub(super) async fn run(world: &Arc<World>, links: &[Arc<Links>], members: &mut Members) -> Outcome {
    let began = Instant::now();
    let heals = began + world.plan.heals;
    // By time, and within one time in the order of planning.
    let mut steps: BTreeMap<(Instant, usize), Step<'_>> = BTreeMap::new();
    let mut planned = 0;
    let mut add = |steps: &mut BTreeMap<_, _>, at: Instant, step| {
        planned += 1;
        steps.insert((at.min(heals), planned), step);
    };
    for (at, mishap) in &world.plan.mishaps {
        add(&mut steps, began + *at, Step::Strike(mishap));
    }
    add(&mut steps, began, Step::Look);
    while let Some(((at, _), step)) = steps.pop_first() {
        sleep_until(at).await;
        match step {
            Step::Look if at == heals => {}
            Step::Look => {
                look(world);
                add(&mut steps, at + LOOK, Step::Look);
            }
            Step::Start(node) => world.broker.start_node(node).await?,
            Step::Lead(partition, node) => world.broker.move_leader(TOPIC, partition, node)?,
            Step::Strike(mishap) => {
                world.trace.note(format_args!("{mishap:?}"));
                if let Some((dead, undo)) = strike(world, links, members, mishap).await? {
                    add(&mut steps, at + dead, undo);
                }
            }
        }
    }
    sleep_until(heals).await;
    world.trace.note(format_args!("everything is whole again"));
    world.broker.faults().clear();
    links.iter().for_each(|links| links.heal());
    Ok(())
}

/// Does what is planned; gives back what undoes it, and after how long.
async fn strike(
    world: &Arc<World>,
    links: &[Arc<Links>],
    members: &mut Members,
    mishap: &Mishap,
) -> Outcome<Option<(Duration, Step<'static>)>> {
    let broker = &world.broker;
    match mishap {
        Mishap::Rule(rule) => {
            broker.faults().add(rule.clone());
        }
        Mishap::Kill { node, dead } => {
            broker.stop_node(*node).await?;
            return Ok(Some((*dead, Step::Start(*node))));
        }
        Mishap::MoveLeader { partition, to } => broker.move_leader(TOPIC, *partition, *to)?,
        Mishap::Leaderless { partition, dead } => {
            let leader = broker.leader(TOPIC, *partition)?.unwrap_or(0);
            broker.remove_leader(TOPIC, *partition)?;
            return Ok(Some((*dead, Step::Lead(*partition, leader))));
        }
        Mishap::Truncate { partition, records, to } => {
            let (start, end) = broker.log_offsets(TOPIC, *partition)?;
            broker.move_leader(TOPIC, *partition, *to)?;
            broker.truncate(TOPIC, *partition, (end - records).max(start))?;
            let (_, from) = broker.log_offsets(TOPIC, *partition)?;
            lock(&world.history).truncated(*partition, from, end);
        }
        Mishap::MoveCoordinator { to } => broker.move_coordinator(CoordinatorType::Group, GROUP, *to)?,
        Mishap::EvictMember { which } => {
            let ids = broker.members(GROUP);
            if let Some(id) = ids.get(which % ids.len().max(1)) {
                broker.evict_member(GROUP, id);
            }
        }
        Mishap::Link { client, which, harm } => links[client % links.len()].harm(*which, *harm),
        Mishap::SilentDials { client, length } => links[client % links.len()].silence_dials(*length),
        Mishap::Replace { which, vanishes } => members.replace(*which, *vanishes).await?,
    }
    Ok(None)
}

/// What must hold at any time.
fn look(world: &World) {
    world.look_at_consumers();
    if world.plan.members > 0 {
        for partition in 0..world.plan.partitions {
            if let Some(committed) = world.broker.committed(GROUP, TOPIC, partition) {
                lock(&world.history).is_committed(partition, committed);
            }
        }
    }
}

/// The members of the group, each with a client of its own.
pub(super) struct Members {
    world: Arc<World>,
    joined: u32,
    running: Vec<Member>,
}

struct Member {
    number: u64,
    client: Client,
    links: Arc<Links>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Members {
    pub(super) fn new(world: &Arc<World>) -> Self {
        Self { world: Arc::clone(world), joined: 0, running: Vec::new() }
    }

    /// Another member.
    pub(super) fn join(&mut self) -> Outcome<Arc<Links>> {
        self.joined += 1;
        let (client, links) = self.world.client(100 + self.joined, Duration::from_secs(5), self.world.plan.prefetch)?;
        let (stop, stopped) = watch::channel(false);
        let number = u64::from(100 + self.joined);
        let task = tokio::spawn(readers::member(Arc::clone(&self.world), client.clone(), number, stopped));
        self.running.push(Member { number, client, links: Arc::clone(&links), stop, task });
        Ok(links)
    }

    async fn replace(&mut self, which: usize, vanishes: bool) -> Outcome {
        let member = self.running.remove(which % self.running.len());
        if vanishes {
            member.links.unplug();
            member.task.abort();
            self.world.forget(member.number);
        } else {
            self.leave(member).await;
        }
        self.join().map(drop)
    }

    /// All of them leave in good order.
    pub(super) async fn end(mut self) {
        for member in std::mem::take(&mut self.running) {
            self.leave(member).await;
        }
    }

    async fn leave(&self, member: Member) {
        member.stop.send_replace(true);
        // A commit may be under way, with as much time as any operation has.
        let limit = member.client.config().api_timeout + Duration::from_secs(10);
        if timeout(limit, member.task).await.is_err() {
            self.world.stuck("a member that is to leave");
        }
        member.client.close(Duration::from_secs(5)).await;
        self.world.gives_back(member.number).await;
    }
}
