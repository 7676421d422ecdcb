//! Groups of members that live on several runtimes, as where tests share one broker.

use std::time::Duration;

use milena_broker::Broker;
use milena_protocol::{
    ErrorCode,
    messages::{
        DescribeGroupsRequest, JoinGroupRequest, JoinGroupResponse, SyncGroupRequest, SyncGroupResponse,
        join_group_request::JoinGroupRequestProtocol, sync_group_request::SyncGroupRequestAssignment,
    },
};
use tokio::{
    runtime::{self, Runtime},
    time::timeout,
};

use crate::client::Client;

/// What becomes of the runtime of the first member.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// It is gone before the second member comes.
    GoneBefore,
    /// It goes while the second member waits for the first.
    GoneMeanwhile,
    /// It is kept, and nobody drives it any more.
    Rests,
}

fn paused_runtime() -> Runtime {
    runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime")
}

fn join_request(member_id: &str) -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        member_id: member_id.into(),
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol { name: "range".into(), metadata: "topics".into() }],
        ..Default::default()
    }
}

/// Version 3: a member is one at once, without being given an id first.
const JOIN: i16 = 3;

async fn assign_all_to_oneself(client: &mut Client, joined: &JoinGroupResponse) -> SyncGroupResponse {
    let all = SyncGroupRequestAssignment { member_id: joined.member_id.clone(), assignment: "all".into() };
    let request = SyncGroupRequest {
        group_id: "g".into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        assignments: vec![all],
        ..Default::default()
    };
    client.call(3, &request).await
}

/// The group's state and how many members it has.
async fn described(client: &mut Client) -> (String, usize) {
    let request = DescribeGroupsRequest { groups: vec!["g".into()], ..Default::default() };
    let group = client.call(5, &request).await.groups.remove(0);
    (group.group_state.to_string(), group.members.len())
}

#[test]
fn a_session_ends_in_time_whatever_becomes_of_the_runtime_of_its_member() {
    for fate in [Fate::GoneBefore, Fate::GoneMeanwhile, Fate::Rests] {
        let broker = Broker::builder().config("group.initial.rebalance.delay.ms", "0").build();
        let (first, second) = (paused_runtime(), paused_runtime());
        let mut first = Some(first);
        let _link = first.as_ref().expect("it is there").block_on(async {
            let mut client = Client::to(&broker, 0);
            let joined = client.call(JOIN, &join_request("")).await;
            assert_eq!(joined.error_code, ErrorCode::NONE);
            assert_eq!(assign_all_to_oneself(&mut client, &joined).await.assignment, "all");
            client
        });
        if fate == Fate::GoneBefore {
            first = None;
        }
        let mut newcomer = second.block_on(async {
            let (mut newcomer, mut looker) = (Client::to(&broker, 0), Client::to(&broker, 0));
            newcomer.send(JOIN, &join_request("")).await;
            while described(&mut looker).await != ("PreparingRebalance".to_owned(), 2) {}
            newcomer
        });
        if fate == Fate::GoneMeanwhile {
            first = None;
        }
        second.block_on(async {
            let began = tokio::time::Instant::now();
            // Sooner than the rebalance ends without the first.
            let answer = timeout(Duration::from_secs(30), newcomer.receive::<JoinGroupRequest>(JOIN)).await;
            let (_, joined) = answer.unwrap_or_else(|_| panic!("{fate:?}: waits for good")).expect("an answer");
            assert_eq!((joined.error_code, joined.members.len()), (ErrorCode::NONE, 1), "{fate:?}: alone");
            assert!(began.elapsed() > Duration::from_secs(5), "{fate:?}: the session had its time: {began:?}");
            let synced = assign_all_to_oneself(&mut newcomer, &joined).await;
            assert_eq!((synced.error_code, &synced.assignment[..]), (ErrorCode::NONE, &b"all"[..]), "{fate:?}");
        });
        drop(first);
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_that_nobody_looked_at_has_gone_on_in_time_all_the_same() {
    let broker = Broker::builder().config("group.initial.rebalance.delay.ms", "0").build();
    let (mut looker, mut first, mut second) = (Client::to(&broker, 0), Client::to(&broker, 0), Client::to(&broker, 0));
    let of = |session_timeout_ms, member_id| JoinGroupRequest {
        session_timeout_ms,
        rebalance_timeout_ms: 15_000,
        ..join_request(member_id)
    };
    let joined = first.call(JOIN, &of(10_000, "")).await;
    second.send(JOIN, &of(30_000, "")).await;
    while described(&mut looker).await.1 < 2 {}
    let led = first.call(JOIN, &of(10_000, &joined.member_id)).await;
    let (_, follows) = second.receive::<JoinGroupRequest>(JOIN).await.expect("an answer");
    assert_eq!((led.members.len(), follows.generation_id), (2, led.generation_id));
    assign_all_to_oneself(&mut first, &led).await;
    assign_all_to_oneself(&mut second, &follows).await;
    assert_eq!(described(&mut looker).await, ("Stable".to_owned(), 2));
    // After 10 s the first is out, and 15 s later the second, which has not joined the generation that this began.
    tokio::time::advance(Duration::from_secs(26)).await;
    assert_eq!(described(&mut looker).await, ("Empty".to_owned(), 0));
}
