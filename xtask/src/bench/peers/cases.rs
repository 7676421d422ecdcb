//! What is measured: the rows of the budgets.

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Produce,
    Consume,
    /// One record at a time, each awaited.
    Latency,
}

/// What milena is to cost, by the issue that asked for these measurements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Against the broker that answers at once: CPU, µs per record. Of consumers: borrowed, and owned.
    pub(super) cpu_us: Option<[f64; 2]>,
    /// p50 and p99, µs.
    pub(super) latency_us: Option<[f64; 2]>,
    /// Against real Kafka: the share of the CPU of the cheapest other client with the full contract.
    pub(super) share: Option<[f64; 2]>,
}

/// One load.
#[derive(Debug)]
pub(crate) struct Case {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Bytes of a value; a key has 16.
    pub(super) size: u64,
    pub(super) codec: &'static str,
    pub(super) tasks: u64,
    pub(super) partitions: u64,
    pub(super) budget: Budget,
}

const NONE: Budget = Budget { cpu_us: None, latency_us: None, share: None };
const THIRD: [f64; 2] = [1.0 / 3.0, 1.0 / 2.0];

const fn cpu(us: f64) -> Budget {
    Budget { cpu_us: Some([us, us]), ..NONE }
}

const fn share(share: [f64; 2]) -> Budget {
    Budget { share: Some(share), ..NONE }
}

const fn produce(
    name: &'static str,
    size: u64,
    codec: &'static str,
    tasks: u64,
    partitions: u64,
    budget: Budget,
) -> Case {
    Case { name, kind: Kind::Produce, size, codec, tasks, partitions, budget }
}

const fn consume(name: &'static str, size: u64, codec: &'static str, budget: Budget) -> Case {
    Case { name, kind: Kind::Consume, size, codec, tasks: 1, partitions: 1, budget }
}

pub(super) const CASES: [Case; 13] = [
    produce("produce", 100, "none", 1, 1, Budget { share: Some(THIRD), ..cpu(0.15) }),
    produce("produce-4-tasks", 100, "none", 4, 1, cpu(0.35)),
    produce("produce-16-partitions", 100, "none", 4, 16, cpu(0.20)),
    produce("produce-lz4", 100, "lz4", 1, 1, cpu(0.30)),
    produce("produce-1k", 1024, "none", 1, 1, cpu(0.65)),
    produce("produce-1k-lz4", 1024, "lz4", 1, 1, share([1.0, 1.0])),
    produce("produce-1k-zstd", 1024, "zstd", 1, 1, share([1.0, 1.0])),
    consume("consume", 100, "none", Budget { cpu_us: Some([0.05, 0.10]), share: Some(THIRD), ..NONE }),
    consume("consume-lz4", 100, "lz4", NONE),
    consume("consume-1k", 1024, "none", NONE),
    consume("consume-1k-lz4", 1024, "lz4", NONE),
    consume("consume-1k-zstd", 1024, "zstd", NONE),
    Case {
        kind: Kind::Latency,
        ..produce("latency", 100, "none", 1, 1, Budget { latency_us: Some([80.0, 300.0]), ..NONE })
    },
];

impl Case {
    pub(super) fn consumes(&self) -> bool {
        self.kind == Kind::Consume
    }

    /// How many records a run has where `records` are asked for: of large ones a quarter costs as much time, and of those
    /// that are awaited one by one a hundredth.
    pub(super) fn records(&self, records: u64) -> u64 {
        match self.kind {
            Kind::Latency => (records / 100).max(1_000),
            _ if self.size > 512 => records / 4,
            _ => records,
        }
    }

    /// As a title.
    pub(super) fn title(&self) -> String {
        let kind = match self.kind {
            Kind::Produce => "produce",
            Kind::Consume => "consume",
            Kind::Latency => return format!("one send at a time, {} B, embedded broker over TCP", self.size),
        };
        let tasks = if self.tasks == 1 { "1 task".to_owned() } else { format!("{} tasks", self.tasks) };
        let partitions =
            if self.partitions == 1 { "1 partition".to_owned() } else { format!("{} partitions", self.partitions) };
        format!("{kind}, {} B, {}, {tasks}, {partitions}", self.size, self.codec)
    }
}
