//! The rules one by one; `model.rs` has them all at once.

use std::sync::Arc;

use milena_protocol::ErrorCode;

use super::*;
use crate::producer::completion::{Completion, RecordOutcome};

#[derive(Clone, Debug)]
struct Batch {
    stamp: Option<(ProducerIdentity, i32)>,
}

impl QueuedBatch for Batch {
    fn stamp(&mut self, numbered: Option<(ProducerIdentity, i32)>) {
        self.stamp = numbered;
    }

    fn cut(&self, ranges: &[Range<u32>]) -> Result<Vec<Self>, String> {
        Ok(ranges.iter().map(|_| Self { stamp: None }).collect())
    }
}

const FIRST: ProducerIdentity = ProducerIdentity { id: 9, epoch: 0 };
const SECOND: ProducerIdentity = ProducerIdentity { id: 9, epoch: 1 };
const HERE: Leader = Leader { node: 1, epoch: 4 };
const RECORDS: u32 = 10;

struct Bench {
    now: Instant,
    config: QueueConfig,
    queue: PartitionQueue<Batch>,
    completions: Vec<Arc<Completion>>,
    rng: fastrand::Rng,
}

impl Bench {
    fn new(batches: usize) -> Self {
        let config = QueueConfig {
            max_in_flight: 5,
            delivery_timeout: Duration::from_secs(120),
            idempotent: true,
            retry: Backoff::new(Duration::from_millis(100), Duration::from_secs(1)),
        };
        let mut bench = Self {
            now: Instant::now(),
            config,
            queue: PartitionQueue::new(),
            completions: Vec::new(),
            rng: fastrand::Rng::with_seed(1),
        };
        (0..batches).for_each(|_| bench.push());
        bench
    }

    /// With a first batch acknowledged, so that the gate is open.
    fn proven(batches: usize) -> Self {
        let mut bench = Self::new(batches + 1);
        let (ticket, _) = bench.take().unwrap();
        bench.acknowledge(ticket, 0);
        bench
    }

    fn push(&mut self) {
        let completion = Completion::new("t".into(), 0);
        self.completions.push(Arc::clone(&completion));
        self.queue.push(self.now, Batch { stamp: None }, completion.close(RECORDS));
    }

    fn take(&mut self) -> Result<(Ticket, i32), Blocked> {
        self.take_as(HERE, FIRST)
    }

    fn take_as(&mut self, leader: Leader, identity: ProducerIdentity) -> Result<(Ticket, i32), Blocked> {
        let (ticket, batch) = self.queue.take(self.now, &self.config, leader, Some(identity))?;
        let (stamped, sequence) = batch.stamp.expect("idempotent");
        assert_eq!(stamped, identity);
        Ok((ticket, sequence))
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.queue.answer(self.now, &self.config, ticket, answer, &mut self.rng);
        self.resolve();
    }

    fn acknowledge(&mut self, ticket: Ticket, offset: i64) {
        self.answer(ticket, Answer::Acknowledged { base_offset: Some(offset), log_append_time: None });
    }

    fn refuse(&mut self, ticket: Ticket, code: ErrorCode) {
        self.answer(ticket, Answer::Refused { code, message: None, records: Vec::new(), appended: false });
    }

    fn resolve(&mut self) {
        for done in self.queue.take_done() {
            if let Some((share, outcome)) = done.report {
                share.resolve(outcome);
            }
        }
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.queue.expire(self.now, &self.config);
        self.resolve();
    }

    fn outcome(&self, batch: usize) -> &'static str {
        match self.completions[batch].outcome(0) {
            None => "open",
            Some(RecordOutcome::Acknowledged { .. }) => "acknowledged",
            Some(RecordOutcome::Failed(_)) => "failed",
            Some(RecordOutcome::PossiblyWritten(_)) => "possibly written",
        }
    }
}

#[test]
fn one_is_in_flight_until_the_first_success_then_five() {
    let mut bench = Bench::new(8);
    let (first, _) = bench.take().unwrap();
    assert_eq!(bench.take(), Err(Blocked::Busy));
    bench.acknowledge(first, 0);
    let sequences: Vec<_> = std::iter::from_fn(|| bench.take().ok()).map(|(_, sequence)| sequence).collect();
    assert_eq!(sequences, [10, 20, 30, 40, 50]);
    assert_eq!(bench.take(), Err(Blocked::Busy));
}

#[test]
fn moved_leader_gets_one_batch_and_only_after_the_old_one_has_answered() {
    let mut bench = Bench::proven(3);
    let (ticket, _) = bench.take().unwrap();
    let there = Leader { node: 2, epoch: 5 };
    assert_eq!(bench.take_as(there, FIRST), Err(Blocked::Busy));
    bench.acknowledge(ticket, 10);
    bench.take_as(there, FIRST).unwrap();
    assert_eq!(bench.take_as(there, FIRST), Err(Blocked::Busy), "not proven on the new leader");
}

#[test]
fn failed_head_waits_for_those_behind_and_all_keep_their_sequences() {
    let mut bench = Bench::proven(3);
    let tickets: Vec<_> = std::iter::from_fn(|| bench.take().ok()).collect();
    assert_eq!(tickets.len(), 3);
    bench.answer(tickets[0].0, Answer::Lost);
    assert_eq!(bench.take(), Err(Blocked::Busy), "the others are not answered yet");
    bench.refuse(tickets[1].0, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
    bench.answer(tickets[2].0, Answer::NotSent);
    assert!(matches!(bench.take(), Err(Blocked::Backoff(_))));
    bench.wait(2);
    let again = bench.take().unwrap();
    assert_eq!(again.1, 10);
    assert_eq!(bench.take(), Err(Blocked::Busy), "the gate is closed after a failure");
    bench.acknowledge(again.0, 10);
    let sequences: Vec<_> = std::iter::from_fn(|| bench.take().ok()).map(|(_, sequence)| sequence).collect();
    assert_eq!(sequences, [20, 30]);
    assert_eq!(bench.queue.poll_bump(), None, "an out-of-order answer behind a lost one proves nothing");
}

#[test]
fn definite_refusal_gives_its_sequence_to_the_next() {
    let mut bench = Bench::proven(3);
    let tickets: Vec<_> = std::iter::from_fn(|| bench.take().ok()).collect();
    bench.refuse(tickets[0].0, ErrorCode::TOPIC_AUTHORIZATION_FAILED);
    for (ticket, _) in &tickets[1..] {
        bench.refuse(*ticket, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
    }
    assert_eq!(bench.outcome(1), "failed");
    assert_eq!(bench.take().unwrap().1, 10);
    assert_eq!(bench.queue.poll_bump(), None);
}

#[test]
fn refusal_after_an_unknown_attempt_is_possibly_written_and_needs_a_new_epoch() {
    let mut bench = Bench::proven(2);
    let (ticket, _) = bench.take().unwrap();
    bench.answer(ticket, Answer::Lost);
    bench.wait(2);
    let (ticket, sequence) = bench.take().unwrap();
    assert_eq!(sequence, 10);
    bench.refuse(ticket, ErrorCode::TOPIC_AUTHORIZATION_FAILED);
    assert_eq!(bench.outcome(1), "possibly written");
    assert_eq!(bench.queue.poll_bump(), Some(FIRST));
    assert_eq!(bench.take(), Err(Blocked::Identity), "the spent epoch is not used again");
    assert_eq!(bench.take_as(HERE, SECOND).unwrap().1, 0);
}

#[test]
fn too_large_batch_is_split_and_its_parts_follow_on() {
    let mut bench = Bench::proven(2);
    let tickets: Vec<_> = std::iter::from_fn(|| bench.take().ok()).collect();
    bench.refuse(tickets[0].0, ErrorCode::MESSAGE_TOO_LARGE);
    assert_eq!(bench.queue.len(), 2, "not before what is behind is answered");
    bench.refuse(tickets[1].0, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_eq!(bench.queue.len(), 3);
    let mut sequences = Vec::new();
    while let Ok((ticket, sequence)) = bench.take() {
        bench.acknowledge(ticket, i64::from(sequence));
        sequences.push(sequence);
    }
    assert_eq!(sequences, [10, 15, 20]);
    let offsets: Vec<_> = (0..RECORDS).map(|index| bench.completions[1].outcome(index).unwrap()).collect();
    let dense: Vec<_> =
        (10..20).map(|offset| RecordOutcome::Acknowledged { offset: Some(offset), log_append_time: None }).collect();
    assert_eq!(offsets, dense);
}

#[test]
fn refused_records_fail_alone_and_the_rest_is_sent_on() {
    let mut bench = Bench::proven(1);
    let (ticket, _) = bench.take().unwrap();
    let bad = |index| RecordRefusal { index, message: Some("no key".into()) };
    let records = vec![bad(0), bad(4), bad(99), bad(4)];
    bench.answer(ticket, Answer::Refused { code: ErrorCode::INVALID_RECORD, message: None, records, appended: false });
    let mut sent = Vec::new();
    while let Ok((ticket, sequence)) = bench.take() {
        bench.acknowledge(ticket, i64::from(sequence));
        sent.push(sequence);
    }
    assert_eq!(sent, [10, 13]);
    let failed: Vec<_> = (0..RECORDS)
        .filter(|index| matches!(bench.completions[1].outcome(*index), Some(RecordOutcome::Failed(_))))
        .collect();
    assert_eq!(failed, [0, 4]);
    let after = RecordOutcome::Acknowledged { offset: Some(13), log_append_time: None };
    assert_eq!(bench.completions[1].outcome(5), Some(after));
}

#[test]
fn never_sent_fails_and_unanswered_is_possibly_written_and_mutes_the_partition() {
    let mut bench = Bench::new(2);
    let (ticket, _) = bench.take().unwrap();
    bench.wait(120);
    assert_eq!([bench.outcome(0), bench.outcome(1)], ["possibly written", "failed"]);
    bench.push();
    assert_eq!(bench.take(), Err(Blocked::Busy), "muted while its request may still be read");
    assert_eq!(bench.queue.len(), 2, "the buffer is held");
    bench.answer(ticket, Answer::Lost);
    assert_eq!(bench.queue.poll_bump(), Some(FIRST));
    assert_eq!(bench.take(), Err(Blocked::Identity));
    assert_eq!(bench.take_as(HERE, SECOND).unwrap().1, 0);
}

#[test]
fn reported_batch_mutes_a_partition_that_has_room_for_more() {
    let mut bench = Bench::proven(1);
    let (ticket, _) = bench.take().unwrap();
    bench.wait(120);
    bench.push();
    assert_eq!(bench.outcome(1), "possibly written");
    assert_eq!(bench.take(), Err(Blocked::Busy), "one of five is in flight, and its outcome is open");
    bench.acknowledge(ticket, 10);
    assert_eq!(bench.take().unwrap().1, 20);
}

#[test]
fn acknowledged_batch_behind_a_reported_head_sets_no_deadline() {
    let mut bench = Bench::proven(3);
    let tickets: Vec<_> = (0..3).map(|_| bench.take().unwrap().0).collect();
    bench.refuse(tickets[0], ErrorCode::REQUEST_TIMED_OUT);
    bench.acknowledge(tickets[1], 20);
    bench.wait(120);
    assert_eq!(
        [bench.outcome(1), bench.outcome(2), bench.outcome(3)],
        ["possibly written", "open", "possibly written"]
    );
    assert_eq!(bench.queue.next_deadline(&bench.config), None, "expiring again would change nothing");
    bench.acknowledge(tickets[2], 30);
    assert_eq!((bench.outcome(2), bench.queue.is_empty()), ("acknowledged", true));
}

#[test]
fn late_acknowledgement_of_a_reported_batch_leaves_no_gap() {
    let mut bench = Bench::new(1);
    let (ticket, _) = bench.take().unwrap();
    bench.wait(120);
    bench.push();
    bench.acknowledge(ticket, 0);
    assert_eq!(bench.outcome(0), "possibly written", "what was said is said");
    assert_eq!((bench.queue.poll_bump(), bench.take().unwrap().1), (None, 10));
}

#[test]
fn what_was_sent_behind_a_gap_is_given_up_with_it_and_the_rest_goes_on_under_a_new_epoch() {
    let mut bench = Bench::proven(1);
    bench.now += Duration::from_secs(60);
    bench.push();
    let tickets: Vec<_> = std::iter::from_fn(|| bench.take().ok()).collect();
    assert_eq!(tickets.len(), 2);
    bench.push();
    for (ticket, _) in tickets {
        bench.answer(ticket, Answer::Lost);
    }
    bench.wait(61);
    assert_eq!(
        [bench.outcome(1), bench.outcome(2), bench.outcome(3)],
        ["possibly written", "possibly written", "open"]
    );
    let unsettled = RecordOutcome::PossiblyWritten(ProduceFailure::Unsettled { last: None });
    assert_eq!(bench.completions[2].outcome(0), Some(unsettled), "its own time is not over");
    assert_eq!(bench.queue.poll_bump(), Some(FIRST));
    assert_eq!(bench.take(), Err(Blocked::Identity), "nothing more under the old epoch");
    assert_eq!(bench.take_as(HERE, SECOND).unwrap().1, 0);
    assert_eq!(bench.queue.len(), 1);
}

#[test]
fn what_is_in_flight_behind_a_batch_given_up_keeps_its_own_answer() {
    let mut bench = Bench::proven(1);
    bench.now += Duration::from_secs(60);
    bench.push();
    let tickets: Vec<_> = std::iter::from_fn(|| bench.take().ok()).collect();
    bench.wait(61);
    assert_eq!([bench.outcome(1), bench.outcome(2)], ["possibly written", "open"]);
    bench.acknowledge(tickets[0].0, 10);
    bench.acknowledge(tickets[1].0, 20);
    assert_eq!((bench.outcome(2), bench.queue.poll_bump()), ("acknowledged", None));
}

#[test]
fn lost_sequence_is_never_given_to_another_batch() {
    let mut bench = Bench::proven(3);
    let tickets: Vec<_> = std::iter::from_fn(|| bench.take().ok()).collect();
    bench.refuse(tickets[0].0, ErrorCode::TOPIC_AUTHORIZATION_FAILED);
    bench.answer(tickets[1].0, Answer::Lost);
    bench.answer(tickets[2].0, Answer::NotSent);
    assert_eq!([bench.outcome(1), bench.outcome(2)], ["failed", "open"]);
    // The second may still be read, under 20. With the first's 10 given to it, the broker would take 20 once more.
    assert_eq!(bench.queue.poll_bump(), Some(FIRST));
    bench.wait(2);
    assert_eq!(bench.take(), Err(Blocked::Identity));
    assert_eq!(bench.take_as(HERE, SECOND).unwrap().1, 0);
}

#[test]
fn replaced_log_gets_one_batch_after_the_old_one_has_answered_for_all() {
    let mut bench = Bench::proven(4);
    let (ticket, _) = bench.take().unwrap();
    bench.queue.log_replaced();
    assert_eq!(bench.take(), Err(Blocked::Busy), "the same leader, but another log");
    bench.acknowledge(ticket, 10);
    let (ticket, sequence) = bench.take().unwrap();
    assert_eq!(sequence, 20);
    assert_eq!(bench.take(), Err(Blocked::Busy), "not proven on the new log");
    bench.acknowledge(ticket, 0);
    assert_eq!(std::iter::from_fn(|| bench.take().ok()).count(), 2);
}

#[test]
fn batch_that_no_version_can_carry_fails_at_once() {
    let mut bench = Bench::proven(2);
    let (ticket, _) = bench.take().unwrap();
    let ours = milena_protocol::VersionRange::new(3, 13);
    let failure = ProduceFailure::NoCommonVersion { broker: "here".into(), theirs: None, ours };
    bench.answer(ticket, Answer::Unsendable(failure.clone()));
    assert_eq!(bench.completions[1].outcome(0), Some(RecordOutcome::Failed(failure)));
    assert_eq!(bench.take().unwrap().1, 10);
}

#[test]
fn another_partitions_bump_is_taken_with_nothing_in_flight() {
    let mut bench = Bench::proven(3);
    let (ticket, _) = bench.take().unwrap();
    assert_eq!(bench.take_as(HERE, SECOND), Err(Blocked::Busy));
    bench.acknowledge(ticket, 10);
    assert_eq!(bench.take_as(HERE, SECOND).unwrap().1, 0);
    assert_eq!(bench.take_as(HERE, SECOND), Err(Blocked::Busy), "not proven under the new epoch");
}

#[test]
fn lost_batch_keeps_its_epoch_though_the_producer_has_another() {
    let mut bench = Bench::proven(1);
    let (ticket, _) = bench.take().unwrap();
    bench.answer(ticket, Answer::Lost);
    bench.wait(2);
    let (_, batch) = bench.queue.take(bench.now, &bench.config, HERE, Some(SECOND)).unwrap();
    assert_eq!(batch.stamp, Some((FIRST, 10)), "or the broker could not tell that it has it");
}

#[test]
fn duplicate_is_a_success_without_an_offset() {
    let mut bench = Bench::new(1);
    let (ticket, _) = bench.take().unwrap();
    bench.refuse(ticket, ErrorCode::DUPLICATE_SEQUENCE_NUMBER);
    let outcome = RecordOutcome::Acknowledged { offset: None, log_append_time: None };
    assert_eq!(bench.completions[0].outcome(3), Some(outcome));
}

#[test]
fn abort_reports_by_what_is_known() {
    let mut bench = Bench::new(2);
    bench.take().unwrap();
    bench.queue.abort(&bench.config, &ProduceFailure::Closed);
    bench.resolve();
    assert_eq!([bench.outcome(0), bench.outcome(1)], ["possibly written", "failed"]);
}

#[test]
fn leader_is_looked_up_again_after_errors_that_ask_for_it() {
    let mut bench = Bench::new(1);
    let (ticket, _) = bench.take().unwrap();
    bench.refuse(ticket, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    assert!(bench.queue.poll_metadata());
    assert!(!bench.queue.poll_metadata());
    bench.queue.leader_learned(Leader { node: 2, epoch: 5 });
    assert!(bench.take_as(Leader { node: 2, epoch: 5 }, FIRST).is_ok(), "a new leader needs no backoff");
}

#[test]
fn empty_queue_goes_on_from_what_it_remembers() {
    let mut bench = Bench::proven(2);
    assert_eq!(bench.queue.remember(Some(HERE)), None, "two batches wait");
    let (ticket, _) = bench.take().unwrap();
    bench.acknowledge(ticket, 10);
    let (ticket, _) = bench.take().unwrap();
    bench.acknowledge(ticket, 20);
    let remembered = bench.queue.remember(Some(HERE)).unwrap();
    assert!(size_of_val(&remembered) <= 16);
    bench.queue = PartitionQueue::recall(remembered, Some(HERE));
    (0..2).for_each(|_| bench.push());
    assert_eq!(bench.take().unwrap().1, 30);
    assert_eq!(bench.take().unwrap().1, 40, "this leader takes several");

    let mut bench = Bench::proven(0);
    let remembered = bench.queue.remember(Some(HERE)).unwrap();
    let there = Leader { node: 2, epoch: 5 };
    bench.queue = PartitionQueue::recall(remembered, Some(HERE));
    (0..2).for_each(|_| bench.push());
    assert_eq!(bench.take_as(there, FIRST).unwrap().1, 10);
    assert_eq!(bench.take_as(there, FIRST), Err(Blocked::Busy), "another one may know nothing of the producer");
}

#[test]
fn spent_identity_is_not_taken_up_again_by_a_queue_that_was_empty() {
    let mut bench = Bench::proven(1);
    let (ticket, _) = bench.take().unwrap();
    bench.answer(ticket, Answer::Lost);
    bench.queue.abort(&bench.config, &ProduceFailure::Closed);
    bench.resolve();
    assert_eq!(bench.queue.remember(Some(HERE)), None, "the epoch is to be raised first");
    assert_eq!(bench.queue.poll_bump(), Some(FIRST));
    let _ = bench.queue.poll_metadata();
    let remembered = bench.queue.remember(Some(HERE)).unwrap();
    bench.queue = PartitionQueue::recall(remembered, Some(HERE));
    bench.push();
    // There is none while all epochs are used up.
    for current in [None, Some(FIRST)] {
        let taken = bench.queue.take(bench.now, &bench.config, HERE, current).map(|_| ());
        assert_eq!(taken, Err(Blocked::Identity));
    }
    assert_eq!(bench.take_as(HERE, SECOND).unwrap().1, 0);
}

#[test]
fn each_batch_has_its_own_time_whatever_the_order() {
    let mut bench = Bench::proven(0);
    let start = bench.now;
    // Opened after the next, and closed before it.
    bench.now = start + Duration::from_secs(10);
    bench.push();
    bench.now = start;
    bench.push();
    bench.now = start + Duration::from_secs(20);
    bench.push();
    let deadline = start + Duration::from_secs(120);
    assert_eq!(bench.queue.next_deadline(&bench.config), Some(deadline));
    let first = bench.take().unwrap().0;
    let second = bench.take().unwrap().0;
    bench.now = deadline;
    bench.queue.expire(bench.now, &bench.config);
    bench.resolve();
    assert_eq!(bench.outcome(2), "possibly written");
    assert_eq!(bench.queue.next_deadline(&bench.config), Some(deadline + Duration::from_secs(10)));
    // The first can be settled in spite of the gap behind it, and the epoch is spent only then.
    bench.answer(second, Answer::Lost);
    bench.answer(first, Answer::Lost);
    assert_eq!(bench.queue.poll_bump(), None);
    bench.wait(2);
    let (again, sequence) = bench.take().unwrap();
    assert_eq!(sequence, 10);
    bench.acknowledge(again, 100);
    assert_eq!(bench.outcome(1), "acknowledged");
    assert_eq!(bench.queue.poll_bump(), Some(FIRST));
    assert_eq!(bench.take_as(HERE, SECOND).unwrap().1, 0);
}
