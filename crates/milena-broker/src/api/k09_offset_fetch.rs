//! OffsetFetch (9), versions 1–10: a group's committed offsets; from version 8 of several groups. As Kafka.

use milena_protocol::{
    ErrorCode, GroupId, StrBytes, TopicName, Uuid, VersionRange,
    messages::{
        OffsetFetchRequest, OffsetFetchResponse,
        offset_fetch_request::OffsetFetchRequestGroup,
        offset_fetch_response::{
            OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
            OffsetFetchResponseTopic, OffsetFetchResponseTopics,
        },
    },
};

use super::{NoReply, RequestContext, Subject, group_access};
use crate::{fault::Touched, group::offsets::CommittedOffset};

pub(crate) const VERSIONS: VersionRange = VersionRange::new(1, 10);

/// From here on the answer has an error of its own, and no topics means all.
const TOP_ERROR: i16 = 2;
/// From here on a request may name several groups.
const MANY_GROUPS: i16 = 8;
/// From here on a topic is given by its id.
const TOPIC_IDS: i16 = 10;

const NO_OFFSET: i64 = -1;
const NO_EPOCH: i32 = -1;

impl Subject for OffsetFetchRequest {
    fn touched(&self, _cx: &RequestContext<'_>) -> Touched {
        let group = self.groups.first().map_or(&self.group_id, |group| &group.group_id);
        let old = self.topics.iter().flatten().map(|topic| (&topic.name, &topic.partition_indexes));
        let groups = self.groups.iter().flat_map(|group| group.topics.iter().flatten());
        let topics = old.chain(groups.map(|topic| (&topic.name, &topic.partition_indexes)));
        let partitions = topics.flat_map(|(name, indexes)| indexes.iter().map(|index| (name.to_string(), *index)));
        Touched { partitions: partitions.collect(), key: Some(group.to_string()) }
    }
}

/// One partition's answer, in the shape of no version.
struct Answer {
    partition: i32,
    committed: Option<CommittedOffset>,
    error_code: ErrorCode,
}

struct TopicAnswer {
    name: TopicName,
    id: Uuid,
    partitions: Vec<Answer>,
}

pub(crate) async fn handle(
    cx: &RequestContext<'_>,
    request: OffsetFetchRequest,
) -> Result<OffsetFetchResponse, NoReply> {
    let mut response = OffsetFetchResponse::default();
    if cx.version >= MANY_GROUPS {
        response.groups = request.groups.into_iter().map(|group| answer_group(cx, group)).collect();
        return Ok(response);
    }
    let wanted = request.topics.map(|topics| {
        let topics = topics.into_iter();
        topics.map(|topic| (topic.name, Uuid::ZERO, topic.partition_indexes)).collect()
    });
    let error = group_access::check(cx, &request.group_id).err();
    if let Some(error) = error.filter(|_| cx.version >= TOP_ERROR) {
        response.error_code = error;
        return Ok(response);
    }
    let topics = answer_topics(cx, &request.group_id, wanted, error);
    let topics = topics.into_iter().map(|topic| OffsetFetchResponseTopic {
        name: topic.name,
        partitions: topic.partitions.into_iter().map(old_partition).collect(),
    });
    response.topics = topics.collect();
    Ok(response)
}

fn answer_group(cx: &RequestContext<'_>, group: OffsetFetchRequestGroup) -> OffsetFetchResponseGroup {
    let mut response = OffsetFetchResponseGroup { group_id: group.group_id, ..OffsetFetchResponseGroup::default() };
    if let Err(error) = group_access::check(cx, &response.group_id) {
        response.error_code = error;
        return response;
    }
    let wanted = group.topics.map(|topics| {
        let topics = topics.into_iter();
        topics.map(|topic| (topic.name, topic.topic_id, topic.partition_indexes)).collect()
    });
    let topics = answer_topics(cx, &response.group_id, wanted, None);
    let topics = topics.into_iter().map(|topic| OffsetFetchResponseTopics {
        name: topic.name,
        topic_id: topic.id,
        partitions: topic.partitions.into_iter().map(new_partition).collect(),
    });
    response.topics = topics.collect();
    response
}

fn answer_topics(
    cx: &RequestContext<'_>,
    group_id: &GroupId,
    wanted: Option<Vec<(TopicName, Uuid, Vec<i32>)>>,
    error: Option<ErrorCode>,
) -> Vec<TopicAnswer> {
    let Some(wanted) = wanted else { return all_topics(cx, group_id) };
    let by_id = cx.version >= TOPIC_IDS;
    let answer = |(name, id, partitions): (TopicName, Uuid, Vec<i32>)| {
        // A topic that is gone has no offsets, which is no error; an id that nobody knows is one.
        let (known, error) = match cx.core.cluster.resolve(&name, id, by_id) {
            Ok(topic) => (topic.name.clone(), error),
            Err(unknown) if by_id => (name.clone(), Some(unknown)),
            Err(_) => (name.clone(), error),
        };
        let answer = |partition| {
            let error = error.or_else(|| cx.effects.partition_error(&known, partition, false));
            let committed = match error {
                None => cx.core.groups.committed(group_id, &known, partition),
                Some(_) => None,
            };
            Answer { partition, committed, error_code: error.unwrap_or(ErrorCode::NONE) }
        };
        TopicAnswer { partitions: partitions.into_iter().map(answer).collect(), name, id }
    };
    wanted.into_iter().map(answer).collect()
}

fn all_topics(cx: &RequestContext<'_>, group_id: &GroupId) -> Vec<TopicAnswer> {
    let mut topics: Vec<TopicAnswer> = Vec::new();
    for (name, partition, committed) in cx.core.groups.all_committed(group_id) {
        let answer = Answer { partition, committed: Some(committed), error_code: ErrorCode::NONE };
        match topics.last_mut().filter(|topic| *topic.name == *name) {
            Some(topic) => topic.partitions.push(answer),
            None => {
                let id = cx.core.cluster.topic(&name).map_or(Uuid::ZERO, |topic| topic.id);
                topics.push(TopicAnswer { name: TopicName::from(name), id, partitions: vec![answer] });
            }
        }
    }
    topics
}

fn old_partition(answer: Answer) -> OffsetFetchResponsePartition {
    let (committed_offset, committed_leader_epoch, metadata) = parts(answer.committed);
    OffsetFetchResponsePartition {
        partition_index: answer.partition,
        committed_offset,
        committed_leader_epoch,
        metadata,
        error_code: answer.error_code,
    }
}

fn new_partition(answer: Answer) -> OffsetFetchResponsePartitions {
    let (committed_offset, committed_leader_epoch, metadata) = parts(answer.committed);
    OffsetFetchResponsePartitions {
        partition_index: answer.partition,
        committed_offset,
        committed_leader_epoch,
        metadata,
        error_code: answer.error_code,
    }
}

fn parts(committed: Option<CommittedOffset>) -> (i64, i32, Option<StrBytes>) {
    match committed {
        Some(held) => (held.offset, held.leader_epoch, Some(StrBytes::from(held.metadata))),
        None => (NO_OFFSET, NO_EPOCH, Some(StrBytes::EMPTY)),
    }
}
