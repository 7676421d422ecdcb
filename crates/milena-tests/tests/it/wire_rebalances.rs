//! Two members of a classic group and the clocks that they run against, request by request: the embedded broker throws
//! out and waits for whom Kafka does.

use std::time::Duration;

use bytes::Bytes;
use milena_protocol::ErrorCode;
use milena_protocol::GroupId;
use milena_protocol::StrBytes;
use milena_protocol::messages::HeartbeatRequest;
use milena_protocol::messages::JoinGroupRequest;
use milena_protocol::messages::JoinGroupResponse;
use milena_protocol::messages::LeaveGroupRequest;
use milena_protocol::messages::SyncGroupRequest;
use milena_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use milena_protocol::messages::leave_group_request::MemberIdentity;
use milena_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use milena_tests::cluster::Cluster;
use milena_tests::on_every_cluster;
use milena_tests::wire::Wires;
use tokio::time::Instant;
use tokio::time::interval;

on_every_cluster!(
    who_does_not_rejoin_in_time_is_out,
    who_never_syncs_is_out_though_its_heart_beats,
    a_late_sync_is_a_sync,
    leaving_ends_the_wait_for_a_member,
);

/// The rebalance timeout of members that are to miss it.
const SHORT: Duration = Duration::from_secs(2);
/// And of members that are not.
const LONG: Duration = Duration::from_secs(25);
/// How often a heart beats.
const BEAT: Duration = Duration::from_millis(100);

/// A member on a connection of its own, since a broker answers nothing else while a JoinGroup is parked.
struct Member {
    wires: Wires,
    group: String,
    rebalance_timeout: Duration,
    id: String,
    generation: i32,
}

impl Member {
    /// Asks for an id (KIP-394); it is no member yet.
    async fn new(cluster: &Cluster, group: &str, rebalance_timeout: Duration) -> Self {
        let group = group.to_owned();
        let mut member =
            Self { wires: Wires::to(cluster), group, rebalance_timeout, id: String::new(), generation: -1 };
        let told = member.join().await;
        assert_eq!(told.error_code, ErrorCode::MEMBER_ID_REQUIRED);
        member.id = told.member_id.to_string();
        member
    }

    async fn join(&mut self) -> JoinGroupResponse {
        let request = JoinGroupRequest {
            group_id: GroupId::from(self.group.clone()),
            session_timeout_ms: 20_000,
            rebalance_timeout_ms: i32::try_from(self.rebalance_timeout.as_millis()).unwrap(),
            member_id: StrBytes::from(self.id.clone()),
            protocol_type: "consumer".into(),
            protocols: vec![JoinGroupRequestProtocol { name: "range".into(), metadata: Bytes::from_static(b"t") }],
            ..Default::default()
        };
        let joined = self.wires.coordinate(&self.group, 9, &request, |response| response.error_code).await.unwrap();
        if joined.error_code == ErrorCode::NONE {
            self.generation = joined.generation_id;
        }
        joined
    }

    /// Sends the assignments too, if there are any; gives back its own.
    async fn sync(&mut self, assignments: &[(&str, &'static str)]) -> (ErrorCode, Bytes) {
        let assignments = assignments.iter().map(|(member, assignment)| SyncGroupRequestAssignment {
            member_id: StrBytes::from((*member).to_owned()),
            assignment: Bytes::from_static(assignment.as_bytes()),
        });
        let request = SyncGroupRequest {
            group_id: GroupId::from(self.group.clone()),
            generation_id: self.generation,
            member_id: StrBytes::from(self.id.clone()),
            protocol_type: Some("consumer".into()),
            protocol_name: Some("range".into()),
            assignments: assignments.collect(),
            ..Default::default()
        };
        let synced = self.wires.coordinate(&self.group, 5, &request, |response| response.error_code).await.unwrap();
        (synced.error_code, synced.assignment)
    }

    async fn heartbeat(&mut self) -> ErrorCode {
        let request = HeartbeatRequest {
            group_id: GroupId::from(self.group.clone()),
            generation_id: self.generation,
            member_id: StrBytes::from(self.id.clone()),
            ..Default::default()
        };
        self.wires.coordinate(&self.group, 4, &request, |response| response.error_code).await.unwrap().error_code
    }

    /// Beats until the answer is another than `code`, and says which; `None` if it still is after `time`.
    async fn beat_while(&mut self, code: ErrorCode, time: Duration) -> Option<ErrorCode> {
        let (end, mut beats) = (Instant::now() + time, interval(BEAT));
        while Instant::now() < end {
            beats.tick().await;
            let answer = self.heartbeat().await;
            if answer != code {
                return Some(answer);
            }
        }
        None
    }

    async fn leave(&mut self) {
        let members = vec![MemberIdentity { member_id: StrBytes::from(self.id.clone()), ..Default::default() }];
        let request = LeaveGroupRequest { group_id: GroupId::from(self.group.clone()), members, ..Default::default() };
        let left = self.wires.coordinate(&self.group, 5, &request, |response| response.error_code).await.unwrap();
        assert_eq!(left.members[0].error_code, ErrorCode::NONE);
    }
}

/// A stable group of one.
async fn alone(cluster: &Cluster, rebalance_timeout: Duration) -> Member {
    let mut member = Member::new(cluster, &cluster.unique("rebalance"), rebalance_timeout).await;
    assert_eq!(member.join().await.error_code, ErrorCode::NONE);
    let id = member.id.clone();
    assert_eq!(member.sync(&[(&id, "all")]).await, (ErrorCode::NONE, "all".into()));
    member
}

/// Two members that have joined the same generation and not yet synced; the first leads.
async fn pair(cluster: &Cluster, rebalance_timeout: Duration) -> (Member, Member) {
    let mut first = alone(cluster, rebalance_timeout).await;
    let mut second = Member::new(cluster, &first.group, rebalance_timeout).await;
    let rejoin = async {
        assert_eq!(first.beat_while(ErrorCode::NONE, LONG).await, Some(ErrorCode::REBALANCE_IN_PROGRESS));
        first.join().await
    };
    let (rejoined, joined) = tokio::join!(rejoin, second.join());
    assert_eq!((rejoined.error_code, joined.error_code), (ErrorCode::NONE, ErrorCode::NONE));
    assert_eq!((rejoined.generation_id, joined.generation_id), (2, 2));
    assert_eq!((&rejoined.leader, &joined.leader), (&rejoined.member_id, &rejoined.member_id));
    assert_eq!((rejoined.members.len(), joined.members.len()), (2, 0));
    (first, second)
}

async fn who_does_not_rejoin_in_time_is_out(cluster: Cluster) {
    let mut first = alone(&cluster, SHORT).await;
    let mut second = Member::new(&cluster, &first.group, SHORT).await;
    let started = Instant::now();
    let beats = async {
        assert_eq!(first.beat_while(ErrorCode::NONE, LONG).await, Some(ErrorCode::REBALANCE_IN_PROGRESS));
        first.beat_while(ErrorCode::REBALANCE_IN_PROGRESS, LONG).await
    };
    let (beat, joined) = tokio::join!(beats, second.join());
    assert_eq!(beat, Some(ErrorCode::UNKNOWN_MEMBER_ID));
    assert_eq!((joined.error_code, joined.generation_id, joined.members.len()), (ErrorCode::NONE, 2, 1));
    assert_eq!(joined.leader, joined.member_id);
    let waited = started.elapsed();
    assert!(waited >= SHORT && waited < SHORT * 4, "{waited:?}");
}

async fn who_never_syncs_is_out_though_its_heart_beats(cluster: Cluster) {
    // Before the join ends, from which on the coordinator counts.
    let started = Instant::now();
    let (mut first, mut second) = pair(&cluster, SHORT).await;
    let ids = [first.id.clone(), second.id.clone()];
    assert_eq!(first.sync(&[(&ids[0], "a"), (&ids[1], "b")]).await, (ErrorCode::NONE, "a".into()));
    assert_eq!(second.beat_while(ErrorCode::NONE, LONG).await, Some(ErrorCode::UNKNOWN_MEMBER_ID));
    let waited = started.elapsed();
    assert!(waited >= SHORT - BEAT && waited < SHORT * 8, "{waited:?}");
    assert_eq!(first.heartbeat().await, ErrorCode::REBALANCE_IN_PROGRESS);
    let rejoined = first.join().await;
    assert_eq!((rejoined.error_code, rejoined.generation_id, rejoined.members.len()), (ErrorCode::NONE, 3, 1));
}

async fn a_late_sync_is_a_sync(cluster: Cluster) {
    let (mut first, mut second) = pair(&cluster, SHORT).await;
    let ids = [first.id.clone(), second.id.clone()];
    assert_eq!(first.sync(&[(&ids[0], "a"), (&ids[1], "b")]).await, (ErrorCode::NONE, "a".into()));
    assert_eq!(second.sync(&[]).await, (ErrorCode::NONE, "b".into()), "from the stable group");
    assert_eq!(second.beat_while(ErrorCode::NONE, SHORT + Duration::from_secs(1)).await, None);
    assert_eq!(first.heartbeat().await, ErrorCode::NONE);
}

async fn leaving_ends_the_wait_for_a_member(cluster: Cluster) {
    let (mut first, mut second) = pair(&cluster, LONG).await;
    let ids = [first.id.clone(), second.id.clone()];
    assert_eq!(first.sync(&[(&ids[0], "a"), (&ids[1], "b")]).await, (ErrorCode::NONE, "a".into()));
    assert_eq!(second.sync(&[]).await, (ErrorCode::NONE, "b".into()));
    let mut third = Member::new(&cluster, &first.group, LONG).await;
    let started = Instant::now();
    let others = async {
        assert_eq!(first.beat_while(ErrorCode::NONE, LONG).await, Some(ErrorCode::REBALANCE_IN_PROGRESS));
        tokio::join!(first.join(), second.leave()).0
    };
    let (rejoined, joined) = tokio::join!(others, third.join());
    assert_eq!((rejoined.error_code, rejoined.generation_id, rejoined.members.len()), (ErrorCode::NONE, 3, 2));
    assert_eq!((joined.error_code, joined.generation_id), (ErrorCode::NONE, 3));
    assert!(started.elapsed() < LONG / 2, "{:?}", started.elapsed());
}
