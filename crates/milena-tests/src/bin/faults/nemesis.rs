//! What goes wrong, until there was enough of it: nodes are killed one after the other, leaders and the coordinator moved,
//! connections cut within a frame; and how soon each partition takes records again once all is whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use milena_admin::{Admin, PartitionDescription};
use milena_client::Client;
use milena_client::raw::Target;
use milena_protocol::messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use milena_protocol::messages::elect_leaders_request::TopicPartitions;
use milena_protocol::messages::{AlterPartitionReassignmentsRequest, ElectLeadersRequest};
use milena_protocol::{ErrorCode, NodeId};
use milena_tests::kafka::{Outcome, Stop};
use milena_tests::proxy::Toward;

use super::Run;

/// How long a node stays dead: longer than the cluster needs to notice.
const DEAD: Duration = Duration::from_secs(5);
/// How long the cluster may take to be whole again.
const HEAL: Duration = Duration::from_secs(90);
/// Load before the first kill, and between two.
const CALM: Duration = Duration::from_secs(4);
/// Where a group's coordinator is kept.
const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// How often each thing is to happen, or has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) kills: u64,
    pub(crate) moves: u64,
    pub(crate) coordinator_moves: u64,
    pub(crate) cuts: u64,
}

impl Counts {
    fn reaches(self, goal: Self) -> bool {
        self.kills >= goal.kills
            && self.moves >= goal.moves
            && self.coordinator_moves >= goal.coordinator_moves
            && self.cuts >= goal.cuts
    }
}

/// What has happened so far, but for the cuts, which the proxies count.
#[derive(Debug, Default)]
pub(crate) struct Happened {
    kills: AtomicU64,
    moves: AtomicU64,
    coordinator_moves: AtomicU64,
    /// Nothing is moved or cut between a heal and the next kill: recovery is what is seen then.
    is_calm: AtomicBool,
}

impl Happened {
    pub(crate) fn counts(&self, run: &Run) -> Counts {
        Counts {
            kills: self.kills.load(Relaxed),
            moves: self.moves.load(Relaxed),
            coordinator_moves: self.coordinator_moves.load(Relaxed),
            cuts: run.proxies.iter().flat_map(|proxy| proxy.cuts()).sum(),
        }
    }
}

/// Lets things go wrong until each has happened as often as is the goal, or the time is over.
pub(crate) async fn run(run: &Arc<Run>, client: &Client, goal: Counts, limit: Duration) -> Outcome {
    let deadline = Instant::now() + limit;
    let is_over = || run.happened.counts(run).reaches(goal) || Instant::now() > deadline;
    let kills = async {
        tokio::time::sleep(CALM).await;
        while !is_over() {
            if run.happened.kills.load(Relaxed) < goal.kills {
                kill(run, client).await?;
            }
            tokio::time::sleep(CALM).await;
            run.happened.is_calm.store(false, Relaxed);
        }
        Ok(())
    };
    let moves = async {
        for turn in 0_i32.. {
            // Spread over the run, whatever the kills leave of it.
            tokio::time::sleep(Duration::from_millis(800)).await;
            if is_over() {
                break;
            }
            if run.happened.is_calm.load(Relaxed) {
                continue;
            }
            // Whatever is refused while a node is gone is no move, and is not counted.
            if turn % 8 == 7 {
                let moved = move_all(run, client, OFFSETS_TOPIC).await.unwrap_or(0);
                run.happened.coordinator_moves.fetch_add(u64::from(moved > 0), Relaxed);
            } else {
                let moved = move_leaders(client, &run.topic, &[turn % super::PARTITIONS]).await.unwrap_or(0);
                run.happened.moves.fetch_add(moved, Relaxed);
            }
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    };
    let cuts = async {
        for turn in 0_usize.. {
            tokio::time::sleep(Duration::from_millis(700)).await;
            if is_over() {
                break;
            }
            if run.happened.is_calm.load(Relaxed) {
                continue;
            }
            let toward = if turn % 2 == 0 { Toward::Broker } else { Toward::Client };
            let proxy = &run.proxies[turn % run.proxies.len()];
            let _ = proxy.cut(fastrand::usize(..), toward);
            if turn % 40 == 39 {
                let _ = proxy.stall(fastrand::usize(..), Duration::from_millis(1_500));
            }
        }
        Ok(())
    };
    tokio::try_join!(kills, moves, cuts).map(drop)
}

async fn kill(run: &Run, client: &Client) -> Outcome {
    let turn = run.happened.kills.load(Relaxed);
    let node = u16::try_from(turn % u64::from(run.kafka.n_nodes()))? + 1;
    run.happened.is_calm.store(false, Relaxed);
    run.recovery().end();
    run.say(format_args!("node {node} is killed ({})", turn + 1));
    run.kafka.stop(node, Stop::Hard).await?;
    tokio::time::sleep(DEAD).await;
    run.kafka.start(node).await?;
    run.happened.kills.fetch_add(1, Relaxed);
    heal(run, client).await?;
    // Once the kills are enough, the others still have to happen.
    run.happened.is_calm.store(true, Relaxed);
    run.recovery().healed();
    run.say(format_args!("node {node} is back: {:?}", run.happened.counts(run)));
    Ok(())
}

/// Waits until every partition has all its replicas in sync again: the next kill must not take the last copy.
async fn heal(run: &Run, client: &Client) -> Outcome {
    let deadline = Instant::now() + HEAL;
    let admin = Admin::new(client);
    loop {
        // The node that is asked may be the one that just came back, and not answer yet.
        if let Ok(described) = admin.describe_topics(&[run.topic.as_str(), OFFSETS_TOPIC]).await {
            let whole = described.iter().all(|(_, topic)| {
                topic.as_ref().is_ok_and(|topic| {
                    topic.partitions.iter().all(|partition| partition.isr.len() == partition.replicas.len())
                })
            });
            if whole {
                return Ok(());
            }
        }
        if Instant::now() > deadline {
            return Err(format!("not all replicas are in sync {} s after a restart", HEAL.as_secs()).into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn move_all(run: &Run, client: &Client, topic: &str) -> Outcome<u64> {
    let described = describe(client, topic).await?;
    let moved =
        move_leaders(client, topic, &described.iter().map(|partition| partition.index).collect::<Vec<_>>()).await?;
    run.say(format_args!("{moved} partitions of {topic} have another leader"));
    Ok(moved)
}

async fn describe(client: &Client, topic: &str) -> Outcome<Vec<PartitionDescription>> {
    let described = Admin::new(client).describe_topics(&[topic]).await?;
    let (_, described) = described.into_iter().next().ok_or("an answer without the topic")?;
    Ok(described?.partitions)
}

/// Makes the next replica of each partition the preferred one, and has it elected; gives back how many were.
async fn move_leaders(client: &Client, topic: &str, which: &[i32]) -> Outcome<u64> {
    let raw = client.raw().with_timeout(Duration::from_secs(5));
    let described = describe(client, topic).await?;
    let rotated = described.into_iter().filter(|partition| which.contains(&partition.index)).map(|mut partition| {
        // Behind whoever leads now, in the order of the replicas.
        let leads = partition.replicas.iter().position(|node| Some(*node) == partition.leader).unwrap_or(0);
        let n_replicas = partition.replicas.len().max(1);
        partition.replicas.rotate_left((leads + 1) % n_replicas);
        ReassignablePartition {
            partition_index: partition.index,
            replicas: Some(partition.replicas.into_iter().map(NodeId).collect()),
        }
    });
    let topics = vec![ReassignableTopic { name: topic.to_owned().into(), partitions: rotated.collect() }];
    let request = AlterPartitionReassignmentsRequest { timeout_ms: 5_000, topics, ..Default::default() };
    let response = raw.send_checked(Target::Controller, request, |response| response.error_code).await?;
    if !response.error_code.is_ok() {
        return Err(format!("a reassignment was refused: {}", response.error_code).into());
    }
    let partitions = vec![TopicPartitions { topic: topic.to_owned().into(), partitions: which.to_vec() }];
    let request = ElectLeadersRequest { topic_partitions: Some(partitions), timeout_ms: 5_000, ..Default::default() };
    let response = raw.send_checked(Target::Controller, request, |response| response.error_code).await?;
    let results = response.replica_election_results.iter().flat_map(|topic| &topic.partition_result);
    Ok(results.filter(|partition| partition.error_code == ErrorCode::NONE).count() as u64)
}
