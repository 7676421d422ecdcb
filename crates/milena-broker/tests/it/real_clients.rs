//! What is offered holds for the clients that there are: one that finds none of its versions turns away.

use milena_broker::Broker;
use milena_protocol::{
    ApiKey::{
        self, AddOffsetsToTxn, AddPartitionsToTxn, AlterConfigs, ApiVersions, ConsumerGroupDescribe,
        ConsumerGroupHeartbeat, CreatePartitions, CreateTopics, DeleteGroups, DeleteRecords, DeleteTopics,
        DescribeCluster, DescribeConfigs, DescribeGroups, DescribeTopicPartitions, EndTxn, Fetch, FindCoordinator,
        Heartbeat, IncrementalAlterConfigs, InitProducerId, JoinGroup, LeaveGroup, ListGroups, ListOffsets,
        ListPartitionReassignments, Metadata, OffsetCommit, OffsetFetch, OffsetForLeaderEpoch, Produce, SyncGroup,
        TxnOffsetCommit,
    },
    messages::ApiVersionsRequest,
};

use crate::client::Client;

/// Which versions were seen on a broker of Kafka 4.4.0, from kcat 1.7 (librdkafka 2.0.2), confluent-kafka-python,
/// aiokafka, kafka-python, franz-go, sarama, kafka-go, kafkajs, @platformatic/kafka, and Java's clients and tools. Old
/// ones are no relics: kafka-go still asks for Heartbeat 0, kcat for ListOffsets 2.
const SEEN: [(ApiKey, &[i16]); 26] = [
    (Produce, &[7, 8, 9, 10, 11, 13]),
    (Fetch, &[10, 11, 12, 16, 17, 18]),
    (ListOffsets, &[1, 2, 3, 5, 6, 7, 9, 11]),
    (Metadata, &[4, 5, 6, 8, 11, 12, 13]),
    (OffsetCommit, &[2, 3, 5, 7, 8, 9, 10]),
    (OffsetFetch, &[1, 3, 4, 5, 7, 8, 9, 10]),
    (FindCoordinator, &[0, 1, 2, 3, 6]),
    (JoinGroup, &[2, 5, 7, 8, 9]),
    (Heartbeat, &[0, 1, 3, 4]),
    (LeaveGroup, &[0, 1, 3, 4, 5]),
    (SyncGroup, &[0, 3, 5]),
    (DescribeGroups, &[2, 3, 5, 6]),
    (ListGroups, &[1, 2, 5]),
    (ApiVersions, &[0, 2, 3, 4, 5]),
    (CreateTopics, &[3, 4, 5, 7]),
    (DeleteTopics, &[1, 3, 4, 6]),
    (DeleteRecords, &[1, 2]),
    (InitProducerId, &[0, 1, 4, 5]),
    (OffsetForLeaderEpoch, &[4]),
    (DescribeConfigs, &[1, 2, 3, 4]),
    (CreatePartitions, &[1, 2, 3]),
    (DeleteGroups, &[1, 2, 3]),
    (IncrementalAlterConfigs, &[0, 1]),
    (ListPartitionReassignments, &[0]),
    (DescribeCluster, &[2]),
    (DescribeTopicPartitions, &[0]),
];

/// Seen, and not served: transactions, the newer group protocol, the older way to alter configs. A client that is told
/// so does without, or says what it misses. Whoever serves one of them moves it up.
const NOT_SERVED: [ApiKey; 7] = [
    AddPartitionsToTxn,
    AddOffsetsToTxn,
    EndTxn,
    TxnOffsetCommit,
    AlterConfigs,
    ConsumerGroupHeartbeat,
    ConsumerGroupDescribe,
];

#[tokio::test(start_paused = true)]
async fn every_version_that_real_clients_ask_for_is_offered() {
    let broker = Broker::builder().build();
    let mut client = Client::to(&broker, 0);
    let offered = client.call(0, &ApiVersionsRequest::default()).await.api_keys;
    let find = |api: ApiKey| offered.iter().find(|key| key.api_key == i16::from(api));
    for (api, versions) in SEEN {
        let range = find(api).unwrap_or_else(|| panic!("{api:?} is not offered"));
        for version in versions {
            let is_offered = (range.min_version..=range.max_version).contains(version);
            assert!(is_offered, "{api:?} {version}: only {} to {}", range.min_version, range.max_version);
        }
    }
    for api in NOT_SERVED {
        assert!(find(api).is_none(), "{api:?} is served now: write down which versions of it were seen");
    }
}
