//! Fetch sessions of one node (KIP-227): which partitions it remembers for a client, and what it last told about them.
//!
//! Decides which partitions a fetch is about and which of them are worth answering; reads no logs and waits for nobody.

use std::{collections::BTreeMap, time::Duration};

use milena_protocol::{
    ErrorCode, TopicName, Uuid,
    messages::{
        FetchRequest,
        fetch_request::{FetchPartition, FetchTopic},
    },
};
use tokio::time::Instant;

/// A session used more recently than this is not evicted for another (`min.incremental.fetch.session.eviction.ms`).
const EVICTION_AGE: Duration = Duration::from_secs(120);
/// The epoch of a full fetch that asks for a session.
const INITIAL_EPOCH: i32 = 0;
/// The epoch of a full fetch that wants none.
const FINAL_EPOCH: i32 = -1;

/// A partition of a session: by topic name before version 13, by id since.
type Key = (TopicName, Uuid, i32);

/// One partition that a fetch asks for.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) topic: TopicName,
    pub(crate) topic_id: Uuid,
    pub(crate) partition: i32,
    pub(crate) fetch_offset: i64,
    pub(crate) max_bytes: i32,
    pub(crate) current_leader_epoch: i32,
    pub(crate) last_fetched_epoch: i32,
}

impl Wanted {
    fn new(topic: &FetchTopic, partition: &FetchPartition) -> Self {
        Self {
            // Detached: a session outlives the frame it came in.
            topic: TopicName(topic.topic.0.to_detached()),
            topic_id: topic.topic_id,
            partition: partition.partition,
            fetch_offset: partition.fetch_offset,
            max_bytes: partition.partition_max_bytes,
            current_leader_epoch: partition.current_leader_epoch,
            last_fetched_epoch: partition.last_fetched_epoch,
        }
    }

    fn key(&self) -> Key {
        (self.topic.clone(), self.topic_id, self.partition)
    }
}

/// What kind of fetch this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sessionless,
    /// Full, and a session is wanted.
    Full,
    Incremental(i32),
}

/// One fetch: what it asks for, in the order in which to read.
#[derive(Debug)]
pub(crate) struct FetchContext {
    kind: Kind,
    by_id: bool,
    pub(crate) wanted: Vec<Wanted>,
}

/// What was read of one partition, as far as sessions care.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) failed: bool,
    pub(crate) has_records: bool,
    /// A diverging epoch must be told even though nothing else changed.
    pub(crate) diverging: bool,
    pub(crate) high_watermark: i64,
    pub(crate) log_start_offset: i64,
}

#[derive(Debug)]
struct Session {
    /// The epoch of the next request.
    epoch: i32,
    by_id: bool,
    last_used: Instant,
    partitions: BTreeMap<Key, Cached>,
    /// Keys in the order in which to read them: who got records goes to the end.
    order: BTreeMap<u64, Key>,
    next_place: u64,
}

#[derive(Debug)]
struct Cached {
    wanted: Wanted,
    place: u64,
    high_watermark: i64,
    log_start_offset: i64,
}

impl Session {
    fn put(&mut self, wanted: Wanted) {
        let key = wanted.key();
        if let Some(cached) = self.partitions.get_mut(&key) {
            cached.wanted = wanted;
            return;
        }
        let place = self.next_place;
        self.next_place += 1;
        self.order.insert(place, key.clone());
        // -1 is no offset, so the first answer always tells.
        self.partitions.insert(key, Cached { wanted, place, high_watermark: -1, log_start_offset: -1 });
    }

    fn forget(&mut self, key: &Key) {
        if let Some(cached) = self.partitions.remove(key) {
            self.order.remove(&cached.place);
        }
    }

    /// Notes what was seen of a partition; true if the answer has to mention it.
    fn note(&mut self, key: &Key, seen: &Seen) -> bool {
        let Some(cached) = self.partitions.get_mut(key) else { return true };
        let changed = cached.high_watermark != seen.high_watermark || cached.log_start_offset != seen.log_start_offset;
        // A failed read has no high watermark, so the client hears once the error is gone.
        cached.high_watermark = seen.high_watermark;
        cached.log_start_offset = seen.log_start_offset;
        seen.failed || seen.has_records || seen.diverging || changed
    }

    /// Who got records is read last the next time, so that all get their turn under a limit.
    fn rotate(&mut self, key: &Key) {
        if let Some(cached) = self.partitions.get_mut(key) {
            self.order.remove(&cached.place);
            cached.place = self.next_place;
            self.order.insert(self.next_place, key.clone());
            self.next_place += 1;
        }
    }
}

/// The fetch sessions of one node.
#[derive(Debug)]
pub(crate) struct FetchSessions {
    slots: usize,
    sessions: BTreeMap<i32, Session>,
}

impl FetchSessions {
    pub(crate) fn new(slots: usize) -> Self {
        Self { slots, sessions: BTreeMap::new() }
    }

    /// Takes a fetch in: updates its session and says what to read. `by_id`: the request's version uses topic ids.
    pub(crate) fn begin(
        &mut self,
        request: &FetchRequest,
        by_id: bool,
        now: Instant,
    ) -> Result<FetchContext, ErrorCode> {
        let asked = || {
            let topics = request.topics.iter();
            topics.flat_map(|topic| topic.partitions.iter().map(move |partition| Wanted::new(topic, partition)))
        };
        let (id, epoch) = (request.session_id, request.session_epoch);
        if epoch == INITIAL_EPOCH || epoch == FINAL_EPOCH {
            // A full fetch ends the session that it may come from.
            self.sessions.remove(&id);
            let kind = if epoch == FINAL_EPOCH { Kind::Sessionless } else { Kind::Full };
            return Ok(FetchContext { kind, by_id, wanted: asked().collect() });
        }
        let session = self.sessions.get_mut(&id).ok_or(ErrorCode::FETCH_SESSION_ID_NOT_FOUND)?;
        if session.epoch != epoch {
            return Err(ErrorCode::INVALID_FETCH_SESSION_EPOCH);
        }
        if session.by_id != by_id {
            return Err(ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR);
        }
        for wanted in asked() {
            session.put(wanted);
        }
        for topic in &request.forgotten_topics_data {
            for &partition in &topic.partitions {
                session.forget(&(topic.topic.clone(), topic.topic_id, partition));
            }
        }
        if session.partitions.is_empty() {
            self.sessions.remove(&id);
            return Ok(FetchContext { kind: Kind::Sessionless, by_id, wanted: Vec::new() });
        }
        session.epoch = if epoch == i32::MAX { 1 } else { epoch + 1 };
        session.last_used = now;
        let ordered = session.order.values().filter_map(|key| session.partitions.get(key));
        let wanted = ordered.map(|cached| cached.wanted.clone()).collect();
        Ok(FetchContext { kind: Kind::Incremental(id), by_id, wanted })
    }

    /// Ends a fetch: the session id to answer with and, for each wanted partition, whether to mention it.
    /// `new_id` draws a random id.
    pub(crate) fn finish(
        &mut self,
        context: &FetchContext,
        seen: &[Seen],
        now: Instant,
        mut new_id: impl FnMut() -> i32,
    ) -> (i32, Vec<bool>) {
        let everything = vec![true; seen.len()];
        match context.kind {
            Kind::Sessionless => (0, everything),
            Kind::Full => {
                if !self.make_room(now) {
                    return (0, everything);
                }
                let mut id = new_id();
                while id == 0 || self.sessions.contains_key(&id) {
                    id = new_id();
                }
                let mut session = Session {
                    epoch: INITIAL_EPOCH + 1,
                    by_id: context.by_id,
                    last_used: now,
                    partitions: BTreeMap::new(),
                    order: BTreeMap::new(),
                    next_place: 0,
                };
                for (wanted, seen) in context.wanted.iter().zip(seen) {
                    session.put(wanted.clone());
                    session.note(&wanted.key(), seen);
                }
                self.sessions.insert(id, session);
                (id, everything)
            }
            Kind::Incremental(id) => match self.sessions.get_mut(&id) {
                Some(session) => {
                    let mut mention = Vec::with_capacity(seen.len());
                    for (wanted, seen) in context.wanted.iter().zip(seen) {
                        let key = wanted.key();
                        mention.push(session.note(&key, seen));
                        if seen.has_records {
                            session.rotate(&key);
                        }
                    }
                    (id, mention)
                }
                // Evicted while the fetch was parked: the next one will be told.
                None => (id, everything),
            },
        }
    }

    fn make_room(&mut self, now: Instant) -> bool {
        if self.sessions.len() >= self.slots {
            let oldest = self.sessions.iter().min_by_key(|(_, session)| session.last_used);
            match oldest.map(|(&id, session)| (id, session.last_used)) {
                Some((id, used)) if now.saturating_duration_since(used) > EVICTION_AGE => self.sessions.remove(&id),
                _ => return false,
            };
        }
        true
    }

    /// Forgets one session.
    pub(crate) fn evict(&mut self, id: i32) {
        self.sessions.remove(&id);
    }

    /// Forgets all sessions, as a restart does.
    pub(crate) fn clear(&mut self) {
        self.sessions.clear();
    }

    /// The partitions that a session remembers.
    pub(crate) fn partitions(&self, id: i32) -> Vec<Key> {
        self.sessions.get(&id).map(|session| session.partitions.keys().cloned().collect()).unwrap_or_default()
    }
}
