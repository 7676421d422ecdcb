//! The queue against a naive broker: random acknowledgements, losses, refusals, leader moves, time limits. Whatever
//! happens, nothing acknowledged is lost or doubled, nothing failed is in the log, and the order is that of appending.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use milena_protocol::ErrorCode;

use super::*;
use crate::producer::completion::{Completion, RecordOutcome};
use crate::producer::identity::Identity;

#[derive(Clone, Debug)]
struct TestBatch {
    ids: Vec<u32>,
    stamp: Option<(ProducerIdentity, i32)>,
}

impl QueuedBatch for TestBatch {
    fn stamp(&mut self, numbered: Option<(ProducerIdentity, i32)>) {
        self.stamp = numbered;
    }

    fn cut(&self, ranges: &[Range<u32>]) -> Result<Vec<Self>, String> {
        let part =
            |range: &Range<u32>| Self { ids: self.ids[range.start as usize..range.end as usize].to_vec(), stamp: None };
        Ok(ranges.iter().map(part).collect())
    }
}

/// A leader's log and what it knows of producers; shared by all nodes, as if replication were perfect.
#[derive(Default)]
struct Log {
    ids: Vec<u32>,
    producers: HashMap<i64, ProducerState>,
}

struct ProducerState {
    epoch: i16,
    /// First sequence, records, base offset; the last five.
    batches: VecDeque<(i32, u32, i64)>,
}

impl Log {
    fn find(&self, batch: &TestBatch) -> Option<i64> {
        let (identity, sequence) = batch.stamp?;
        let state = self.producers.get(&identity.id).filter(|state| state.epoch == identity.epoch)?;
        let known = |known: &&(i32, u32, i64)| (known.0, known.1) == (sequence, batch.ids.len() as u32);
        state.batches.iter().find(known).map(|known| known.2)
    }

    fn append(&mut self, batch: &TestBatch) -> Result<i64, ErrorCode> {
        if let Some(offset) = self.find(batch) {
            return Ok(offset);
        }
        let base = self.ids.len() as i64;
        if let Some((identity, first)) = batch.stamp {
            let count = batch.ids.len() as u32;
            if let Some(state) = self.producers.get(&identity.id) {
                let (last, records, _) = *state.batches.back().expect("never empty");
                if identity.epoch < state.epoch {
                    return Err(ErrorCode::INVALID_PRODUCER_EPOCH);
                }
                let expected = if identity.epoch > state.epoch { 0 } else { sequence::advance(last, records) };
                if first != expected {
                    return Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
                }
            }
            let fresh = ProducerState { epoch: identity.epoch, batches: VecDeque::new() };
            let state = self.producers.entry(identity.id).or_insert(fresh);
            if state.epoch != identity.epoch {
                *state = ProducerState { epoch: identity.epoch, batches: VecDeque::new() };
            }
            state.batches.push_back((first, count, base));
            if state.batches.len() > 5 {
                state.batches.pop_front();
            }
        }
        self.ids.extend(&batch.ids);
        Ok(base)
    }
}

struct World {
    rng: fastrand::Rng,
    now: Instant,
    config: QueueConfig,
    queue: PartitionQueue<TestBatch>,
    identity: Identity,
    next_producer_id: i64,
    log: Log,
    leader: Leader,
    /// Written by the client, not yet read by `node`.
    requests: VecDeque<(Ticket, i32, TestBatch)>,
    /// Received on a connection that is closed since, and read one after the other when the broker gets to it.
    ghosts: VecDeque<(i32, TestBatch)>,
    answers: VecDeque<(Ticket, Answer)>,
    completions: Vec<(Arc<Completion>, u32)>,
    next_id: u32,
    /// How often the queue was empty, and made anew of what it remembered.
    forgotten: u32,
    /// Whether batches are closed in another order than they were opened in.
    shares: bool,
    faults: bool,
}

const TOO_MANY: usize = 6;

fn is_bad(id: u32) -> bool {
    id % 53 == 17
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let config = QueueConfig {
            max_in_flight: rng.usize(1..=5),
            delivery_timeout: Duration::from_millis(rng.u64(60..400)),
            idempotent: true,
            retry: Backoff::new(Duration::from_millis(5), Duration::from_millis(20)),
        };
        Self {
            shares: rng.bool(),
            rng,
            // So far from the clock's beginning that batches may be older.
            now: Instant::now() + Duration::from_secs(1),
            config,
            queue: PartitionQueue::new(),
            identity: Identity::new(),
            next_producer_id: 1,
            log: Log::default(),
            leader: Leader { node: 1, epoch: 0 },
            requests: VecDeque::new(),
            ghosts: VecDeque::new(),
            answers: VecDeque::new(),
            completions: Vec::new(),
            next_id: 0,
            forgotten: 0,
            faults: true,
        }
    }

    fn append(&mut self) {
        let records = self.rng.u32(1..=8);
        let completion = Completion::new("t".into(), 0);
        let ids: Vec<_> = (self.next_id..self.next_id + records).collect();
        self.next_id += records;
        self.completions.push((Arc::clone(&completion), records));
        // Of several open batches the last to be opened may be the first to be closed.
        let created = self.now - Duration::from_millis(if self.shares { self.rng.u64(0..50) } else { 0 });
        self.queue.push(created, TestBatch { ids, stamp: None }, completion.close(records));
    }

    fn send(&mut self) {
        while let Ok((ticket, batch)) = self.queue.take(self.now, &self.config, self.leader, self.identity.current()) {
            self.requests.push_back((ticket, self.leader.node, batch.clone()));
        }
        self.drain();
    }

    /// The broker reads one request.
    fn serve(&mut self) {
        let Some((ticket, node, batch)) = self.requests.pop_front() else { return };
        let dice = if self.faults { self.rng.u32(0..100) } else { 99 };
        let answered = |code, appended| Answer::Refused { code, message: None, records: Vec::new(), appended };
        let refused = |code| answered(code, false);
        let known = self.log.find(&batch).is_some();
        let answer = if node != self.leader.node {
            // Deposed before it read this, or while it waited for its followers (KAFKA-13574).
            let appended = dice < 10 && self.log.append(&batch).is_ok();
            answered(ErrorCode::NOT_LEADER_OR_FOLLOWER, appended)
        } else if batch.ids.len() > TOO_MANY {
            refused(ErrorCode::MESSAGE_TOO_LARGE)
        } else if batch.ids.iter().any(|id| is_bad(*id)) {
            let bad = |(index, id): (usize, &u32)| {
                is_bad(*id).then_some(RecordRefusal { index: index as u32, message: None })
            };
            let records = batch.ids.iter().enumerate().filter_map(bad).collect();
            Answer::Refused { code: ErrorCode::INVALID_RECORD, message: None, records, appended: false }
        } else if dice < 4 {
            refused(ErrorCode::NOT_ENOUGH_REPLICAS)
        } else if dice < 6 && !known && self.ghosts.is_empty() {
            refused(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER)
        } else if dice < 7 && !known {
            refused(ErrorCode::TOPIC_AUTHORIZATION_FAILED)
        } else {
            match self.log.append(&batch) {
                Err(code) => refused(code),
                Ok(_) if dice < 10 => answered(ErrorCode::REQUEST_TIMED_OUT, true),
                Ok(_) if dice < 11 => refused(ErrorCode::DUPLICATE_SEQUENCE_NUMBER),
                Ok(offset) => Answer::Acknowledged { base_offset: Some(offset), log_append_time: None },
            }
        };
        self.answers.push_back((ticket, answer));
    }

    /// The connection breaks: the broker has read some of what was written, and no answer arrives any more.
    fn disconnect(&mut self) {
        for _ in 0..self.rng.usize(0..=self.requests.len()) {
            self.serve();
        }
        let sent = self.answers.drain(..).map(|(ticket, _)| (ticket, Answer::Lost));
        let mut lost: Vec<_> = sent.collect();
        let unsent = self.rng.usize(0..=self.requests.len());
        for (place, (ticket, node, batch)) in self.requests.drain(..).enumerate() {
            lost.push((ticket, if place < unsent { Answer::Lost } else { Answer::NotSent }));
            if place < unsent {
                self.ghosts.push_back((node, batch));
            }
        }
        // Whoever tells of a broken connection need not do so in order.
        self.rng.shuffle(&mut lost);
        for (ticket, answer) in lost {
            self.answer(ticket, answer);
        }
    }

    /// The broker reads what it had received on closed connections; nobody hears of it.
    fn haunt(&mut self) {
        for _ in 0..self.rng.usize(0..=self.ghosts.len()) {
            let (node, batch) = self.ghosts.pop_front().expect("counted above");
            if node == self.leader.node && batch.ids.len() <= TOO_MANY && !batch.ids.iter().any(|id| is_bad(*id)) {
                let _ = self.log.append(&batch);
            }
        }
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.queue.answer(self.now, &self.config, ticket, answer, &mut self.rng);
        self.drain();
    }

    fn drain(&mut self) {
        for done in self.queue.take_done() {
            if let Some((share, outcome)) = done.report {
                share.resolve(outcome);
            }
        }
        if let Some(used) = self.queue.poll_bump() {
            self.identity.bump(used);
        }
        let _ = self.queue.poll_metadata();
        if let Some(remembered) = self.queue.remember(Some(self.leader)) {
            assert!(self.queue.is_empty());
            self.forgotten += 1;
            self.queue = PartitionQueue::recall(remembered, Some(self.leader));
        }
    }

    fn step(&mut self) {
        match self.rng.u32(0..100) {
            0..25 => self.append(),
            25..50 => self.send(),
            50..72 => self.serve(),
            72..92 => {
                if let Some((ticket, answer)) = self.answers.pop_front() {
                    self.answer(ticket, answer);
                }
            }
            92..94 => self.disconnect(),
            94..96 => {
                let node = self.rng.i32(1..4);
                self.leader = Leader { node, epoch: self.leader.epoch + 1 };
                self.queue.leader_learned(self.leader);
            }
            96..97 => self.initialize(),
            97..98 => self.haunt(),
            _ => {
                self.now += Duration::from_millis(self.rng.u64(1..30));
                self.queue.expire(self.now, &self.config);
                self.drain();
                let next = self.queue.next_deadline(&self.config);
                assert!(next.is_none_or(|next| next > self.now), "one is out of time, and was not reported");
            }
        }
    }

    fn initialize(&mut self) {
        if self.identity.poll_init() {
            let epoch = if self.rng.bool() { 0 } else { i16::MAX - 2 };
            self.identity.initialized(ProducerIdentity { id: self.next_producer_id, epoch });
            self.next_producer_id += 1;
        }
    }

    /// No more faults: everything left must be settled.
    fn heal(&mut self) {
        self.faults = false;
        for _ in 0..100_000 {
            if self.queue.is_empty() && self.ghosts.is_empty() {
                return;
            }
            self.initialize();
            self.send();
            self.serve();
            if let Some((ticket, answer)) = self.answers.pop_front() {
                self.answer(ticket, answer);
            }
            if self.rng.u32(0..4) == 0 {
                self.haunt();
            }
            self.now += Duration::from_micros(100);
        }
        panic!("wedged with {} batches, the first is {:?}", self.queue.len(), self.queue.batches.front());
    }

    fn check(&self) {
        let mut id = 0;
        let mut place = None;
        for (completion, records) in &self.completions {
            for index in 0..*records {
                let outcome = completion.outcome(index).unwrap_or_else(|| panic!("{id} was never answered for"));
                let places: Vec<_> =
                    self.log.ids.iter().enumerate().filter(|(_, known)| **known == id).map(|(at, _)| at).collect();
                match outcome {
                    RecordOutcome::Acknowledged { offset, .. } => {
                        assert_eq!(places.len(), 1, "{id} was acknowledged and is in the log at {places:?}");
                        assert!(offset.is_none_or(|offset| offset as usize == places[0]), "{id}: {offset:?}");
                        assert!(place < Some(places[0]), "{id} is before one that was appended earlier");
                        place = Some(places[0]);
                    }
                    RecordOutcome::Failed(why) => assert!(places.is_empty(), "{id} failed ({why}), at {places:?}"),
                    RecordOutcome::PossiblyWritten(_) => assert!(places.len() <= 1, "{id} at {places:?}"),
                }
                id += 1;
            }
        }
    }
}

#[test]
fn nothing_is_lost_doubled_or_reordered_whatever_the_broker_does() {
    let seeds = std::env::var("MILENA_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(600);
    let mut outcomes = [0_u32; 3];
    for seed in 0..seeds {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..400 {
                world.step();
            }
            world.heal();
            world.check();
            assert!(world.forgotten > 0);
            let of = |index: usize| {
                let kind = |outcome: &RecordOutcome| match outcome {
                    RecordOutcome::Acknowledged { .. } => 0,
                    RecordOutcome::Failed(_) => 1,
                    RecordOutcome::PossiblyWritten(_) => 2,
                };
                let all = world.completions.iter().flat_map(|(completion, records)| {
                    (0..*records).filter_map(move |record| completion.outcome(record))
                });
                all.filter(|outcome| kind(outcome) == index).count() as u32
            };
            [of(0), of(1), of(2)]
        });
        match run {
            Ok(counts) => (0..3).for_each(|kind| outcomes[kind] += counts[kind]),
            Err(panic) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    // The model must reach every outcome often, or it proves nothing.
    assert!(outcomes.iter().all(|count| *count > 500), "{outcomes:?}");
}
