//! One member of a classic group: what it told when it joined and what it waits for.

use bytes::Bytes;
use tokio::time::{Duration, Instant};

/// Names one parked answer; whoever drives the group keeps the answer's way back under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ticket(pub(crate) u64);

/// A protocol (assignor) that a member offers, with its subscription blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Protocol {
    pub(crate) name: String,
    pub(crate) metadata: Bytes,
}

/// What the request that brought the member said of it.
#[derive(Debug, Clone)]
pub(crate) struct MemberSpec {
    pub(crate) group_instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) session_timeout: Duration,
    pub(crate) rebalance_timeout: Duration,
    pub(crate) protocol_type: String,
    pub(crate) protocols: Vec<Protocol>,
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: String,
    pub(crate) spec: MemberSpec,
    pub(crate) assignment: Bytes,
    /// The JoinGroup answer it waits for: it has joined the coming generation.
    pub(crate) joining: Option<Ticket>,
    /// The SyncGroup answer it waits for.
    pub(crate) syncing: Option<Ticket>,
    /// It sent its SyncGroup for the current generation.
    pub(crate) synced: bool,
    /// It is thrown out then, unless it is heard of before or waits for an answer of ours.
    pub(crate) session_ends: Instant,
}

impl Member {
    pub(crate) fn new(now: Instant, id: String, spec: MemberSpec) -> Self {
        let session_ends = now + spec.session_timeout;
        Self { id, spec, assignment: Bytes::new(), joining: None, syncing: None, synced: false, session_ends }
    }

    pub(crate) fn is_static(&self) -> bool {
        self.spec.group_instance_id.is_some()
    }

    /// The member was heard of: its session starts anew.
    pub(crate) fn touch(&mut self, now: Instant) {
        self.session_ends = now + self.spec.session_timeout;
    }

    /// A member that waits for us cannot be blamed for silence.
    pub(crate) fn is_waiting(&self) -> bool {
        self.joining.is_some() || self.syncing.is_some()
    }

    pub(crate) fn metadata_for(&self, protocol: &str) -> Bytes {
        self.spec
            .protocols
            .iter()
            .find(|offered| offered.name == protocol)
            .map(|offered| offered.metadata.clone())
            .unwrap_or_default()
    }
}
