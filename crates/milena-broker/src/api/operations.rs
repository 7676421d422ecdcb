//! The operations that a client may perform, as bits (KIP-430). There are no ACLs here: everybody may do everything.

/// What Kafka answers when it wasn't asked to compute the operations.
pub(super) const NOT_ASKED: i32 = i32::MIN;

/// Read, write, create, delete, alter, describe, and describe and alter configs.
const TOPIC: i32 = 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 11;
/// Create, alter, describe, cluster action, describe and alter configs, idempotent write.
const CLUSTER: i32 = 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12;

/// Read, delete, describe.
const GROUP: i32 = 1 << 3 | 1 << 6 | 1 << 8;

pub(super) fn of_group(asked: bool) -> i32 {
    if asked { GROUP } else { NOT_ASKED }
}

pub(super) fn of_topic(asked: bool) -> i32 {
    if asked { TOPIC } else { NOT_ASKED }
}

pub(super) fn of_cluster(asked: bool) -> i32 {
    if asked { CLUSTER } else { NOT_ASKED }
}
