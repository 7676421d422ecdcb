//! Classic groups and their offsets, request by request: the embedded broker answers as Kafka does.

use bytes::Bytes;
use milena_protocol::ErrorCode;
use milena_protocol::GroupId;
use milena_protocol::StrBytes;
use milena_protocol::TopicName;
use milena_protocol::messages::DeleteGroupsRequest;
use milena_protocol::messages::DescribeGroupsRequest;
use milena_protocol::messages::HeartbeatRequest;
use milena_protocol::messages::JoinGroupRequest;
use milena_protocol::messages::JoinGroupResponse;
use milena_protocol::messages::LeaveGroupRequest;
use milena_protocol::messages::OffsetCommitRequest;
use milena_protocol::messages::OffsetFetchRequest;
use milena_protocol::messages::SyncGroupRequest;
use milena_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use milena_protocol::messages::leave_group_request::MemberIdentity;
use milena_protocol::messages::offset_commit_request::OffsetCommitRequestPartition;
use milena_protocol::messages::offset_commit_request::OffsetCommitRequestTopic;
use milena_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use milena_protocol::messages::offset_fetch_request::OffsetFetchRequestTopics;
use milena_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use milena_tests::cluster::Cluster;
use milena_tests::on_every_cluster;
use milena_tests::wire::Wires;

on_every_cluster!(
    a_lone_member_leads_and_leaves,
    strangers_are_refused,
    protocols_must_have_one_in_common,
    commits_are_read_back,
    commits_of_another_generation_are_refused,
    a_group_is_deleted_when_nobody_is_in_it,
    static_members_are_fenced_by_their_successor,
);

struct Group {
    wires: Wires,
    id: String,
}

impl Group {
    fn new(cluster: &Cluster) -> Self {
        Self { wires: Wires::to(cluster), id: cluster.unique("group") }
    }

    fn id(&self) -> GroupId {
        GroupId::from(self.id.clone())
    }

    async fn join(&mut self, member: &str, instance: Option<&str>, protocols: &[&str]) -> JoinGroupResponse {
        let protocols = protocols.iter().map(|name| JoinGroupRequestProtocol {
            name: StrBytes::from((*name).to_owned()),
            metadata: Bytes::from_static(b"subscription"),
        });
        let request = JoinGroupRequest {
            group_id: self.id(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 10_000,
            member_id: StrBytes::from(member.to_owned()),
            group_instance_id: instance.map(|instance| StrBytes::from(instance.to_owned())),
            protocol_type: "consumer".into(),
            protocols: protocols.collect(),
            reason: None,
        };
        self.wires.coordinate(&self.id, 9, &request, |response| response.error_code).await.unwrap()
    }

    /// Joins as a new member (KIP-394: the first attempt is answered with an id) and becomes the leader of a stable
    /// group; gives back its id and the generation.
    async fn lead(&mut self) -> (String, i32) {
        let told = self.join("", None, &["range"]).await;
        assert_eq!(told.error_code, ErrorCode::MEMBER_ID_REQUIRED);
        let member = told.member_id.to_string();
        let joined = self.join(&member, None, &["range"]).await;
        assert_eq!(joined.error_code, ErrorCode::NONE);
        assert_eq!(joined.leader, joined.member_id);
        assert_eq!(self.sync(&member, joined.generation_id).await, (ErrorCode::NONE, "assignment".into()));
        (member, joined.generation_id)
    }

    async fn sync(&mut self, member: &str, generation_id: i32) -> (ErrorCode, Bytes) {
        let member_id = StrBytes::from(member.to_owned());
        let assignment = Bytes::from_static(b"assignment");
        let request = SyncGroupRequest {
            group_id: self.id(),
            generation_id,
            member_id: member_id.clone(),
            protocol_type: Some("consumer".into()),
            protocol_name: Some("range".into()),
            assignments: vec![SyncGroupRequestAssignment { member_id, assignment }],
            ..Default::default()
        };
        let response = self.wires.coordinate(&self.id, 5, &request, |response| response.error_code).await.unwrap();
        (response.error_code, response.assignment)
    }

    async fn heartbeat(&mut self, member: &str, generation_id: i32, instance: Option<&str>) -> ErrorCode {
        let request = HeartbeatRequest {
            group_id: self.id(),
            generation_id,
            member_id: StrBytes::from(member.to_owned()),
            group_instance_id: instance.map(|instance| StrBytes::from(instance.to_owned())),
        };
        self.wires.coordinate(&self.id, 4, &request, |response| response.error_code).await.unwrap().error_code
    }

    async fn leave(&mut self, member: &str) -> ErrorCode {
        let member_id = StrBytes::from(member.to_owned());
        let members = vec![MemberIdentity { member_id, ..Default::default() }];
        let request = LeaveGroupRequest { group_id: self.id(), members, ..Default::default() };
        let response = self.wires.coordinate(&self.id, 5, &request, |response| response.error_code).await.unwrap();
        assert_eq!(response.error_code, ErrorCode::NONE);
        response.members[0].error_code
    }

    async fn commit(&mut self, member: &str, generation: i32, topic: &str, offset: i64) -> ErrorCode {
        let partitions = vec![OffsetCommitRequestPartition {
            partition_index: 0,
            committed_offset: offset,
            committed_leader_epoch: 0,
            committed_metadata: Some("note".into()),
        }];
        let name = TopicName::from(topic.to_owned());
        let request = OffsetCommitRequest {
            group_id: self.id(),
            generation_id_or_member_epoch: generation,
            member_id: StrBytes::from(member.to_owned()),
            topics: vec![OffsetCommitRequestTopic { name, partitions, ..Default::default() }],
            ..Default::default()
        };
        let code =
            |response: &milena_protocol::messages::OffsetCommitResponse| response.topics[0].partitions[0].error_code;
        code(&self.wires.coordinate(&self.id, 8, &request, code).await.unwrap())
    }

    /// Offset and metadata of partition 0.
    async fn committed(&mut self, topic: &str) -> (i64, String) {
        let name = TopicName::from(topic.to_owned());
        let topics = vec![OffsetFetchRequestTopics { name, partition_indexes: vec![0], ..Default::default() }];
        let group = OffsetFetchRequestGroup { group_id: self.id(), topics: Some(topics), ..Default::default() };
        let request = OffsetFetchRequest { groups: vec![group], ..Default::default() };
        let response =
            self.wires.coordinate(&self.id, 8, &request, |response| response.groups[0].error_code).await.unwrap();
        let partition = &response.groups[0].topics[0].partitions[0];
        assert_eq!(partition.error_code, ErrorCode::NONE);
        (partition.committed_offset, partition.metadata.as_ref().map(ToString::to_string).unwrap_or_default())
    }

    /// State and number of members.
    async fn described(&mut self) -> (String, usize) {
        let request = DescribeGroupsRequest { groups: vec![self.id()], ..Default::default() };
        let response =
            self.wires.coordinate(&self.id, 5, &request, |response| response.groups[0].error_code).await.unwrap();
        (response.groups[0].group_state.to_string(), response.groups[0].members.len())
    }

    async fn delete(&mut self) -> ErrorCode {
        let request = DeleteGroupsRequest { groups_names: vec![self.id()] };
        let response =
            self.wires.coordinate(&self.id, 2, &request, |response| response.results[0].error_code).await.unwrap();
        response.results[0].error_code
    }
}

async fn a_lone_member_leads_and_leaves(cluster: Cluster) {
    let mut group = Group::new(&cluster);
    assert_eq!(group.described().await, ("Dead".into(), 0));
    let (member, generation) = group.lead().await;
    assert_eq!(generation, 1);
    assert_eq!(group.described().await, ("Stable".into(), 1));
    assert_eq!(group.heartbeat(&member, generation, None).await, ErrorCode::NONE);
    assert_eq!(group.leave(&member).await, ErrorCode::NONE);
    assert_eq!(group.described().await, ("Empty".into(), 0));
    assert_eq!(group.heartbeat(&member, generation, None).await, ErrorCode::UNKNOWN_MEMBER_ID);
}

async fn strangers_are_refused(cluster: Cluster) {
    let mut group = Group::new(&cluster);
    assert_eq!(group.heartbeat("stranger", 1, None).await, ErrorCode::UNKNOWN_MEMBER_ID);
    let (member, generation) = group.lead().await;
    assert_eq!(group.heartbeat("stranger", generation, None).await, ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(group.heartbeat(&member, generation + 1, None).await, ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(group.heartbeat(&member, generation - 1, None).await, ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(group.sync("stranger", generation).await.0, ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(group.sync(&member, generation + 1).await.0, ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(group.leave("stranger").await, ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(group.join("stranger", None, &["range"]).await.error_code, ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(group.described().await, ("Stable".into(), 1), "none of them disturbed the group");
}

async fn protocols_must_have_one_in_common(cluster: Cluster) {
    let mut group = Group::new(&cluster);
    group.lead().await;
    let refused = group.join("", None, &["sticky"]).await;
    assert_eq!(refused.error_code, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    let refused = group.join("", None, &[]).await;
    assert_eq!(refused.error_code, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
}

async fn commits_are_read_back(cluster: Cluster) {
    let mut group = Group::new(&cluster);
    let topic = cluster.unique("committed");
    group.wires.create(&topic, 1, &[]).await.unwrap();
    assert_eq!(group.committed(&topic).await, (-1, String::new()));
    // Without members: a tool, or a consumer that assigns itself.
    assert_eq!(group.commit("", -1, &topic, 42).await, ErrorCode::NONE);
    assert_eq!(group.committed(&topic).await, (42, "note".into()));
    assert_eq!(group.described().await, ("Empty".into(), 0));
    let unknown = cluster.unique("unknown");
    assert_eq!(group.commit("", -1, &unknown, 1).await, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    // A committed offset may go back: that is how one reads again.
    assert_eq!(group.commit("", -1, &topic, 7).await, ErrorCode::NONE);
    assert_eq!(group.committed(&topic).await, (7, "note".into()));
}

async fn commits_of_another_generation_are_refused(cluster: Cluster) {
    let mut group = Group::new(&cluster);
    let topic = cluster.unique("committed");
    group.wires.create(&topic, 1, &[]).await.unwrap();
    let (member, generation) = group.lead().await;
    assert_eq!(group.commit(&member, generation + 1, &topic, 1).await, ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(group.commit("stranger", generation, &topic, 1).await, ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(group.commit("", -1, &topic, 1).await, ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(group.committed(&topic).await.0, -1, "none of them counts");
    assert_eq!(group.commit(&member, generation, &topic, 5).await, ErrorCode::NONE);
    assert_eq!(group.committed(&topic).await.0, 5);
}

async fn a_group_is_deleted_when_nobody_is_in_it(cluster: Cluster) {
    let mut group = Group::new(&cluster);
    assert_eq!(group.delete().await, ErrorCode::GROUP_ID_NOT_FOUND);
    let (member, _) = group.lead().await;
    assert_eq!(group.delete().await, ErrorCode::NON_EMPTY_GROUP);
    group.leave(&member).await;
    assert_eq!(group.delete().await, ErrorCode::NONE);
    assert_eq!(group.described().await, ("Dead".into(), 0));
}

async fn static_members_are_fenced_by_their_successor(cluster: Cluster) {
    let mut group = Group::new(&cluster);
    // A static member needs no second attempt.
    let first = group.join("", Some("one"), &["range"]).await;
    assert_eq!(first.error_code, ErrorCode::NONE);
    let first_id = first.member_id.to_string();
    assert_eq!(group.sync(&first_id, first.generation_id).await.0, ErrorCode::NONE);
    // The same instance again, as after a restart: it takes over, and the generation stays.
    let second = group.join("", Some("one"), &["range"]).await;
    assert_eq!(second.error_code, ErrorCode::NONE);
    assert_ne!(second.member_id, first.member_id);
    assert_eq!(second.generation_id, first.generation_id, "no rebalance");
    let code = group.heartbeat(&first_id, first.generation_id, Some("one")).await;
    assert_eq!(code, ErrorCode::FENCED_INSTANCE_ID);
    let code = group.heartbeat(&second.member_id, second.generation_id, Some("one")).await;
    assert_eq!(code, ErrorCode::NONE);
}
