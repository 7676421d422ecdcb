//! What is measured: the rows of the budgets.

/// One load.
#[derive(Debug)]
pub(crate) struct Case {
    pub(super) name: &'static str,
    pub(super) consume: bool,
    /// Bytes of a value; a key has 16.
    pub(super) size: u64,
    pub(super) codec: &'static str,
    pub(super) tasks: u64,
    pub(super) partitions: u64,
}

const fn produce(name: &'static str, size: u64, codec: &'static str, tasks: u64, partitions: u64) -> Case {
    Case { name, consume: false, size, codec, tasks, partitions }
}

const fn consume(name: &'static str, size: u64, codec: &'static str) -> Case {
    Case { name, consume: true, size, codec, tasks: 1, partitions: 1 }
}

pub(super) const CASES: [Case; 12] = [
    produce("produce", 100, "none", 1, 1),
    produce("produce-4-tasks", 100, "none", 4, 1),
    produce("produce-16-partitions", 100, "none", 4, 16),
    produce("produce-lz4", 100, "lz4", 1, 1),
    produce("produce-1k", 1024, "none", 1, 1),
    produce("produce-1k-lz4", 1024, "lz4", 1, 1),
    produce("produce-1k-zstd", 1024, "zstd", 1, 1),
    consume("consume", 100, "none"),
    consume("consume-lz4", 100, "lz4"),
    consume("consume-1k", 1024, "none"),
    consume("consume-1k-lz4", 1024, "lz4"),
    consume("consume-1k-zstd", 1024, "zstd"),
];

impl Case {
    /// How many records a run has where `records` are asked for: of large ones a quarter costs as much time.
    pub(super) fn records(&self, records: u64) -> u64 {
        if self.size > 512 { records / 4 } else { records }
    }

    /// As a title.
    pub(super) fn title(&self) -> String {
        let direction = if self.consume { "consume" } else { "produce" };
        let tasks = if self.tasks == 1 { "1 task".to_owned() } else { format!("{} tasks", self.tasks) };
        let partitions =
            if self.partitions == 1 { "1 partition".to_owned() } else { format!("{} partitions", self.partitions) };
        format!("{direction}, {} B, {}, {tasks}, {partitions}", self.size, self.codec)
    }
}
