//! Which answers carry a throttle that the client must keep (KIP-219), and where. Knows positions in bodies, nothing
//! of what the answers mean.

use std::time::Duration;

use bytes::Bytes;
use milena_protocol::ApiKey;

/// A broker cannot silence a connection for longer than this, whatever it says.
pub(crate) const LONGEST: Duration = Duration::from_secs(300);

/// The throttle at the head of an answer, if its version leaves keeping it to the client.
///
/// Older versions are throttled by the broker itself before it answers. Produce carries the field behind its
/// partitions: whoever decodes that answer calls [`Connection::throttle`](crate::Connection::throttle). ApiVersions
/// belongs to the handshake.
pub(crate) fn leading(api_key: ApiKey, version: i16, body: &Bytes) -> Option<Duration> {
    let since = match api_key {
        ApiKey::Fetch => 8,
        ApiKey::Metadata => 6,
        ApiKey::OffsetCommit | ApiKey::OffsetFetch => 4,
        ApiKey::ListOffsets | ApiKey::JoinGroup | ApiKey::CreateTopics => 3,
        ApiKey::FindCoordinator
        | ApiKey::Heartbeat
        | ApiKey::LeaveGroup
        | ApiKey::SyncGroup
        | ApiKey::DescribeGroups
        | ApiKey::ListGroups
        | ApiKey::DeleteTopics
        | ApiKey::OffsetForLeaderEpoch
        | ApiKey::DescribeConfigs => 2,
        ApiKey::DeleteRecords
        | ApiKey::InitProducerId
        | ApiKey::AddPartitionsToTxn
        | ApiKey::AddOffsetsToTxn
        | ApiKey::EndTxn
        | ApiKey::TxnOffsetCommit
        | ApiKey::CreatePartitions
        | ApiKey::DeleteGroups => 1,
        ApiKey::IncrementalAlterConfigs
        | ApiKey::OffsetDelete
        | ApiKey::DescribeCluster
        | ApiKey::DescribeTopicPartitions => 0,
        _ => return None,
    };
    if version < since {
        return None;
    }
    let throttle = match api_key {
        // The only one here whose error code comes first.
        ApiKey::OffsetDelete => body.get(2..6)?,
        _ => body.get(..4)?,
    };
    from_millis(i32::from_be_bytes(throttle.try_into().expect("the slice has four bytes")))
}

/// A throttle as the wire has it: nothing if it is not positive, else at most [`LONGEST`].
pub(crate) fn from_millis(millis: i32) -> Option<Duration> {
    let millis = u64::try_from(millis).ok().filter(|millis| *millis > 0)?;
    Some(Duration::from_millis(millis).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttle_is_read_where_the_client_must_keep_it() {
        let body = Bytes::from_static(&[0, 0, 0x03, 0xe8, 0, 0]);
        assert_eq!(leading(ApiKey::Fetch, 8, &body), Some(Duration::from_secs(1)));
        assert_eq!(leading(ApiKey::Fetch, 7, &body), None);
        assert_eq!(leading(ApiKey::Produce, 9, &body), None);
        let body = Bytes::from_static(&[0, 16, 0, 0, 0x03, 0xe8]);
        assert_eq!(leading(ApiKey::OffsetDelete, 0, &body), Some(Duration::from_secs(1)));
    }

    #[test]
    fn absurd_throttles_are_cut() {
        assert_eq!(leading(ApiKey::Metadata, 12, &Bytes::from_static(&[0x7f, 0xff, 0xff, 0xff])), Some(LONGEST));
        assert_eq!(leading(ApiKey::Metadata, 12, &Bytes::from_static(&[0xff, 0xff, 0xff, 0xff])), None);
        assert_eq!(leading(ApiKey::Metadata, 12, &Bytes::from_static(&[0, 0])), None);
        assert_eq!(from_millis(0), None);
    }
}
