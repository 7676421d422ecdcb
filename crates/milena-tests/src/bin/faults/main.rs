//! Steady keyed load on three real nodes while each is killed (-9) and restarted in turn, leaders and the coordinator move,
//! connections are cut within a frame, and consumers join and leave, until each has happened as often as is the goal. Then
//! the judgement: nothing acknowledged lost, nothing written twice, nothing reordered within a key, nor, where that is
//! promised, as a task appended it to a partition; nothing committed that was not handled; memory within its budget, nobody asked again and again, every partition soon back.
//!
//! `cargo xtask faults` brings the cluster; by hand, set `MILENA_KAFKA_3` and `MILENA_XTASK`.
#![forbid(unsafe_code)]

mod load;
mod members;
mod nemesis;
mod recovery;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use milena_admin::{Admin, NewTopic};
use milena_client::consumer::{Consumer, ConsumerEvent, Start};
use milena_client::{Client, TopicPartition};
use milena_tests::history::{History, Place, Value, Violation};
use milena_tests::kafka::{Kafka, Outcome};
use milena_tests::proxy::{Proxy, Wanted};
use tokio::sync::watch;

use self::nemesis::{Counts, Happened};
use self::recovery::Recovery;

const PARTITIONS: i32 = 16;
/// How long the members may take to handle what is left once everything runs again.
const DRAIN: Duration = Duration::from_secs(120);
/// A task's longest time without an acknowledgement: a node is dead for 8 s, and then its partitions need leaders and
/// replicas again on a machine that may be busy. Without a bound, a load that stands still would break no promise.
const MAX_GAP: Duration = Duration::from_secs(60);
/// Of all recoveries, 99 of 100 are this quick.
const RECOVERY_P99: Duration = Duration::from_secs(3);
/// The most that a client may want of one node within a second, of what leads nowhere by itself: Metadata, FindCoordinator,
/// InitProducerId; and connections while the node is gone.
const CEILING: usize = 10;
const LOOK_UPS: [i16; 3] = [3, 10, 22];
/// Clients at any time: three producers, three members, one more while members change.
const CLIENTS: usize = 7;
/// How many violations are told one by one.
const TOLD: usize = 20;

/// What all parts of a run share.
struct Run {
    kafka: Kafka,
    topic: String,
    group: String,
    history: Mutex<History>,
    recovery: Mutex<Recovery>,
    happened: Happened,
    /// One before each node.
    proxies: Vec<Proxy>,
    members: AtomicU64,
    started: Instant,
}

impl Run {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recovery(&self) -> MutexGuard<'_, Recovery> {
        self.recovery.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_member(&self) -> u64 {
        self.members.fetch_add(1, Relaxed)
    }

    /// A client that goes by the proxies, under a name of its own.
    async fn client(&self, name: &str) -> Outcome<Client> {
        let bootstrap = self.proxies.iter().map(|proxy| proxy.address().to_string()).collect::<Vec<_>>().join(",");
        Ok(Client::builder().bootstrap(bootstrap)?.client_id(name).build().await?)
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
    let outcome = match (arguments(), runtime) {
        (Ok((goal, limit)), Ok(runtime)) => runtime.block_on(run(goal, limit)),
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

fn arguments() -> Outcome<(Counts, Duration)> {
    const USAGE: &str = "usage: faults --kills N --moves N --coordinator-moves N --cuts N --minutes N";
    let mut goal = Counts::default();
    let mut minutes = 30.0;
    let mut given = std::env::args().skip(1);
    while let Some(flag) = given.next() {
        let value = given.next().ok_or(USAGE)?;
        match flag.as_str() {
            "--kills" => goal.kills = value.parse()?,
            "--moves" => goal.moves = value.parse()?,
            "--coordinator-moves" => goal.coordinator_moves = value.parse()?,
            "--cuts" => goal.cuts = value.parse()?,
            "--minutes" => minutes = value.parse()?,
            _ => return Err(USAGE.into()),
        }
    }
    Ok((goal, Duration::from_secs_f64(minutes * 60.0)))
}

async fn run(goal: Counts, limit: Duration) -> Outcome<bool> {
    let id = std::process::id();
    let kafka = Kafka::three_nodes()?;
    let mut proxies = Vec::new();
    for (address, upstream) in kafka.proxied()? {
        proxies.push(Proxy::start(address, upstream).await?);
    }
    let run = Arc::new(Run {
        kafka,
        topic: format!("faults-{id}"),
        group: format!("faults-{id}"),
        history: Mutex::default(),
        recovery: Mutex::default(),
        happened: Happened::default(),
        proxies,
        members: AtomicU64::new(0),
        started: Instant::now(),
    });
    // Past the proxies: it is no part of what is proved.
    let client = Client::builder().bootstrap(run.kafka.bootstrap())?.client_id("admin").build().await?;
    let admin = Admin::new(&client);
    let topic =
        NewTopic::new(&run.topic).partitions(PARTITIONS).replication_factor(3).config("min.insync.replicas", "2");
    admin.create_topic(topic).await?;

    let (stop, stopped) = watch::channel(false);
    let load = tokio::spawn(load::run(Arc::clone(&run), stopped.clone()));
    let members = tokio::spawn(members::run(Arc::clone(&run), stopped.clone()));
    let struck = nemesis::run(&run, &client, goal, limit).await;
    let counts = run.happened.counts(&run);
    run.say("the faults are over; the load stops");
    let _ = stop.send(true);
    let load = load.await??;
    run.recovery().end();
    run.say(format_args!("{} records were handled so far", run.history().handlings));
    drain(&run, &client).await?;
    let changes = members::end(&run, members).await?;
    struck?;

    let log = read_log(&run, &client).await?;
    check_commits(&run, &client).await?;
    let history = std::mem::take(&mut *run.history());
    let (acknowledged, failed, unknown) = history.counts();
    let (handlings, repetitions, commits) = (history.handlings, history.repetitions, history.commits);
    let violations = history.judge(&log);
    println!("faults: {:.1} minutes, 3 real nodes", run.started.elapsed().as_secs_f64() / 60.0);
    let Counts { kills, moves, coordinator_moves, cuts } = counts;
    println!(
        "  {kills} kills (-9) and restarts, leader moved {moves} times, coordinator moved {coordinator_moves} times"
    );
    let ways = run.proxies.iter().map(Proxy::cuts).fold([0, 0], |sum, cuts| [sum[0] + cuts[0], sum[1] + cuts[1]]);
    println!("  {cuts} connections cut within a frame ({} toward the broker, {} toward the client)", ways[0], ways[1]);
    println!("  {changes} members that joined or left");
    println!("  {acknowledged} acknowledged, {failed} failed, {unknown} possibly written; {} in the log", log.len());
    println!("  {handlings} handled ({repetitions} again after a rebalance), {commits} commits");
    println!("  {} batches sent again, {} epochs raised", load.retries, load.bumps);
    println!("  {} times a partition went over to several open batches, in the order of keys alone", load.spreads);
    println!("  longest time without an acknowledgement: {:.1} s", load.longest_gap.as_secs_f64());
    let (p99, recoveries) = run.recovery().percentile(99);
    println!("  recovery after heal: p50 {:?}, p99 {p99:?} of {recoveries}", run.recovery().percentile(50).0);
    for load::Memory { most, limit, copies } in &load.memory {
        println!("  memory: at most {most} bytes of {limit}, and {copies} for batches while they are compressed");
    }
    let storms = storms(&run);
    tell(&violations);
    let shortfalls = [
        (acknowledged == 0, "nothing was acknowledged"),
        (failed + unknown > 0, "no send may fail, or stay unknown, while two of three nodes serve"),
        (load.longest_gap > MAX_GAP, "a producer stood still for longer than any outage lasted"),
        (changes == 0, "no member joined or left"),
        (kills < goal.kills, "not as many kills as are the goal"),
        (moves < goal.moves, "not as many moved leaders as are the goal"),
        (coordinator_moves < goal.coordinator_moves, "not as many moved coordinators as are the goal"),
        (cuts < goal.cuts, "not as many cuts as are the goal"),
        (recoveries == 0 || p99 > RECOVERY_P99, "recovery takes longer than it may"),
        (
            load.memory.iter().any(|memory| memory.most > memory.limit + memory.copies),
            "a producer held more than its memory",
        ),
        (storms, "a node was asked again and again"),
    ];
    for (_, shortfall) in shortfalls.iter().filter(|(holds, _)| *holds) {
        println!("  SHORTFALL: {shortfall}");
    }
    admin.delete_topic(&run.topic).await?;
    let _ = client.close(Duration::from_secs(5)).await;
    Ok(violations.is_empty() && shortfalls.iter().all(|(holds, _)| !holds))
}

/// Tells the most that was wanted of a node within a second; true if that is more than may be.
fn storms(run: &Run) -> bool {
    let (mut vain, mut looked_up) = (0, 0);
    for (wanted, most) in run.proxies.iter().flat_map(Proxy::most_wanted) {
        match wanted {
            // Nobody knows whose they are.
            Wanted::ConnectionInVain => vain = vain.max(most),
            Wanted::Request(client, api) if LOOK_UPS.contains(&api) => {
                if most > CEILING {
                    println!("  {client} sent {most} requests {api} within a second");
                }
                looked_up = looked_up.max(most);
            }
            Wanted::Request(..) | Wanted::Connection => {}
        }
    }
    println!("  a node that was gone: at most {vain} dials a second, of {CLIENTS} clients together");
    println!("  look-ups of one client at one node: at most {looked_up} a second");
    vain > CEILING * CLIENTS || looked_up > CEILING
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
