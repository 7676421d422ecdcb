//! What a seed decides: the cluster, the load, and everything that goes wrong, before anything begins.

use std::time::Duration;

use fastrand::Rng;
use milena_broker::{Fault, Rule};
use milena_client::producer::{Acks, Compression, Ordering};
use milena_protocol::{ApiKey, ErrorCode};

use super::link::{Harm, Quality, Toward};

/// One run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// For every choice that is made on the way.
    pub(super) seed: u64,
    pub(super) nodes: u16,
    pub(super) partitions: i32,
    /// `message.max.bytes`: below the size of some batches, so that they have to be split.
    pub(super) message_max: Option<usize>,
    pub(super) quality: Quality,
    pub(super) producers: Vec<ProducerPlan>,
    /// Whether somebody reads all partitions along.
    pub(super) reads: bool,
    /// Members of a group.
    pub(super) members: u32,
    /// Whether readers pause, resume and, in runs that are not unclean, seek.
    pub(super) wanders: bool,
    /// `max.partition.fetch.bytes` of those who read, and `prefetch` of their clients.
    pub(super) fetch_bytes: usize,
    pub(super) prefetch: usize,
    /// Whether nodes and readers are in racks, so that those read from replicas (KIP-392).
    pub(super) racks: bool,
    pub(super) mishaps: Vec<(Duration, Mishap)>,
    /// When the mishaps end.
    pub(super) heals: Duration,
}

/// One producer, and the tasks that share it.
#[derive(Clone, Debug)]
pub(super) struct ProducerPlan {
    pub(super) tasks: u32,
    pub(super) records: u32,
    /// Filling of each value.
    pub(super) filling: usize,
    /// The longest pause between two records of a task.
    pub(super) pause: Duration,
    pub(super) acks: Acks,
    pub(super) idempotent: bool,
    pub(super) linger: Duration,
    pub(super) batch_size: usize,
    pub(super) buffer_memory: usize,
    pub(super) max_request_size: usize,
    pub(super) max_in_flight: usize,
    pub(super) delivery_timeout: Duration,
    pub(super) request_timeout: Duration,
    pub(super) max_block: Duration,
    pub(super) compression: Compression,
    pub(super) low_latency: bool,
    pub(super) ordering: Ordering,
    /// When it is closed in the middle of its work, and how long that may take.
    pub(super) closes: Option<(Duration, Duration)>,
}

/// Something that goes wrong.
#[derive(Clone, Debug)]
pub(super) enum Mishap {
    Rule(Rule),
    Kill {
        node: i32,
        dead: Duration,
    },
    MoveLeader {
        partition: i32,
        to: i32,
    },
    Leaderless {
        partition: i32,
        dead: Duration,
    },
    /// An unclean election: so many records at the end of the log vanish, and another node leads.
    Truncate {
        partition: i32,
        records: i64,
        to: i32,
    },
    MoveCoordinator {
        to: i32,
    },
    EvictMember {
        which: usize,
    },
    Link {
        client: usize,
        which: usize,
        harm: Harm,
    },
    SilentDials {
        client: usize,
        length: Duration,
    },
    /// A member leaves, or vanishes without a word, and another comes.
    Replace {
        which: usize,
        vanishes: bool,
    },
}

impl Plan {
    pub(super) fn draw(rng: &mut Rng) -> Self {
        let nodes = *choose(rng, &[1, 2, 3, 3, 3, 4]);
        let partitions = *choose(rng, &[1, 2, 3, 5, 8, 16]);
        let heals = Duration::from_millis(rng.u64(2_000..20_000));
        let message_max = (rng.u8(0..6) == 0).then(|| rng.usize(1_000..3_000));
        let quality = Quality {
            latency: Duration::from_micros(*choose(rng, &[0, 500, 3_000, 20_000])),
            pipe: *choose(rng, &[300, 4_096, 256 * 1024]),
        };
        let producers: Vec<_> = (0..rng.u32(1..=2)).map(|_| ProducerPlan::draw(rng, heals)).collect();
        let members = *choose(rng, &[0, 0, 1, 2, 3]);
        let fetch_bytes = *choose(rng, &[500, 4_096, 1 << 20]);
        let mut plan = Self {
            seed: rng.u64(..),
            nodes,
            partitions,
            message_max,
            quality,
            producers,
            reads: rng.u8(0..3) > 0,
            members,
            wanders: rng.bool(),
            fetch_bytes,
            prefetch: fetch_bytes * *choose(rng, &[1, 4]),
            racks: rng.u8(0..3) == 0,
            mishaps: Vec::new(),
            heals,
        };
        // A quarter of the runs is calm, so that it is seen that all is well without mishaps, too.
        let n_mishaps = if rng.u8(0..4) == 0 { 0 } else { rng.usize(1..=16) };
        for _ in 0..n_mishaps {
            let at = heals.mul_f64(rng.f64());
            let mishap = plan.mishap(rng, heals.saturating_sub(at));
            plan.mishaps.push((at, mishap));
        }
        if n_mishaps > 0 && rng.u8(0..5) == 0 {
            for _ in 0..rng.usize(1..=3) {
                let (partition, to) = (rng.i32(0..partitions), rng.i32(0..i32::from(nodes)));
                let mishap = Mishap::Truncate { partition, records: rng.i64(1..40), to };
                plan.mishaps.push((heals.mul_f64(rng.f64()), mishap));
            }
        }
        plan.mishaps.sort_by_key(|(at, _)| *at);
        plan
    }

    /// Clients: a producer's each, the reader's, the first of each member.
    fn n_clients(&self) -> usize {
        self.producers.len() + usize::from(self.reads) + self.members as usize
    }

    /// Whether acknowledged records may vanish. Whoever seeks names no epoch, and can't tell then (KIP-320).
    pub(super) fn is_unclean(&self) -> bool {
        self.mishaps.iter().any(|(_, mishap)| matches!(mishap, Mishap::Truncate { .. }))
    }

    fn mishap(&self, rng: &mut Rng, left: Duration) -> Mishap {
        let node = rng.i32(0..i32::from(self.nodes));
        let partition = rng.i32(0..self.partitions);
        let dead = left.min(Duration::from_millis(rng.u64(50..8_000)));
        let client = rng.usize(0..self.n_clients());
        match rng.u8(0..20) {
            0..8 => Mishap::Rule(rule(rng, self.partitions, node, left)),
            8 | 9 => Mishap::Kill { node, dead },
            10 | 11 => Mishap::MoveLeader { partition, to: node },
            12 => Mishap::Leaderless { partition, dead },
            13 if self.members > 0 => Mishap::MoveCoordinator { to: node },
            14 if self.members > 0 => match rng.u8(0..3) {
                0 => Mishap::EvictMember { which: rng.usize(0..4) },
                vanishes => Mishap::Replace { which: rng.usize(0..4), vanishes: vanishes == 1 },
            },
            15 => Mishap::SilentDials { client, length: dead },
            _ => {
                let toward = if rng.bool() { Toward::Broker } else { Toward::Client };
                let harm = match rng.u8(0..10) {
                    0..6 => {
                        let after = if rng.bool() { rng.usize(0..60) } else { rng.usize(0..3_000) };
                        Harm::Cut { toward, after, reset: rng.bool(), lingers: rng.bool() }
                    }
                    6 | 7 => Harm::Stall(toward, dead),
                    8 => Harm::Drip(toward),
                    _ => Harm::Damage(toward),
                };
                Mishap::Link { client, which: rng.usize(0..8), harm }
            }
        }
    }
}

impl ProducerPlan {
    fn draw(rng: &mut Rng, heals: Duration) -> Self {
        let (acks, idempotent) = match rng.u8(0..20) {
            0 => (Acks::None, false),
            1 => (Acks::Leader, false),
            2 => (Acks::All, false),
            _ => (Acks::All, true),
        };
        let tasks = rng.u32(1..=4);
        let records = rng.u32(10..=120);
        let linger = Duration::from_millis(*choose(rng, &[0, 5, 5, 200]));
        let request_timeout = Duration::from_millis(*choose(rng, &[500, 2_000, 5_000, 30_000]));
        let leeway = Duration::from_millis(*choose(rng, &[100, 2_000, 30_000, 90_000, 90_000]));
        // The largest record must fit, and so must a batch, each rounded up to a power of two.
        let (filling, batch_size) =
            (*choose(rng, &[20, 20, 100, 700]), *choose(rng, &[150, 400, 1_000, 16_384, 131_072]));
        let max_request_size = 1_024_usize << rng.u32(0..8);
        let smallest = batch_size.max(max_request_size).next_power_of_two();
        Self {
            tasks,
            records,
            filling,
            pause: heals.mul_f64(rng.f64() * 2.5) / records,
            acks,
            idempotent,
            linger,
            batch_size,
            buffer_memory: smallest * *choose(rng, &[1, 2, 4, 1_000]),
            max_request_size,
            max_in_flight: if idempotent { *choose(rng, &[5, 5, 5, 1, 2]) } else { 1 },
            delivery_timeout: linger + request_timeout + leeway,
            request_timeout,
            max_block: Duration::from_millis(*choose(rng, &[1_000, 10_000, 60_000])),
            compression: *choose(
                rng,
                &[
                    Compression::None,
                    Compression::None,
                    Compression::Gzip(None),
                    Compression::Snappy,
                    Compression::Lz4,
                    Compression::Zstd(Some(1)),
                    Compression::Auto,
                    Compression::SizeTable,
                ],
            ),
            low_latency: rng.bool(),
            ordering: *choose(rng, &[Ordering::Partition, Ordering::Partition, Ordering::Key]),
            closes: (rng.u8(0..10) == 0)
                .then(|| (heals.mul_f64(rng.f64()), Duration::from_millis(*choose(rng, &[0, 300, 20_000])))),
        }
    }
}

/// What a broker may answer without having done what it was asked for; and nothing that it would never say: to refuse a
/// sequence that is right, or a batch that it has already as too large, is a lie that no client could live with.
const PRODUCE_ERRORS: [ErrorCode; 9] = [
    ErrorCode::NOT_LEADER_OR_FOLLOWER,
    ErrorCode::NOT_LEADER_OR_FOLLOWER,
    ErrorCode::LEADER_NOT_AVAILABLE,
    ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
    ErrorCode::NOT_ENOUGH_REPLICAS,
    ErrorCode::KAFKA_STORAGE_ERROR,
    ErrorCode::UNKNOWN_SERVER_ERROR,
    ErrorCode::CORRUPT_MESSAGE,
    ErrorCode::TOPIC_AUTHORIZATION_FAILED,
];

const PRODUCE_ERRORS_AFTER: [ErrorCode; 5] = [
    ErrorCode::NOT_LEADER_OR_FOLLOWER,
    ErrorCode::REQUEST_TIMED_OUT,
    ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    ErrorCode::KAFKA_STORAGE_ERROR,
    ErrorCode::UNKNOWN_SERVER_ERROR,
];

const FETCH_ERRORS: [ErrorCode; 9] = [
    ErrorCode::NOT_LEADER_OR_FOLLOWER,
    ErrorCode::UNKNOWN_LEADER_EPOCH,
    ErrorCode::FENCED_LEADER_EPOCH,
    ErrorCode::OFFSET_NOT_AVAILABLE,
    ErrorCode::KAFKA_STORAGE_ERROR,
    ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
    ErrorCode::UNKNOWN_TOPIC_ID,
    ErrorCode::CORRUPT_MESSAGE,
    ErrorCode::UNKNOWN_SERVER_ERROR,
];

const COORDINATOR_ERRORS: [ErrorCode; 3] =
    [ErrorCode::NOT_COORDINATOR, ErrorCode::COORDINATOR_LOAD_IN_PROGRESS, ErrorCode::COORDINATOR_NOT_AVAILABLE];

const MEMBER_ERRORS: [ErrorCode; 3] =
    [ErrorCode::REBALANCE_IN_PROGRESS, ErrorCode::UNKNOWN_MEMBER_ID, ErrorCode::ILLEGAL_GENERATION];

const APIS: [ApiKey; 12] = [
    ApiKey::Produce,
    ApiKey::Produce,
    ApiKey::Produce,
    ApiKey::Fetch,
    ApiKey::Fetch,
    ApiKey::Metadata,
    ApiKey::InitProducerId,
    ApiKey::ListOffsets,
    ApiKey::FindCoordinator,
    ApiKey::OffsetCommit,
    ApiKey::JoinGroup,
    ApiKey::Heartbeat,
];

fn rule(rng: &mut Rng, partitions: i32, node: i32, left: Duration) -> Rule {
    let api = *choose(rng, &APIS);
    let fault = match rng.u8(0..13) {
        0 => Fault::Delay(left.min(Duration::from_millis(rng.u64(1..6_000)))),
        1 => Fault::DropBeforeApply,
        2 | 3 => Fault::DropAfterApply,
        4 => Fault::CutReply { after_bytes: rng.usize(0..120) },
        5 => Fault::WrongCorrelationId,
        6 => Fault::Throttle(left.min(Duration::from_millis(rng.u64(1..2_000)))),
        7 if api == ApiKey::Metadata => Fault::StaleMetadata,
        7 if api == ApiKey::Fetch => Fault::EvictFetchSession,
        7 | 8 if api == ApiKey::Produce => Fault::ErrorAfterApply(*choose(rng, &PRODUCE_ERRORS_AFTER)),
        8 if matches!(api, ApiKey::Produce | ApiKey::Fetch) => Fault::MoveLeader { to: node },
        _ => match api {
            ApiKey::Produce => Fault::Error(*choose(rng, &PRODUCE_ERRORS)),
            ApiKey::Fetch => Fault::Error(*choose(rng, &FETCH_ERRORS)),
            ApiKey::ListOffsets => Fault::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER),
            ApiKey::InitProducerId | ApiKey::FindCoordinator | ApiKey::OffsetCommit => {
                Fault::Error(*choose(rng, &COORDINATOR_ERRORS))
            }
            ApiKey::JoinGroup => Fault::Error(*choose(rng, &COORDINATOR_ERRORS)),
            ApiKey::Heartbeat => Fault::Error(*choose(rng, &MEMBER_ERRORS)),
            _ => Fault::DropBeforeApply,
        },
    };
    let mut rule = Rule::new(fault).api(api).nth(rng.u64(1..8)).times(*choose(rng, &[1, 1, 1, 2, 5]));
    if matches!(api, ApiKey::Produce | ApiKey::Fetch) && rng.bool() {
        rule = rule.topic(super::TOPIC).partition(rng.i32(0..partitions));
    }
    rule
}

pub(super) fn choose<'a, T>(rng: &mut Rng, from: &'a [T]) -> &'a T {
    &from[rng.usize(0..from.len())]
}
