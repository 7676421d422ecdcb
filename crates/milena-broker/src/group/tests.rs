//! The classic group machine, step by step, against what Kafka's coordinator does.

use bytes::Bytes;
use milena_protocol::ErrorCode;
use tokio::time::{Duration, Instant};

use super::classic::{Group, GroupConfig, GroupReply, GroupState, Join, JoinReply, Sync, SyncReply};
use super::member::{MemberSpec, Protocol, Ticket};

/// Kafka's defaults, but without the initial delay.
const CONFIG: GroupConfig = GroupConfig {
    initial_rebalance_delay: Duration::ZERO,
    min_session_timeout: Duration::from_secs(6),
    max_session_timeout: Duration::from_secs(1800),
    max_size: usize::MAX,
    max_offset_metadata_bytes: 4096,
};

struct Table {
    group: Group,
    now: Instant,
    next: u64,
}

impl Table {
    fn new() -> Self {
        Self::with(CONFIG)
    }

    fn with(config: GroupConfig) -> Self {
        Self { group: Group::new(config), now: Instant::now(), next: 0 }
    }

    fn join(&mut self, member_id: &str, instance: Option<&str>, protocols: &[&str]) -> Ticket {
        self.join_for(Duration::from_secs(60), member_id, instance, protocols)
    }

    fn join_for(
        &mut self,
        rebalance_timeout: Duration,
        member_id: &str,
        instance: Option<&str>,
        protocols: &[&str],
    ) -> Ticket {
        self.next += 1;
        let ticket = Ticket(self.next);
        let spec = MemberSpec {
            group_instance_id: instance.map(str::to_owned),
            client_id: "client".to_owned(),
            client_host: "/127.0.0.1".to_owned(),
            session_timeout: Duration::from_secs(10),
            rebalance_timeout,
            protocol_type: "consumer".to_owned(),
            protocols: protocols
                .iter()
                .map(|name| Protocol { name: (*name).to_owned(), metadata: Bytes::from(format!("{name}-blob")) })
                .collect(),
        };
        let join = Join {
            member_id: member_id.to_owned(),
            spec,
            requires_known_member_id: false,
            supports_skipping_assignment: true,
        };
        let new_id = format!("m{}", self.next);
        self.group.handle_join(self.now, ticket, join, new_id);
        ticket
    }

    fn sync(&mut self, member_id: &str, generation_id: i32, assignments: &[(&str, &str)]) -> Ticket {
        self.next += 1;
        let ticket = Ticket(self.next);
        let assignments =
            assignments.iter().map(|(id, blob)| ((*id).to_owned(), Bytes::from((*blob).to_owned()))).collect();
        let sync = Sync {
            member_id: member_id.to_owned(),
            group_instance_id: None,
            generation_id,
            protocol_type: None,
            protocol_name: None,
            assignments,
        };
        self.group.handle_sync(self.now, ticket, sync);
        ticket
    }

    fn replies(&mut self) -> Vec<(Ticket, GroupReply)> {
        std::iter::from_fn(|| self.group.poll_reply()).collect()
    }

    fn joined(&mut self, ticket: Ticket) -> JoinReply {
        match self.replies().into_iter().find(|(at, _)| *at == ticket) {
            Some((_, GroupReply::Join(reply))) => reply,
            other => panic!("no JoinGroup answer for {ticket:?}: {other:?}"),
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.group.next_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.group.handle_timeout(self.now);
        }
        self.now = end;
    }

    /// Two members, m1 leads, generation 2, stable.
    fn two_stable() -> Self {
        let mut table = Self::new();
        table.join("", None, &["range"]);
        let second = table.join("", None, &["range"]);
        let first = table.join("m1", None, &["range"]);
        let replies = table.replies();
        assert!(replies.iter().any(|(at, _)| *at == first) && replies.iter().any(|(at, _)| *at == second));
        table.sync("m2", 2, &[]);
        table.sync("m1", 2, &[("m1", "a"), ("m2", "b")]);
        table.replies();
        assert_eq!(table.group.state(), GroupState::Stable);
        table
    }
}

#[test]
fn a_lone_member_leads_and_gets_what_it_assigns() {
    let mut table = Table::new();
    let ticket = table.join("", None, &["range", "sticky"]);
    let reply = table.joined(ticket);
    assert_eq!((reply.error_code, reply.generation_id), (ErrorCode::NONE, 1));
    assert_eq!((reply.leader.as_str(), reply.member_id.as_str()), ("m1", "m1"));
    assert_eq!(reply.protocol_name.as_deref(), Some("range"));
    assert_eq!(reply.members, [("m1".to_owned(), None, Bytes::from_static(b"range-blob"))]);
    let sync = table.sync("m1", 1, &[("m1", "all")]);
    assert_eq!(
        table.replies(),
        [(
            sync,
            GroupReply::Sync(SyncReply {
                error_code: ErrorCode::NONE,
                protocol_type: Some("consumer".to_owned()),
                protocol_name: Some("range".to_owned()),
                assignment: Bytes::from_static(b"all"),
            })
        )]
    );
    assert_eq!(table.group.state(), GroupState::Stable);
}

#[test]
fn a_newcomer_makes_the_others_rejoin_and_heartbeats_say_so() {
    let mut table = Table::new();
    table.join("", None, &["range"]);
    table.sync("m1", 1, &[("m1", "all")]);
    table.replies();
    let second = table.join("", None, &["range"]);
    assert_eq!(table.replies(), [], "the newcomer waits for m1");
    assert_eq!(table.group.handle_heartbeat(table.now, "m1", None, 1), ErrorCode::REBALANCE_IN_PROGRESS);
    let first = table.join("m1", None, &["range"]);
    let replies = table.replies();
    assert_eq!(replies.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [first, second]);
    for (_, reply) in replies {
        let GroupReply::Join(reply) = reply else { panic!() };
        assert_eq!((reply.generation_id, reply.leader.as_str()), (2, "m1"));
        assert_eq!(reply.members.len(), if reply.member_id == "m1" { 2 } else { 0 });
    }
    assert_eq!(table.group.handle_heartbeat(table.now, "m1", None, 1), ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(table.group.handle_heartbeat(table.now, "m1", None, 2), ErrorCode::NONE);
}

#[test]
fn a_member_that_does_not_rejoin_is_out_when_the_rebalance_timeout_ends() {
    let mut table = Table::two_stable();
    let third = table.join("", None, &["range"]);
    let first = table.join("m1", None, &["range"]);
    // m2 keeps its session alive by heartbeats, but never rejoins.
    for _ in 0..11 {
        table.pass(Duration::from_secs(5));
        assert_eq!(table.group.handle_heartbeat(table.now, "m2", None, 2), ErrorCode::REBALANCE_IN_PROGRESS);
        assert_eq!(table.replies(), []);
    }
    table.pass(Duration::from_secs(6));
    let tickets: Vec<Ticket> = table.replies().into_iter().map(|(at, _)| at).collect();
    assert_eq!(tickets, [first, third]);
    assert_eq!(table.group.handle_heartbeat(table.now, "m2", None, 2), ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn silence_ends_a_session_but_not_while_an_answer_is_parked() {
    let mut table = Table::two_stable();
    table.pass(Duration::from_secs(9));
    assert_eq!(table.group.handle_heartbeat(table.now, "m1", None, 2), ErrorCode::NONE);
    table.pass(Duration::from_secs(2));
    assert_eq!(table.group.state(), GroupState::PreparingRebalance, "m2 was silent for 11 s");
    let first = table.join("m1", None, &["range"]);
    let reply = table.joined(first);
    assert_eq!((reply.generation_id, reply.members.len()), (3, 1));

    let mut table = Table::two_stable();
    table.join("m1", None, &["range", "sticky"]);
    table.pass(Duration::from_secs(9));
    table.group.handle_heartbeat(table.now, "m2", None, 2);
    table.pass(Duration::from_secs(9));
    assert!(table.group.members().any(|member| member.id == "m1"), "m1 waits for us");
}

#[test]
fn a_member_that_never_syncs_is_out_and_the_rest_rebalance() {
    let mut table = Table::new();
    table.join("", None, &["range"]);
    table.join("", None, &["range"]);
    table.join("m1", None, &["range"]);
    table.replies();
    let sync = table.sync("m2", 2, &[]);
    // The leader dies before it assigns: its session ends, m2 is told to rejoin.
    table.pass(Duration::from_secs(11));
    assert_eq!(table.replies(), [(sync, GroupReply::Sync(SyncReply::error(ErrorCode::REBALANCE_IN_PROGRESS)))]);
    let again = table.join("m2", None, &["range"]);
    assert_eq!(table.joined(again).leader, "m2");
}

#[test]
fn a_static_member_returns_without_a_rebalance_and_its_old_self_is_fenced() {
    let mut table = Table::new();
    table.join("", Some("a"), &["range"]);
    table.join("", Some("b"), &["range"]);
    table.join("m1", Some("a"), &["range"]);
    table.replies();
    let leader_sync = Sync {
        member_id: "m1".to_owned(),
        group_instance_id: Some("a".to_owned()),
        generation_id: 2,
        protocol_type: None,
        protocol_name: None,
        assignments: vec![("m2".to_owned(), Bytes::from_static(b"mine"))],
    };
    table.group.handle_sync(table.now, Ticket(100), leader_sync);
    table.replies();
    let returned = table.join("", Some("b"), &["range"]);
    let reply = table.joined(returned);
    assert_eq!((reply.error_code, reply.generation_id, reply.member_id.as_str()), (ErrorCode::NONE, 2, "m4"));
    assert_eq!(table.group.state(), GroupState::Stable);
    assert_eq!(table.group.handle_heartbeat(table.now, "m2", Some("b"), 2), ErrorCode::FENCED_INSTANCE_ID);
    let sync = table.sync("m4", 2, &[]);
    match table.replies().as_slice() {
        [(at, GroupReply::Sync(reply))] => {
            assert_eq!((*at, &reply.assignment[..]), (sync, &b"mine"[..]));
        }
        other => panic!("{other:?}"),
    }
    // The leader comes back: it is told to skip computing an assignment (KIP-814).
    let returned = table.join("", Some("a"), &["range"]);
    let reply = table.joined(returned);
    assert!(reply.skip_assignment && reply.leader == reply.member_id);
}

#[test]
fn a_dynamic_member_is_given_an_id_before_it_counts() {
    let mut table = Table::new();
    let spec = MemberSpec {
        group_instance_id: None,
        client_id: "c".to_owned(),
        client_host: String::new(),
        session_timeout: Duration::from_secs(10),
        rebalance_timeout: Duration::from_secs(60),
        protocol_type: "consumer".to_owned(),
        protocols: vec![Protocol { name: "range".to_owned(), metadata: Bytes::new() }],
    };
    let join =
        Join { member_id: String::new(), spec, requires_known_member_id: true, supports_skipping_assignment: true };
    table.group.handle_join(table.now, Ticket(1), join.clone(), "given".to_owned());
    let reply = table.joined(Ticket(1));
    assert_eq!((reply.error_code, reply.member_id.as_str()), (ErrorCode::MEMBER_ID_REQUIRED, "given"));
    assert_eq!(table.group.state(), GroupState::Empty);
    let join = Join { member_id: "given".to_owned(), ..join };
    table.group.handle_join(table.now, Ticket(2), join, "unused".to_owned());
    assert_eq!(table.joined(Ticket(2)).generation_id, 1);
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut table = Table::two_stable();
    let ticket = table.join("", None, &["roundrobin"]);
    assert_eq!(table.joined(ticket).error_code, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    let ticket = table.join("stranger", None, &["range"]);
    assert_eq!(table.joined(ticket).error_code, ErrorCode::UNKNOWN_MEMBER_ID);
    let mut full = Table::with(GroupConfig { max_size: 1, ..CONFIG });
    full.join("", None, &["range"]);
    let ticket = full.join("", None, &["range"]);
    assert_eq!(full.joined(ticket).error_code, ErrorCode::GROUP_MAX_SIZE_REACHED);
}

#[test]
fn commits_are_for_members_of_this_generation_only() {
    let mut table = Table::two_stable();
    let now = table.now;
    assert_eq!(table.group.check_commit(now, "m1", None, 2), Ok(()));
    assert_eq!(table.group.check_commit(now, "m1", None, 1), Err(ErrorCode::ILLEGAL_GENERATION));
    assert_eq!(table.group.check_commit(now, "gone", None, 2), Err(ErrorCode::UNKNOWN_MEMBER_ID));
    assert_eq!(table.group.check_commit(now, "", None, -1), Err(ErrorCode::UNKNOWN_MEMBER_ID), "the group has members");
    table.join("", None, &["range"]);
    assert_eq!(table.group.check_commit(now, "m1", None, 2), Ok(()), "a member may commit before it rejoins");
    table.group.handle_leave(now, "m1", None);
    table.group.handle_leave(now, "m2", None);
    assert_eq!(table.group.state(), GroupState::CompletingRebalance);
    assert_eq!(table.group.check_commit(now, "m4", None, 3), Err(ErrorCode::UNKNOWN_MEMBER_ID));
    table.group.handle_leave(now, "m5", None);
    let mut empty = Table::new();
    assert_eq!(empty.group.check_commit(now, "", None, -1), Ok(()));
}

#[test]
fn the_last_to_leave_empties_the_group() {
    let mut table = Table::two_stable();
    assert_eq!(table.group.handle_leave(table.now, "m2", None), ErrorCode::NONE);
    assert_eq!(table.group.state(), GroupState::PreparingRebalance);
    assert_eq!(table.group.handle_leave(table.now, "m1", None), ErrorCode::NONE);
    assert_eq!(table.group.state(), GroupState::Empty);
    assert_eq!(table.group.handle_leave(table.now, "m1", None), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(table.group.next_timeout(), None);
}

/// A heartbeat says that a member lives, not that it has its assignment.
#[test]
fn only_a_sync_ends_the_wait_for_it() {
    let stable_without_sync_of_m2 = || {
        let mut table = Table::new();
        table.join("", None, &["range"]);
        table.join("", None, &["range"]);
        table.join("m1", None, &["range"]);
        table.sync("m1", 2, &[("m1", "a"), ("m2", "b")]);
        table.replies();
        assert_eq!(table.group.state(), GroupState::Stable);
        table
    };
    let beat = |table: &mut Table, seconds: u64| {
        for _ in 0..seconds / 5 {
            table.pass(Duration::from_secs(5));
            for member in ["m1", "m2"] {
                table.group.handle_heartbeat(table.now, member, None, 2);
            }
        }
    };
    let mut table = stable_without_sync_of_m2();
    beat(&mut table, 55);
    assert_eq!(table.group.state(), GroupState::Stable);
    beat(&mut table, 10);
    assert_eq!(table.group.handle_heartbeat(table.now, "m2", None, 2), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(table.group.state(), GroupState::PreparingRebalance);

    let mut table = stable_without_sync_of_m2();
    beat(&mut table, 50);
    table.sync("m2", 2, &[]);
    beat(&mut table, 60);
    assert_eq!(table.group.state(), GroupState::Stable, "a late sync is a sync");
}

#[test]
fn newcomers_extend_the_first_join_phase_but_not_beyond_the_rebalance_timeout() {
    const DELAY: Duration = Duration::from_secs(3);
    let waiting = |rebalance_timeout| {
        let mut table = Table::with(GroupConfig { initial_rebalance_delay: DELAY, ..CONFIG });
        table.join_for(Duration::from_secs(rebalance_timeout), "", None, &["range"]);
        table
    };
    let seconds = Duration::from_secs;
    // Nobody comes: the delay alone.
    let mut table = waiting(60);
    table.pass(seconds(2));
    assert_eq!(table.replies(), []);
    table.pass(seconds(1));
    assert_eq!(table.replies().len(), 1);

    // One more comes: the delay once more, from when it would have ended.
    let mut table = waiting(60);
    table.pass(seconds(1));
    table.join("", None, &["range"]);
    table.pass(seconds(4));
    assert_eq!(table.replies(), []);
    table.pass(seconds(1));
    assert_eq!(table.replies().len(), 2);

    // They keep coming: 8 s, the first member's rebalance timeout, and not 9.
    let mut table = waiting(8);
    for _ in 0..7 {
        table.pass(seconds(1));
        table.join("", None, &["range"]);
    }
    assert_eq!(table.replies(), []);
    table.pass(seconds(1));
    assert_eq!(table.replies().len(), 8);

    // A rebalance timeout below the delay doesn't shorten it.
    let mut table = waiting(1);
    table.pass(seconds(2));
    assert_eq!(table.replies(), []);
    table.pass(seconds(1));
    assert_eq!(table.replies().len(), 1);
}

/// Whoever was given an id and never came back holds up a later join phase, not the first.
#[test]
fn the_first_join_phase_ends_without_those_that_only_have_an_id() {
    let mut table = Table::with(GroupConfig { initial_rebalance_delay: Duration::from_secs(3), ..CONFIG });
    let first = table.join("", None, &["range"]);
    let spec = table.group.members().next().expect("it joined").spec.clone();
    let absent =
        Join { member_id: String::new(), spec, requires_known_member_id: true, supports_skipping_assignment: true };
    table.group.handle_join(table.now, Ticket(100), absent, "absent".to_owned());
    table.replies();
    table.pass(Duration::from_secs(3));
    assert_eq!(table.joined(first).generation_id, 1);
}

#[test]
fn absent_static_members_without_a_rebalance_timeout_are_no_hot_loop() {
    let mut table = Table::new();
    table.join_for(Duration::ZERO, "", Some("a"), &["range"]);
    table.sync("m1", 1, &[("m1", "all")]);
    let newcomer = table.join_for(Duration::ZERO, "", None, &["range"]);
    table.group.handle_leave(table.now, "m3", None);
    table.replies();
    assert_eq!((table.group.state(), newcomer), (GroupState::PreparingRebalance, Ticket(3)));
    // Until the session of the absent one ends, the group's timer fires a few times only.
    let (end, mut fired) = (table.now + Duration::from_secs(10), 0);
    while table.group.members().count() > 0 {
        table.now = table.group.next_timeout().expect("a time limit");
        assert!(table.now <= end);
        table.group.handle_timeout(table.now);
        fired += 1;
        assert!(fired < 20, "a hot loop");
    }
    assert_eq!(table.group.state(), GroupState::Empty);
}

/// Names are looked up, not compared each with each, which would take minutes here.
#[test]
fn any_number_of_protocols_may_be_offered() {
    let names = |prefix: &str| (0..100_000).map(|name| format!("{prefix}{name}")).collect::<Vec<_>>();
    let offer = |table: &mut Table, names: &[String]| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        table.join("", None, &names)
    };
    let mut table = Table::new();
    let (ours, theirs) = (names("a"), names("b"));
    let started = std::time::Instant::now();
    offer(&mut table, &ours);
    let refused = offer(&mut table, &theirs);
    assert_eq!(table.joined(refused).error_code, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    let last = [&theirs[..], &ours[99_999..]].concat();
    offer(&mut table, &last);
    table.join("m1", None, &ours.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(table.group.protocol(), "a99999");
    assert!(started.elapsed() < std::time::Duration::from_secs(30));
}
