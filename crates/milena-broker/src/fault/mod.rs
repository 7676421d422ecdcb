//! Faults on purpose: rules that say which request goes wrong, and how.
//!
//! A rule matches requests by node, API, topic, partition and key, and acts on the nth match. The table only decides;
//! [`crate::api`] carries the decision out. Without rules a request costs one atomic load.

mod rule;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use milena_protocol::{ApiKey, ErrorCode, NodeId};

pub use self::rule::{Fault, FaultId, Rule};
use crate::{
    cluster::{ClusterImage, CoordinatorType},
    core::Core,
    lock::Lock,
};

/// What a request is about, as far as rules can ask.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    /// Topics with partitions; -1 for a topic as such.
    pub(crate) partitions: Vec<(String, i32)>,
    /// The group or transactional id.
    pub(crate) key: Option<String>,
}

/// What the rules decided for one request.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(crate) delay: Duration,
    pub(crate) drop_before: bool,
    pub(crate) drop_after: bool,
    pub(crate) throttle: Duration,
    pub(crate) cut_reply_at: Option<usize>,
    pub(crate) flip_reply_at: Option<usize>,
    pub(crate) wrong_correlation: bool,
    pub(crate) stale_image: Option<Arc<ClusterImage>>,
    pub(crate) evict_session: bool,
    /// To be done to the cluster before the request is answered.
    pub(crate) changes: Vec<Change>,
    errors: Vec<InjectedError>,
}

/// Something that happens to the cluster.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Leader { topic: String, partition: i32, to: Option<NodeId> },
    Coordinator { kind: CoordinatorType, key: String, to: NodeId },
    Truncate { topic: String, partition: i32, to_offset: i64 },
    ForgetProducers { topic: String, partition: i32 },
}

#[derive(Debug)]
struct InjectedError {
    /// `None`: the whole request.
    partition: Option<(String, i32)>,
    code: ErrorCode,
    applied: bool,
}

impl Effects {
    /// The error to answer with instead of doing anything, for requests without partitions.
    pub(crate) fn error(&self) -> Option<ErrorCode> {
        self.errors.iter().find(|error| !error.applied).map(|error| error.code)
    }

    /// The error to answer with instead of doing anything, whatever the request names.
    pub(crate) fn error_of_all(&self) -> Option<ErrorCode> {
        self.errors.iter().find(|error| !error.applied && error.partition.is_none()).map(|error| error.code)
    }

    /// The error to answer with for a partition, instead of (`applied` false) or after doing what was asked.
    pub(crate) fn partition_error(&self, topic: &str, partition: i32, applied: bool) -> Option<ErrorCode> {
        let hit = |error: &&InjectedError| {
            let (topic_hit, partition_hit) = match &error.partition {
                None => (true, true),
                Some((known, index)) => (known == topic, *index == partition || *index == -1),
            };
            error.applied == applied && topic_hit && partition_hit
        };
        self.errors.iter().find(hit).map(|error| error.code)
    }
}

/// The rules in force.
#[derive(Debug, Default)]
pub(crate) struct FaultTable {
    any: AtomicBool,
    state: Lock<TableState>,
}

#[derive(Debug, Default)]
struct TableState {
    last_id: u64,
    rules: Vec<ActiveRule>,
}

#[derive(Debug)]
struct ActiveRule {
    id: FaultId,
    rule: Rule,
    /// Requests that matched so far.
    seen: u64,
    /// Requests that were hit so far.
    hits: u64,
    /// The cluster when the rule was made, for stale metadata.
    image: Option<Arc<ClusterImage>>,
}

impl FaultTable {
    pub(crate) fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Acquire)
    }

    fn add(&self, rule: Rule, image: Option<Arc<ClusterImage>>) -> FaultId {
        let mut state = self.state.lock();
        state.last_id += 1;
        let id = FaultId(state.last_id);
        state.rules.push(ActiveRule { id, rule, seen: 0, hits: 0, image });
        self.any.store(true, Ordering::Release);
        id
    }

    /// Applies every rule to one request, in the order in which they were added.
    pub(crate) fn decide(&self, node: NodeId, api: ApiKey, touched: &Touched) -> Effects {
        let mut effects = Effects::default();
        for active in &mut self.state.lock().rules {
            let Some(partitions) = active.rule.matches(node, api, touched) else { continue };
            active.seen += 1;
            if active.rule.hits_at(active.seen) {
                active.hits += 1;
                apply(active, &partitions, touched, &mut effects);
            }
        }
        effects
    }
}

/// Adds what one rule does to `effects`. `partitions`: those of the request that the rule names, empty if it names none.
fn apply(active: &ActiveRule, partitions: &[(String, i32)], touched: &Touched, effects: &mut Effects) {
    let targets = if partitions.is_empty() { &touched.partitions[..] } else { partitions };
    let change = |effects: &mut Effects, make: &dyn Fn(String, i32) -> Change| {
        effects.changes.extend(targets.iter().map(|(topic, partition)| make(topic.clone(), *partition)));
    };
    match &active.rule.fault {
        Fault::Delay(delay) => effects.delay = effects.delay.max(*delay),
        Fault::DropBeforeApply => effects.drop_before = true,
        Fault::DropAfterApply => effects.drop_after = true,
        Fault::CutReply { after_bytes } => effects.cut_reply_at = Some(*after_bytes),
        Fault::FlipReplyByte { at } => effects.flip_reply_at = Some(*at),
        Fault::WrongCorrelationId => effects.wrong_correlation = true,
        Fault::Error(code) => add_error(effects, partitions, *code, false),
        Fault::ErrorAfterApply(code) => add_error(effects, partitions, *code, true),
        Fault::Throttle(delay) => effects.throttle = effects.throttle.max(*delay),
        Fault::StaleMetadata => effects.stale_image.clone_from(&active.image),
        Fault::EvictFetchSession => effects.evict_session = true,
        Fault::MoveLeader { to } => {
            let to = Some(NodeId(*to));
            change(effects, &|topic, partition| Change::Leader { topic, partition, to });
        }
        Fault::Leaderless => change(effects, &|topic, partition| Change::Leader { topic, partition, to: None }),
        Fault::Truncate { to_offset } => {
            let to_offset = *to_offset;
            change(effects, &|topic, partition| Change::Truncate { topic, partition, to_offset });
        }
        Fault::ForgetProducers => change(effects, &|topic, partition| Change::ForgetProducers { topic, partition }),
        Fault::MoveCoordinator { to } => {
            let kinds = [CoordinatorType::Group, CoordinatorType::Transaction];
            if let Some(key) = &touched.key {
                let moved = kinds.map(|kind| Change::Coordinator { kind, key: key.clone(), to: NodeId(*to) });
                effects.changes.extend(moved);
            }
        }
    }
}

fn add_error(effects: &mut Effects, partitions: &[(String, i32)], code: ErrorCode, applied: bool) {
    if partitions.is_empty() {
        effects.errors.push(InjectedError { partition: None, code, applied });
    }
    for partition in partitions {
        effects.errors.push(InjectedError { partition: Some(partition.clone()), code, applied });
    }
}

/// The fault rules of a broker. Clones share them.
#[derive(Debug, Clone)]
pub struct Faults {
    core: Arc<Core>,
}

impl Faults {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Puts a rule in force. Stale metadata is that of this moment.
    pub fn add(&self, rule: Rule) -> FaultId {
        let image =
            matches!(rule.fault, Fault::StaleMetadata).then(|| Arc::new(ClusterImage::of(&self.core.cluster, None)));
        self.core.faults.add(rule, image)
    }

    /// Takes a rule out of force and tells how often it hit. 0 if there is none of this id.
    pub fn remove(&self, id: FaultId) -> u64 {
        let mut state = self.core.faults.state.lock();
        let Some(position) = state.rules.iter().position(|active| active.id == id) else { return 0 };
        let removed = state.rules.remove(position);
        self.core.faults.any.store(!state.rules.is_empty(), Ordering::Release);
        removed.hits
    }

    /// Takes all rules out of force.
    pub fn clear(&self) {
        self.core.faults.state.lock().rules.clear();
        self.core.faults.any.store(false, Ordering::Release);
    }

    /// How often a rule has hit.
    #[must_use]
    pub fn hits(&self, id: FaultId) -> u64 {
        let state = self.core.faults.state.lock();
        state.rules.iter().find(|active| active.id == id).map_or(0, |active| active.hits)
    }
}
