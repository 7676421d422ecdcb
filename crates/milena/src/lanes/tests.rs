//! The rules of lanes, one by one, then against a naive model.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const BUDGET: Budget = Budget { records: 100, bytes: 10_000, span: 1_000 };

fn key(name: &str) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(name.as_bytes()))
}

/// Lanes holding the given keys at offsets 0, 1, …; each item is its offset.
fn lanes_of(keys: &[&str]) -> Lanes<i64> {
    let mut lanes = Lanes::new(1, 0, BUDGET);
    for (offset, name) in keys.iter().enumerate() {
        let offset = i64::try_from(offset).unwrap();
        lanes.push(offset, if name.is_empty() { None } else { key(name) }, 10, offset);
    }
    lanes
}

fn all_ready(lanes: &mut Lanes<i64>) -> Vec<(Ticket, i64)> {
    std::iter::from_fn(|| lanes.next_ready().map(|(ticket, offset)| (ticket, *offset))).collect()
}

fn offsets(ready: &[(Ticket, i64)]) -> Vec<i64> {
    ready.iter().map(|(_, offset)| *offset).collect()
}

#[test]
fn a_lane_hands_out_one_at_a_time_in_order_and_blocks_no_other() {
    let mut lanes = lanes_of(&["a", "a", "b", "a", "b"]);
    let first = all_ready(&mut lanes);
    assert_eq!(offsets(&first), [0, 2]);
    assert_eq!(lanes.finish(first[1].0), Completion::Taken);
    let second = all_ready(&mut lanes);
    assert_eq!(offsets(&second), [4], "b goes on while a still runs");
    lanes.finish(first[0].0);
    assert_eq!(offsets(&all_ready(&mut lanes)), [1]);
}

#[test]
fn records_without_a_key_never_wait_for_each_other() {
    let mut lanes = lanes_of(&["", "", "a", ""]);
    assert_eq!(offsets(&all_ready(&mut lanes)), [0, 1, 2, 3]);
}

#[test]
fn a_parked_lane_holds_its_key_until_its_time_and_is_handled_before_later_ones() {
    let start = Instant::now();
    let mut lanes = lanes_of(&["a", "a", "b"]);
    let ready = all_ready(&mut lanes);
    let until = start + Duration::from_secs(1);
    assert_eq!(lanes.park(ready[0].0, until), Completion::Taken);
    lanes.finish(ready[1].0);
    assert_eq!(lanes.next_timeout(), Some(until));
    lanes.wake(start + Duration::from_millis(999));
    assert!(all_ready(&mut lanes).is_empty(), "the second of a must not overtake the first");
    assert_eq!(lanes.watermark(), 0, "b is finished, but a holds the prefix");
    lanes.wake(until);
    let retried = all_ready(&mut lanes);
    assert_eq!((offsets(&retried), retried[0].0.attempt), (vec![0], 2));
    lanes.finish(retried[0].0);
    assert_eq!(offsets(&all_ready(&mut lanes)), [1]);
    assert_eq!(lanes.next_timeout(), None);
}

#[test]
fn the_watermark_passes_only_what_is_finished() {
    let mut lanes = lanes_of(&["a", "b", "c"]);
    let ready = all_ready(&mut lanes);
    lanes.finish(ready[2].0);
    lanes.finish(ready[1].0);
    assert_eq!(lanes.watermark(), 0);
    lanes.finish(ready[0].0);
    assert_eq!(lanes.watermark(), 3);
    lanes.advance(7);
    assert_eq!(lanes.watermark(), 7);
}

#[test]
fn a_late_or_doubled_completion_is_a_no_op() {
    let mut old = lanes_of(&["a", "a"]);
    let late = all_ready(&mut old)[0].0;
    let mut lanes: Lanes<i64> = Lanes::new(2, 0, BUDGET);
    lanes.push(0, key("a"), 10, 0);
    let (current, _) = lanes.next_ready().unwrap();
    assert_eq!(lanes.finish(late), Completion::Stale);
    assert_eq!(lanes.park(late, Instant::now()), Completion::Stale);
    assert!(lanes.item_mut(late).is_none());
    assert_eq!((lanes.watermark(), lanes.running()), (0, 1));
    assert_eq!(lanes.finish(current), Completion::Taken);
    assert_eq!(lanes.finish(current), Completion::Stale);
    assert_eq!((lanes.watermark(), lanes.running(), lanes.records()), (1, 0, 0));
}

#[test]
fn a_ticket_of_an_earlier_attempt_is_void() {
    let mut lanes = lanes_of(&["a"]);
    let start = Instant::now();
    let first = all_ready(&mut lanes)[0].0;
    lanes.park(first, start);
    lanes.wake(start);
    let second = all_ready(&mut lanes)[0].0;
    assert_eq!(lanes.finish(first), Completion::Stale);
    assert_eq!(lanes.finish(second), Completion::Taken);
}

#[test]
fn draining_closes_the_gaps_below_what_was_begun_and_begins_nothing_beyond() {
    let mut lanes = lanes_of(&["a", "a", "b", "c"]);
    let ready = all_ready(&mut lanes);
    assert_eq!(offsets(&ready), [0, 2, 3]);
    let mut lanes = lanes_of(&["a", "a", "b", "a", "b", "d"]);
    let a = lanes.next_ready().unwrap().0;
    let b = lanes.next_ready().unwrap().0;
    lanes.finish(b);
    lanes.drain();
    assert!(!lanes.is_drained());
    assert!(all_ready(&mut lanes).is_empty(), "b's second (4) and d (5) lie beyond what was begun (2)");
    lanes.finish(a);
    let gap = all_ready(&mut lanes);
    assert_eq!(offsets(&gap), [1], "a's second lies before b's first, which is finished");
    assert!(!lanes.is_drained());
    lanes.finish(gap[0].0);
    assert!(lanes.is_drained());
    assert!(all_ready(&mut lanes).is_empty());
    assert_eq!(lanes.watermark(), 3, "nothing that was handled will be handled again");
}

#[test]
fn halting_waits_only_for_what_runs() {
    let mut lanes = lanes_of(&["a", "a", "b"]);
    let ready = all_ready(&mut lanes);
    lanes.park(ready[1].0, Instant::now());
    lanes.halt();
    assert!(!lanes.is_drained());
    lanes.wake(Instant::now() + Duration::from_secs(1));
    lanes.finish(ready[0].0);
    assert!(lanes.is_drained());
    assert!(all_ready(&mut lanes).is_empty());
    assert_eq!(lanes.watermark(), 1);
}

#[test]
fn each_budget_fills_and_leaves_room_again() {
    let check = |budget: Budget| {
        let mut lanes = Lanes::new(1, 0, budget);
        for offset in 0..10 {
            assert!(!lanes.is_full());
            lanes.push(offset, None, 100, offset);
        }
        assert!(lanes.is_full());
        for (ticket, _) in all_ready(&mut lanes).into_iter().take(4) {
            lanes.finish(ticket);
        }
        assert!(!lanes.is_full() && !lanes.has_room(), "below the limit is not yet room");
    };
    check(Budget { records: 10, ..BUDGET });
    check(Budget { bytes: 1_000, ..BUDGET });
    check(Budget { span: 10, ..BUDGET });
}

#[test]
fn a_stuck_record_fills_the_span_though_all_others_are_finished() {
    let mut lanes = Lanes::new(1, 0, Budget { span: 10, ..BUDGET });
    for offset in 0..10 {
        lanes.push(offset, None, 1, offset);
    }
    let ready = all_ready(&mut lanes);
    for (ticket, _) in &ready[1..] {
        lanes.finish(*ticket);
    }
    assert_eq!(lanes.records(), 1);
    assert!(lanes.is_full());
    lanes.finish(ready[0].0);
    assert!(lanes.has_room());
}

/// The same rules, told as slowly and plainly as possible.
#[derive(Default)]
struct Model {
    records: Vec<ModelRecord>,
    end: i64,
    limit: Option<usize>,
}

struct ModelRecord {
    offset: i64,
    key: Option<u8>,
    bytes: usize,
    state: ModelState,
}

#[derive(Clone, Copy, PartialEq)]
enum ModelState {
    Waiting,
    Running,
    Parked(Instant),
    Finished,
}

impl Model {
    fn may_run(&self, index: usize, now: Instant) -> bool {
        let record = &self.records[index];
        let is_due = match record.state {
            ModelState::Waiting => true,
            ModelState::Parked(until) => until <= now,
            ModelState::Running | ModelState::Finished => false,
        };
        let is_head = record.key.is_none()
            || !self.records[..index]
                .iter()
                .any(|earlier| earlier.key == record.key && earlier.state != ModelState::Finished);
        is_due && is_head && self.limit.is_none_or(|limit| index < limit)
    }

    fn watermark(&self) -> i64 {
        self.records.iter().find(|record| record.state != ModelState::Finished).map_or(self.end, |record| record.offset)
    }

    fn unfinished(&self) -> impl Iterator<Item = &ModelRecord> {
        self.records.iter().filter(|record| record.state != ModelState::Finished)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Push { key: Option<u8>, gap: u8, bytes: u8 },
    Advance { gap: u8 },
    HandOut,
    Finish(usize),
    Park(usize, u8),
    Repeat(usize),
    Tick(u8),
    Drain,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (proptest::option::weighted(0.9, 0..5_u8), 0..3_u8, any::<u8>())
            .prop_map(|(key, gap, bytes)| Step::Push { key, gap, bytes }),
        1 => (0..3_u8).prop_map(|gap| Step::Advance { gap }),
        6 => Just(Step::HandOut),
        5 => any::<usize>().prop_map(Step::Finish),
        2 => (any::<usize>(), 0..20_u8).prop_map(|(index, delay)| Step::Park(index, delay)),
        1 => any::<usize>().prop_map(Step::Repeat),
        2 => (0..20_u8).prop_map(Step::Tick),
    ]
}

fn any_run() -> impl Strategy<Value = Vec<Step>> {
    (
        proptest::collection::vec(any_step(), 0..150),
        proptest::bool::weighted(0.3),
        proptest::collection::vec(any_step(), 0..60),
    )
        .prop_map(|(mut steps, drains, after)| {
            if drains {
                steps.push(Step::Drain);
                steps.extend(after);
            }
            steps
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn lanes_do_what_the_naive_model_does(steps in any_run()) {
        let start = Instant::now();
        let mut now = start;
        let mut lanes: Lanes<usize> = Lanes::new(1, 0, BUDGET);
        let mut model = Model::default();
        let mut out: Vec<(Ticket, usize)> = Vec::new();
        let mut spent: Vec<Ticket> = Vec::new();
        for step in steps {
            match step {
                Step::Push { key, gap, bytes } => {
                    let offset = model.end + i64::from(gap);
                    let index = model.records.len();
                    let bytes = usize::from(bytes);
                    lanes.push(offset, key.map(|key| Bytes::copy_from_slice(&[key])), bytes, index);
                    model.records.push(ModelRecord { offset, key, bytes, state: ModelState::Waiting });
                    model.end = offset + 1;
                }
                Step::Advance { gap } => {
                    model.end += i64::from(gap);
                    lanes.advance(model.end);
                }
                Step::HandOut => {
                    let expected = (0..model.records.len()).any(|index| model.may_run(index, now));
                    match lanes.next_ready() {
                        None => prop_assert!(!expected, "a record could run, but none was handed out"),
                        Some((ticket, &mut index)) => {
                            prop_assert!(model.may_run(index, now), "record {} must not run now", index);
                            model.records[index].state = ModelState::Running;
                            out.push((ticket, index));
                        }
                    }
                }
                Step::Finish(pick) if !out.is_empty() => {
                    let (ticket, index) = out.swap_remove(pick % out.len());
                    prop_assert_eq!(lanes.finish(ticket), Completion::Taken);
                    model.records[index].state = ModelState::Finished;
                    spent.push(ticket);
                }
                Step::Park(pick, delay) if !out.is_empty() => {
                    let (ticket, index) = out.swap_remove(pick % out.len());
                    let until = now + Duration::from_millis(delay.into());
                    prop_assert_eq!(lanes.park(ticket, until), Completion::Taken);
                    lanes.wake(now);
                    model.records[index].state = ModelState::Parked(until);
                    spent.push(ticket);
                }
                Step::Repeat(pick) if !spent.is_empty() => {
                    prop_assert_eq!(lanes.finish(spent[pick % spent.len()]), Completion::Stale);
                }
                Step::Tick(millis) => {
                    now += Duration::from_millis(millis.into());
                    lanes.wake(now);
                }
                Step::Drain => {
                    let begun = model.records.iter().rposition(|record| record.state != ModelState::Waiting);
                    model.limit = Some(begun.map_or(0, |index| index + 1));
                    lanes.drain();
                }
                Step::Finish(_) | Step::Park(..) | Step::Repeat(_) => {}
            }
            prop_assert_eq!(lanes.watermark(), model.watermark());
            prop_assert_eq!(lanes.records(), model.unfinished().count());
            prop_assert_eq!(lanes.bytes(), model.unfinished().map(|record| record.bytes).sum::<usize>());
            prop_assert_eq!(lanes.running(), out.len());
            let next = model.records.iter().filter_map(|record| match record.state {
                ModelState::Parked(until) if until > now => Some(until),
                _ => None,
            }).min();
            prop_assert_eq!(lanes.next_timeout(), next);
            if let Some(limit) = model.limit {
                let drained = model.records[..limit].iter().all(|record| record.state == ModelState::Finished);
                prop_assert_eq!(lanes.is_drained(), drained);
            }
        }
    }
}
