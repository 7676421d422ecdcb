//! Steady keyed load on three real nodes while each is killed (-9) and restarted in turn and consumers join and leave;
//! then the judgement: nothing acknowledged lost, nothing written twice, nothing reordered within a key, nothing
//! committed that was not handled.
//!
//! `cargo xtask faults --minutes 30` brings the cluster; by hand, set `MILENA_KAFKA_3` and `MILENA_XTASK`.
#![forbid(unsafe_code)]

mod load;
mod members;
mod nemesis;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use milena_admin::{Admin, NewTopic};
use milena_client::consumer::{Consumer, ConsumerEvent, Start};
use milena_client::{Client, TopicPartition};
use milena_tests::history::{History, Place, Value, Violation};
use milena_tests::kafka::{Kafka, Outcome};
use tokio::sync::watch;

const PARTITIONS: i32 = 6;
/// How long the members may take to handle what is left once everything runs again.
const DRAIN: Duration = Duration::from_secs(120);
/// A task's longest time without an acknowledgement: a node is dead for 8 s, and then its partitions need leaders and
/// replicas again on a machine that may be busy. Without a bound, a load that stands still would break no promise.
const MAX_GAP: Duration = Duration::from_secs(60);
/// How many violations are told one by one.
const TOLD: usize = 20;

/// What all parts of a run share.
struct Run {
    kafka: Kafka,
    topic: String,
    group: String,
    history: Mutex<History>,
    started: Instant,
}

impl Run {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn client(&self) -> Outcome<Client> {
        Ok(Client::builder().bootstrap(self.kafka.bootstrap())?.client_id("faults").build().await?)
    }

    fn say(&self, what: impl std::fmt::Display) {
        eprintln!("{:>7.1} s  {what}", self.started.elapsed().as_secs_f64());
    }
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("MILENA_LOG"))
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match (minutes(), runtime) {
        (Ok(minutes), Ok(runtime)) => runtime.block_on(run(Duration::from_secs_f64(minutes * 60.0))),
        (Err(error), _) => Err(error),
        (_, Err(error)) => Err(error.into()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("faults: {error}");
            ExitCode::from(2)
        }
    }
}

/// `--minutes N` is the only argument.
fn minutes() -> Outcome<f64> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [flag, minutes] if flag == "--minutes" => Ok(minutes.parse()?),
        _ => Err("usage: faults --minutes N".into()),
    }
}

async fn run(length: Duration) -> Outcome<bool> {
    let id = std::process::id();
    let run = Arc::new(Run {
        kafka: Kafka::three_nodes()?,
        topic: format!("faults-{id}"),
        group: format!("faults-{id}"),
        history: Mutex::default(),
        started: Instant::now(),
    });
    let client = run.client().await?;
    let admin = Admin::new(&client);
    let topic =
        NewTopic::new(&run.topic).partitions(PARTITIONS).replication_factor(3).config("min.insync.replicas", "2");
    admin.create_topic(topic).await?;

    let (stop, stopped) = watch::channel(false);
    let load = tokio::spawn(load::run(Arc::clone(&run), stopped.clone()));
    let members = tokio::spawn(members::run(Arc::clone(&run), stopped.clone()));
    let kills = nemesis::run(&run, &admin, length).await;
    run.say("the faults are over; the load stops");
    let _ = stop.send(true);
    let longest_gap = load.await??;
    run.say(format_args!("{} records were handled so far", run.history().handlings));
    drain(&run, &client).await?;
    let changes = members::end(&run, members).await?;
    let kills = kills?;

    let log = read_log(&run, &client).await?;
    check_commits(&run, &client).await?;
    let history = std::mem::take(&mut *run.history());
    let (acknowledged, failed, unknown) = history.counts();
    let (handlings, repetitions, commits) = (history.handlings, history.repetitions, history.commits);
    let violations = history.judge(&log);
    println!("faults: {:.1} minutes, 3 real nodes", run.started.elapsed().as_secs_f64() / 60.0);
    println!("  {kills} kills (-9) and restarts, {changes} members that joined or left");
    println!("  {acknowledged} acknowledged, {failed} failed, {unknown} possibly written; {} in the log", log.len());
    println!("  {handlings} handled ({repetitions} again after a rebalance), {commits} commits");
    println!("  longest time without an acknowledgement: {:.1} s", longest_gap.as_secs_f64());
    tell(&violations);
    let shortfalls = [
        (acknowledged == 0, "nothing was acknowledged"),
        (failed + unknown > 0, "no send may fail, or stay unknown, while two of three nodes serve"),
        (longest_gap > MAX_GAP, "a producer stood still for longer than any outage lasted"),
        (changes == 0, "no member joined or left"),
    ];
    for (_, shortfall) in shortfalls.iter().filter(|(holds, _)| *holds) {
        println!("  SHORTFALL: {shortfall}");
    }
    admin.delete_topic(&run.topic).await?;
    let _ = client.close(Duration::from_secs(5)).await;
    Ok(violations.is_empty() && shortfalls.iter().all(|(holds, _)| !holds))
}

fn tell(violations: &[Violation]) {
    let count = |wanted: fn(&Violation) -> bool| violations.iter().filter(|violation| wanted(violation)).count();
    println!(
        "  {} lost, {} duplicated, {} reordered, {} committed and not handled, {} skipped, {} other",
        count(|violation| matches!(violation, Violation::Lost(..))),
        count(|violation| matches!(violation, Violation::Duplicated(..))),
        count(|violation| matches!(violation, Violation::Reordered(..))),
        count(|violation| matches!(violation, Violation::CommittedUnhandled { .. })),
        count(|violation| matches!(violation, Violation::Skipped { .. })),
        count(|violation| matches!(violation, Violation::FailedButWritten(..) | Violation::Unhandled(_))),
    );
    for violation in violations.iter().take(TOLD) {
        println!("  VIOLATION: {violation}");
    }
}

/// Waits until the members have handled everything that is in the log.
async fn drain(run: &Run, client: &Client) -> Outcome {
    let reader = Consumer::builder(client).build()?;
    let partitions = (0..PARTITIONS).map(|partition| TopicPartition::new(run.topic.as_str(), partition));
    let ends = reader.end_offsets(partitions).await?;
    reader.close(Duration::from_secs(5)).await?;
    let behind = || {
        let history = run.history();
        ends.iter().map(|(held, end)| (end - history.handled_below(held.partition)).max(0)).sum::<i64>()
    };
    let deadline = Instant::now() + DRAIN;
    while behind() > 0 {
        if Instant::now() > deadline {
            // Not an error of the run: the judgement tells which records nobody handled.
            run.say(format_args!("{} records are still not handled after {} s", behind(), DRAIN.as_secs()));
            for (held, end) in &ends {
                run.say(format_args!("{held}: handled up to {} of {end}", run.history().handled_below(held.partition)));
            }
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// The log as it is, by assignment and from the beginning.
async fn read_log(run: &Run, client: &Client) -> Outcome<BTreeMap<Place, Value>> {
    let reader = Consumer::builder(client).build()?;
    let partitions = (0..PARTITIONS).map(|partition| TopicPartition::new(run.topic.as_str(), partition));
    let ends = reader.end_offsets(partitions).await?;
    reader.assign((0..PARTITIONS).map(|partition| (&run.topic, partition, Start::Beginning)))?;
    let mut log = BTreeMap::new();
    let mut positions: BTreeMap<i32, i64> = BTreeMap::new();
    let total: i64 = ends.values().sum();
    while positions.values().sum::<i64>() < total {
        let event =
            tokio::time::timeout(DRAIN, reader.next()).await.map_err(|_| "the log can't be read to its end")??;
        let ConsumerEvent::Records(set) = event else { continue };
        for record in set.iter() {
            let place = Place { partition: record.partition, offset: record.offset };
            log.insert(place, load::read(record.key, record.value)?);
        }
        positions.insert(set.partition(), set.next_offset());
    }
    reader.close(Duration::from_secs(5)).await?;
    Ok(log)
}

/// What the coordinator holds in the end is no more than what was handled.
async fn check_commits(run: &Run, client: &Client) -> Outcome {
    let reader = Consumer::builder(client).group(&run.group).build()?;
    let partitions = (0..PARTITIONS).map(|partition| TopicPartition::new(run.topic.as_str(), partition));
    let committed = reader.committed(partitions).await?;
    for (held, committed) in committed {
        run.history().check_committed(held.partition, committed.offset);
    }
    reader.close(Duration::from_secs(5)).await?;
    Ok(())
}
