//! Every message in every version: what decodes must encode to bytes that decode to the same.

use bytes::{Bytes, BytesMut};
use milena_protocol::Message;
use milena_protocol::messages::*;

/// One message, by its number; the rest of the arguments are the version's number and the body.
type Law = fn(u8, &[u8]);

macro_rules! laws {
    ($name:ident: $($message:ident)*) => {
        /// The messages and what is demanded of each.
        pub const $name: &[(&str, Law)] = &[$((<$message as Message>::NAME, obeys::<$message>)),*];
    };
}

laws! {
    REQUESTS:
        AddOffsetsToTxnRequest AddPartitionsToTxnRequest AddRaftVoterRequest AlterClientQuotasRequest
        AlterConfigsRequest AlterPartitionReassignmentsRequest AlterReplicaLogDirsRequest
        AlterShareGroupOffsetsRequest AlterUserScramCredentialsRequest ApiVersionsRequest
        ConsumerGroupDescribeRequest ConsumerGroupHeartbeatRequest CreateAclsRequest CreateDelegationTokenRequest
        CreatePartitionsRequest CreateTopicsRequest DeleteAclsRequest DeleteGroupsRequest DeleteRecordsRequest
        DeleteShareGroupOffsetsRequest DeleteTopicsRequest DescribeAclsRequest DescribeClientQuotasRequest
        DescribeClusterRequest DescribeConfigsRequest DescribeDelegationTokenRequest DescribeGroupsRequest
        DescribeLogDirsRequest DescribeProducersRequest DescribeQuorumRequest DescribeShareGroupOffsetsRequest
        DescribeTopicPartitionsRequest DescribeTransactionsRequest DescribeUserScramCredentialsRequest
        ElectLeadersRequest EndTxnRequest ExpireDelegationTokenRequest FetchRequest FindCoordinatorRequest
        GetTelemetrySubscriptionsRequest HeartbeatRequest IncrementalAlterConfigsRequest InitProducerIdRequest
        JoinGroupRequest LeaveGroupRequest ListConfigResourcesRequest ListGroupsRequest ListOffsetsRequest
        ListPartitionReassignmentsRequest ListTransactionsRequest MetadataRequest OffsetCommitRequest
        OffsetDeleteRequest OffsetFetchRequest OffsetForLeaderEpochRequest ProduceRequest PushTelemetryRequest
        RemoveRaftVoterRequest RenewDelegationTokenRequest SaslAuthenticateRequest SaslHandshakeRequest
        ShareAcknowledgeRequest ShareFetchRequest ShareGroupDescribeRequest ShareGroupHeartbeatRequest
        StreamsGroupDescribeRequest StreamsGroupHeartbeatRequest StreamsGroupTopologyDescriptionUpdateRequest
        SyncGroupRequest TxnOffsetCommitRequest UnregisterBrokerRequest UnregisterControllerRequest
        UpdateFeaturesRequest WriteTxnMarkersRequest
}

laws! {
    RESPONSES:
        AddOffsetsToTxnResponse AddPartitionsToTxnResponse AddRaftVoterResponse AlterClientQuotasResponse
        AlterConfigsResponse AlterPartitionReassignmentsResponse AlterReplicaLogDirsResponse
        AlterShareGroupOffsetsResponse AlterUserScramCredentialsResponse ApiVersionsResponse
        ConsumerGroupDescribeResponse ConsumerGroupHeartbeatResponse CreateAclsResponse
        CreateDelegationTokenResponse CreatePartitionsResponse CreateTopicsResponse DeleteAclsResponse
        DeleteGroupsResponse DeleteRecordsResponse DeleteShareGroupOffsetsResponse DeleteTopicsResponse
        DescribeAclsResponse DescribeClientQuotasResponse DescribeClusterResponse DescribeConfigsResponse
        DescribeDelegationTokenResponse DescribeGroupsResponse DescribeLogDirsResponse DescribeProducersResponse
        DescribeQuorumResponse DescribeShareGroupOffsetsResponse DescribeTopicPartitionsResponse
        DescribeTransactionsResponse DescribeUserScramCredentialsResponse ElectLeadersResponse EndTxnResponse
        ExpireDelegationTokenResponse FetchResponse FindCoordinatorResponse GetTelemetrySubscriptionsResponse
        HeartbeatResponse IncrementalAlterConfigsResponse InitProducerIdResponse JoinGroupResponse
        LeaveGroupResponse ListConfigResourcesResponse ListGroupsResponse ListOffsetsResponse
        ListPartitionReassignmentsResponse ListTransactionsResponse MetadataResponse OffsetCommitResponse
        OffsetDeleteResponse OffsetFetchResponse OffsetForLeaderEpochResponse ProduceResponse
        PushTelemetryResponse RemoveRaftVoterResponse RenewDelegationTokenResponse SaslAuthenticateResponse
        SaslHandshakeResponse ShareAcknowledgeResponse ShareFetchResponse ShareGroupDescribeResponse
        ShareGroupHeartbeatResponse StreamsGroupDescribeResponse StreamsGroupHeartbeatResponse
        StreamsGroupTopologyDescriptionUpdateResponse SyncGroupResponse TxnOffsetCommitResponse
        UnregisterBrokerResponse UnregisterControllerResponse UpdateFeaturesResponse WriteTxnMarkersResponse
}

/// The first byte chooses the request, the second its version, the rest is the body.
pub fn requests(data: &[u8]) {
    choose(REQUESTS, data);
}

/// As [`requests`].
pub fn responses(data: &[u8]) {
    choose(RESPONSES, data);
}

fn choose(messages: &[(&str, Law)], data: &[u8]) {
    let [message, version, body @ ..] = data else { return };
    let (_, law) = messages[usize::from(*message) % messages.len()];
    law(*version, body);
}

fn obeys<M: Message>(version: u8, body: &[u8]) {
    let range = M::VERSIONS;
    let version = range.min + i16::from(version) % (range.max - range.min + 1);
    let Ok(value) = M::decode_exact(version, Bytes::copy_from_slice(body)) else { return };
    let mut encoded = BytesMut::new();
    value.encode(version, &mut encoded).expect("what was decoded can be encoded");
    let again = M::decode_exact(version, encoded.clone().freeze()).expect("what was encoded can be decoded");
    // Compared as bytes: a NaN is not equal to itself.
    let mut twice = BytesMut::new();
    again.encode(version, &mut twice).expect("what was decoded can be encoded");
    assert_eq!(encoded, twice, "{} {version}", M::NAME);
}
