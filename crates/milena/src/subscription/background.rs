//! What a subscription asks of brokers beside its turns: commits, positions, offsets to seek, members of the group.
//!
//! Each is one future that ends within the client's time limits and says what it found; none touches the driver's state.

use std::sync::Weak;

use milena_admin::{Admin, OffsetSpec};
use milena_client::consumer::{AssignmentEpoch, Consumer, OffsetRefused};
use milena_client::{Client, TopicPartition};

use super::driver::describe;
use super::handle::SeekTo;
use crate::bus::Inner;

/// What was found out.
#[derive(Debug)]
pub(super) enum Background {
    /// A commit was answered.
    Committed {
        committed: Vec<(TopicPartition, i64)>,
        /// Not committed, for another reason than that the partition is somebody else's by now.
        refused: Vec<TopicPartition>,
        error: Option<String>,
        /// Partitions that are given up once this is answered.
        given_up: Vec<TopicPartition>,
    },
    /// The offset that a seek goes to.
    Found { partition: TopicPartition, result: Result<i64, String> },
    /// Members of the group that read none of this bus's topics.
    ForeignMembers(Vec<String>),
    /// Nothing that anybody needs to know.
    Nothing,
}

/// Finds the offset that a seek names.
pub(super) async fn find_offset(client: Client, partition: TopicPartition, to: SeekTo) -> Background {
    let spec = match to {
        SeekTo::Offset(offset) => return Background::Found { partition, result: Ok(offset) },
        SeekTo::Beginning => OffsetSpec::Earliest,
        SeekTo::End => OffsetSpec::Latest,
        SeekTo::Timestamp(millis) => OffsetSpec::AtTimestamp(millis),
    };
    let admin = Admin::new(&client);
    let mut result = list_offset(&admin, &partition, spec).await;
    if result == Ok(None) {
        // No record is that young: go on with whatever comes next.
        result = list_offset(&admin, &partition, OffsetSpec::Latest).await;
    }
    let result = result.and_then(|offset| offset.ok_or_else(|| "the broker named no offset".to_owned()));
    Background::Found { partition, result }
}

async fn list_offset(admin: &Admin, partition: &TopicPartition, spec: OffsetSpec) -> Result<Option<i64>, String> {
    let mut listed = admin.list_offsets(&[(partition.clone(), spec)]).await.map_err(|error| describe(&error))?;
    let (_, result) = listed.pop().ok_or_else(|| "the broker named no offset".to_owned())?;
    result.map(|listed| listed.offset).map_err(|error| describe(&error))
}

/// Commits offsets, each in the epoch that its records belong to.
pub(super) async fn commit(
    consumer: Consumer,
    offsets: Vec<(TopicPartition, i64, AssignmentEpoch)>,
    given_up: Vec<TopicPartition>,
) -> Background {
    let asked = offsets.iter().map(|(partition, offset, epoch)| (partition.clone(), (*offset).into(), *epoch));
    let result = consumer.commit(asked).await;
    let mut committed: Vec<_> = offsets.into_iter().map(|(partition, offset, _)| (partition, offset)).collect();
    let (mut refused, mut error) = (Vec::new(), None);
    if let Err(failed) = result {
        committed.retain(|(partition, _)| !failed.refused.iter().any(|(refused, _)| refused == partition));
        for (partition, why) in failed.refused {
            // Whoever has the partition by now decides what is committed.
            if why != OffsetRefused::StaleEpoch {
                error.get_or_insert_with(|| format!("{partition}: {}", describe(&why)));
                refused.push(partition);
            }
        }
    }
    Background::Committed { committed, refused, error, given_up }
}

/// Looks for members of the group that read none of the topics that this bus reads in it: somebody has copied the
/// group's name, and every rebalance of theirs is ours too.
pub(super) async fn find_foreign_members(client: Client, group: String, bus: Weak<Inner>) -> Background {
    let admin = Admin::new(&client);
    let members = match admin.describe_groups(&[&group]).await.map(|mut groups| groups.pop()) {
        Ok(Some((_, Ok(description)))) => description.members,
        Ok(_) => return Background::Nothing,
        Err(error) => {
            tracing::debug!(group, error = describe(&error), "the members of the group could not be looked at");
            return Background::Nothing;
        }
    };
    // Looked at now, not when the subscription began: others of this bus may have come since.
    let Some(own_topics) = bus.upgrade().map(|bus| bus.registry.topics_of(&group)) else { return Background::Nothing };
    let is_foreign = |member: &milena_admin::GroupMember| {
        let partitions = member.partitions();
        !partitions.is_empty() && !partitions.iter().any(|it| own_topics.contains(&*it.topic))
    };
    let foreign: Vec<String> = members.into_iter().filter(is_foreign).map(|member| member.member_id).collect();
    if foreign.is_empty() { Background::Nothing } else { Background::ForeignMembers(foreign) }
}
