//! Tracks which partitions one broker remembers for us (KIP-227), so that a fetch names only what changed. Holds no
//! sockets and no clock. Its state moves only when a response confirms it.

use std::collections::BTreeMap;

use milena_protocol::{ErrorCode, Uuid};

use super::TopicPartition;

/// Session epoch of a fetch that opens a session.
pub const INITIAL_EPOCH: i32 = 0;
/// Session epoch of a fetch outside any session; with an id, it closes the session.
pub const FINAL_EPOCH: i32 = -1;

/// What is asked of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchTarget {
    /// The topic's id, zero where the broker knows none.
    pub topic_id: Uuid,
    /// Offset to read from.
    pub offset: i64,
    /// The leader's epoch as we know it, -1 for unknown.
    pub leader_epoch: i32,
    /// The epoch of the record before the offset, -1 for unknown: the leader tells if its log parts from it (KIP-595).
    pub last_fetched_epoch: i32,
    /// `max.partition.fetch.bytes`
    pub max_bytes: i32,
}

/// A fetch as the session wants it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFetch {
    /// Session id, 0 for none.
    pub id: i32,
    /// Session epoch.
    pub epoch: i32,
    /// Partitions to name.
    pub send: Vec<(TopicPartition, FetchTarget)>,
    /// Partitions to drop from the session, by the topic id it knows them under.
    pub forget: Vec<(TopicPartition, Uuid)>,
}

/// The session at one broker.
#[derive(Debug, Default)]
pub struct FetchSession {
    id: i32,
    epoch: i32,
    known: BTreeMap<TopicPartition, FetchTarget>,
    asked: Option<BTreeMap<TopicPartition, FetchTarget>>,
}

impl FetchSession {
    /// No session yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next fetch of `wanted`. One of the `handle_*` must follow before the next.
    pub fn plan(&mut self, wanted: BTreeMap<TopicPartition, FetchTarget>) -> SessionFetch {
        let mut fetch = SessionFetch { id: self.id, epoch: self.epoch, ..SessionFetch::default() };
        if self.epoch == INITIAL_EPOCH {
            fetch.send = wanted.iter().map(|(tp, target)| (tp.clone(), *target)).collect();
        } else {
            for (tp, target) in &wanted {
                match self.known.get(tp) {
                    Some(known) if known == target => {}
                    known => {
                        // A topic created anew under its name: the broker knows the old one by its id.
                        if let Some(old) = known.filter(|known| known.topic_id != target.topic_id) {
                            fetch.forget.push((tp.clone(), old.topic_id));
                        }
                        fetch.send.push((tp.clone(), *target));
                    }
                }
            }
            let gone = self.known.iter().filter(|(tp, _)| !wanted.contains_key(tp));
            fetch.forget.extend(gone.map(|(tp, target)| (tp.clone(), target.topic_id)));
        }
        self.asked = Some(wanted);
        fetch
    }

    /// A response came. An error means that nothing of it is to be used, and the next fetch is a full one.
    pub fn handle_response(&mut self, error: ErrorCode, session_id: i32) -> Result<(), ErrorCode> {
        let asked = self.asked.take().unwrap_or_default();
        if error.is_error() {
            if error == ErrorCode::FETCH_SESSION_ID_NOT_FOUND {
                self.id = 0;
            }
            self.restart();
            return Err(error);
        }
        match session_id {
            // The broker keeps no session for us: name everything each time.
            0 => {
                self.id = 0;
                self.restart();
            }
            id if self.epoch == INITIAL_EPOCH || id == self.id => {
                self.id = id;
                self.epoch = if self.epoch == i32::MAX { 1 } else { self.epoch + 1 };
                self.known = asked;
            }
            // Another session's answer can't be ours.
            _ => {
                self.restart();
                return Err(ErrorCode::INVALID_FETCH_SESSION_EPOCH);
            }
        }
        Ok(())
    }

    /// No response: whether the broker moved on is unknown, so the next fetch opens the session anew, closing the old.
    pub fn handle_failure(&mut self) {
        self.asked = None;
        self.restart();
    }

    fn restart(&mut self) {
        self.epoch = INITIAL_EPOCH;
        self.known.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(offset: i64) -> FetchTarget {
        FetchTarget { topic_id: Uuid::ZERO, offset, leader_epoch: 0, last_fetched_epoch: -1, max_bytes: 1 << 20 }
    }

    fn wanted(offsets: &[(i32, i64)]) -> BTreeMap<TopicPartition, FetchTarget> {
        offsets.iter().map(|(partition, offset)| (TopicPartition::new("t", *partition), target(*offset))).collect()
    }

    fn named(fetch: &SessionFetch) -> (i32, i32, Vec<i32>, Vec<i32>) {
        let send = fetch.send.iter().map(|(tp, _)| tp.partition).collect();
        (fetch.id, fetch.epoch, send, fetch.forget.iter().map(|(tp, _)| tp.partition).collect())
    }

    fn opened() -> FetchSession {
        let mut session = FetchSession::new();
        assert_eq!(named(&session.plan(wanted(&[(0, 5), (1, 5)]))), (0, 0, vec![0, 1], vec![]));
        session.handle_response(ErrorCode::NONE, 7).unwrap();
        session
    }

    #[test]
    fn incremental_fetch_names_what_changed_and_forgets_what_left() {
        let mut session = opened();
        assert_eq!(named(&session.plan(wanted(&[(0, 9), (1, 5)]))), (7, 1, vec![0], vec![]));
        session.handle_response(ErrorCode::NONE, 7).unwrap();
        assert_eq!(named(&session.plan(wanted(&[(0, 9), (2, 0)]))), (7, 2, vec![2], vec![1]));
        session.handle_response(ErrorCode::NONE, 7).unwrap();
        assert_eq!(named(&session.plan(wanted(&[(0, 9), (2, 0)]))), (7, 3, vec![], vec![]));
    }

    #[test]
    fn evicted_session_is_opened_anew_with_everything() {
        let mut session = opened();
        session.plan(wanted(&[(0, 9), (1, 5)]));
        assert!(session.handle_response(ErrorCode::FETCH_SESSION_ID_NOT_FOUND, 0).is_err());
        assert_eq!(named(&session.plan(wanted(&[(0, 9), (1, 5)]))), (0, 0, vec![0, 1], vec![]));
    }

    #[test]
    fn wrong_epoch_or_lost_answer_closes_the_old_session_by_opening_another() {
        let mut session = opened();
        session.plan(wanted(&[(0, 9)]));
        assert!(session.handle_response(ErrorCode::INVALID_FETCH_SESSION_EPOCH, 0).is_err());
        assert_eq!(named(&session.plan(wanted(&[(0, 9)]))), (7, 0, vec![0], vec![]));
        session.handle_failure();
        assert_eq!(named(&session.plan(wanted(&[(0, 9)]))), (7, 0, vec![0], vec![]));
        session.handle_response(ErrorCode::NONE, 8).unwrap();
        assert_eq!(named(&session.plan(wanted(&[(0, 9)]))), (8, 1, vec![], vec![]));
    }

    #[test]
    fn id_zero_means_no_session_and_everything_is_named_each_time() {
        let mut session = FetchSession::new();
        for _ in 0..3 {
            assert_eq!(named(&session.plan(wanted(&[(0, 5)]))), (0, 0, vec![0], vec![]));
            session.handle_response(ErrorCode::NONE, 0).unwrap();
        }
    }

    #[test]
    fn answer_of_another_session_is_not_used() {
        let mut session = opened();
        session.plan(wanted(&[(0, 9)]));
        assert!(session.handle_response(ErrorCode::NONE, 8).is_err());
        assert_eq!(session.plan(wanted(&[(0, 9)])).epoch, INITIAL_EPOCH);
    }

    #[test]
    fn topic_created_anew_is_forgotten_under_its_old_id() {
        let mut session = opened();
        let mut again = wanted(&[(0, 0), (1, 5)]);
        again.get_mut(&TopicPartition::new("t", 0)).unwrap().topic_id = Uuid::from_bytes([9; 16]);
        let fetch = session.plan(again);
        assert_eq!(fetch.forget, vec![(TopicPartition::new("t", 0), Uuid::ZERO)]);
        assert_eq!(fetch.send.len(), 1);
    }

    #[test]
    fn epoch_wraps_to_one_since_zero_would_open_a_session() {
        let mut session = opened();
        session.epoch = i32::MAX;
        session.plan(wanted(&[(0, 5), (1, 5)]));
        session.handle_response(ErrorCode::NONE, 7).unwrap();
        assert_eq!(session.epoch, 1);
    }
}
