//! The membership machine, driven by events and virtual time.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use milena_protocol::ErrorCode;

use super::{
    assignor::{Assignor, TopicRacks},
    blobs,
    classic::*,
    commit_lane::*,
};
use crate::{
    consumer::{AssignmentEpoch, TopicPartition},
    retry::Backoff,
};

const SECOND: Duration = Duration::from_secs(1);

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn tps(partitions: &[i32]) -> Vec<TopicPartition> {
    partitions.iter().map(|partition| tp(*partition)).collect()
}

struct Rig {
    member: Membership,
    now: Instant,
}

impl Rig {
    fn new(assignors: &[Assignor], instance: Option<&str>) -> Self {
        let now = Instant::now();
        let config = MembershipConfig {
            instance_id: instance.map(Arc::from),
            assignors: assignors.to_vec(),
            session_timeout: 45 * SECOND,
            rebalance_timeout: 60 * SECOND,
            heartbeat_interval: 3 * SECOND,
            max_poll_interval: 300 * SECOND,
            rack: None,
            backoff: Backoff::new(SECOND, SECOND),
        };
        let mut member = Membership::new(now, config, 7);
        member.subscribe(now, BTreeSet::from(["t".into()]));
        Self { member, now }
    }

    /// A member of generation 1 that follows and holds `partitions`.
    fn stable(assignors: &[Assignor], instance: Option<&str>, partitions: &[i32]) -> Self {
        let mut rig = Self::new(assignors, instance);
        rig.find();
        let join = rig.send();
        rig.joined(&join, 1, "other");
        rig.synced(partitions);
        assert_eq!(rig.events(), vec![GroupEvent::Assigned(tps(partitions))]);
        rig
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn maybe_send(&mut self) -> Option<GroupRequest> {
        self.member.poll_request(self.now)
    }

    fn send(&mut self) -> GroupRequest {
        self.maybe_send().unwrap_or_else(|| panic!("nothing to send in {:?}", self.member.state()))
    }

    fn find(&mut self) {
        let find = self.send();
        assert_eq!(find.kind, GroupRequestKind::FindCoordinator);
        self.member.handle_coordinator(self.now, find.attempt, Ok(()));
    }

    fn joined(&mut self, join: &GroupRequest, generation: i32, leader: &str) {
        assert!(matches!(join.kind, GroupRequestKind::Join { .. }), "{join:?}");
        let protocol = Some(self.member_protocol(join));
        let reply =
            JoinReply { generation, protocol, leader: leader.into(), member_id: "me".into(), ..JoinReply::default() };
        self.member.handle_join(self.now, join.attempt, Ok(reply));
    }

    fn member_protocol(&self, join: &GroupRequest) -> Arc<str> {
        let GroupRequestKind::Join { protocols, .. } = &join.kind else { panic!("{join:?}") };
        protocols[0].0.into()
    }

    fn synced(&mut self, partitions: &[i32]) {
        let sync = self.send();
        assert!(matches!(sync.kind, GroupRequestKind::Sync { .. }), "{sync:?}");
        let assignment = blobs::write_assignment(&tps(partitions));
        self.member.handle_sync(self.now, sync.attempt, Ok((ErrorCode::NONE, assignment)));
    }

    fn heartbeat(&mut self, answer: ErrorCode) {
        self.pass(3 * SECOND);
        let heartbeat = self.send();
        assert!(matches!(heartbeat.kind, GroupRequestKind::Heartbeat { .. }), "{heartbeat:?}");
        self.member.handle_heartbeat(self.now, heartbeat.attempt, Ok(answer));
    }

    fn events(&mut self) -> Vec<GroupEvent> {
        std::iter::from_fn(|| self.member.poll_event()).collect()
    }
}

#[test]
fn leader_joins_assigns_and_holds_its_share() {
    let mut rig = Rig::new(&[Assignor::Range], None);
    rig.find();
    let join = rig.send();
    let reply = JoinReply { error: ErrorCode::MEMBER_ID_REQUIRED, member_id: "me".into(), ..JoinReply::default() };
    rig.member.handle_join(rig.now, join.attempt, Ok(reply));
    let join = rig.send();
    let GroupRequestKind::Join { member_id, protocols, .. } = &join.kind else { panic!("{join:?}") };
    assert_eq!(&**member_id, "me", "the id asked for comes with the second join");
    let ours = protocols[0].1.clone();
    let member = |id: &str, metadata: Bytes| JoinedMember { member_id: id.into(), instance_id: None, metadata };
    let reply = JoinReply {
        generation: 4,
        protocol: Some("range".into()),
        leader: "me".into(),
        member_id: "me".into(),
        members: vec![
            member("me", ours.clone()),
            member("you", ours),
            member("garbled", Bytes::from_static(b"\0\x01\x7f\xff\xff\xff")),
        ],
        ..JoinReply::default()
    };
    rig.member.handle_join(rig.now, join.attempt, Ok(reply));
    assert_eq!(rig.events(), vec![GroupEvent::NeedPartitions(BTreeSet::from(["t".into()]))]);
    assert!(rig.maybe_send().is_none(), "no sync before the partitions are known");
    rig.member.assign(&TopicRacks::from([("t".into(), vec![vec![]; 4])]));
    let sync = rig.send();
    let GroupRequestKind::Sync { generation, assignments, .. } = &sync.kind else { panic!("{sync:?}") };
    assert_eq!(*generation, 4);
    let read: Vec<_> = assignments.iter().map(|(_, blob)| blobs::read_assignment(blob).unwrap()).collect();
    assert_eq!(read, vec![tps(&[0, 1]), tps(&[2, 3]), vec![]], "the garbled member gets nothing, the others all");
    rig.member.handle_sync(rig.now, sync.attempt, Ok((ErrorCode::NONE, assignments[0].1.clone())));
    assert_eq!(rig.events(), vec![GroupEvent::Assigned(tps(&[0, 1]))]);
    assert_eq!(rig.member.state(), MemberState::Stable);
}

#[test]
fn heartbeats_carry_the_generation_of_now() {
    let mut rig = Rig::stable(&[Assignor::Range], None, &[0]);
    assert!(rig.maybe_send().is_none());
    rig.heartbeat(ErrorCode::REBALANCE_IN_PROGRESS);
    rig.member.handle_revoked();
    let join = rig.send();
    rig.joined(&join, 2, "other");
    rig.synced(&[1]);
    rig.pass(3 * SECOND);
    let heartbeat = rig.send();
    assert_eq!(heartbeat.kind, GroupRequestKind::Heartbeat { member_id: "me".into(), generation: 2 });
    assert!(rig.maybe_send().is_none(), "one at a time");
}

#[test]
fn eager_member_joins_only_after_everything_was_given_up() {
    let mut rig = Rig::stable(&[Assignor::Range, Assignor::CooperativeSticky], None, &[0, 1]);
    rig.heartbeat(ErrorCode::REBALANCE_IN_PROGRESS);
    assert_eq!(rig.events(), vec![GroupEvent::Revoke(tps(&[0, 1]))]);
    assert_eq!(rig.member.state(), MemberState::Revoking);
    assert!(rig.maybe_send().is_none(), "no join while the application holds on");
    assert!(rig.member.state().may_commit(), "that is what the guard is for");
    rig.heartbeat(ErrorCode::REBALANCE_IN_PROGRESS);
    assert_eq!(rig.events(), vec![], "asked once");
    rig.member.handle_revoked();
    assert!(rig.member.owned().is_empty());
    assert!(matches!(rig.send().kind, GroupRequestKind::Join { .. }));
}

#[test]
fn revocation_ends_with_the_rebalance_time_limit() {
    let mut rig = Rig::stable(&[Assignor::Range], None, &[0]);
    rig.heartbeat(ErrorCode::REBALANCE_IN_PROGRESS);
    rig.events();
    for _ in 0..19 {
        rig.heartbeat(ErrorCode::REBALANCE_IN_PROGRESS);
    }
    assert_eq!(rig.member.state(), MemberState::Revoking);
    rig.pass(3 * SECOND);
    assert!(matches!(rig.send().kind, GroupRequestKind::Join { .. }));
    assert_eq!(rig.events(), vec![GroupEvent::Lost(tps(&[0]))]);
    rig.member.handle_revoked();
    assert_eq!(rig.member.state(), MemberState::PreparingRebalance, "the late guard changes nothing");
}

#[test]
fn cooperative_member_keeps_the_rest_and_joins_again_after_revoking() {
    let mut rig = Rig::stable(&[Assignor::CooperativeSticky], None, &[0, 1, 2]);
    rig.heartbeat(ErrorCode::REBALANCE_IN_PROGRESS);
    assert_eq!(rig.events(), vec![], "nothing is given up before the assignment is known");
    let join = rig.send();
    rig.joined(&join, 2, "other");
    rig.synced(&[0, 3]);
    assert_eq!(rig.events(), vec![GroupEvent::Assigned(tps(&[3])), GroupEvent::Revoke(tps(&[1, 2]))]);
    assert_eq!(rig.member.owned().iter().cloned().collect::<Vec<_>>(), tps(&[0, 1, 2, 3]));
    assert!(rig.maybe_send().is_none());
    rig.member.handle_revoked();
    let join = rig.send();
    let GroupRequestKind::Join { protocols, .. } = &join.kind else { panic!("{join:?}") };
    let told = blobs::read_member(Assignor::CooperativeSticky, "me".into(), None, &protocols[0].1);
    assert_eq!((told.owned, told.generation), (tps(&[0, 3]), Some(2)));
    rig.joined(&join, 3, "other");
    rig.synced(&[0, 3]);
    assert_eq!(rig.events(), vec![GroupEvent::Assigned(vec![])]);
    assert_eq!(rig.member.state(), MemberState::Stable);
}

#[test]
fn unsubscribed_topics_are_revoked_before_a_cooperative_join() {
    let mut rig = Rig::stable(&[Assignor::CooperativeSticky], None, &[0]);
    rig.member.subscribe(rig.now, BTreeSet::from(["other".into()]));
    assert_eq!(rig.events(), vec![GroupEvent::Revoke(tps(&[0]))]);
    rig.member.handle_revoked();
    assert!(matches!(rig.send().kind, GroupRequestKind::Join { .. }));
}

#[test]
fn lost_membership_loses_all_and_joins_anew() {
    for (error, id) in [(ErrorCode::UNKNOWN_MEMBER_ID, ""), (ErrorCode::ILLEGAL_GENERATION, "me")] {
        let mut rig = Rig::stable(&[Assignor::CooperativeSticky], None, &[0, 1]);
        rig.heartbeat(error);
        assert_eq!(rig.events(), vec![GroupEvent::Lost(tps(&[0, 1]))]);
        assert_eq!(rig.member.generation(), None);
        let join = rig.send();
        let GroupRequestKind::Join { member_id, protocols, .. } = &join.kind else { panic!("{join:?}") };
        assert_eq!(&**member_id, id);
        let told = blobs::read_member(Assignor::CooperativeSticky, "me".into(), None, &protocols[0].1);
        assert!(told.owned.is_empty());
    }
}

#[test]
fn fenced_static_member_stops_for_good() {
    let mut rig = Rig::stable(&[Assignor::Range], Some("i"), &[0]);
    rig.heartbeat(ErrorCode::FENCED_INSTANCE_ID);
    assert_eq!(rig.events(), vec![GroupEvent::Lost(tps(&[0])), GroupEvent::Failed(GroupError::Fenced)]);
    rig.pass(600 * SECOND);
    assert!(rig.maybe_send().is_none() && rig.member.next_timeout().is_none());
    rig.member.close(rig.now);
    assert_eq!(rig.member.state(), MemberState::Left);
}

#[test]
fn moved_coordinator_is_found_again_and_late_answers_are_void() {
    let mut rig = Rig::stable(&[Assignor::Range], None, &[0]);
    rig.pass(3 * SECOND);
    let heartbeat = rig.send();
    rig.member.handle_coordinator_lost(rig.now);
    assert!(rig.maybe_send().is_none(), "not before the backoff");
    rig.member.handle_heartbeat(rig.now, heartbeat.attempt, Ok(ErrorCode::UNKNOWN_MEMBER_ID));
    assert_eq!(rig.events(), vec![], "an answer from the old coordinator counts for nothing");
    rig.pass(2 * SECOND);
    rig.find();
    assert!(matches!(rig.send().kind, GroupRequestKind::Heartbeat { generation: 1, .. }));
    assert_eq!(rig.member.state(), MemberState::Stable, "partitions are kept");
}

#[test]
fn lost_join_starts_over_with_the_coordinator() {
    let mut rig = Rig::new(&[Assignor::Range], None);
    rig.find();
    let join = rig.send();
    rig.member.handle_join(rig.now, join.attempt, Err(NoReply));
    assert_eq!(rig.member.state(), MemberState::Unjoined);
    rig.pass(2 * SECOND);
    rig.find();
    let again = rig.send();
    rig.joined(&join, 1, "other");
    assert_eq!(rig.member.state(), MemberState::PreparingRebalance, "the answer to the first join is void");
    rig.joined(&again, 1, "other");
    assert_eq!(rig.member.state(), MemberState::CompletingRebalance);
}

#[test]
fn silent_coordinator_is_given_up_at_the_session_timeout() {
    let mut rig = Rig::stable(&[Assignor::Range], None, &[0]);
    rig.pass(3 * SECOND);
    assert!(matches!(rig.send().kind, GroupRequestKind::Heartbeat { .. }));
    rig.pass(45 * SECOND);
    assert!(rig.maybe_send().is_none());
    rig.pass(2 * SECOND);
    assert_eq!(rig.send().kind, GroupRequestKind::FindCoordinator);
}

#[test]
fn silent_application_leaves_the_group_until_it_polls() {
    let mut rig = Rig::stable(&[Assignor::Range], None, &[0]);
    rig.pass(290 * SECOND);
    rig.member.handle_poll(rig.now - 100 * SECOND);
    rig.member.handle_heartbeat(rig.now, 0, Ok(ErrorCode::NONE));
    rig.pass(205 * SECOND);
    let leave = rig.send();
    assert!(matches!(leave.kind, GroupRequestKind::Leave { .. }), "{leave:?}");
    assert_eq!(rig.events(), vec![GroupEvent::Lost(tps(&[0]))]);
    assert!(rig.maybe_send().is_none());
    rig.member.handle_poll(rig.now);
    let join = rig.send();
    let GroupRequestKind::Join { member_id, .. } = &join.kind else { panic!("{join:?}") };
    assert_eq!(&**member_id, "");
}

#[test]
fn static_member_never_says_goodbye() {
    let mut rig = Rig::stable(&[Assignor::Range], Some("i"), &[0]);
    rig.pass(301 * SECOND);
    assert!(rig.maybe_send().is_none());
    assert_eq!(rig.events(), vec![GroupEvent::Lost(tps(&[0]))]);
    let mut rig = Rig::stable(&[Assignor::Range], Some("i"), &[0]);
    rig.member.close(rig.now);
    assert!(rig.maybe_send().is_none());
    assert_eq!(rig.member.state(), MemberState::Left);
}

#[test]
fn dynamic_member_says_goodbye_once() {
    let mut rig = Rig::stable(&[Assignor::Range], None, &[0]);
    rig.member.close(rig.now);
    let leave = rig.send();
    assert!(matches!(&leave.kind, GroupRequestKind::Leave { member_id, .. } if &**member_id == "me"));
    assert!(rig.maybe_send().is_none());
    rig.member.handle_leave(leave.attempt);
    assert_eq!(rig.member.state(), MemberState::Left);
}

#[test]
fn group_without_a_common_assignor_is_refused_by_name() {
    let mut rig = Rig::new(&[Assignor::Range], None);
    rig.find();
    let join = rig.send();
    let reply = JoinReply { protocol: Some("custom".into()), member_id: "me".into(), ..JoinReply::default() };
    rig.member.handle_join(rig.now, join.attempt, Ok(reply));
    assert_eq!(rig.events(), vec![GroupEvent::Failed(GroupError::UnknownProtocol("custom".into()))]);
}

#[test]
fn rebalance_during_sync_joins_again_and_keeps_the_generation() {
    let mut rig = Rig::stable(&[Assignor::CooperativeSticky], None, &[0]);
    rig.heartbeat(ErrorCode::REBALANCE_IN_PROGRESS);
    let join = rig.send();
    rig.joined(&join, 2, "other");
    let sync = rig.send();
    rig.member.handle_sync(rig.now, sync.attempt, Ok((ErrorCode::REBALANCE_IN_PROGRESS, Bytes::new())));
    assert!(matches!(rig.send().kind, GroupRequestKind::Join { .. }));
    assert_eq!(rig.events(), vec![]);
    assert_eq!(rig.member.owned().len(), 1);
}

#[test]
fn commits_go_out_until_the_join_is_answered_and_again_after_the_sync() {
    let mut rig = Rig::stable(&[Assignor::CooperativeSticky], None, &[0]);
    rig.heartbeat(ErrorCode::REBALANCE_IN_PROGRESS);
    let join = rig.send();
    assert!(rig.member.may_commit(), "the generation lasts until the next one starts");
    // The next one has started, and the answer that says so is on its way.
    assert!(rig.member.is_superseded(1));
    for error in [
        ErrorCode::ILLEGAL_GENERATION,
        ErrorCode::REBALANCE_IN_PROGRESS,
        ErrorCode::UNKNOWN_MEMBER_ID,
        ErrorCode::COORDINATOR_NOT_AVAILABLE,
    ] {
        rig.member.handle_commit_error(rig.now, 1, error);
    }
    assert_eq!((rig.events(), rig.member.state()), (vec![], MemberState::PreparingRebalance), "nothing is lost by it");
    rig.joined(&join, 2, "other");
    assert!(!rig.member.may_commit());
    rig.synced(&[0]);
    assert!(rig.member.may_commit() && rig.member.is_superseded(1) && !rig.member.is_superseded(2));
    rig.member.handle_commit_error(rig.now, 2, ErrorCode::NOT_COORDINATOR);
    rig.pass(2 * SECOND);
    assert_eq!(rig.send().kind, GroupRequestKind::FindCoordinator);
}

#[test]
fn member_that_lost_its_generation_commits_as_nobody_else() {
    let mut rig = Rig::stable(&[Assignor::Range], None, &[0]);
    rig.heartbeat(ErrorCode::ILLEGAL_GENERATION);
    assert_eq!((rig.member.state(), rig.member.may_commit()), (MemberState::Unjoined, false));
}

#[test]
fn refused_commit_by_hand_is_nothing_to_a_member_that_never_joins() {
    let mut rig = Rig::new(&[Assignor::Range], None);
    rig.member.subscribe(rig.now, BTreeSet::new());
    for _ in 0..3 {
        rig.member.handle_commit_error(rig.now, -1, ErrorCode::UNKNOWN_MEMBER_ID);
    }
    assert_eq!((rig.maybe_send(), rig.member.next_timeout()), (None, None));
}

/// Joins sent within a minute, when all of them are answered so; each is told the member id `me`.
fn joins_within_a_minute(error: impl Fn(usize) -> ErrorCode) -> usize {
    let mut rig = Rig::new(&[Assignor::Range], None);
    rig.find();
    let (mut joins, end) = (0, rig.now + 60 * SECOND);
    while rig.now < end {
        while let Some(join) = rig.maybe_send() {
            assert!(matches!(join.kind, GroupRequestKind::Join { .. }), "{join:?}");
            let reply = JoinReply { error: error(joins), member_id: "me".into(), ..JoinReply::default() };
            rig.member.handle_join(rig.now, join.attempt, Ok(reply));
            joins += 1;
            assert!(joins < 1000, "a flood");
            if joins <= 2 {
                assert_eq!(rig.now + 60 * SECOND, end, "the first refusal costs no time");
            }
        }
        rig.now = rig.member.next_timeout().expect("it goes on");
    }
    joins
}

#[test]
fn coordinator_that_never_lets_a_member_in_is_not_flooded() {
    // The rig's backoff is a second, give or take a fifth.
    for joins in [
        joins_within_a_minute(|_| ErrorCode::MEMBER_ID_REQUIRED),
        joins_within_a_minute(|_| ErrorCode::UNKNOWN_MEMBER_ID),
        joins_within_a_minute(|_| ErrorCode::REBALANCE_IN_PROGRESS),
    ] {
        assert!((40..80).contains(&joins), "{joins}");
    }
    let alternating = [ErrorCode::MEMBER_ID_REQUIRED, ErrorCode::UNKNOWN_MEMBER_ID];
    let joins = joins_within_a_minute(|join| alternating[join % 2]);
    assert!((80..160).contains(&joins), "a new member may ask twice at a time: {joins}");
}

#[test]
fn group_errors_fail_the_commit_and_reach_the_member() {
    let now = Instant::now();
    let mut lane = CommitLane::new(60 * SECOND, Backoff::new(SECOND, SECOND), 7);
    let epoch = AssignmentEpoch(1);
    let offset = OffsetToCommit { partition: tp(0), offset: 10, leader_epoch: -1, metadata: None, epoch };
    let ticket = lane.submit(now, vec![offset]);
    lane.poll_request(now, true, |_, _| true).unwrap();
    let error = lane.handle_reply(now, ticket, Ok(vec![(tp(0), ErrorCode::REBALANCE_IN_PROGRESS)]), false).unwrap();
    assert!(matches!(lane.poll_done(), Some((_, result)) if result[0].1.is_err()));
    let mut rig = Rig::stable(&[Assignor::Range], None, &[0]);
    rig.member.handle_commit_error(rig.now, 0, error);
    assert_eq!(rig.member.state(), MemberState::Stable, "an answer to an older generation");
    rig.member.handle_commit_error(rig.now, 1, error);
    assert_eq!(rig.member.state(), MemberState::Revoking);
}
