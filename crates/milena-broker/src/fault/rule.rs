//! One fault rule: what it matches and what it does.

use std::time::Duration;

use milena_protocol::{ApiKey, ErrorCode, NodeId};

use super::Touched;

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The request waits this long before anything happens to it; what is behind it on the connection waits too.
    Delay(Duration),
    /// The connection is closed before the request has any effect.
    DropBeforeApply,
    /// The request takes effect, then the connection is closed without an answer.
    DropAfterApply,
    /// The request takes effect; the connection is closed after this many bytes of the answer (its length prefix counts).
    CutReply {
        /// Bytes that still go out.
        after_bytes: usize,
    },
    /// One byte of the answer is inverted (0 is the first of the length prefix; past the end: the last byte).
    FlipReplyByte {
        /// Which byte.
        at: usize,
    },
    /// The answer carries another request's correlation id.
    WrongCorrelationId,
    /// The request has no effect and is answered with this error: for the partitions that the rule names, or for all.
    Error(ErrorCode),
    /// The request takes effect and is answered with this error all the same (Produce).
    ErrorAfterApply(ErrorCode),
    /// The answer says so, and the connection is muted for as long (KIP-219).
    Throttle(Duration),
    /// Metadata is answered with the cluster as it was when the rule was added.
    StaleMetadata,
    /// The fetch session of the request is forgotten before the request is looked at.
    EvictFetchSession,
    /// The partitions get this leader, in a new epoch, before the request is looked at.
    MoveLeader {
        /// The node that leads from then on.
        to: i32,
    },
    /// The partitions lose their leader, before the request is looked at.
    Leaderless,
    /// The partitions are cut back to this offset (or the batch boundary below), before the request is looked at.
    Truncate {
        /// The log end offset from then on.
        to_offset: i64,
    },
    /// The partitions forget their idempotent producers, before the request is looked at.
    ForgetProducers,
    /// The group or transactional id gets this coordinator, before the request is looked at.
    MoveCoordinator {
        /// The node that coordinates from then on.
        to: i32,
    },
}

/// A rule's name, for [`super::Faults::remove`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FaultId(pub(super) u64);

/// Which requests go wrong, and how. Whatever isn't said matches everything; by default the first match is hit, once.
#[derive(Debug, Clone)]
pub struct Rule {
    pub(super) fault: Fault,
    node: Option<NodeId>,
    api: Option<ApiKey>,
    topic: Option<String>,
    partition: Option<i32>,
    key: Option<String>,
    nth: u64,
    times: u64,
}

impl Rule {
    /// A rule that does `fault` to the first request.
    #[must_use]
    pub fn new(fault: Fault) -> Self {
        Self { fault, node: None, api: None, topic: None, partition: None, key: None, nth: 1, times: 1 }
    }

    /// Only requests to this node.
    #[must_use]
    pub fn node(mut self, node: i32) -> Self {
        self.node = Some(NodeId(node));
        self
    }

    /// Only requests of this API.
    #[must_use]
    pub fn api(mut self, api: ApiKey) -> Self {
        self.api = Some(api);
        self
    }

    /// Only requests that name this topic.
    #[must_use]
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Only requests that name this partition.
    #[must_use]
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Only requests for this group or transactional id.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The first request to be hit is the nth that matches, counted from 1.
    #[must_use]
    pub fn nth(mut self, nth: u64) -> Self {
        self.nth = nth.max(1);
        self
    }

    /// So many matching requests in a row are hit.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Every matching request is hit, from the nth on.
    #[must_use]
    pub fn always(mut self) -> Self {
        self.times = u64::MAX;
        self
    }

    /// `None` if the request is none of this rule's; else the partitions that the rule names and the request touches,
    /// empty if the rule names none.
    pub(super) fn matches(&self, node: NodeId, api: ApiKey, touched: &Touched) -> Option<Vec<(String, i32)>> {
        let same = self.node.is_none_or(|wanted| wanted == node)
            && self.api.is_none_or(|wanted| wanted == api)
            && (self.key.is_none() || self.key == touched.key);
        if !same {
            return None;
        }
        if self.topic.is_none() && self.partition.is_none() {
            return Some(Vec::new());
        }
        let named = touched.partitions.iter().filter(|(topic, partition)| {
            self.topic.as_ref().is_none_or(|wanted| wanted == topic)
                && self.partition.is_none_or(|wanted| wanted == *partition)
        });
        let named: Vec<_> = named.cloned().collect();
        (!named.is_empty()).then_some(named)
    }

    /// True if the match number `seen` (from 1) is one to hit.
    pub(super) fn hits_at(&self, seen: u64) -> bool {
        seen >= self.nth && seen - self.nth < self.times
    }
}
