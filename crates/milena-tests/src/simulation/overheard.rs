//! What a client says to a broker and is told by it, as far as a promise is about it: commits as they are sent, who takes
//! part in which generation, where a member is told to begin, and fetches that brought nothing but an error. Listens, and
//! changes nothing.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use milena_protocol::fetch::FetchReply;
use milena_protocol::frame::{FrameDecoder, decode_request_header};
use milena_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse, OffsetFetchResponse, SyncGroupRequest};
use milena_protocol::{ApiKey, Decode as _};

use crate::history::{Committer, History};

/// No frame of a run is larger.
const LARGEST: usize = 1 << 26;

/// Answers that begin with how long the broker asks to be left alone, in every version that our brokers speak.
const THROTTLED: [ApiKey; 7] = [
    ApiKey::Fetch,
    ApiKey::ListOffsets,
    ApiKey::Metadata,
    ApiKey::FindCoordinator,
    ApiKey::JoinGroup,
    ApiKey::Heartbeat,
    ApiKey::InitProducerId,
];

/// Both directions of one link.
#[derive(Debug)]
pub(super) struct Talk {
    /// The client whose it is.
    client: u64,
    to_broker: FrameDecoder,
    to_client: FrameDecoder,
    /// Requests whose answers are listened for, by correlation id.
    open: HashMap<i32, Open>,
}

#[derive(Debug)]
struct Open {
    api: ApiKey,
    version: i16,
    commit: Option<(Committer, Vec<(i32, i64)>)>,
}

/// What is for others to act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The coordinator has dealt with a commit.
    Commit,
    /// A fetch was answered with errors or directions alone.
    VainFetch,
    /// The broker asks to be left alone on this link for so long (KIP-219).
    Throttle(Duration),
}

impl Talk {
    pub(super) fn new(client: u32) -> Self {
        let (to_broker, to_client) = (FrameDecoder::new(LARGEST), FrameDecoder::new(LARGEST));
        Self { client: u64::from(client), to_broker, to_client, open: HashMap::new() }
    }

    /// The client says this.
    pub(super) fn asks(&mut self, bytes: &[u8], history: &mut History) {
        self.to_broker.push(bytes);
        while let Ok(Some(frame)) = self.to_broker.next_frame() {
            // None that a client of ours sends is malformed, or the broker says so.
            let _ = self.ask(frame, history);
        }
    }

    fn ask(&mut self, mut frame: Bytes, history: &mut History) -> Option<()> {
        let header = decode_request_header(&mut frame).ok()?;
        let (api, version) = (ApiKey::try_from(header.api_key).ok()?, header.api_version);
        let mut commit = None;
        match api {
            ApiKey::SyncGroup => {
                let request = SyncGroupRequest::decode(version, &mut frame).ok()?;
                history.synced(self.client, request.generation_id);
            }
            ApiKey::OffsetCommit => {
                let request = OffsetCommitRequest::decode(version, &mut frame).ok()?;
                let by = Committer {
                    member: request.member_id.as_str().to_owned(),
                    generation: request.generation_id_or_member_epoch,
                };
                let partitions = request.topics.iter().flat_map(|topic| &topic.partitions);
                let offsets: Vec<_> = partitions.map(|of| (of.partition_index, of.committed_offset)).collect();
                offsets.iter().for_each(|(partition, offset)| history.commit_sent(&by, *partition, *offset));
                commit = Some((by, offsets));
            }
            api if api == ApiKey::OffsetFetch || THROTTLED.contains(&api) => {}
            _ => return None,
        }
        if api != ApiKey::SyncGroup {
            self.open.insert(header.correlation_id, Open { api, version, commit });
        }
        Some(())
    }

    /// The broker says this.
    pub(super) fn answers(&mut self, bytes: &[u8], history: &mut History) -> Vec<Heard> {
        self.to_client.push(bytes);
        let mut heard = Vec::new();
        while let Ok(Some(frame)) = self.to_client.next_frame() {
            self.answer(frame, history, &mut heard);
        }
        heard
    }

    fn answer(&mut self, mut frame: Bytes, history: &mut History, heard: &mut Vec<Heard>) -> Option<()> {
        let correlation = i32::from_be_bytes(*frame.first_chunk()?);
        let Open { api, version, commit } = self.open.remove(&correlation)?;
        milena_protocol::frame::decode_response_header(&mut frame, api, version).ok()?;
        if THROTTLED.contains(&api)
            && let Ok(throttle @ 1..) = u64::try_from(i32::from_be_bytes(*frame.first_chunk()?))
        {
            heard.push(Heard::Throttle(Duration::from_millis(throttle)));
        }
        match api {
            ApiKey::OffsetCommit => {
                OffsetCommitResponse::decode(version, &mut frame).ok()?;
                let (by, offsets) = commit?;
                offsets.iter().for_each(|(partition, offset)| history.commit_answered(&by, *partition, *offset));
                heard.push(Heard::Commit);
            }
            ApiKey::OffsetFetch => {
                let response = OffsetFetchResponse::decode(version, &mut frame).ok()?;
                let by_group = response.groups.iter().flat_map(|group| &group.topics);
                for of in by_group.flat_map(|topic| &topic.partitions).filter(|of| of.error_code.is_ok()) {
                    history.told(self.client, of.partition_index, of.committed_offset);
                }
                for of in response.topics.iter().flat_map(|topic| &topic.partitions) {
                    if of.error_code.is_ok() {
                        history.told(self.client, of.partition_index, of.committed_offset);
                    }
                }
            }
            ApiKey::Fetch => {
                let reply = FetchReply::decode(version, frame).ok()?;
                let is_empty = reply.partitions.iter().all(|of| of.records.is_empty());
                let has_more = |of: &milena_protocol::fetch::FetchedPartition| {
                    of.error_code.is_error() || of.preferred_read_replica.is_some()
                };
                let is_vain = is_empty && (reply.error_code.is_error() || reply.partitions.iter().any(has_more));
                heard.extend(is_vain.then_some(Heard::VainFetch));
            }
            _ => {}
        }
        Some(())
    }
}
