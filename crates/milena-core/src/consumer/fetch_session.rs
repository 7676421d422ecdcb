//! The fetch session at one broker (KIP-227), by which a fetch names only what changed: its id, its epoch, and whether the
//! next fetch has to name everything. What the session has of each partition is kept with the positions. Holds no sockets
//! and no clock. Its state moves only when a response confirms it.

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
}

impl FetchSession {
    /// No session yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the next fetch opens the session, and so has to name everything.
    pub fn names_all(&self) -> bool {
        self.epoch == INITIAL_EPOCH
    }

    /// The next fetch: of what changed, or of everything where it [has to be named](Self::names_all). One of the
    /// `handle_*` must follow before the next.
    pub fn plan(&self, send: Vec<(TopicPartition, FetchTarget)>, forget: Vec<(TopicPartition, Uuid)>) -> SessionFetch {
        SessionFetch { id: self.id, epoch: self.epoch, send, forget }
    }

    /// A response came. An error means that nothing of it is to be used, and the next fetch is a full one.
    pub fn handle_response(&mut self, error: ErrorCode, session_id: i32) -> Result<(), ErrorCode> {
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
        self.restart();
    }

    fn restart(&mut self) {
        self.epoch = INITIAL_EPOCH;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Id and epoch of the next fetch, and whether it names everything.
    fn next(session: &FetchSession) -> (i32, i32, bool) {
        let fetch = session.plan(Vec::new(), Vec::new());
        (fetch.id, fetch.epoch, session.names_all())
    }

    fn opened() -> FetchSession {
        let mut session = FetchSession::new();
        assert_eq!(next(&session), (0, 0, true));
        session.handle_response(ErrorCode::NONE, 7).unwrap();
        session
    }

    #[test]
    fn session_once_open_counts_its_fetches() {
        let mut session = opened();
        assert_eq!(next(&session), (7, 1, false));
        session.handle_response(ErrorCode::NONE, 7).unwrap();
        assert_eq!(next(&session), (7, 2, false));
    }

    #[test]
    fn evicted_session_is_opened_anew_with_everything() {
        let mut session = opened();
        assert!(session.handle_response(ErrorCode::FETCH_SESSION_ID_NOT_FOUND, 0).is_err());
        assert_eq!(next(&session), (0, 0, true));
    }

    #[test]
    fn wrong_epoch_or_lost_answer_closes_the_old_session_by_opening_another() {
        let mut session = opened();
        assert!(session.handle_response(ErrorCode::INVALID_FETCH_SESSION_EPOCH, 0).is_err());
        assert_eq!(next(&session), (7, 0, true));
        session.handle_failure();
        assert_eq!(next(&session), (7, 0, true));
        session.handle_response(ErrorCode::NONE, 8).unwrap();
        assert_eq!(next(&session), (8, 1, false));
    }

    #[test]
    fn id_zero_means_no_session_and_everything_is_named_each_time() {
        let mut session = FetchSession::new();
        for _ in 0..3 {
            assert_eq!(next(&session), (0, 0, true));
            session.handle_response(ErrorCode::NONE, 0).unwrap();
        }
    }

    #[test]
    fn answer_of_another_session_is_not_used() {
        let mut session = opened();
        assert!(session.handle_response(ErrorCode::NONE, 8).is_err());
        assert!(session.names_all());
    }

    #[test]
    fn epoch_wraps_to_one_since_zero_would_open_a_session() {
        let mut session = opened();
        session.epoch = i32::MAX;
        session.handle_response(ErrorCode::NONE, 7).unwrap();
        assert_eq!(session.epoch, 1);
    }
}
