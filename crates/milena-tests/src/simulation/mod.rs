//! Seeded simulation: the whole client against the embedded broker, in virtual time, on one thread. A seed decides the
//! cluster, the load, what goes wrong and when; the same seed does the same again, byte for byte.
//!
//! Nothing here may read a clock but tokio's, draw from chance but the seed's, or iterate in the order of a hash.

mod consumers;
mod ending;
mod link;
mod load;
mod nemesis;
mod overheard;
mod plan;
mod readers;
mod trace;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use milena_broker::Broker;
use milena_client::producer::{Producer, ProducerConfig};
use milena_client::{Client, ClientConfig, TimeSource};
use milena_protocol::ApiKey;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::consumers::Consumers;
use self::link::{Asked, Dialler, Links};
use self::load::Load;
use self::nemesis::Members;
use self::plan::{Plan, ProducerPlan};
use self::trace::Trace;
use crate::history::{History, Promises, Violation};
use crate::kafka::Outcome;

const TOPIC: &str = "simulated";
const GROUP: &str = "simulated";
/// What a limit may be overrun by: others have their turn, and bytes travel.
const SLACK: Duration = Duration::from_secs(1);
/// How long it may take, at worst, until each partition takes records again once everything is whole.
const RECOVERY: Duration = Duration::from_secs(30);
/// How long it may take until everything has been handled then: sessions of members that vanished have to end.
const DRAIN: Duration = Duration::from_secs(120);
/// `prefetch` of clients that consume nothing.
const PREFETCH: usize = 1 << 20;
const SELECTOR: &str = "org.apache.kafka.common.replica.RackAwareReplicaSelector";
/// Which node is where, and where readers may be.
const RACKS: [&str; 3] = ["one", "two", "three"];

/// What one run came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Stands for everything that happened, to the byte.
    pub hash: u64,
    /// Broken promises, and there should be none.
    pub violations: Vec<Violation>,
    /// Records that were acknowledged, that failed, that are possibly written.
    pub outcomes: [u64; 3],
    /// Records in the log at the end.
    pub written: u64,
    /// Records that a consumer handed over, repetitions included.
    pub read: u64,
    /// Things that went wrong on purpose.
    pub mishaps: u64,
    /// Times that an epoch was raised, and batches that were sent again.
    pub bumps: u64,
    /// See `bumps`.
    pub retries: u64,
    /// For each producer and partition: the time until it took records once everything was whole.
    pub recoveries: Vec<Duration>,
    /// The most that one node was asked by one client within a second, of each thing that has a ceiling.
    pub most_asked: BTreeMap<String, usize>,
    /// Virtual time.
    pub elapsed: Duration,
}

/// What all parts of a run share.
#[derive(Debug)]
struct World {
    plan: Plan,
    broker: Broker,
    trace: Arc<Trace>,
    history: Arc<Mutex<History>>,
    consumers: Consumers,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the simulation of a seed; `prints` tells everything that happens.
///
/// # Errors
/// The runtime can't be built, or the cluster of the plan: none of it says anything of the client.
pub fn run(seed: u64, prints: bool) -> Outcome<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(simulate(seed, prints))
}

async fn simulate(seed: u64, prints: bool) -> Outcome<Report> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let plan = Plan::draw(&mut rng);
    let trace = Arc::new(Trace::new(prints));
    trace.note(format_args!("{plan:#?}"));
    let mut builder = Broker::builder().nodes(plan.nodes).topic(TOPIC, plan.partitions).seed(plan.seed);
    builder = builder.wall_clock(1_700_000_000_000);
    if plan.racks {
        builder = builder.racks(RACKS).config("replica.selector.class", SELECTOR);
    }
    if let Some(bytes) = plan.message_max {
        builder = builder.config("message.max.bytes", bytes.to_string());
    }
    let broker = builder.try_build()?;
    let promises = Promises {
        kept: true,
        once: plan.producers.iter().all(|producer| producer.idempotent),
        handled: plan.members > 0,
        read: plan.reads,
    };
    let history = Arc::new(Mutex::new(History::of(promises)));
    let world = Arc::new(World { plan, broker, trace, history, consumers: Consumers::default() });

    let (mut clients, mut links, mut loads) = (Vec::new(), Vec::new(), Vec::new());
    for (index, plan) in (0..).zip(&world.plan.producers) {
        let (client, link) = world.client(index, plan.request_timeout, PREFETCH)?;
        let producer = Producer::builder(&client).config(producer_config(plan)).build()?;
        loads.push(Load::new(&world, index, producer));
        clients.push(client);
        links.push(link);
    }
    let (ends, known_ends) = watch::channel(None);
    let mut tasks = JoinSet::new();
    if world.plan.reads {
        let (client, link) = world.client(50, Duration::from_secs(5), world.plan.prefetch)?;
        tasks.spawn(readers::read_all(Arc::clone(&world), client.clone(), known_ends));
        clients.push(client);
        links.push(link);
    }
    let mut members = Members::new(&world);
    for _ in 0..world.plan.members {
        links.push(members.join()?);
    }

    let mut sending = JoinSet::new();
    for load in &loads {
        sending.spawn(Arc::clone(load).run());
    }
    nemesis::run(&world, &links, &mut members).await?;
    let mut probes = JoinSet::new();
    for load in &loads {
        let load = Arc::clone(load);
        probes.spawn(async move { load.probe().await });
    }
    let mut report = Report { seed, mishaps: world.plan.mishaps.len() as u64, ..Report::default() };
    while let Some(took) = probes.join_next().await {
        report.recoveries.extend(took?);
    }
    while let Some(ended) = sending.join_next().await {
        ended?;
    }
    for load in &loads {
        load.end().await;
        let metrics = load.producer.metrics();
        report.bumps += metrics.epoch_bumps;
        report.retries += metrics.retries;
    }
    if world.plan.is_unclean() {
        // Whoever read what vanished has to hear of it first: until then it believes to be at the end.
        sleep(Duration::from_secs(10)).await;
    }
    let read_ends = ending::log_ends(&world)?;
    (0..).zip(&read_ends).for_each(|(partition, end)| lock(&world.history).reads_until(partition, *end));
    ends.send_replace(Some(read_ends));
    if timeout(DRAIN, async { while tasks.join_next().await.is_some() {} }).await.is_err() {
        world.stuck("a reader that is to come to the end of the log");
    }
    drop(tasks);
    ending::wait_until_handled(&world).await?;
    members.end().await;
    for client in clients {
        if timeout(Duration::from_secs(5) + SLACK, client.close(Duration::from_secs(5))).await.is_err() {
            world.stuck("the close of a client");
        }
    }
    world.gives_back(0).await;
    for links in &links {
        world.judge_rates(links, &mut report);
    }
    ending::conclude(&world, report).await
}

impl World {
    /// A client with links of its own.
    fn client(&self, index: u32, request_timeout: Duration, prefetch: usize) -> Outcome<(Client, Arc<Links>)> {
        let seed = self.plan.seed.wrapping_add(u64::from(index) << 20);
        let links = Links::new(self, index, seed);
        let mut config = ClientConfig::default();
        config.bootstrap_servers = self.broker.bootstrap();
        config.request_timeout = request_timeout;
        config.prefetch = prefetch;
        config.connection_setup_timeout = Duration::from_secs(2);
        config.connection_setup_timeout_max = Duration::from_secs(4);
        let clock = TimeSource::virtual_from(UNIX_EPOCH + Duration::from_millis(1_700_000_000_000));
        let builder = Client::builder().config(config).connector(Arc::new(Dialler(Arc::clone(&links))));
        Ok((builder.clock(clock).seed(seed).start()?, links))
    }

    fn stuck(&self, what: &str) {
        lock(&self.history).violated(Violation::Stuck(what.to_owned()));
    }

    /// Nobody may be asked again and again. Records may be sent and fetched as fast as it goes; for everything else, and for
    /// fetches in vain, there is a ceiling.
    fn judge_rates(&self, links: &Links, report: &mut Report) {
        const CEILING: usize = 10;
        for (node, asked, most) in links.rates() {
            let what = match asked {
                Asked::Dial => "a connection".to_owned(),
                Asked::VainFetch => "fetches in vain".to_owned(),
                Asked::Request(api) => match ApiKey::try_from(api) {
                    Ok(ApiKey::Produce | ApiKey::Fetch) => continue,
                    Ok(api) => api.name().to_owned(),
                    Err(_) => format!("request {api}"),
                },
            };
            let known = report.most_asked.entry(what.clone()).or_default();
            *known = most.max(*known);
            if most > CEILING {
                lock(&self.history).violated(Violation::Storm { node, what, requests: most });
            }
        }
    }
}

fn producer_config(plan: &ProducerPlan) -> ProducerConfig {
    let mut config = ProducerConfig::default();
    config.acks = plan.acks;
    config.idempotence = plan.idempotent;
    config.linger = plan.linger;
    config.batch_size = plan.batch_size;
    config.buffer_memory = plan.buffer_memory;
    config.max_request_size = plan.max_request_size;
    config.max_in_flight = plan.max_in_flight;
    config.delivery_timeout = plan.delivery_timeout;
    config.request_timeout = plan.request_timeout;
    config.max_block = plan.max_block;
    config.compression = plan.compression;
    config.low_latency = plan.low_latency;
    config.ordering = plan.ordering;
    config
}
