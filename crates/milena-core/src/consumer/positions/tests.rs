use super::*;

fn tp() -> TopicPartition {
    TopicPartition::new("orders", 0)
}

fn assigned(reset: OffsetReset, start: Start) -> Positions {
    let mut positions = Positions::new(reset);
    positions.assign(tp(), AssignmentEpoch(1), start);
    positions.set_leader(&tp(), Some((1, 5)));
    positions
}

fn version(positions: &Positions) -> u64 {
    positions.get(&tp()).unwrap().version
}

#[test]
fn position_moves_when_records_are_handed_over_and_not_when_fetched() {
    let mut positions = assigned(OffsetReset::Latest, Start::Offset(10));
    let version = version(&positions);
    positions.fetched(&tp(), version, EpochOffset::unknown(30));
    assert_eq!(positions.get(&tp()).unwrap().position(), Some(10));
    positions.handed_over(&tp(), version, EpochOffset::unknown(20));
    let position = positions.get(&tp()).unwrap();
    assert_eq!((position.position(), position.fetch_offset()), (Some(20), Some(EpochOffset::unknown(30))));
    positions.refetch(&tp(), version);
    assert_eq!(positions.get(&tp()).unwrap().fetch_offset(), Some(EpochOffset::unknown(20)));
}

#[test]
fn seek_makes_answers_under_way_void() {
    let mut positions = assigned(OffsetReset::Latest, Start::Offset(10));
    let before = version(&positions);
    assert!(positions.seek(&tp(), Start::Offset(3)));
    positions.fetched(&tp(), before, EpochOffset::unknown(99));
    positions.handed_over(&tp(), before, EpochOffset::unknown(99));
    let position = positions.get(&tp()).unwrap();
    assert_eq!((position.position(), position.fetch_offset()), (Some(3), Some(EpochOffset::unknown(3))));
    assert!(!positions.seek(&TopicPartition::new("other", 0), Start::End));
}

#[test]
fn each_reset_policy_asks_for_its_time() {
    let now = Instant::now();
    for (policy, timestamp) in [
        (OffsetReset::Earliest, EARLIEST),
        (OffsetReset::Latest, LATEST),
        (OffsetReset::ByDuration(Duration::from_secs(60)), 40_000),
    ] {
        let mut positions = assigned(policy, Start::Committed);
        let question = positions.questions(now).pop().unwrap();
        assert_eq!(question.unresolved, Unresolved::Committed);
        assert!(positions.questions(now).is_empty(), "asked once");
        positions.handle_committed(100_000, &tp(), question.version, None).unwrap();
        assert_eq!(positions.questions(now)[0].unresolved, Unresolved::Timestamp(timestamp));
    }
}

#[test]
fn without_a_policy_the_application_is_told_and_may_seek() {
    let now = Instant::now();
    let mut positions = assigned(OffsetReset::None, Start::Offset(10));
    let version = version(&positions);
    assert!(positions.handle_out_of_range(0, &tp(), version).is_err());
    assert!(positions.fetchable(1) == 0 && positions.questions(now).is_empty());
    positions.seek(&tp(), Start::Beginning);
    assert_eq!(positions.questions(now).len(), 1);
}

#[test]
fn committed_offset_wins_over_the_policy_and_a_retry_waits() {
    let now = Instant::now();
    let mut positions = assigned(OffsetReset::Latest, Start::Committed);
    let question = positions.questions(now).pop().unwrap();
    let later = now + Duration::from_secs(1);
    positions.ask_again(&question, |_| later);
    assert!(positions.questions(now).is_empty());
    assert_eq!(positions.next_timeout(), Some(later));
    let question = positions.questions(later).pop().unwrap();
    positions.handle_committed(0, &tp(), question.version, Some(EpochOffset::unknown(42))).unwrap();
    assert_eq!(positions.get(&tp()).unwrap().position(), Some(42));
}

#[test]
fn question_that_cannot_be_put_wakes_nobody() {
    let now = Instant::now();
    let mut positions = assigned(OffsetReset::Latest, Start::End);
    let question = positions.questions(now).pop().unwrap();
    let later = now + Duration::from_secs(1);
    positions.ask_again(&question, |_| later);
    positions.set_leader(&tp(), None);
    assert_eq!((positions.questions(later), positions.next_timeout()), (vec![], None));
    let mut positions = assigned(OffsetReset::Latest, Start::End);
    let question = positions.questions(now).pop().unwrap();
    positions.ask_again(&question, |_| later);
    assert_eq!(positions.next_timeout(), Some(later));
    positions.hold_back(&tp());
    assert_eq!((positions.questions(later), positions.next_timeout()), (vec![], None));
}

/// How often in a row the question was told to have had no answer, when it has none again.
fn fail(positions: &mut Positions, now: Instant) -> u32 {
    let question = positions.questions(now).pop().expect("it is put");
    let mut failures = None;
    positions.ask_again(&question, |before| {
        failures = Some(before);
        now
    });
    failures.expect("it is the question that was put")
}

#[test]
fn failures_in_a_row_are_counted_until_there_is_an_answer_another_question_or_another_leader() {
    let now = Instant::now();
    let mut positions = assigned(OffsetReset::Latest, Start::End);
    assert_eq!([0; 3].map(|_| fail(&mut positions, now)), [0, 1, 2]);
    assert!(!positions.set_leader(&tp(), Some((1, 5))));
    assert_eq!(fail(&mut positions, now), 3, "the same leader");
    assert!(positions.set_leader(&tp(), Some((2, 6))));
    assert_eq!(positions.next_timeout(), None, "another is asked at once");
    assert_eq!([0; 2].map(|_| fail(&mut positions, now)), [0, 1]);
    positions.seek(&tp(), Start::Beginning);
    assert_eq!([0; 2].map(|_| fail(&mut positions, now)), [0, 1]);
    let question = positions.questions(now).pop().unwrap();
    positions.handle_offset(&tp(), question.version, EpochOffset { offset: 3, epoch: 4 });
    // The log is in doubt after the next change of leader, which is a question of its own.
    positions.set_leader(&tp(), Some((1, 7)));
    assert_eq!([0; 2].map(|_| fail(&mut positions, now)), [0, 1]);
    let question = positions.questions(now).pop().unwrap();
    let end = Some(EpochOffset { offset: 9, epoch: 4 });
    assert_eq!(positions.handle_epoch_answer(0, &tp(), question.version, question.unresolved, end), None);
    assert_eq!((positions.fetchable(1), positions.next_timeout()), (1, None));
    positions.set_leader(&tp(), Some((1, 8)));
    assert_eq!(fail(&mut positions, now), 0);
}

#[test]
fn coordinator_is_not_asked_sooner_because_a_leader_changed() {
    let now = Instant::now();
    let mut positions = assigned(OffsetReset::Latest, Start::Committed);
    assert_eq!(fail(&mut positions, now), 0);
    positions.set_leader(&tp(), Some((2, 6)));
    assert_eq!((positions.next_timeout(), fail(&mut positions, now)), (Some(now), 1));
}

#[test]
fn question_that_the_leader_before_never_answered_is_put_to_the_new_one_and_one_answer_counts() {
    let now = Instant::now();
    let mut positions = assigned(OffsetReset::Latest, Start::Beginning);
    let silent = positions.questions(now).pop().expect("put");
    positions.set_leader(&tp(), None);
    assert_eq!(positions.questions(now), [], "to nobody");
    positions.set_leader(&tp(), Some((2, 6)));
    let asked = positions.questions(now).pop().expect("put to the new leader");
    assert_eq!(asked.unresolved, silent.unresolved);
    // Whatever comes of the first by now: no answer, and an answer.
    positions.ask_again(&silent, |_| now);
    assert_eq!(positions.questions(now), [], "it is under way");
    positions.handle_offset(&tp(), silent.version, EpochOffset::unknown(3));
    assert_eq!(positions.get(&tp()).unwrap().position(), None);
    positions.handle_offset(&tp(), asked.version, EpochOffset::unknown(7));
    positions.handle_offset(&tp(), silent.version, EpochOffset::unknown(3));
    assert_eq!(positions.get(&tp()).unwrap().position(), Some(7));
    // A seek that is awaited is no question, whoever leads.
    let mut positions = assigned(OffsetReset::None, Start::Offset(10));
    positions.handle_out_of_range(0, &tp(), version(&positions)).unwrap_err();
    let before = version(&positions);
    positions.set_leader(&tp(), Some((2, 6)));
    assert_eq!((positions.questions(now), version(&positions)), (vec![], before));
}

#[test]
fn fetchable_are_those_led_there_resolved_and_not_paused() {
    let mut positions = assigned(OffsetReset::Latest, Start::Offset(0));
    assert_eq!(positions.fetchable(1), 1);
    assert_eq!(positions.fetchable(2), 0);
    positions.set_paused(&tp(), true);
    assert_eq!(positions.fetchable(1), 0);
    positions.set_paused(&tp(), false);
    positions.hold_back(&tp());
    assert_eq!(positions.fetchable(1), 0);
    assert!(positions.holds(&tp(), AssignmentEpoch(1)), "held for its last commits");
    let mut positions = assigned(OffsetReset::Latest, Start::Offset(0));
    positions.seek(&tp(), Start::End);
    assert_eq!(positions.fetchable(1), 0);
}

#[test]
fn lag_ends_at_the_last_stable_offset_for_committed_readers() {
    let mut positions = assigned(OffsetReset::Latest, Start::Offset(10));
    let version = version(&positions);
    assert_eq!(positions.get(&tp()).unwrap().lag(false), None);
    positions.observe(&tp(), version, 100, 60);
    let position = positions.get(&tp()).unwrap();
    assert_eq!((position.lag(false), position.lag(true)), (Some(90), Some(50)));
}

#[test]
fn an_epoch_holds_only_its_own_spell() {
    let mut positions = assigned(OffsetReset::Latest, Start::Offset(10));
    assert!(positions.holds(&tp(), AssignmentEpoch(1)));
    positions.remove(&tp());
    positions.assign(tp(), AssignmentEpoch(2), Start::Offset(10));
    assert!(!positions.holds(&tp(), AssignmentEpoch(1)) && positions.holds(&tp(), AssignmentEpoch(2)));
}

fn at(offset: i64, epoch: i32) -> EpochOffset {
    EpochOffset { offset, epoch }
}

/// Handed over up to 10 and fetched up to 20, both in epoch 5, whose leader then changes; returns the question.
fn in_doubt(reset: OffsetReset) -> (Positions, Question) {
    let mut positions = assigned(reset, Start::Offset(0));
    let version = version(&positions);
    positions.fetched(&tp(), version, at(20, 5));
    positions.handed_over(&tp(), version, at(10, 5));
    assert_eq!(positions.questions(Instant::now()), [], "its own leader wrote it");
    positions.set_leader(&tp(), Some((2, 6)));
    assert_eq!(positions.fetchable(2), 0, "not before the new leader has vouched for it");
    let question = positions.questions(Instant::now()).pop().unwrap();
    assert_eq!(question.unresolved, Unresolved::EpochEnd { epoch: 5, leader_epoch: 6 });
    (positions, question)
}

fn answer(positions: &mut Positions, question: &Question, end: Option<EpochOffset>) -> Option<Divergence> {
    positions.handle_epoch_answer(0, &tp(), question.version, question.unresolved, end)
}

#[test]
fn new_leader_that_has_what_was_read_goes_on_from_there() {
    let (mut positions, question) = in_doubt(OffsetReset::Latest);
    assert_eq!(answer(&mut positions, &question, Some(at(25, 5))), None);
    let position = positions.get(&tp()).filter(|_| positions.fetchable(2) == 1).unwrap();
    assert_eq!((position.position(), position.fetch_offset()), (Some(10), Some(at(20, 5))));
    assert_eq!(position.version, question.version, "nothing is void");
}

#[test]
fn what_was_fetched_ahead_of_a_truncation_is_fetched_again_and_nobody_is_told() {
    let (mut positions, question) = in_doubt(OffsetReset::None);
    assert_eq!(answer(&mut positions, &question, Some(at(15, 5))), Some(Divergence::Ahead));
    let position = positions.get(&tp()).filter(|_| positions.fetchable(2) == 1).unwrap();
    assert_eq!((position.position(), position.fetch_offset()), (Some(10), Some(at(10, 5))));
    assert_ne!(position.version, question.version);
}

#[test]
fn truncation_below_the_position_is_told_and_goes_on_where_the_logs_part() {
    let lost = |diverged| LogTruncation { partition: tp(), position: at(10, 5), diverged };
    let (mut positions, question) = in_doubt(OffsetReset::Latest);
    let told = answer(&mut positions, &question, Some(at(7, 4)));
    assert_eq!(told, Some(Divergence::Behind(lost(Some(at(7, 4))))));
    let position = positions.get(&tp()).filter(|_| positions.fetchable(2) == 1).unwrap();
    assert_eq!((position.position(), position.fetch_offset()), (Some(7), Some(at(7, 4))));
    // Nothing is known of that epoch: the policy decides.
    let (mut positions, question) = in_doubt(OffsetReset::Earliest);
    assert_eq!(answer(&mut positions, &question, None), Some(Divergence::Behind(lost(None))));
    assert_eq!(positions.questions(Instant::now())[0].unresolved, Unresolved::Timestamp(EARLIEST));
    // Without a policy it stops there, whoever leads next.
    for end in [Some(at(7, 4)), None] {
        let (mut positions, question) = in_doubt(OffsetReset::None);
        assert_eq!(answer(&mut positions, &question, end), Some(Divergence::Stopped(lost(end))));
        positions.set_leader(&tp(), Some((1, 7)));
        assert_eq!((positions.fetchable(1), positions.questions(Instant::now())), (0, vec![]));
        positions.seek(&tp(), Start::Offset(7));
        assert_eq!(positions.fetchable(1), 1);
    }
}

#[test]
fn answer_of_a_leader_that_is_none_any_more_decides_nothing() {
    let (mut positions, question) = in_doubt(OffsetReset::Latest);
    positions.set_leader(&tp(), Some((1, 7)));
    assert_eq!(answer(&mut positions, &question, Some(at(0, 0))), None);
    let again = positions.questions(Instant::now()).pop().unwrap();
    assert_eq!(again.unresolved, Unresolved::EpochEnd { epoch: 5, leader_epoch: 7 });
    assert_eq!(answer(&mut positions, &again, Some(at(20, 5))), None);
    assert_eq!(positions.fetchable(1), 1);
}

#[test]
fn committed_epoch_of_an_older_leader_is_validated_and_one_of_this_leader_is_not() {
    for (epoch, asked) in [(4, 1), (5, 0), (-1, 0)] {
        let mut positions = assigned(OffsetReset::None, Start::Committed);
        let question = positions.questions(Instant::now()).pop().unwrap();
        positions.handle_committed(0, &tp(), question.version, Some(at(42, epoch))).unwrap();
        assert_eq!(positions.questions(Instant::now()).len(), asked, "{epoch}");
    }
}

#[test]
fn replica_is_read_from_until_it_expires_fails_or_the_leader_changes() {
    let now = Instant::now();
    let until = now + Duration::from_secs(300);
    let from = |positions: &Positions| positions.get(&tp()).unwrap().read_from();
    let prefer = |positions: &mut Positions, node| {
        let version = version(positions);
        positions.prefer(&tp(), version, node, until);
    };
    let mut positions = assigned(OffsetReset::Latest, Start::Offset(0));
    prefer(&mut positions, 3);
    assert_eq!((from(&positions), positions.next_expiry()), (Some(3), Some(until)));
    assert_eq!((positions.fetchable(1), positions.fetchable(3)), (0, 1));
    assert!(!positions.expire_replicas(now) && positions.expire_replicas(until));
    assert_eq!((from(&positions), positions.next_expiry()), (Some(1), None));
    prefer(&mut positions, 3);
    assert!(!positions.give_up_replica(&tp(), 1, until), "it is not read from");
    assert!(positions.give_up_replica(&tp(), 3, until));
    let position = positions.get(&tp()).unwrap();
    assert_eq!((position.read_from(), position.may_follow(now), position.may_follow(until)), (Some(1), false, true));
    prefer(&mut positions, 3);
    positions.set_leader(&tp(), Some((2, 6)));
    assert_eq!(from(&positions), Some(2));
}

/// So many partitions at node 1, all of them in its session.
fn in_session(partitions: i32) -> Positions {
    let mut positions = Positions::new(OffsetReset::Latest);
    for partition in 0..partitions {
        let partition = TopicPartition::new("orders", partition);
        positions.assign(partition.clone(), AssignmentEpoch(1), Start::Offset(0));
        positions.set_leader(&partition, Some((1, 5)));
    }
    enter_all(&mut positions, 1);
    positions
}

fn enter_all(positions: &mut Positions, node: i32) {
    let changed: Vec<Slot> = positions.changed(node).map(|(slot, ..)| slot).collect();
    changed.into_iter().for_each(|slot| positions.enter_session(slot, milena_protocol::Uuid::ZERO));
}

fn changed(positions: &Positions, node: i32) -> Vec<i32> {
    positions.changed(node).map(|(_, partition, _)| partition.partition).collect()
}

#[test]
fn only_what_moved_is_looked_at_however_many_are_idle() {
    let mut positions = in_session(10_000);
    assert_eq!((positions.members(1), changed(&positions, 1)), (10_000, vec![]));
    let version = version(&positions);
    positions.fetched(&tp(), version, EpochOffset::unknown(5));
    positions.observe(&tp(), version, 5, 5);
    positions.handed_over(&tp(), version, EpochOffset::unknown(5));
    assert_eq!(changed(&positions, 1), [0]);
    assert!(positions.questions(Instant::now()).is_empty() && positions.next_timeout().is_none());
    enter_all(&mut positions, 1);
    assert_eq!(changed(&positions, 1), []);
}

#[test]
fn partition_that_leaves_a_node_is_forgotten_there_and_one_that_came_back_is_not() {
    let mut positions = in_session(3);
    positions.set_leader(&tp(), Some((2, 5)));
    positions.remove(&TopicPartition::new("orders", 1));
    assert_eq!((positions.members(1), positions.fetchable(1), changed(&positions, 2)), (1, 1, vec![0]));
    positions.set_leader(&tp(), Some((1, 5)));
    enter_all(&mut positions, 1);
    let gone: Vec<i32> = positions.take_gone(1).into_iter().map(|(partition, _)| partition.partition).collect();
    assert_eq!((gone, positions.members(1)), (vec![1], 2));
    assert!(!positions.is_read(2) && positions.nodes().eq([1]));
}

#[test]
fn topic_created_anew_is_forgotten_under_its_old_id() {
    let [old, new] = [1, 2].map(|id| milena_protocol::Uuid::from_bytes([id; 16]));
    let mut positions = in_session(2);
    let slot = |positions: &Positions| positions.changed(1).next().map(|(slot, ..)| slot);
    let enter = |positions: &mut Positions, id| {
        positions.set_topic_id(&tp(), id);
        let slot = slot(positions).expect("under another id the session has to be told");
        positions.enter_session(slot, id);
    };
    enter(&mut positions, old);
    assert!(!positions.have_ids(1), "the other one has none yet");
    positions.take_gone(1);
    positions.set_topic_id(&tp(), old);
    assert_eq!(slot(&positions), None, "the same one is no news");
    enter(&mut positions, new);
    assert_eq!(positions.take_gone(1), [(tp(), old)]);
    assert_eq!((positions.take_gone(1), positions.members(1)), (vec![], 2), "once");
    // Given up and held again before the broker was told: what is in the session under this id must not be forgotten.
    for (id, gone) in [(new, vec![]), (old, vec![(tp(), new)])] {
        positions.remove(&tp());
        positions.assign(tp(), AssignmentEpoch(2), Start::Offset(0));
        positions.set_leader(&tp(), Some((1, 5)));
        enter(&mut positions, id);
        assert_eq!(positions.take_gone(1), gone);
    }
}

#[test]
fn slots_of_partitions_that_were_given_up_are_used_again() {
    let mut positions = in_session(20);
    for round in 2..5 {
        for partition in 5..20 {
            let partition = TopicPartition::new("orders", partition);
            positions.remove(&partition);
            positions.assign(partition.clone(), AssignmentEpoch(round), Start::Offset(7));
        }
        let slots = positions.iter().map(|(partition, _)| positions.held.slot(partition).expect("held"));
        assert_eq!(slots.collect::<std::collections::BTreeSet<_>>(), (0..20).collect());
    }
    let held = positions.iter().map(|(partition, position)| (partition.partition, position.position()));
    assert!(held.eq((0..20).map(|partition| (partition, Some(if partition < 5 { 0 } else { 7 })))));
}

#[test]
fn paused_member_leaves_the_session_and_comes_back() {
    let mut positions = in_session(2);
    positions.set_paused(&tp(), true);
    let slot = positions.changed(1).next().unwrap().0;
    positions.leave_session(slot);
    assert_eq!((positions.members(1), changed(&positions, 1)), (1, vec![]));
    assert_eq!(positions.take_gone(1).len(), 1);
    positions.set_paused(&tp(), false);
    assert_eq!(changed(&positions, 1), [0]);
}

#[test]
fn late_failure_of_a_leader_before_neither_puts_off_nor_repeats_what_the_new_one_is_asked() {
    let now = Instant::now();
    let late = [
        (|positions: &mut Positions, question: &Question| positions.ask_again(question, |_| Instant::now()))
            as fn(&mut Positions, &Question),
        |positions, question| positions.skip_validation(question),
        |positions, question| drop(answer(positions, question, Some(at(25, 5)))),
    ];
    for late in late {
        let (mut positions, of_before) = in_doubt(OffsetReset::Latest);
        positions.set_leader(&tp(), Some((3, 7)));
        let asked = positions.questions(now).pop().expect("put to the new leader");
        late(&mut positions, &of_before);
        assert_eq!((positions.questions(now), positions.next_timeout()), (vec![], None), "one is under way");
        assert_eq!(positions.fetchable(3), 0, "it alone says whether it has what was read");
        assert_eq!(answer(&mut positions, &asked, Some(at(25, 5))), None);
        late(&mut positions, &of_before);
        assert_eq!((positions.fetchable(3), positions.next_timeout()), (1, None), "nothing is in doubt");
    }
}
