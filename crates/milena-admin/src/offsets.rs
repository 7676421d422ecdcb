//! Offsets of partitions and of groups, and the deletion of records.

use std::collections::BTreeMap;
use std::sync::Arc;

use milena_client::raw::Target;
use milena_client::{RequestError, TopicPartition};
use milena_protocol::ErrorCode;
use milena_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use milena_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use milena_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use milena_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use milena_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use milena_protocol::messages::{
    DeleteRecordsRequest, ListOffsetsRequest, OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest,
    OffsetFetchRequest, OffsetFetchResponse,
};

use crate::Admin;
use crate::topics::{check, unanswered};

/// From version 10 on these two name topics by id only; names serve every broker.
const LAST_WITH_TOPIC_NAMES: i16 = 9;
/// The first version of OffsetFetch that asks about several groups at once.
const FETCH_BY_GROUP: i16 = 8;

/// Which offset of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OffsetSpec {
    /// That of the first record that is still there.
    Earliest,
    /// That of the next record.
    Latest,
    /// That of the first record whose timestamp is at least this, in milliseconds since 1970.
    AtTimestamp(i64),
    /// That of the record with the highest timestamp.
    MaxTimestamp,
}

impl OffsetSpec {
    fn write(self) -> i64 {
        match self {
            Self::AtTimestamp(timestamp) => timestamp,
            Self::Latest => -1,
            Self::Earliest => -2,
            Self::MaxTimestamp => -3,
        }
    }
}

/// An offset of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedOffset {
    /// The offset; absent when no record has such a timestamp.
    pub offset: Option<i64>,
    /// The timestamp of the record there, when it was asked for by timestamp.
    pub timestamp: Option<i64>,
    /// The leader epoch in which the record was written, if the broker tells.
    pub leader_epoch: Option<i32>,
}

/// An offset that a group has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupOffset {
    /// The next offset that the group will read.
    pub offset: i64,
    /// The leader epoch of the record before it, if known.
    pub leader_epoch: Option<i32>,
    /// What the group stored beside it.
    pub metadata: Option<String>,
}

impl GroupOffset {
    /// An offset with nothing beside it.
    pub fn new(offset: i64) -> Self {
        Self { offset, leader_epoch: None, metadata: None }
    }
}

impl Admin {
    /// Offsets of partitions; one result for each, in the order asked. A partition may be asked about several times.
    ///
    /// # Errors
    /// When the cluster could not be asked.
    pub async fn list_offsets(
        &self,
        partitions: &[(TopicPartition, OffsetSpec)],
    ) -> Result<Vec<(TopicPartition, Result<ListedOffset, RequestError>)>, RequestError> {
        let timeout_ms = self.timeout_ms();
        let build = |asked: &[&(TopicPartition, OffsetSpec)]| {
            let partition = |partition: i32, spec: &OffsetSpec| ListOffsetsPartition {
                partition_index: partition,
                timestamp: spec.write(),
                ..ListOffsetsPartition::default()
            };
            let topic = |(name, partitions): (Arc<str>, Vec<ListOffsetsPartition>)| ListOffsetsTopic {
                name: (&*name).into(),
                partitions,
                ..ListOffsetsTopic::default()
            };
            let topics = by_topic(asked.iter().copied(), partition).into_iter().map(topic).collect();
            ListOffsetsRequest { replica_id: (-1).into(), topics, timeout_ms, ..ListOffsetsRequest::default() }
        };
        let read = |response: milena_protocol::messages::ListOffsetsResponse| {
            let topics = response.topics.into_iter().flat_map(|topic| {
                let name: Arc<str> = (&*topic.name).into();
                topic.partitions.into_iter().map(move |partition| (Arc::clone(&name), partition))
            });
            let answer = |(name, partition): (
                Arc<str>,
                milena_protocol::messages::list_offsets_response::ListOffsetsPartitionResponse,
            )| {
                let listed = ListedOffset {
                    offset: Some(partition.offset).filter(|offset| *offset >= 0),
                    timestamp: Some(partition.timestamp).filter(|timestamp| *timestamp >= 0),
                    leader_epoch: Some(partition.leader_epoch).filter(|epoch| *epoch >= 0),
                };
                (TopicPartition::new(name, partition.partition_index), partition.error_code, listed)
            };
            topics.map(answer).collect()
        };
        self.ask_leaders("listing offsets of", partitions, build, read).await
    }

    /// Deletes the records before an offset of each partition; -1 stands for all that consumers can read. The result
    /// is the offset of the first record that is left.
    ///
    /// # Errors
    /// When the cluster could not be asked.
    pub async fn delete_records(
        &self,
        before: &[(TopicPartition, i64)],
    ) -> Result<Vec<(TopicPartition, Result<i64, RequestError>)>, RequestError> {
        let timeout_ms = self.timeout_ms();
        let build = |asked: &[&(TopicPartition, i64)]| {
            let partition = |partition: i32, offset: &i64| DeleteRecordsPartition {
                partition_index: partition,
                offset: *offset,
                ..DeleteRecordsPartition::default()
            };
            let topic = |(name, partitions): (Arc<str>, Vec<DeleteRecordsPartition>)| DeleteRecordsTopic {
                name: (&*name).into(),
                partitions,
                ..DeleteRecordsTopic::default()
            };
            let topics = by_topic(asked.iter().copied(), partition).into_iter().map(topic).collect();
            DeleteRecordsRequest { topics, timeout_ms, ..DeleteRecordsRequest::default() }
        };
        let read = |response: milena_protocol::messages::DeleteRecordsResponse| {
            let topics = response.topics.into_iter().flat_map(|topic| {
                let name: Arc<str> = (&*topic.name).into();
                topic.partitions.into_iter().map(move |partition| {
                    let left = TopicPartition::new(Arc::clone(&name), partition.partition_index);
                    (left, partition.error_code, partition.low_watermark)
                })
            });
            topics.collect()
        };
        self.ask_leaders("deleting records of", before, build, read).await
    }

    /// All offsets that a group has committed, by topic and partition.
    ///
    /// # Errors
    /// [`RequestError::Broker`] with the coordinator's reason, or what kept it from being asked.
    pub async fn list_group_offsets(&self, group: &str) -> Result<Vec<(TopicPartition, GroupOffset)>, RequestError> {
        let build = |version| {
            if version >= FETCH_BY_GROUP {
                let asked = OffsetFetchRequestGroup {
                    group_id: group.into(),
                    topics: None,
                    ..OffsetFetchRequestGroup::default()
                };
                OffsetFetchRequest { groups: vec![asked], ..OffsetFetchRequest::default() }
            } else {
                OffsetFetchRequest { group_id: group.into(), topics: None, ..OffsetFetchRequest::default() }
            }
        };
        let target = Target::GroupCoordinator(group.to_owned());
        let error_of = |_, response: &OffsetFetchResponse| group_error(response);
        let response = self.raw.send_versioned(target, LAST_WITH_TOPIC_NAMES, build, error_of).await?;
        check(|| format!("listing offsets of group `{group}`"), group_error(&response), None)?;
        let mut offsets = read_group_offsets(response);
        offsets.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(offsets)
    }

    /// Sets committed offsets of a group; one result for each partition. The group must have no members.
    ///
    /// # Errors
    /// When the cluster could not be asked.
    pub async fn alter_group_offsets(
        &self,
        group: &str,
        offsets: &[(TopicPartition, GroupOffset)],
    ) -> Result<Vec<(TopicPartition, Result<(), RequestError>)>, RequestError> {
        let partition = |partition: i32, offset: &GroupOffset| OffsetCommitRequestPartition {
            partition_index: partition,
            committed_offset: offset.offset,
            committed_leader_epoch: offset.leader_epoch.unwrap_or(-1),
            committed_metadata: Some(offset.metadata.as_deref().unwrap_or_default().into()),
            ..OffsetCommitRequestPartition::default()
        };
        let topic = |(name, partitions): (Arc<str>, Vec<OffsetCommitRequestPartition>)| OffsetCommitRequestTopic {
            name: (&*name).into(),
            partitions,
            ..OffsetCommitRequestTopic::default()
        };
        let topics = by_topic(offsets, partition).into_iter().map(topic).collect();
        let request = OffsetCommitRequest { group_id: group.into(), topics, ..OffsetCommitRequest::default() };
        let target = Target::GroupCoordinator(group.to_owned());
        let first_error = |_, response: &OffsetCommitResponse| {
            let codes =
                response.topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.error_code);
            coordinator_error(codes)
        };
        let build = |_| request.clone();
        let response = self.raw.send_versioned(target, LAST_WITH_TOPIC_NAMES, build, first_error).await?;
        let mut codes = BTreeMap::new();
        for topic in response.topics {
            let name: Arc<str> = (&*topic.name).into();
            let partitions = topic.partitions.into_iter();
            codes.extend(partitions.map(|p| (TopicPartition::new(Arc::clone(&name), p.partition_index), p.error_code)));
        }
        let asked = offsets.iter().map(|(partition, _)| partition);
        Ok(per_partition(asked, codes, &format!("setting the offset of group `{group}` on")))
    }

    /// Deletes committed offsets of a group; one result for each partition. The group must not be reading the topic.
    ///
    /// # Errors
    /// When the cluster could not be asked, or refuses as a whole.
    pub async fn delete_group_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<(TopicPartition, Result<(), RequestError>)>, RequestError> {
        let partition =
            |partition: i32, _: &()| OffsetDeleteRequestPartition { partition_index: partition, ..Default::default() };
        let topic = |(name, partitions): (Arc<str>, Vec<OffsetDeleteRequestPartition>)| OffsetDeleteRequestTopic {
            name: (&*name).into(),
            partitions,
            ..OffsetDeleteRequestTopic::default()
        };
        let asked = partitions.iter().map(|partition| (partition.clone(), ())).collect::<Vec<_>>();
        let topics = by_topic(&asked, partition).into_iter().map(topic).collect();
        let request = OffsetDeleteRequest { group_id: group.into(), topics, ..OffsetDeleteRequest::default() };
        let target = Target::GroupCoordinator(group.to_owned());
        let response = self.raw.send_checked(target, request, |response| response.error_code).await?;
        check(|| format!("deleting offsets of group `{group}`"), response.error_code, None)?;
        let mut codes = BTreeMap::new();
        for topic in response.topics {
            let name: Arc<str> = (&*topic.name).into();
            let partitions = topic.partitions.into_iter();
            codes.extend(partitions.map(|p| (TopicPartition::new(Arc::clone(&name), p.partition_index), p.error_code)));
        }
        Ok(per_partition(partitions.iter(), codes, &format!("deleting the offset of group `{group}` on")))
    }
}

/// What is asked of each partition, by topic.
fn by_topic<'a, Q: 'a, P>(
    asked: impl IntoIterator<Item = &'a (TopicPartition, Q)>,
    write: impl Fn(i32, &Q) -> P,
) -> BTreeMap<Arc<str>, Vec<P>> {
    let mut topics: BTreeMap<Arc<str>, Vec<P>> = BTreeMap::new();
    for (partition, question) in asked {
        let entry = topics.entry(Arc::clone(&partition.topic)).or_default();
        entry.push(write(partition.partition, question));
    }
    topics
}

fn per_partition<'a>(
    asked: impl Iterator<Item = &'a TopicPartition>,
    codes: BTreeMap<TopicPartition, ErrorCode>,
    doing: &str,
) -> Vec<(TopicPartition, Result<(), RequestError>)> {
    let answer = |partition: &TopicPartition| {
        let subject = || format!("{doing} {partition}");
        // Not taken out: whoever names a partition twice is answered twice.
        let result = match codes.get(partition) {
            Some(code) => check(subject, *code, None),
            None => Err(unanswered(subject())),
        };
        (partition.clone(), result)
    };
    asked.map(answer).collect()
}

/// What a coordinator says of every partition alike when it is none, or not ready.
fn coordinator_error(codes: impl Iterator<Item = ErrorCode>) -> ErrorCode {
    let moved = |code: &ErrorCode| {
        [ErrorCode::NOT_COORDINATOR, ErrorCode::COORDINATOR_NOT_AVAILABLE, ErrorCode::COORDINATOR_LOAD_IN_PROGRESS]
            .contains(code)
    };
    codes.into_iter().find(moved).unwrap_or(ErrorCode::NONE)
}

/// The error of an answer about one group, in either of its shapes.
fn group_error(response: &OffsetFetchResponse) -> ErrorCode {
    response.groups.first().map_or(response.error_code, |group| group.error_code)
}

fn read_group_offsets(response: OffsetFetchResponse) -> Vec<(TopicPartition, GroupOffset)> {
    let mut offsets = Vec::new();
    let mut add = |name: &str, index: i32, offset: i64, epoch: i32, metadata: Option<&str>| {
        // -1 says that nothing is committed.
        if offset >= 0 {
            let leader_epoch = Some(epoch).filter(|epoch| *epoch >= 0);
            let metadata = metadata.filter(|metadata| !metadata.is_empty()).map(str::to_owned);
            offsets.push((TopicPartition::new(name, index), GroupOffset { offset, leader_epoch, metadata }));
        }
    };
    for topic in &response.topics {
        for p in &topic.partitions {
            add(&topic.name, p.partition_index, p.committed_offset, p.committed_leader_epoch, p.metadata.as_deref());
        }
    }
    for topic in response.groups.iter().flat_map(|group| &group.topics) {
        for p in &topic.partitions {
            add(&topic.name, p.partition_index, p.committed_offset, p.committed_leader_epoch, p.metadata.as_deref());
        }
    }
    offsets
}
