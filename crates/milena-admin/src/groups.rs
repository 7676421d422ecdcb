//! Groups: list, describe, delete.

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use milena_client::raw::Target;
use milena_client::{RequestError, TopicPartition};
use milena_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use milena_protocol::messages::{
    ConsumerProtocolAssignment, DeleteGroupsRequest, DescribeGroupsRequest, ListGroupsRequest,
};
use milena_protocol::{Decode as _, ErrorCode, Message as _};

use crate::Admin;
use crate::topics::{check, unanswered};

/// A group in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupListing {
    /// Its id.
    pub group: String,
    /// `consumer` for consumers; empty for a group that only commits offsets.
    pub protocol_type: String,
    /// Its state, such as `Stable` or `Empty`, if the broker tells.
    pub state: Option<String>,
    /// Its kind, such as `classic`, if the broker tells.
    pub kind: Option<String>,
}

/// A group and its members.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupDescription {
    /// Its id.
    pub group: String,
    /// Its state, such as `Stable` or `Empty`.
    pub state: String,
    /// `consumer` for consumers.
    pub protocol_type: String,
    /// The assignor that the members agreed on.
    pub protocol: String,
    /// Its members.
    pub members: Vec<GroupMember>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupMember {
    /// The id that the coordinator gave it.
    pub member_id: String,
    /// Its own name, if it is a static member.
    pub group_instance_id: Option<String>,
    /// The `client.id` of its client.
    pub client_id: String,
    /// Where it comes from.
    pub client_host: String,
    /// What it was assigned, as its protocol encodes it.
    pub assignment: Vec<u8>,
}

impl GroupMember {
    /// The partitions that the member holds, in order; none when the group is not one of consumers, or its assignment
    /// can't be read.
    pub fn partitions(&self) -> Vec<TopicPartition> {
        let mut blob = Bytes::copy_from_slice(&self.assignment);
        if blob.len() < 2 {
            return Vec::new();
        }
        // A version from the future only appends fields (KIP-107's rule for these blobs).
        let version = blob.get_i16().clamp(0, ConsumerProtocolAssignment::VERSIONS.max);
        let Ok(assignment) = ConsumerProtocolAssignment::decode(version, &mut blob) else { return Vec::new() };
        let mut partitions = Vec::new();
        for topic in assignment.assigned_partitions {
            let name: Arc<str> = Arc::from(&*topic.topic);
            partitions.extend(topic.partitions.into_iter().map(|index| TopicPartition::new(Arc::clone(&name), index)));
        }
        partitions.sort_unstable();
        partitions
    }
}

impl Admin {
    /// All groups of the cluster, by id. Every broker is asked, since each knows the groups that it coordinates.
    ///
    /// # Errors
    /// When a broker could not be asked: a list that leaves groups out would be wrong.
    pub async fn list_groups(&self) -> Result<Vec<GroupListing>, RequestError> {
        let nodes = self.client.refresh_metadata().await?.nodes;
        let mut groups = Vec::new();
        for node in nodes {
            let target = Target::Node(node.id);
            let request = ListGroupsRequest::default();
            let response = self.raw.send_checked(target, request, |response| response.error_code).await?;
            check(|| format!("listing groups of broker {}", node.id), response.error_code, None)?;
            let listing = |group: milena_protocol::messages::list_groups_response::ListedGroup| GroupListing {
                group: group.group_id.to_string(),
                protocol_type: group.protocol_type.to_string(),
                state: Some(group.group_state.to_string()).filter(|state| !state.is_empty()),
                kind: Some(group.group_type.to_string()).filter(|kind| !kind.is_empty()),
            };
            groups.extend(response.groups.into_iter().map(listing));
        }
        groups.sort_by(|a, b| a.group.cmp(&b.group));
        // One that moved between two answers was listed by both brokers.
        groups.dedup_by(|a, b| a.group == b.group);
        Ok(groups)
    }

    /// Groups with their members; one result for each. Brokers before Kafka 4.0 describe a group that does not exist
    /// as one in state `Dead`; so does this.
    ///
    /// # Errors
    /// When the cluster could not be asked.
    pub async fn describe_groups(
        &self,
        groups: &[&str],
    ) -> Result<Vec<(String, Result<GroupDescription, RequestError>)>, RequestError> {
        let mut results = Vec::with_capacity(groups.len());
        for group in groups {
            results.push(((*group).to_owned(), self.describe_group(group).await?));
        }
        Ok(results)
    }

    async fn describe_group(&self, group: &str) -> Result<Result<GroupDescription, RequestError>, RequestError> {
        let request = DescribeGroupsRequest { groups: vec![group.into()], ..DescribeGroupsRequest::default() };
        let response = self
            .raw
            .send_checked(Target::GroupCoordinator(group.to_owned()), request, |response| {
                response.groups.first().map(|group| group.error_code).unwrap_or_default()
            })
            .await?;
        let subject = || format!("describing group `{group}`");
        let Some(described) = response.groups.into_iter().next() else { return Ok(Err(unanswered(subject()))) };
        let checked = check(subject, described.error_code, described.error_message.as_deref());
        Ok(checked.map(|()| read_group(described)))
    }

    /// Deletes groups with their offsets; one result for each. A group must be empty.
    ///
    /// # Errors
    /// When the cluster could not be asked.
    pub async fn delete_groups(
        &self,
        groups: &[&str],
    ) -> Result<Vec<(String, Result<(), RequestError>)>, RequestError> {
        let mut results = Vec::with_capacity(groups.len());
        for group in groups {
            let request = DeleteGroupsRequest { groups_names: vec![(*group).into()], ..DeleteGroupsRequest::default() };
            let response = self
                .raw
                .send_checked(Target::GroupCoordinator((*group).to_owned()), request, |response| {
                    response.results.first().map_or(ErrorCode::NONE, |group| group.error_code)
                })
                .await?;
            let subject = || format!("deleting group `{group}`");
            let result = match response.results.into_iter().next() {
                None => Err(unanswered(subject())),
                Some(result) => check(subject, result.error_code, result.error_message.as_deref()),
            };
            results.push(((*group).to_owned(), result));
        }
        Ok(results)
    }
}

fn read_group(group: DescribedGroup) -> GroupDescription {
    let member = |member: DescribedGroupMember| GroupMember {
        member_id: member.member_id.to_string(),
        group_instance_id: member.group_instance_id.map(|id| id.to_string()),
        client_id: member.client_id.to_string(),
        client_host: member.client_host.to_string(),
        assignment: member.member_assignment.to_vec(),
    };
    GroupDescription {
        group: group.group_id.to_string(),
        state: group.group_state.to_string(),
        protocol_type: group.protocol_type.to_string(),
        protocol: group.protocol_data.to_string(),
        members: group.members.into_iter().map(member).collect(),
    }
}
