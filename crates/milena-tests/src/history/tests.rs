use super::*;

fn value(key: u32, number: u64) -> Value {
    Value { key, number }
}

fn at(offset: i64) -> Place {
    Place { partition: 0, offset }
}

/// A good run of three records of one key, each handled; `spoil` makes it a bad one.
fn run(spoil: impl FnOnce(&mut History, &mut BTreeMap<Place, Value>)) -> Vec<Violation> {
    let mut history = History::default();
    let mut log = BTreeMap::new();
    for number in 0..3 {
        let offset = i64::try_from(number).unwrap();
        history.sent(value(1, number), Sent::Acknowledged(0, Some(offset)));
        log.insert(at(offset), value(1, number));
        history.handled(at(offset));
    }
    history.commits(0, 3);
    spoil(&mut history, &mut log);
    history.judge(&log)
}

#[test]
fn a_good_run_has_no_violations_and_an_unknown_outcome_may_go_either_way() {
    assert_eq!(run(|_, _| {}), []);
    assert_eq!(run(|history, _| history.sent(value(1, 3), Sent::PossiblyWritten)), []);
    let written = run(|history, log| {
        history.sent(value(1, 3), Sent::PossiblyWritten);
        log.insert(at(3), value(1, 3));
        history.handled(at(3));
    });
    assert_eq!(written, []);
    assert_eq!(run(|history, _| history.handled(at(1))), [], "a rebalance repeats");
    let read = run(|history, _| {
        (0..3).for_each(|number| history.read(0, at(number as i64), value(1, number)));
        history.begins(0, 0, None);
        history.read(0, at(1), value(1, 1));
    });
    assert_eq!(read, [], "and is begun anew");
    let appended = run(|history, _| (0..3).for_each(|number| history.appended(7, value(1, number))));
    assert_eq!(appended, []);
}

#[test]
fn what_is_not_promised_is_not_held_against_anyone() {
    let judge = |promises| {
        let mut history = History::of(promises);
        history.sent(value(1, 0), Sent::Acknowledged(0, Some(1)));
        history.sent(value(1, 1), Sent::Acknowledged(0, Some(9)));
        let log = BTreeMap::from([(at(0), value(1, 0)), (at(1), value(1, 0))]);
        history.judge(&log)
    };
    assert_eq!(judge(Promises { kept: false, once: false, handled: false, read: false }), []);
    assert_eq!(
        judge(Promises { once: false, handled: false, ..Promises::default() }),
        [Violation::Lost(value(1, 1), at(9))]
    );
    assert_eq!(judge(Promises::default()).len(), 5);
}

#[test]
fn each_broken_promise_is_seen() {
    let lost = run(|history, _| history.sent(value(2, 0), Sent::Acknowledged(0, Some(9))));
    assert_eq!(lost, [Violation::Lost(value(2, 0), at(9))]);

    let elsewhere = run(|history, _| history.sent(value(1, 2), Sent::Acknowledged(0, Some(1))));
    assert_eq!(elsewhere, [Violation::Lost(value(1, 2), at(1))]);

    let twice = run(|history, log| {
        log.insert(at(3), value(1, 2));
        history.handled(at(3));
    });
    assert_eq!(twice, [Violation::Duplicated(value(1, 2), at(2), at(3))]);

    let swapped = run(|history, log| {
        log.insert(at(3), value(2, 1));
        log.insert(at(4), value(2, 0));
        history.handled(at(3));
        history.handled(at(4));
    });
    assert_eq!(swapped, [Violation::Reordered(value(2, 1), value(2, 0))]);

    let denied = run(|history, log| {
        history.sent(value(2, 0), Sent::Failed);
        log.insert(at(3), value(2, 0));
        history.handled(at(3));
    });
    assert_eq!(denied, [Violation::FailedButWritten(value(2, 0), at(3))]);

    let skipped = run(|history, log| {
        log.insert(at(3), value(2, 0));
        log.insert(at(4), value(2, 1));
        history.handled(at(4));
    });
    assert_eq!(skipped, [Violation::Skipped { at: at(4), missing: 3 }]);

    let early = run(|history, _| history.commits(0, 4));
    assert_eq!(early, [Violation::CommittedUnhandled { partition: 0, committed: 4, missing: 3 }]);

    let unhandled = run(|_, log| {
        log.insert(at(3), value(2, 0));
    });
    assert_eq!(unhandled, [Violation::Unhandled(at(3))]);

    let in_time = run(|history, log| {
        log.insert(at(3), value(2, 0));
        history.handles_until(0, 3);
    });
    assert_eq!(in_time, [], "nobody was left who could");

    let overtaken = run(|history, log| {
        history.appended(7, value(2, 0));
        history.appended(7, value(3, 0));
        log.insert(at(3), value(3, 0));
        log.insert(at(4), value(2, 0));
        history.handled(at(3));
        history.handled(at(4));
    });
    assert_eq!(overtaken, [Violation::Reordered(value(3, 0), value(2, 0))], "whichever keys they have");

    let misrouted = run(|history, _| history.meant_for(value(1, 2), 1));
    assert_eq!(misrouted, [Violation::Misrouted(value(1, 2), at(2))]);

    let mistaken = run(|history, _| history.read(0, at(1), value(1, 2)));
    assert_eq!(mistaken, [Violation::Mistaken(value(1, 2), at(1))]);

    let left_out = run(|history, _| {
        history.read(0, at(0), value(1, 0));
        history.read(0, at(2), value(1, 2));
    });
    assert_eq!(left_out, [Violation::OutOfTurn { at: at(2), expected: 1 }]);

    let fell = run(|history, _| {
        history.is_committed(0, 3);
        history.is_committed(0, 2);
    });
    assert_eq!(fell, [Violation::CommitFell { partition: 0, from: 3, to: 2 }]);

    let late = run(|history, _| {
        history.begins(0, 0, Some(0));
        history.read(0, at(1), value(1, 1));
    });
    assert_eq!(late, [Violation::OutOfTurn { at: at(1), expected: 0 }]);
}

#[test]
fn commits_rise_but_for_those_that_come_late() {
    let by = |generation| Committer { member: "m".to_owned(), generation };
    let back = run(|history, _| {
        history.commit_sent(&by(1), 0, 3);
        history.commit_sent(&by(1), 0, 2);
    });
    assert_eq!(back, [Violation::CommitSentBack { by: by(1), partition: 0, from: 3, to: 2 }]);
    let next = run(|history, _| {
        history.commit_sent(&by(1), 0, 3);
        history.commit_sent(&by(2), 0, 2);
    });
    assert_eq!(next, [], "of another generation");

    let late = run(|history, _| {
        history.commit_sent(&by(1), 0, 1);
        history.commit_sent(&by(1), 0, 2);
        history.commit_answered(&by(1), 0, 2);
        history.is_committed(0, 2);
        history.is_committed(0, 1);
    });
    assert_eq!(late, [], "nobody had heard of the first");
    let answered = run(|history, _| {
        history.commit_sent(&by(1), 0, 1);
        history.commit_answered(&by(1), 0, 1);
        history.commit_sent(&by(1), 0, 2);
        history.is_committed(0, 2);
        history.is_committed(0, 1);
    });
    assert_eq!(answered, [Violation::CommitFell { partition: 0, from: 2, to: 1 }]);
}

#[test]
fn a_member_begins_where_it_was_told_to_and_holds_what_nobody_else_does() {
    let begin = |told, offset| {
        run(|history, _| {
            history.told(7, 0, told);
            history.begins(7, 0, None);
            history.read(7, at(offset), value(1, offset.unsigned_abs()));
        })
    };
    assert_eq!((begin(1, 1), begin(-1, 0)), (vec![], vec![]));
    assert_eq!(begin(2, 1), [Violation::OutOfTurn { at: at(1), expected: 2 }]);
    assert_eq!(begin(-1, 1), [Violation::OutOfTurn { at: at(1), expected: 0 }]);

    let own = |generation| {
        run(|history, _| {
            history.synced(1, 4);
            history.synced(2, generation);
            history.owns(&[(1, vec![0, 1]), (2, vec![1, 2])]);
        })
    };
    assert_eq!(own(5), [], "the other is not heard of any more");
    assert_eq!(own(4), [Violation::TwoOwners { partition: 1, generation: 4 }]);
}

#[test]
fn what_vanished_is_excused_and_nothing_else() {
    /// Two records vanish, and one of another value takes the place of the first.
    fn cut(spoil: impl FnOnce(&mut History, &mut BTreeMap<Place, Value>)) -> Vec<Violation> {
        let mut history = History::of(Promises { read: true, ..Promises::default() });
        history.reads_until(0, 2);
        let mut log = BTreeMap::new();
        for number in 0..3 {
            history.begun(value(1, number));
            let offset = i64::try_from(number).unwrap();
            history.sent(value(1, number), Sent::Acknowledged(0, Some(offset)));
            history.read(0, at(offset), value(1, number));
            history.handled_as(at(offset), value(1, number));
        }
        history.commits(0, 3);
        log.insert(at(0), value(1, 0));
        history.truncated(0, 1, 3);
        history.begun(value(2, 0));
        history.sent(value(2, 0), Sent::Acknowledged(0, Some(1)));
        log.insert(at(1), value(2, 0));
        history.begins(0, 0, Some(1));
        spoil(&mut history, &mut log);
        history.judge(&log)
    }
    let goes_on = |history: &mut History| {
        history.read(0, at(1), value(2, 0));
        history.handled_as(at(1), value(2, 0));
    };
    assert_eq!(cut(|history, _| goes_on(history)), []);
    assert_eq!(cut(|_, _| ()), [Violation::Unhandled(at(1)), Violation::Unread(at(1))], "as what it is now");
    let lost = cut(|history, log| {
        goes_on(history);
        history.begun(value(3, 0));
        history.sent(value(3, 0), Sent::Acknowledged(0, Some(2)));
        log.remove(&at(0));
    });
    let kept = [Violation::Lost(value(1, 0), at(0)), Violation::Lost(value(3, 0), at(2))];
    assert_eq!(lost[1..], kept, "neither below it nor after it");
}
