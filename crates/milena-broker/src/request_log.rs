//! What was asked of the broker: a count per node, API and version, for tests that assert on traffic.

use std::collections::BTreeMap;

use milena_protocol::{ApiKey, NodeId};

use crate::lock::Lock;

/// How often each request came in. A request counts once its body was decoded, before faults apply.
#[derive(Debug, Default)]
pub(crate) struct RequestLog {
    counts: Lock<BTreeMap<(NodeId, i16, i16), u64>>,
}

/// One line of the request log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestCount {
    /// The node that was asked.
    pub node: i32,
    /// What was asked.
    pub api: ApiKey,
    /// In which version.
    pub version: i16,
    /// How often.
    pub count: u64,
}

impl RequestLog {
    pub(crate) fn note(&self, node: NodeId, api: ApiKey, version: i16) {
        *self.counts.lock().entry((node, api.into(), version)).or_default() += 1;
    }

    pub(crate) fn counts(&self) -> Vec<RequestCount> {
        let counts = self.counts.lock();
        let lines = counts.iter().filter_map(|(&(node, api, version), &count)| {
            let api = ApiKey::try_from(api).ok()?;
            Some(RequestCount { node: node.0, api, version, count })
        });
        lines.collect()
    }

    pub(crate) fn clear(&self) {
        self.counts.lock().clear();
    }
}
