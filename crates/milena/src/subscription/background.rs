//! What a subscription asks of brokers beside its turns: commits, positions, offsets to seek, members of the group.
//!
//! Each is one future that ends within the client's time limits and says what it found; none touches the driver's state.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use milena_admin::{Admin, OffsetSpec};
use milena_client::consumer::{AssignmentEpoch, ConsumeError, Consumer, OffsetRefused};
use milena_client::{Client, TopicPartition};

use super::driver::describe;
use super::handle::{SeekTo, SubscriptionError};
use crate::bus::Inner;

/// How long to wait before a broker is asked again that could not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// How long where a partition begins may stay unknown before that is told.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long leaders are asked about partitions together: enough where nothing is wrong, and hardly a wait for the others
/// where one of them can't be looked at. Then each is asked about for itself.
const TOGETHER: Duration = Duration::from_millis(250);

/// How it is asked where partitions begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asking {
    /// Of all at once, with one request for each leader. What that does not tell in a moment is asked alone.
    Together,
    /// Of one.
    Alone,
    /// Of one whose alarm is raised: after a pause, and for as long as the client tries.
    Again,
}

/// What was found out.
#[derive(Debug)]
pub(super) enum Background {
    /// A commit was answered.
    Committed(Commit),
    /// Where partitions of an assignment begin, and those of which it is not known yet; with why, if that is to be told.
    Begins {
        epoch: AssignmentEpoch,
        begins: Vec<(TopicPartition, Begin)>,
        missing: Vec<TopicPartition>,
        error: Option<String>,
    },
    /// The offset that a seek goes to, by the seek's number.
    Found { number: u64, result: Result<i64, SubscriptionError> },
    /// Members of the group that read none of this bus's topics.
    ForeignMembers(Vec<String>),
    /// How many partitions topics have.
    PartitionCounts(Vec<(String, usize)>),
    /// Nothing that anybody needs to know.
    Nothing,
}

/// What became of a commit.
#[derive(Debug)]
pub(super) struct Commit {
    /// The topic that it is of.
    pub(super) topic: Arc<str>,
    pub(super) committed: Vec<(TopicPartition, i64, AssignmentEpoch)>,
    /// Not committed, as the partition is somebody else's by now.
    pub(super) stale: Vec<TopicPartition>,
    /// Why others were not committed.
    pub(super) error: Option<String>,
    /// The revocation that waits for it.
    pub(super) revocation: Option<u64>,
}

/// Where a partition begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// At what the group has committed.
    Committed(i64),
    /// The group has nothing committed: at the oldest record.
    Oldest(i64),
    /// The group has nothing committed and starts late: behind the last record.
    End(i64),
}

/// Finds where partitions begin, each with whether it begins late if nothing is committed.
pub(super) async fn find_begins(
    consumer: Consumer,
    epoch: AssignmentEpoch,
    asked: Vec<(bool, TopicPartition)>,
    asking: Asking,
) -> Background {
    let mut begins = BTreeMap::new();
    let listing = list_begins(&consumer, &asked, asking, &mut begins);
    let listed = if asking == Asking::Again {
        tokio::time::sleep(PAUSE).await;
        Ok(listing.await)
    } else {
        tokio::time::timeout(PATIENCE, listing).await
    };
    let error = match listed {
        Ok(listed) => listed.err().map(|error| describe(&error)),
        Err(_) => Some("where it begins could not be found out yet".to_owned()),
    };
    let all = asked.into_iter().map(|(_, partition)| partition);
    let missing: Vec<_> = all.filter(|partition| !begins.contains_key(partition)).collect();
    let is_left_out = error.is_none() && asking != Asking::Together && !missing.is_empty();
    let error = error.or_else(|| is_left_out.then(|| "the broker named no offset".to_owned()));
    Background::Begins { epoch, begins: begins.into_iter().collect(), missing, error }
}

/// What is found before an error stays in `begins`.
async fn list_begins(
    consumer: &Consumer,
    asked: &[(bool, TopicPartition)],
    asking: Asking,
    begins: &mut BTreeMap<TopicPartition, Begin>,
) -> Result<(), ConsumeError> {
    // One coordinator answers for the whole group, so its trouble is everybody's.
    let committed = consumer.committed(asked.iter().map(|(_, partition)| partition.clone())).await?;
    begins.extend(committed.iter().map(|(partition, at)| (partition.clone(), Begin::Committed(at.offset))));
    let open = asked.iter().filter(|(_, partition)| !committed.contains_key(partition)).cloned().collect();
    let listing = list_ends_of_logs(consumer, open, begins);
    if asking == Asking::Together {
        // An error would be that of one, and each is about to say its own.
        let _ = tokio::time::timeout(TOGETHER, listing).await;
        return Ok(());
    }
    listing.await
}

/// One request for each leader, and all are waited for.
async fn list_ends_of_logs(
    consumer: &Consumer,
    asked: Vec<(bool, TopicPartition)>,
    begins: &mut BTreeMap<TopicPartition, Begin>,
) -> Result<(), ConsumeError> {
    let (late, early): (Vec<_>, Vec<_>) = asked.into_iter().partition(|(is_late, _)| *is_late);
    for (is_late, partitions) in [(false, early), (true, late)] {
        if partitions.is_empty() {
            continue;
        }
        let partitions = partitions.into_iter().map(|(_, partition)| partition);
        let listed = match is_late {
            true => consumer.end_offsets(partitions).await?,
            false => consumer.beginning_offsets(partitions).await?,
        };
        let begin = |offset| if is_late { Begin::End(offset) } else { Begin::Oldest(offset) };
        begins.extend(listed.into_iter().map(|(partition, offset)| (partition, begin(offset))));
    }
    Ok(())
}

/// Finds the offset that a seek names.
pub(super) async fn find_offset(
    client: Client,
    number: u64,
    partition: TopicPartition,
    to: SeekTo,
    is_retry: bool,
) -> Background {
    if is_retry {
        tokio::time::sleep(PAUSE).await;
    }
    let result = look_up(&Admin::new(&client), &partition, to).await;
    Background::Found { number, result }
}

async fn look_up(admin: &Admin, partition: &TopicPartition, to: SeekTo) -> Result<i64, SubscriptionError> {
    let spec = match to {
        SeekTo::Offset(offset) => {
            let earliest = list_offset(admin, partition, OffsetSpec::Earliest).await?.unwrap_or_default();
            let latest = list_offset(admin, partition, OffsetSpec::Latest).await?.unwrap_or(i64::MAX);
            if (earliest..=latest).contains(&offset) {
                return Ok(offset);
            }
            let (topic, partition) = (partition.topic.to_string(), partition.partition);
            return Err(SubscriptionError::OutOfRange { topic, partition, offset, earliest, latest });
        }
        SeekTo::Beginning => OffsetSpec::Earliest,
        SeekTo::End => OffsetSpec::Latest,
        SeekTo::Timestamp(millis) => OffsetSpec::AtTimestamp(millis),
    };
    let mut found = list_offset(admin, partition, spec).await?;
    if found.is_none() {
        // No record is that young: go on with whatever comes next.
        found = list_offset(admin, partition, OffsetSpec::Latest).await?;
    }
    found.ok_or_else(|| failed(partition, "the broker named no offset".to_owned()))
}

async fn list_offset(
    admin: &Admin,
    partition: &TopicPartition,
    spec: OffsetSpec,
) -> Result<Option<i64>, SubscriptionError> {
    let listed = admin.list_offsets(&[(partition.clone(), spec)]).await;
    let listed = listed.map_err(|error| failed(partition, describe(&error)))?.pop();
    match listed {
        Some((_, Ok(listed))) => Ok(listed.offset),
        Some((_, Err(error))) => Err(failed(partition, describe(&error))),
        None => Ok(None),
    }
}

fn failed(partition: &TopicPartition, message: String) -> SubscriptionError {
    SubscriptionError::Seek { topic: partition.topic.to_string(), partition: partition.partition, message }
}

/// Commits offsets of a topic, each in the epoch that its records belong to.
pub(super) async fn commit(
    consumer: Consumer,
    topic: Arc<str>,
    offsets: Vec<(TopicPartition, i64, AssignmentEpoch)>,
    revocation: Option<u64>,
) -> Background {
    let asked = offsets.iter().map(|(partition, offset, epoch)| (partition.clone(), (*offset).into(), *epoch));
    let result = consumer.commit(asked).await;
    let mut commit = Commit { topic, committed: offsets, stale: Vec::new(), error: None, revocation };
    if let Err(failed) = result {
        commit.committed.retain(|(partition, ..)| !failed.refused.iter().any(|(refused, _)| refused == partition));
        for (partition, why) in failed.refused {
            if why == OffsetRefused::StaleEpoch {
                commit.stale.push(partition);
            } else {
                commit.error.get_or_insert_with(|| format!("{partition}: {}", describe(&why)));
            }
        }
    }
    Background::Committed(commit)
}

/// Counts the partitions of topics; one that can't be looked at is left out.
pub(super) async fn count_partitions(client: Client, topics: Vec<String>) -> Background {
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    match Admin::new(&client).describe_topics(&names).await {
        Ok(described) => {
            let counted =
                described.into_iter().filter_map(|(topic, result)| Some((topic, result.ok()?.partitions.len())));
            Background::PartitionCounts(counted.collect())
        }
        Err(error) => {
            tracing::debug!(error = describe(&error), "the partitions of topics could not be counted");
            Background::Nothing
        }
    }
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
    let mut foreign: Vec<String> = members.into_iter().filter(is_foreign).map(|member| member.member_id).collect();
    foreign.sort_unstable();
    Background::ForeignMembers(foreign)
}
