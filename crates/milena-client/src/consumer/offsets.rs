//! Requests about offsets: ListOffsets to leaders, OffsetFetch and OffsetCommit to the coordinator. One attempt each,
//! except where the name says otherwise; errors per partition are the caller's to judge.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use milena_core::consumer::TopicPartition;
use milena_core::consumer::positions::EpochOffset;
use milena_core::group::commit_lane::{CommitReply, OffsetToCommit, Unanswered};
use milena_net::{Broker, Connection, Purpose};
use milena_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use milena_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use milena_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use milena_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use milena_protocol::messages::{
    ListOffsetsRequest, OffsetCommitRequest, OffsetFetchRequest, OffsetForLeaderEpochRequest,
};
use milena_protocol::{ApiKey, ErrorCode, NodeId, Request};

use super::config::Isolation;
use crate::client::ClientInner;
use crate::client::coordinators::CoordinatorKind;
use crate::error::RequestError;

/// OffsetCommit and OffsetFetch go by topic name up to here.
const LAST_BY_NAME: i16 = 9;

/// Each partition with its answer or error.
pub(super) type Answers<T> = Vec<(TopicPartition, Result<T, ErrorCode>)>;

/// An offset found by time: the record's timestamp is -1 for the ends of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) offset: i64,
    pub(super) timestamp: i64,
    pub(super) leader_epoch: i32,
}

/// A committed offset with what was committed beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffsetAndMetadata {
    /// The offset of the next record to process.
    pub offset: i64,
    /// Epoch of the leader that wrote the last record processed, if known.
    pub leader_epoch: Option<i32>,
    /// Free text.
    pub metadata: String,
}

impl From<i64> for OffsetAndMetadata {
    fn from(offset: i64) -> Self {
        Self { offset, ..Self::default() }
    }
}

fn by_topic<T: Clone>(items: impl IntoIterator<Item = (TopicPartition, T)>) -> BTreeMap<Arc<str>, Vec<(i32, T)>> {
    let mut topics: BTreeMap<Arc<str>, Vec<(i32, T)>> = BTreeMap::new();
    for (partition, item) in items {
        topics.entry(partition.topic).or_default().push((partition.partition, item));
    }
    topics
}

/// Asks the leader `node` for offsets by timestamp (-1 latest, -2 earliest).
pub(super) async fn list(
    client: &Arc<ClientInner>,
    node: i32,
    isolation: Isolation,
    targets: Vec<(TopicPartition, i64)>,
) -> Result<Answers<Listed>, RequestError> {
    let connection = client.pool.get(&Broker::Node(node), Purpose::General).await?;
    let version = connection.versions().highest(ApiKey::ListOffsets);
    let snapshot = client.metadata.snapshot();
    let topics = by_topic(targets)
        .into_iter()
        .map(|(topic, partitions)| ListOffsetsTopic {
            partitions: partitions
                .into_iter()
                .map(|(partition_index, timestamp)| {
                    let leader = snapshot.leader(&topic, partition_index);
                    let fenced = version.is_some_and(|version| version >= 4);
                    let current_leader_epoch = leader.and_then(|(_, epoch)| epoch).filter(|_| fenced).unwrap_or(-1);
                    ListOffsetsPartition { partition_index, current_leader_epoch, timestamp }
                })
                .collect(),
            name: (&*topic).into(),
        })
        .collect();
    let isolated = version.is_some_and(|version| version >= 2) && isolation == Isolation::ReadCommitted;
    let request = ListOffsetsRequest {
        replica_id: NodeId(-1),
        isolation_level: i8::from(isolated),
        topics,
        ..ListOffsetsRequest::default()
    };
    let response = connection.request(&request, version, client.config.request_timeout).await?;
    let answers = response.topics.into_iter().flat_map(|topic| {
        let name: Arc<str> = Arc::from(&*topic.name);
        topic.partitions.into_iter().map(move |answer| {
            let listed =
                Listed { offset: answer.offset, timestamp: answer.timestamp, leader_epoch: answer.leader_epoch };
            let result = if answer.error_code.is_ok() { Ok(listed) } else { Err(answer.error_code) };
            (TopicPartition::new(Arc::clone(&name), answer.partition_index), result)
        })
    });
    Ok(answers.collect())
}

/// Asks the leader `node` where epochs end in its log (KIP-320): for each partition the leader's epoch as we know it, and the
/// epoch that is asked about. `None` for one that it does not know; no answers at all from a broker that can't tell.
pub(super) async fn epoch_ends(
    client: &Arc<ClientInner>,
    node: i32,
    targets: Vec<(TopicPartition, (i32, i32))>,
) -> Result<Option<Answers<Option<EpochOffset>>>, RequestError> {
    let connection = client.pool.get(&Broker::Node(node), Purpose::General).await?;
    // Before version 3 it needs the right to administer the cluster.
    let version = connection.versions().highest(ApiKey::OffsetForLeaderEpoch).filter(|version| *version >= 3);
    let Some(version) = version else { return Ok(None) };
    let topics = by_topic(targets).into_iter().map(|(topic, partitions)| OffsetForLeaderTopic {
        topic: (&*topic).into(),
        partitions: partitions
            .into_iter()
            .map(|(partition, (current_leader_epoch, leader_epoch))| OffsetForLeaderPartition {
                partition,
                current_leader_epoch,
                leader_epoch,
            })
            .collect(),
    });
    let request = OffsetForLeaderEpochRequest { replica_id: NodeId(-1), topics: topics.collect() };
    let response = connection.request(&request, Some(version), client.config.request_timeout).await?;
    let answers = response.topics.into_iter().flat_map(|topic| {
        let name: Arc<str> = Arc::from(&*topic.topic);
        topic.partitions.into_iter().map(move |answer| {
            let is_known = answer.leader_epoch >= 0 && answer.end_offset >= 0;
            let end = is_known.then_some(EpochOffset { offset: answer.end_offset, epoch: answer.leader_epoch });
            let result = if answer.error_code.is_ok() { Ok(end) } else { Err(answer.error_code) };
            (TopicPartition::new(Arc::clone(&name), answer.partition), result)
        })
    });
    Ok(Some(answers.collect()))
}

/// Sends a request to the group's coordinator over the connection for `purpose`, which `connected` hears of first. A
/// failure to reach it makes the next request look it up anew.
pub(super) async fn ask_coordinator<R: Request>(
    client: &Arc<ClientInner>,
    group: &str,
    purpose: Purpose,
    connected: impl FnOnce(&Connection),
    highest: i16,
    limit: Duration,
    request: impl FnOnce(i16) -> R,
) -> Result<R::Response, RequestError> {
    let node = client.coordinators.find(client, CoordinatorKind::Group, group).await?;
    let answer = async {
        let connection = client.pool.get(&Broker::Node(node), purpose).await?;
        connected(&connection);
        let version = connection.versions().highest_up_to(R::API_KEY, highest).ok_or_else(|| {
            RequestError::UnsupportedVersion { address: connection.address().to_string(), api: R::API_KEY.name() }
        })?;
        Ok::<_, RequestError>(connection.request(&request(version), Some(version), limit).await?)
    };
    let answer = answer.await;
    if answer.is_err() {
        client.coordinators.invalidate(CoordinatorKind::Group, group, node);
        client.metadata.request_refresh();
    }
    answer
}

/// The offsets that the group committed; `None` where it committed none. The outer error code is about the group.
pub(super) async fn committed(
    client: &Arc<ClientInner>,
    group: &str,
    partitions: Vec<TopicPartition>,
    stable: bool,
) -> Result<Result<Answers<Option<OffsetAndMetadata>>, ErrorCode>, RequestError> {
    let topics = by_topic(partitions.into_iter().map(|partition| (partition, ())));
    let indexes = |partitions: &[(i32, ())]| partitions.iter().map(|(index, ())| *index).collect::<Vec<_>>();
    let build = |version: i16| {
        let mut request =
            OffsetFetchRequest { require_stable: stable && version >= 7, ..OffsetFetchRequest::default() };
        if version >= 8 {
            let topics = topics.iter().map(|(name, partitions)| OffsetFetchRequestTopics {
                name: (&**name).into(),
                partition_indexes: indexes(partitions),
                ..OffsetFetchRequestTopics::default()
            });
            request.groups = vec![OffsetFetchRequestGroup {
                group_id: group.into(),
                topics: Some(topics.collect()),
                ..OffsetFetchRequestGroup::default()
            }];
        } else {
            request.group_id = group.into();
            let topics = topics.iter().map(|(name, partitions)| OffsetFetchRequestTopic {
                name: (&**name).into(),
                partition_indexes: indexes(partitions),
            });
            request.topics = Some(topics.collect());
        }
        request
    };
    let limit = client.config.request_timeout;
    let to = Purpose::Coordination;
    let response = ask_coordinator(client, group, to, |_| (), LAST_BY_NAME, limit, build).await?;
    let mut error = response.error_code;
    let mut answers = Vec::new();
    let mut take = |topic: &str, index: i32, error: ErrorCode, offset: i64, epoch: i32, metadata: Option<&str>| {
        let committed = (offset >= 0).then(|| OffsetAndMetadata {
            offset,
            leader_epoch: (epoch >= 0).then_some(epoch),
            metadata: metadata.unwrap_or_default().to_owned(),
        });
        answers.push((TopicPartition::new(topic, index), if error.is_ok() { Ok(committed) } else { Err(error) }));
    };
    for topic in &response.topics {
        for p in &topic.partitions {
            let (epoch, text) = (p.committed_leader_epoch, p.metadata.as_deref());
            take(&topic.name, p.partition_index, p.error_code, p.committed_offset, epoch, text);
        }
    }
    for found in &response.groups {
        error = found.error_code;
        for topic in &found.topics {
            for p in &topic.partitions {
                let (epoch, text) = (p.committed_leader_epoch, p.metadata.as_deref());
                take(&topic.name, p.partition_index, p.error_code, p.committed_offset, epoch, text);
            }
        }
    }
    Ok(if error.is_ok() { Ok(answers) } else { Err(error) })
}

/// As [`committed`], with retries until the api timeout; partitions without a commit are left out. The error of one
/// partition is tried again with all.
pub(super) async fn committed_until_known(
    client: &Arc<ClientInner>,
    group: &str,
    partitions: Vec<TopicPartition>,
) -> Result<BTreeMap<TopicPartition, OffsetAndMetadata>, RequestError> {
    let answers = committed_until(client, group, partitions, |(_, answer)| answer.as_ref().err().copied()).await?;
    Ok(answers.into_iter().filter_map(|(partition, answer)| Some((partition, answer.ok()??))).collect())
}

/// As [`committed`], with retries until the api timeout of what is not about single partitions.
pub(super) async fn committed_until_answered(
    client: &Arc<ClientInner>,
    group: &str,
    partitions: Vec<TopicPartition>,
) -> Result<Answers<Option<OffsetAndMetadata>>, RequestError> {
    committed_until(client, group, partitions, |_| None).await
}

/// As [`committed`], with retries until the api timeout, also of answers in which one is `refused`, with why.
async fn committed_until(
    client: &Arc<ClientInner>,
    group: &str,
    partitions: Vec<TopicPartition>,
    refused: impl Fn(&(TopicPartition, Result<Option<OffsetAndMetadata>, ErrorCode>)) -> Option<ErrorCode>,
) -> Result<Answers<Option<OffsetAndMetadata>>, RequestError> {
    let limit = client.config.api_timeout;
    let start = client.clock.now();
    let backoff = client.retry_backoff();
    let mut attempts = 0;
    loop {
        let subject = || format!("committed offsets of group `{group}`");
        let error = match committed(client, group, partitions.clone(), true).await {
            Ok(Ok(answers)) => match answers.iter().find_map(&refused) {
                None => return Ok(answers),
                Some(error) => RequestError::broker(subject(), error, None),
            },
            Ok(Err(error)) => {
                if let Some(node) = client.coordinators.known(CoordinatorKind::Group, group) {
                    client.coordinators.invalidate(CoordinatorKind::Group, group, node);
                }
                RequestError::broker(subject(), error, None)
            }
            Err(error) => error,
        };
        if !error.class().is_retriable() {
            return Err(error);
        }
        let wait = client.chance.with(|rng| backoff.delay(attempts, rng));
        attempts += 1;
        if client.clock.now() + wait >= start + limit {
            let (api, source) = (ApiKey::OffsetFetch.name(), Box::new(error));
            return Err(RequestError::Exhausted { api, timeout: limit, attempts, source });
        }
        tokio::time::sleep(wait).await;
    }
}

/// Who commits: id and generation of a member, or nobody in particular.
#[derive(Clone, Debug)]
pub(super) struct Committer {
    pub(super) member_id: Arc<str>,
    pub(super) generation: i32,
    pub(super) instance_id: Option<Arc<str>>,
}

/// Commits; one error code per partition.
pub(super) async fn commit(
    client: &Arc<ClientInner>,
    group: &str,
    committer: &Committer,
    offsets: &[OffsetToCommit],
) -> CommitReply {
    let topics = by_topic(offsets.iter().map(|offset| (offset.partition.clone(), offset)));
    let build = |version: i16| OffsetCommitRequest {
        group_id: group.into(),
        generation_id_or_member_epoch: committer.generation,
        member_id: (&*committer.member_id).into(),
        group_instance_id: committer.instance_id.as_deref().filter(|_| version >= 7).map(Into::into),
        topics: topics
            .iter()
            .map(|(name, partitions)| OffsetCommitRequestTopic {
                name: (&**name).into(),
                partitions: partitions
                    .iter()
                    .map(|(partition_index, offset)| OffsetCommitRequestPartition {
                        partition_index: *partition_index,
                        committed_offset: offset.offset,
                        committed_leader_epoch: if version >= 6 { offset.leader_epoch } else { -1 },
                        committed_metadata: Some(offset.metadata.as_deref().unwrap_or_default().into()),
                    })
                    .collect(),
                ..OffsetCommitRequestTopic::default()
            })
            .collect(),
        ..OffsetCommitRequest::default()
    };
    let (limit, to) = (client.config.request_timeout, Purpose::Coordination);
    // Of what fails before there is a connection, the commit itself is no part.
    let mut is_connected = false;
    let connected = |_: &Connection| is_connected = true;
    let answer = ask_coordinator(client, group, to, connected, LAST_BY_NAME, limit, build).await;
    let response = answer.map_err(|error| {
        tracing::debug!(%error, "commit had no answer");
        Unanswered { written: is_connected && error.is_possibly_applied() }
    })?;
    let answers = response.topics.into_iter().flat_map(|topic| {
        let name: Arc<str> = Arc::from(&*topic.name);
        let of = move |index| TopicPartition::new(Arc::clone(&name), index);
        topic.partitions.into_iter().map(move |answer| (of(answer.partition_index), answer.error_code))
    });
    Ok(answers.collect())
}
