//! Kills one node after the other, and lets the cluster become whole again in between.

use std::time::{Duration, Instant};

use milena_admin::Admin;
use milena_tests::kafka::{Outcome, Stop};

use super::Run;

/// How long a node stays dead: longer than the cluster needs to notice.
const DEAD: Duration = Duration::from_secs(8);
/// How long the cluster may take to be whole again.
const HEAL: Duration = Duration::from_secs(90);
/// Load before the first kill and after the last.
const CALM: Duration = Duration::from_secs(5);

/// A node is killed at least once in so much of the run.
const AT_LEAST_EVERY: Duration = Duration::from_secs(10 * 60);

/// Kills nodes in turn for `length`, and on until each was killed at least once, and once for every ten minutes; returns
/// how many kills that were.
pub(crate) async fn run(run: &Run, admin: &Admin, length: Duration) -> Outcome<usize> {
    let end = Instant::now() + length;
    let nodes = run.kafka.n_nodes();
    let least = (length.as_secs() / AT_LEAST_EVERY.as_secs()).max(1);
    let least = usize::try_from(least)? * usize::from(nodes);
    let mut kills = 0;
    tokio::time::sleep(CALM).await;
    while kills < least || Instant::now() < end {
        let node = u16::try_from(kills % usize::from(nodes))? + 1;
        run.say(format_args!("node {node} is killed"));
        run.kafka.stop(node, Stop::Hard).await?;
        tokio::time::sleep(DEAD).await;
        run.say(format_args!("node {node} is started"));
        run.kafka.start(node).await?;
        kills += 1;
        heal(run, admin).await?;
        tokio::time::sleep(CALM).await;
    }
    Ok(kills)
}

/// Waits until every partition has all its replicas in sync again: the next kill must not take the last copy.
async fn heal(run: &Run, admin: &Admin) -> Outcome {
    let deadline = Instant::now() + HEAL;
    loop {
        // The node that is asked may be the one that just came back, and not answer yet.
        if let Ok(described) = admin.describe_topics(&[run.topic.as_str()]).await {
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
