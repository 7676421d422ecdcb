//! The commit lane, driven by answers and virtual time.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn lane() -> (CommitLane, Instant) {
    (CommitLane::new(60 * SECOND, Backoff::new(SECOND, SECOND), 7), Instant::now())
}

fn offset(partition: i32, offset: i64, epoch: u64) -> OffsetToCommit {
    OffsetToCommit { partition: tp(partition), offset, leader_epoch: -1, metadata: None, epoch: AssignmentEpoch(epoch) }
}

#[test]
fn commits_go_one_after_another_and_retries_keep_the_order() {
    let (mut lane, mut now) = lane();
    let first = lane.submit(now, vec![offset(0, 10, 1)]);
    let second = lane.submit(now, vec![offset(0, 20, 1)]);
    let sent = lane.poll_request(now, true, |_, _| true).unwrap();
    assert_eq!((sent.ticket, sent.offsets[0].offset), (first, 10));
    assert!(lane.poll_request(now, true, |_, _| true).is_none(), "the second waits for the first");
    let moved = lane.handle_reply(now, first, Ok(vec![(tp(0), ErrorCode::NOT_COORDINATOR)]), false);
    assert_eq!(moved, Some(ErrorCode::NOT_COORDINATOR));
    assert!(lane.poll_request(now, true, |_, _| true).is_none(), "backoff");
    now += 2 * SECOND;
    assert_eq!(lane.poll_request(now, true, |_, _| true).unwrap().ticket, first, "not overtaken by the second");
    lane.handle_reply(now, first, Ok(vec![(tp(0), ErrorCode::NONE)]), false);
    assert_eq!(lane.poll_done(), Some((first, vec![(tp(0), Ok(()))])));
    assert_eq!(lane.poll_request(now, true, |_, _| true).unwrap().ticket, second);
}

#[test]
fn stale_epochs_are_refused_even_when_they_went_stale_while_waiting() {
    let (mut lane, now) = lane();
    let ticket = lane.submit(now, vec![offset(0, 10, 1), offset(1, 10, 2)]);
    assert!(lane.poll_request(now, false, |_, _| true).is_none(), "between join and sync nothing is sent");
    let sent = lane.poll_request(now, true, |_, epoch| epoch == AssignmentEpoch(2)).unwrap();
    assert_eq!(sent.offsets, vec![offset(1, 10, 2)]);
    lane.handle_reply(now, ticket, Ok(vec![(tp(1), ErrorCode::NONE)]), false);
    let (_, result) = lane.poll_done().unwrap();
    assert_eq!(result, vec![(tp(0), Err(OffsetRefused::StaleEpoch)), (tp(1), Ok(()))]);
}

#[test]
fn lane_gives_up_at_its_time_limit_and_goes_on() {
    let (mut lane, mut now) = lane();
    let first = lane.submit(now, vec![offset(0, 10, 1)]);
    let second = lane.submit(now + 60 * SECOND, vec![offset(0, 20, 1)]);
    lane.poll_request(now, true, |_, _| true).unwrap();
    let lost = lane.handle_reply(now, first, Err(Unanswered { written: true }), false);
    assert_eq!(lost, Some(ErrorCode::COORDINATOR_NOT_AVAILABLE));
    now += 61 * SECOND;
    assert_eq!(lane.poll_request(now, true, |_, _| true).expect("at once").ticket, second);
    let (ticket, result) = lane.poll_done().unwrap();
    assert_eq!((ticket, &result[0].1), (first, &Err(OffsetRefused::TimedOut(60 * SECOND))));
    assert!(lane.poll_done().is_none(), "the second has no answer yet");
}

#[test]
fn closing_the_lane_settles_everything() {
    let (mut lane, now) = lane();
    lane.submit(now, vec![offset(0, 10, 1)]);
    lane.submit(now, vec![offset(0, 20, 1)]);
    lane.poll_request(now, true, |_, _| true).unwrap();
    lane.close();
    let why: Vec<_> = std::iter::from_fn(|| lane.poll_done()).map(|(_, result)| result[0].1.clone()).collect();
    assert_eq!(why, vec![Err(OffsetRefused::TimedOut(60 * SECOND)), Err(OffsetRefused::NoGroup)]);
}

#[test]
fn commit_that_ran_out_of_time_says_whether_it_may_have_been_applied() {
    let unanswered = |written| Err(Unanswered { written });
    let refused = || Ok(vec![(tp(0), ErrorCode::COORDINATOR_LOAD_IN_PROGRESS)]);
    let replies: [(&[CommitReply], _); 5] = [
        (&[], OffsetRefused::NeverSent(60 * SECOND)),
        (&[unanswered(false)], OffsetRefused::NeverSent(60 * SECOND)),
        (&[unanswered(false), refused()], OffsetRefused::Broker(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS)),
        (&[unanswered(true), unanswered(false)], OffsetRefused::TimedOut(60 * SECOND)),
        (&[unanswered(true), refused()], OffsetRefused::TimedOut(60 * SECOND)),
    ];
    for (replies, why) in replies {
        let (mut lane, mut now) = lane();
        let ticket = lane.submit(now, vec![offset(0, 10, 1)]);
        for reply in replies {
            assert!(lane.poll_request(now, true, |_, _| true).is_some());
            lane.handle_reply(now, ticket, reply.clone(), false);
            now += 2 * SECOND;
        }
        assert!(lane.poll_request(now, false, |_, _| true).is_none());
        assert!(lane.poll_done().is_none(), "time is left");
        lane.poll_request(now + 60 * SECOND, false, |_, _| true);
        assert_eq!(lane.poll_done(), Some((ticket, vec![(tp(0), Err(why))])), "{replies:?}");
    }
}

#[test]
fn commit_that_a_rebalance_overtook_is_sent_again_while_its_partition_is_held() {
    for error in [ErrorCode::ILLEGAL_GENERATION, ErrorCode::REBALANCE_IN_PROGRESS] {
        let (mut lane, mut now) = lane();
        let ticket = lane.submit(now, vec![offset(0, 10, 1), offset(1, 10, 1)]);
        lane.poll_request(now, true, |_, _| true).unwrap();
        lane.handle_reply(now, ticket, Ok(vec![(tp(0), error), (tp(1), error)]), true);
        now += 2 * SECOND;
        assert!(lane.poll_request(now, false, |_, _| true).is_none(), "the rebalance is not over");
        assert!(lane.next_timeout().unwrap() > now, "nor is there anything to do before it is");
        let again = lane.poll_request(now, true, |partition, _| *partition == tp(1)).unwrap();
        assert_eq!(again.offsets, vec![offset(1, 10, 1)]);
        lane.handle_reply(now, ticket, Ok(vec![(tp(1), ErrorCode::NONE)]), false);
        let result = vec![(tp(0), Err(OffsetRefused::StaleEpoch)), (tp(1), Ok(()))];
        assert_eq!(lane.poll_done(), Some((ticket, result)));
    }
}

#[test]
fn partition_that_is_unknown_holds_back_its_own_commits_and_no_others() {
    let (mut lane, mut now) = lane();
    let begun = now;
    let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
    let first = lane.submit(now, vec![offset(0, 10, 1), offset(1, 10, 1)]);
    let second = lane.submit(now, vec![offset(0, 20, 1), offset(1, 20, 1)]);
    let third = lane.submit(now, vec![offset(1, 30, 1)]);
    lane.poll_request(now, true, |_, _| true).unwrap();
    lane.handle_reply(now, first, Ok(vec![(tp(0), unknown), (tp(1), ErrorCode::NONE)]), false);
    let sent = lane.poll_request(now, true, |_, _| true).expect("at once");
    assert_eq!(sent, CommitRequest { ticket: second, offsets: vec![offset(1, 20, 1)] }, "0 waits for the first");
    lane.handle_reply(now, second, Ok(vec![(tp(1), ErrorCode::NONE)]), false);
    assert_eq!(lane.poll_request(now, true, |_, _| true).expect("at once").ticket, third);
    lane.handle_reply(now, third, Ok(vec![(tp(1), ErrorCode::NONE)]), false);
    assert_eq!(lane.poll_done(), Some((third, vec![(tp(1), Ok(()))])));
    assert!(lane.poll_done().is_none());
    assert!(lane.is_settled(u64::MAX, &[tp(1)]) && !lane.is_settled(first + 1, &[tp(0)]), "1 may be given up");
    let mut asked = 0;
    while lane.poll_done().is_none() {
        now = lane.next_timeout().expect("it is asked again");
        let sent = lane.poll_request(now, true, |_, _| true).expect("of the first");
        assert_eq!(sent, CommitRequest { ticket: first, offsets: vec![offset(0, 10, 1)] }, "never overtaken");
        lane.handle_reply(now, first, Ok(vec![(tp(0), unknown)]), false);
        asked += 1;
    }
    assert!((3..10).contains(&asked) && now < begun + 10 * SECOND, "as a rule it was deleted: {asked} in {now:?}");
    let sent = lane.poll_request(now, true, |_, _| true).expect("in its turn");
    assert_eq!(sent, CommitRequest { ticket: second, offsets: vec![offset(0, 20, 1)] });
    lane.handle_reply(now, second, Ok(vec![(tp(0), ErrorCode::NONE)]), false);
    assert_eq!(lane.poll_done(), Some((second, vec![(tp(0), Ok(())), (tp(1), Ok(()))])));
    assert!(lane.is_clear() && lane.next_timeout().is_none());
}

#[test]
fn partition_that_becomes_known_is_committed_and_the_result_says_what_of_it_failed() {
    let (mut lane, mut now) = lane();
    let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
    let ticket = lane.submit(now, vec![offset(0, 10, 1), offset(1, 10, 1)]);
    lane.poll_request(now, true, |_, _| true).unwrap();
    lane.handle_reply(now, ticket, Ok(vec![(tp(0), unknown), (tp(1), unknown)]), false);
    assert!(lane.is_clear() && lane.poll_request(now, true, |_, _| true).is_none(), "backoff");
    now += 2 * SECOND;
    lane.poll_request(now, true, |_, _| true).unwrap();
    lane.handle_reply(now, ticket, Ok(vec![(tp(0), ErrorCode::NONE), (tp(1), unknown)]), false);
    now += 4 * SECOND;
    assert_eq!(lane.poll_request(now, true, |_, _| true).unwrap().offsets, vec![offset(1, 10, 1)]);
    lane.handle_reply(now, ticket, Ok(vec![(tp(1), unknown)]), false);
    let result = vec![(tp(0), Ok(())), (tp(1), Err(OffsetRefused::Broker(unknown)))];
    assert_eq!(lane.poll_done(), Some((ticket, result)));
}

#[test]
fn lane_is_clear_of_what_can_be_sent_though_an_unknown_partition_has_more_behind_it() {
    let (mut lane, mut now) = lane();
    let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
    let first = lane.submit(now, vec![offset(0, 10, 1), offset(1, 10, 1)]);
    let second = lane.submit(now, vec![offset(0, 20, 1)]);
    lane.poll_request(now, true, |_, _| true).unwrap();
    let loading = ErrorCode::COORDINATOR_LOAD_IN_PROGRESS;
    lane.handle_reply(now, first, Ok(vec![(tp(0), unknown), (tp(1), loading)]), false);
    assert!(!lane.is_clear(), "1 is still to be committed");
    now += 2 * SECOND;
    lane.poll_request(now, true, |_, _| true).expect("both again");
    assert!(!lane.is_clear(), "under way");
    lane.handle_reply(now, first, Ok(vec![(tp(0), unknown), (tp(1), ErrorCode::NONE)]), false);
    assert!(lane.is_clear(), "the second waits for 0 as well");
    now += 2 * SECOND;
    lane.poll_request(now, false, |_, _| true);
    assert!(lane.is_clear(), "though it is time to ask again");
    lane.close();
    let refused = Err(OffsetRefused::Broker(unknown));
    assert_eq!(lane.poll_done(), Some((first, vec![(tp(0), refused), (tp(1), Ok(()))])), "as far as is known");
    assert_eq!(lane.poll_done(), Some((second, vec![(tp(0), Err(OffsetRefused::NoGroup))])));
}

#[test]
fn unknown_partition_holds_back_none_that_were_refused_beside_it() {
    let (mut lane, mut now) = lane();
    let (unknown, loading) = (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
    let ticket = lane.submit(now, vec![offset(0, 10, 1), offset(1, 10, 1)]);
    lane.poll_request(now, true, |_, _| true).unwrap();
    lane.handle_reply(now, ticket, Ok(vec![(tp(0), unknown), (tp(1), loading)]), false);
    now += 2 * SECOND;
    // As after several answers: it is asked about less and less often.
    lane.queue[0].not_before = Some(now + SECOND);
    let again = lane.poll_request(now, true, |_, _| true).expect("at once");
    assert_eq!(again.offsets, vec![offset(1, 10, 1)]);
}
