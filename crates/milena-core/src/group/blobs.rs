//! What members tell one another through the coordinator, which doesn't look inside: subscriptions and assignments
//! (`ConsumerProtocol*`), and the user data of the sticky assignors. Another member's malformed blob costs that member
//! its claims and nobody else anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use milena_protocol::{
    DecodeError, Message, TopicName,
    messages::{
        ConsumerProtocolAssignment, ConsumerProtocolSubscription, consumer_protocol_assignment,
        consumer_protocol_subscription,
    },
};

use super::assignor::{Assignor, GroupMember};
use crate::consumer::TopicPartition;

/// What we tell the leader about ourselves.
pub(super) struct OwnSubscription<'a> {
    pub(super) topics: &'a BTreeSet<Arc<str>>,
    pub(super) owned: &'a BTreeSet<TopicPartition>,
    pub(super) generation: i32,
    pub(super) last_assignment: Option<&'a (Vec<TopicPartition>, i32)>,
    pub(super) rack: Option<&'a str>,
}

impl OwnSubscription<'_> {
    pub(super) fn write(&self, assignor: Assignor) -> Bytes {
        let user_data = match assignor {
            Assignor::Range | Assignor::RoundRobin => None,
            Assignor::Sticky => self.last_assignment.map(|(held, generation)| sticky_user_data(held, *generation)),
            // Members of before KIP-792 look for the generation here.
            Assignor::CooperativeSticky => Some(Bytes::copy_from_slice(&self.generation.to_be_bytes())),
        };
        let subscription = ConsumerProtocolSubscription {
            topics: self.topics.iter().map(|topic| (&**topic).into()).collect(),
            user_data,
            owned_partitions: by_topic(self.owned.iter())
                .into_iter()
                .map(|(topic, partitions)| consumer_protocol_subscription::TopicPartition {
                    topic: TopicName::from(topic),
                    partitions,
                })
                .collect(),
            generation_id: self.generation,
            rack_id: self.rack.map(Into::into),
        };
        versioned(&subscription)
    }
}

/// A member as its blob describes it; with nothing but its id when the blob can't be read.
pub(super) fn read_member(
    assignor: Assignor,
    member_id: Arc<str>,
    instance_id: Option<Arc<str>>,
    blob: &Bytes,
) -> GroupMember {
    let nobody = GroupMember { member_id: Arc::clone(&member_id), instance_id, ..GroupMember::default() };
    let Ok(subscription) = read_versioned::<ConsumerProtocolSubscription>(blob) else { return nobody };
    let owned = subscription
        .owned_partitions
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|partition| TopicPartition::new(&*topic.topic, *partition)))
        .collect();
    let told = (subscription.generation_id >= 0).then_some(subscription.generation_id);
    let (owned, generation) = match (assignor, &subscription.user_data) {
        (Assignor::Sticky, Some(data)) => read_sticky_user_data(data),
        (Assignor::Sticky, None) => (Vec::new(), None),
        (Assignor::CooperativeSticky, Some(data)) if told.is_none() && data.len() >= 4 => {
            (owned, Some(data.slice(..4).get_i32()))
        }
        _ => (owned, told),
    };
    GroupMember {
        topics: subscription
            .topics
            .iter()
            .map(|topic| Arc::from(&**topic))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
        owned,
        generation,
        rack: subscription.rack_id.as_deref().map(Arc::from),
        ..nobody
    }
}

/// An assignment as SyncGroup carries it.
pub(super) fn write_assignment(partitions: &[TopicPartition]) -> Bytes {
    let assigned_partitions = by_topic(partitions.iter())
        .into_iter()
        .map(|(topic, partitions)| consumer_protocol_assignment::TopicPartition {
            topic: TopicName::from(topic),
            partitions,
        })
        .collect();
    versioned(&ConsumerProtocolAssignment { assigned_partitions, user_data: None })
}

/// The partitions of an assignment; an empty blob is an empty assignment.
pub(super) fn read_assignment(blob: &Bytes) -> Result<Vec<TopicPartition>, DecodeError> {
    if blob.is_empty() {
        return Ok(Vec::new());
    }
    let assignment = read_versioned::<ConsumerProtocolAssignment>(blob)?;
    Ok(assignment
        .assigned_partitions
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|partition| TopicPartition::new(&*topic.topic, *partition)))
        .collect())
}

fn by_topic<'a>(partitions: impl Iterator<Item = &'a TopicPartition>) -> BTreeMap<&'a str, Vec<i32>> {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for tp in partitions {
        topics.entry(&tp.topic).or_default().push(tp.partition);
    }
    topics
}

fn versioned<M: Message>(message: &M) -> Bytes {
    let version = M::VERSIONS.max;
    let mut buffer = BytesMut::new();
    buffer.put_i16(version);
    // Names too long for the wire fail here; the coordinator then sees a member without a subscription.
    if message.encode(version, &mut buffer).is_err() {
        buffer.truncate(2);
    }
    buffer.freeze()
}

/// Reads a blob of any version: a later one has our fields first, and what follows is not for us.
fn read_versioned<M: Message>(blob: &Bytes) -> Result<M, DecodeError> {
    let mut rest = blob.clone();
    if rest.remaining() < 2 {
        return Err(DecodeError::UnexpectedEnd { field: "version of the blob", needed: 2, left: rest.remaining() });
    }
    let version = rest.get_i16();
    M::decode(version.min(M::VERSIONS.max).max(M::VERSIONS.min), &mut rest)
}

fn sticky_user_data(held: &[TopicPartition], generation: i32) -> Bytes {
    let topics = by_topic(held.iter());
    let mut out = BytesMut::new();
    out.put_i32(topics.len() as i32);
    for (topic, partitions) in topics {
        out.put_i16(topic.len() as i16);
        out.put_slice(topic.as_bytes());
        out.put_i32(partitions.len() as i32);
        partitions.into_iter().for_each(|partition| out.put_i32(partition));
    }
    out.put_i32(generation);
    out.freeze()
}

/// Version 1 ends in the generation, version 0 does not; anything else claims nothing.
fn read_sticky_user_data(data: &Bytes) -> (Vec<TopicPartition>, Option<i32>) {
    if data.is_empty() {
        return (Vec::new(), None);
    }
    let mut rest = data.clone();
    match read_claims(&mut rest) {
        Some(claims) if rest.remaining() >= 4 => (claims, Some(rest.get_i32())),
        Some(claims) => (claims, None),
        None => (Vec::new(), Some(-1)),
    }
}

fn read_claims(rest: &mut Bytes) -> Option<Vec<TopicPartition>> {
    let mut claims = Vec::new();
    for _ in 0..read_i32(rest)? {
        if rest.remaining() < 2 {
            return None;
        }
        let length = usize::try_from(rest.get_i16()).ok()?;
        if rest.remaining() < length {
            return None;
        }
        let topic: Arc<str> = Arc::from(std::str::from_utf8(&rest.split_to(length)).ok()?);
        for _ in 0..read_i32(rest)? {
            claims.push(TopicPartition { topic: Arc::clone(&topic), partition: read_i32(rest)? });
        }
    }
    Some(claims)
}

fn read_i32(rest: &mut Bytes) -> Option<i32> {
    (rest.remaining() >= 4).then(|| rest.get_i32())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn held() -> Vec<TopicPartition> {
        vec![TopicPartition::new("a", 0), TopicPartition::new("a", 3), TopicPartition::new("b", 1)]
    }

    fn written(assignor: Assignor) -> Bytes {
        OwnSubscription {
            topics: &BTreeSet::from(["a".into(), "b".into()]),
            owned: &held().into_iter().collect(),
            generation: 7,
            last_assignment: Some(&(held(), 6)),
            rack: Some("east"),
        }
        .write(assignor)
    }

    #[test]
    fn subscription_comes_back_as_each_assignor_reads_it() {
        for (assignor, generation) in [(Assignor::Range, 7), (Assignor::Sticky, 6), (Assignor::CooperativeSticky, 7)] {
            let member = read_member(assignor, "m".into(), Some("i".into()), &written(assignor));
            assert_eq!(member.topics, vec![Arc::from("a"), Arc::from("b")]);
            assert_eq!((member.owned, member.generation), (held(), Some(generation)), "{assignor}");
            assert_eq!(member.rack.as_deref(), Some("east"));
        }
    }

    #[test]
    fn subscription_bytes_are_javas() {
        // ConsumerProtocol.serializeSubscription of kafka-clients 4.4.0, version 3: topics [a, b], no user data,
        // owned a-0 a-3 b-1, generation 7, rack east.
        let java = b"\0\x03\0\0\0\x02\0\x01a\0\x01b\xff\xff\xff\xff\0\0\0\x02\0\x01a\0\0\0\x02\0\0\0\0\0\0\0\x03\
\0\x01b\0\0\0\x01\0\0\0\x01\0\0\0\x07\0\x04east";
        assert_eq!(&written(Assignor::Range)[..], &java[..]);
    }

    #[test]
    fn assignment_comes_back_and_an_empty_one_is_empty() {
        assert_eq!(read_assignment(&write_assignment(&held())).unwrap(), held());
        assert_eq!(read_assignment(&Bytes::new()).unwrap(), vec![]);
        assert!(read_assignment(&Bytes::from_static(b"\0")).is_err());
    }

    #[test]
    fn later_versions_and_trailing_bytes_are_read_as_far_as_known() {
        let mut blob = BytesMut::from(&written(Assignor::Range)[..]);
        blob[1] = 9;
        blob.put_slice(b"of a later version");
        let member = read_member(Assignor::Range, "m".into(), None, &blob.freeze());
        assert_eq!(member.owned, held());
    }

    proptest! {
        #[test]
        fn malformed_blobs_claim_nothing_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0..80usize) {
            let blob = Bytes::from(bytes);
            for assignor in Assignor::ALL {
                let member = read_member(assignor, "m".into(), None, &blob);
                prop_assert_eq!(&*member.member_id, "m");
                let whole = written(assignor);
                let member = read_member(assignor, "m".into(), None, &whole.slice(..cut.min(whole.len() - 1)));
                prop_assert!(member.owned.is_empty() || cut > 20);
            }
            let _ = read_assignment(&blob);
        }
    }
}
