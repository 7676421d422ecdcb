//! DescribeTopicPartitions (75), version 0: topics with their partitions, page by page (KIP-966).
//!
//! As Kafka, without eligible leader replicas: nothing is ever out of sync but by a stopped node.

use milena_protocol::{
    ErrorCode, NodeId, TopicName, VersionRange,
    messages::{
        DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
        describe_topic_partitions_response::{
            Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
        },
    },
};

use super::{NoReply, RequestContext, Subject, operations};
use crate::{
    cluster::{ClusterImage, PartitionImage, TopicImage, check_topic_name},
    fault::Touched,
};

pub(crate) const VERSIONS: VersionRange = VersionRange::new(0, 0);

/// `max.request.partition.size.limit`.
const MOST_PARTITIONS: i32 = 2000;

impl Subject for DescribeTopicPartitionsRequest {
    fn touched(&self, _cx: &RequestContext<'_>) -> Touched {
        let topics = self.topics.iter().map(|topic| (topic.name.to_string(), -1));
        Touched { partitions: topics.collect(), key: None }
    }
}

pub(crate) async fn handle(
    cx: &RequestContext<'_>,
    request: DescribeTopicPartitionsRequest,
) -> Result<DescribeTopicPartitionsResponse, NoReply> {
    let image = ClusterImage::of(&cx.core.cluster, None);
    // Without names: all topics. Kafka answers in the order of the names either way.
    let mut names: Vec<TopicName> = if request.topics.is_empty() {
        image.topics.keys().cloned().collect()
    } else {
        request.topics.into_iter().map(|topic| topic.name).collect()
    };
    names.sort();
    names.dedup();
    let cursor = request.cursor.as_ref();
    let mut room = usize::try_from(request.response_partition_limit.clamp(1, MOST_PARTITIONS)).unwrap_or(1);
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in names {
        if cursor.is_some_and(|cursor| name < cursor.topic_name) {
            continue;
        }
        let from = cursor.filter(|cursor| cursor.topic_name == name).map_or(0, |cursor| cursor.partition_index.max(0));
        if room == 0 {
            response.next_cursor = Some(Cursor { topic_name: name, partition_index: 0 });
            break;
        }
        let Some(topic) = image.topics.get(&name) else {
            response.topics.push(unknown(name));
            continue;
        };
        let described = describe(cx, &name, topic, from, room);
        room -= described.partitions.len();
        let next = from + i32::try_from(described.partitions.len()).unwrap_or(i32::MAX);
        response.topics.push(described);
        if usize::try_from(next).is_ok_and(|next| next < topic.partitions.len()) {
            response.next_cursor = Some(Cursor { topic_name: name, partition_index: next });
            break;
        }
    }
    Ok(response)
}

fn unknown(name: TopicName) -> DescribeTopicPartitionsResponseTopic {
    let legal = check_topic_name(&name).is_ok();
    let error_code = if legal { ErrorCode::UNKNOWN_TOPIC_OR_PARTITION } else { ErrorCode::INVALID_TOPIC_EXCEPTION };
    let topic_authorized_operations = operations::of_topic(true);
    DescribeTopicPartitionsResponseTopic {
        error_code,
        name: Some(name),
        topic_authorized_operations,
        ..Default::default()
    }
}

fn describe(
    cx: &RequestContext<'_>,
    name: &TopicName,
    topic: &TopicImage,
    from: i32,
    room: usize,
) -> DescribeTopicPartitionsResponseTopic {
    let partitions = topic.partitions.iter().filter(|partition| partition.index >= from).take(room);
    DescribeTopicPartitionsResponseTopic {
        error_code: cx.effects.partition_error(name, -1, false).unwrap_or(ErrorCode::NONE),
        name: Some(name.clone()),
        topic_id: topic.id,
        is_internal: false,
        partitions: partitions.map(describe_partition).collect(),
        topic_authorized_operations: operations::of_topic(true),
    }
}

fn describe_partition(partition: &PartitionImage) -> DescribeTopicPartitionsResponsePartition {
    let led = partition.leader.is_some();
    DescribeTopicPartitionsResponsePartition {
        error_code: if led { ErrorCode::NONE } else { ErrorCode::LEADER_NOT_AVAILABLE },
        partition_index: partition.index,
        leader_id: partition.leader.unwrap_or(NodeId(-1)),
        leader_epoch: partition.leader_epoch,
        replica_nodes: partition.replicas.clone(),
        isr_nodes: partition.in_sync.clone(),
        eligible_leader_replicas: Some(Vec::new()),
        last_known_elr: Some(Vec::new()),
        offline_replicas: partition.offline.clone(),
    }
}
