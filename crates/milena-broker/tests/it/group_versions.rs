//! Every version of every group API that is served does what it says: a member is one, an offset is read back.

use std::time::Duration;

use milena_broker::Broker;
use milena_protocol::{
    ErrorCode, Uuid,
    messages::{
        DeleteGroupsRequest, DescribeGroupsRequest, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse,
        LeaveGroupRequest, ListGroupsRequest, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest,
        SyncGroupRequest,
        describe_groups_response::DescribedGroup,
        join_group_request::JoinGroupRequestProtocol,
        leave_group_request::MemberIdentity,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic},
        offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics},
        sync_group_request::SyncGroupRequestAssignment,
    },
};

use crate::{
    client::{Client, metadata_request},
    versions::offered,
};

fn broker() -> Broker {
    Broker::builder().topic("t", 1).config("group.initial.rebalance.delay.ms", "0").build()
}

/// Joins as the only member, a static one if it has an instance id; from version 4 a dynamic one is given its id first.
async fn join(client: &mut Client, version: i16, group: &str, instance: Option<&str>) -> JoinGroupResponse {
    let mut request = JoinGroupRequest {
        group_id: group.into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        group_instance_id: instance.map(Into::into),
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol { name: "range".into(), metadata: "topics".into() }],
        ..Default::default()
    };
    let mut joined = client.call(version, &request).await;
    if version >= 4 && instance.is_none() {
        assert_eq!(joined.error_code, ErrorCode::MEMBER_ID_REQUIRED, "{version}");
        request.member_id = joined.member_id;
        joined = client.call(version, &request).await;
    }
    assert_eq!((joined.error_code, joined.generation_id), (ErrorCode::NONE, 1), "{version}");
    joined
}

fn sync_request(group: &str, member: &JoinGroupResponse, instance: Option<&str>) -> SyncGroupRequest {
    let all = SyncGroupRequestAssignment { member_id: member.member_id.clone(), assignment: "all".into() };
    SyncGroupRequest {
        group_id: group.into(),
        generation_id: member.generation_id,
        member_id: member.member_id.clone(),
        group_instance_id: instance.map(Into::into),
        assignments: vec![all],
        ..Default::default()
    }
}

/// The only member of a stable group, which bears the group's name as its instance id if the group is a static one.
async fn member(client: &mut Client, group: &str, is_static: bool) -> JoinGroupResponse {
    let instance = is_static.then_some(group);
    let joined = join(client, 5, group, instance).await;
    let synced = client.call(3, &sync_request(group, &joined, instance)).await;
    assert_eq!(synced.error_code, ErrorCode::NONE);
    joined
}

async fn described(client: &mut Client, version: i16, group: &str) -> DescribedGroup {
    let request = DescribeGroupsRequest { groups: vec![group.into()], ..Default::default() };
    let mut response = client.call(version, &request).await;
    assert_eq!((response.groups.len(), &*response.groups[0].group_id), (1, group), "{version}");
    response.groups.remove(0)
}

#[tokio::test(start_paused = true)]
async fn in_every_version_a_member_joins() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    for version in offered::<JoinGroupRequest>(&mut client).await {
        for instance in [None, Some("i")].into_iter().filter(|instance| instance.is_none() || version >= 5) {
            let group = format!("{version}-{instance:?}");
            let joined = join(&mut client, version, &group, instance).await;
            assert_eq!(joined.leader, joined.member_id, "{group}");
            assert_eq!(joined.protocol_type.as_deref(), (version >= 7).then_some("consumer"), "{group}");
            assert_eq!((joined.protocol_name.as_deref(), joined.skip_assignment), (Some("range"), false), "{group}");
            assert_eq!(joined.members.len(), 1, "{group}");
            let told = &joined.members[0];
            assert_eq!((&told.member_id, &told.metadata[..]), (&joined.member_id, &b"topics"[..]), "{group}");
            assert_eq!(told.group_instance_id.as_deref(), instance, "{group}");
            let group = described(&mut client, 5, &group).await;
            assert_eq!((&*group.group_state, group.members.len()), ("CompletingRebalance", 1), "{version}");
            assert_eq!(group.members[0].member_id, joined.member_id, "{version}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn version_0_of_a_join_rebalances_as_long_as_a_session_takes() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    join(&mut client, 0, "g", None).await;
    tokio::time::advance(Duration::from_millis(10_001)).await;
    assert_eq!(&*described(&mut client, 5, "g").await.group_state, "Empty", "it never asked for its assignment");
}

#[tokio::test(start_paused = true)]
async fn in_every_version_a_member_gets_its_assignment() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    for version in offered::<SyncGroupRequest>(&mut client).await {
        for instance in [None, Some("i")].into_iter().filter(|instance| instance.is_none() || version >= 3) {
            let group = format!("{version}-{instance:?}");
            let joined = join(&mut client, 5, &group, instance).await;
            let mut request = sync_request(&group, &joined, instance);
            if version >= 5 {
                request.protocol_type = Some("consumer".into());
                request.protocol_name = Some("range".into());
            }
            let synced = client.call(version, &request).await;
            assert_eq!((synced.error_code, &synced.assignment[..]), (ErrorCode::NONE, &b"all"[..]), "{group}");
            let protocol = (synced.protocol_type.as_deref(), synced.protocol_name.as_deref());
            let told = if version >= 5 { (Some("consumer"), Some("range")) } else { (None, None) };
            assert_eq!(protocol, told, "{group}");
            let described = described(&mut client, 5, &group).await;
            assert_eq!((&*described.group_state, &*described.protocol_data), ("Stable", "range"), "{group}");
            assert_eq!(&described.members[0].member_assignment[..], b"all", "{group}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn in_every_version_a_heartbeat_keeps_a_session() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    for version in offered::<HeartbeatRequest>(&mut client).await {
        for is_static in [false, true].into_iter().filter(|is_static| !is_static || version >= 3) {
            let group = format!("{version}-{is_static}");
            let joined = member(&mut client, &group, is_static).await;
            let heartbeat = |member_id| HeartbeatRequest {
                group_id: group.as_str().into(),
                generation_id: 1,
                member_id,
                group_instance_id: is_static.then(|| group.as_str().into()),
            };
            for _ in 0..3 {
                tokio::time::advance(Duration::from_secs(6)).await;
                let answer = client.call(version, &heartbeat(joined.member_id.clone())).await;
                assert_eq!(answer.error_code, ErrorCode::NONE, "{group}");
            }
            let unknown = if is_static { ErrorCode::FENCED_INSTANCE_ID } else { ErrorCode::UNKNOWN_MEMBER_ID };
            assert_eq!(client.call(version, &heartbeat("other".into())).await.error_code, unknown, "{group}");
            tokio::time::advance(Duration::from_millis(10_001)).await;
            let late = client.call(version, &heartbeat(joined.member_id)).await;
            assert_eq!(late.error_code, ErrorCode::UNKNOWN_MEMBER_ID, "{group}: the session is over");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn in_every_version_a_member_leaves() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    for version in offered::<LeaveGroupRequest>(&mut client).await {
        for is_static in [false, true].into_iter().filter(|is_static| !is_static || version >= 3) {
            let group = format!("{version}-{is_static}");
            let joined = member(&mut client, &group, is_static).await;
            let mut request = LeaveGroupRequest { group_id: group.as_str().into(), ..Default::default() };
            if version < 3 {
                request.member_id = joined.member_id.clone();
            } else {
                // An administrator knows a static member by its instance id alone.
                let (member_id, group_instance_id) =
                    if is_static { ("".into(), Some(group.as_str().into())) } else { (joined.member_id.clone(), None) };
                let other = MemberIdentity { member_id: "other".into(), ..Default::default() };
                request.members = vec![MemberIdentity { member_id, group_instance_id, ..Default::default() }, other];
            }
            let left = client.call(version, &request).await;
            assert_eq!(left.error_code, ErrorCode::NONE, "{group}");
            let told: Vec<_> = left.members.iter().map(|member| member.error_code).collect();
            let each = [ErrorCode::NONE, ErrorCode::UNKNOWN_MEMBER_ID];
            assert_eq!(told, if version < 3 { &each[..0] } else { &each[..] }, "{group}");
            assert_eq!(&*described(&mut client, 5, &group).await.group_state, "Empty", "{group}");
        }
    }
}

/// The offset, its epoch and metadata that a version reads back.
async fn committed(client: &mut Client, version: i16, group: &str, topic_id: Uuid) -> (i64, i32, String) {
    let request = if version < 8 {
        let topics = Some(vec![OffsetFetchRequestTopic { name: "t".into(), partition_indexes: vec![0] }]);
        OffsetFetchRequest { group_id: group.into(), topics, ..Default::default() }
    } else {
        let (name, topic_id) = if version < 10 { ("t".into(), Uuid::ZERO) } else { ("".into(), topic_id) };
        let topics = Some(vec![OffsetFetchRequestTopics { name, topic_id, partition_indexes: vec![0] }]);
        let groups = vec![OffsetFetchRequestGroup { group_id: group.into(), topics, ..Default::default() }];
        OffsetFetchRequest { groups, ..Default::default() }
    };
    let mut response = client.call(version, &request).await;
    if version < 8 {
        assert_eq!((response.error_code, response.groups.len()), (ErrorCode::NONE, 0), "{version}");
        let topic = response.topics.remove(0);
        let found = &topic.partitions[0];
        assert_eq!((&*topic.name, found.error_code), ("t", ErrorCode::NONE), "{version}");
        (found.committed_offset, found.committed_leader_epoch, found.metadata.as_deref().unwrap_or("?").to_owned())
    } else {
        let mut answer = response.groups.remove(0);
        assert_eq!((&*answer.group_id, answer.error_code), (group, ErrorCode::NONE), "{version}");
        let topic = answer.topics.remove(0);
        let found = &topic.partitions[0];
        let expected = if version < 10 { ("t", Uuid::ZERO) } else { ("", topic_id) };
        assert_eq!(((&*topic.name, topic.topic_id), found.error_code), (expected, ErrorCode::NONE), "{version}");
        (found.committed_offset, found.committed_leader_epoch, found.metadata.as_deref().unwrap_or("?").to_owned())
    }
}

#[tokio::test(start_paused = true)]
async fn what_any_version_commits_every_version_reads() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    let topic_id = client.call(12, &metadata_request(&["t"])).await.topics[0].topic_id;
    let reading = offered::<OffsetFetchRequest>(&mut client).await;
    for version in offered::<OffsetCommitRequest>(&mut client).await {
        // A member of a group, and a consumer by assignment.
        for is_member in [true, false] {
            let group = format!("{version}-{is_member}");
            let (member_id, generation) =
                if is_member { (member(&mut client, &group, false).await.member_id, 1) } else { ("".into(), -1) };
            let offset = 100 + i64::from(version);
            let partition = OffsetCommitRequestPartition {
                partition_index: 0,
                committed_offset: offset,
                committed_leader_epoch: if version < 6 { -1 } else { 0 },
                committed_metadata: Some("note".into()),
            };
            let (name, id) = if version < 10 { ("t", Uuid::ZERO) } else { ("", topic_id) };
            let topic = OffsetCommitRequestTopic { name: name.into(), topic_id: id, partitions: vec![partition] };
            let request = OffsetCommitRequest {
                group_id: group.as_str().into(),
                generation_id_or_member_epoch: generation,
                member_id,
                topics: vec![topic],
                ..Default::default()
            };
            let response = client.call(version, &request).await;
            let told = &response.topics[0];
            assert_eq!((&*told.name, told.topic_id), (name, id), "{group}");
            let partition = &told.partitions[0];
            assert_eq!((partition.partition_index, partition.error_code), (0, ErrorCode::NONE), "{group}");
            for reading in reading.clone() {
                let epoch = if version < 6 || reading < 5 { -1 } else { 0 };
                let read = committed(&mut client, reading, &group, topic_id).await;
                assert_eq!(read, (offset, epoch, "note".to_owned()), "{group}, read in version {reading}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn in_every_version_groups_are_described_and_listed() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    let joined = member(&mut client, "g", true).await;
    for version in offered::<DescribeGroupsRequest>(&mut client).await {
        let group = described(&mut client, version, "g").await;
        assert_eq!((group.error_code, &*group.group_state), (ErrorCode::NONE, "Stable"), "{version}");
        assert_eq!((&*group.protocol_type, &*group.protocol_data), ("consumer", "range"), "{version}");
        let member = &group.members[0];
        assert_eq!((&member.member_id, &*member.client_id), (&joined.member_id, "it"), "{version}");
        assert_eq!(member.group_instance_id.as_deref(), (version >= 4).then_some("g"), "{version}");
        let blobs = (&member.member_metadata[..], &member.member_assignment[..]);
        assert_eq!(blobs, (&b"topics"[..], &b"all"[..]), "{version}");
        let none = described(&mut client, version, "none").await;
        let unknown = if version < 6 { ErrorCode::NONE } else { ErrorCode::GROUP_ID_NOT_FOUND };
        assert_eq!((none.error_code, &*none.group_state), (unknown, "Dead"), "{version}");
    }
    for version in offered::<ListGroupsRequest>(&mut client).await {
        let request = ListGroupsRequest {
            states_filter: if version < 4 { Vec::new() } else { vec!["Stable".into()] },
            types_filter: if version < 5 { Vec::new() } else { vec!["classic".into()] },
        };
        let response = client.call(version, &request).await;
        assert_eq!((response.error_code, response.groups.len()), (ErrorCode::NONE, 1), "{version}");
        let group = &response.groups[0];
        assert_eq!((&*group.group_id, &*group.protocol_type), ("g", "consumer"), "{version}");
        assert_eq!(&*group.group_state, if version < 4 { "" } else { "Stable" }, "{version}");
        assert_eq!(&*group.group_type, if version < 5 { "" } else { "classic" }, "{version}");
    }
}

#[tokio::test(start_paused = true)]
async fn in_every_version_groups_and_offsets_are_deleted() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    let commit = |group: &str| {
        let partition = OffsetCommitRequestPartition { committed_offset: 7, ..Default::default() };
        let topic = OffsetCommitRequestTopic { name: "t".into(), partitions: vec![partition], ..Default::default() };
        OffsetCommitRequest {
            group_id: group.into(),
            generation_id_or_member_epoch: -1,
            topics: vec![topic],
            ..Default::default()
        }
    };
    for version in offered::<DeleteGroupsRequest>(&mut client).await {
        let (idle, busy) = (format!("idle-{version}"), format!("busy-{version}"));
        client.call(8, &commit(&idle)).await;
        member(&mut client, &busy, false).await;
        let groups_names = [&idle, &busy, "none"].map(|name: &str| name.into()).to_vec();
        let response = client.call(version, &DeleteGroupsRequest { groups_names }).await;
        let told: Vec<_> = response.results.iter().map(|result| (&*result.group_id, result.error_code)).collect();
        let (refused, unknown) = (ErrorCode::NON_EMPTY_GROUP, ErrorCode::GROUP_ID_NOT_FOUND);
        assert_eq!(told, [(&*idle, ErrorCode::NONE), (&*busy, refused), ("none", unknown)], "{version}");
        assert_eq!(described(&mut client, 6, &idle).await.error_code, unknown, "{version}");
        assert_eq!(committed(&mut client, 8, &idle, Uuid::ZERO).await.0, -1, "{version}");
    }
    for version in offered::<OffsetDeleteRequest>(&mut client).await {
        let group = format!("offsets-{version}");
        client.call(8, &commit(&group)).await;
        let partitions = vec![OffsetDeleteRequestPartition { partition_index: 0 }];
        let topics = vec![OffsetDeleteRequestTopic { name: "t".into(), partitions }];
        let request = OffsetDeleteRequest { group_id: group.as_str().into(), topics };
        let response = client.call(version, &request).await;
        assert_eq!(response.error_code, ErrorCode::NONE, "{version}");
        assert_eq!(response.topics[0].partitions[0].error_code, ErrorCode::NONE, "{version}");
        assert_eq!(committed(&mut client, 8, &group, Uuid::ZERO).await.0, -1, "{version}");
    }
}
