//! What a subscription asks of brokers beside its turns: commits, positions, offsets to seek, members of the group.
//!
//! Each is one future that ends within the client's time limits and says what it found; none touches the driver's state.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use milena_admin::{Admin, OffsetSpec};
use milena_client::consumer::{AssignmentEpoch, Consumer, OffsetListing, OffsetRefused};
use milena_client::{Client, TopicPartition};
use tokio::time::Instant;

use super::driver::describe;
use super::handle::{SeekTo, SubscriptionError};
use crate::bus::Inner;

/// How long to wait before a broker is asked again that could not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// How long to wait before the coordinator is asked again about what is about to be settled.
const MOMENT: Duration = Duration::from_millis(100);

/// How long where a partition begins may stay unknown before that is told.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was found out.
#[derive(Debug)]
pub(super) enum Background {
    /// A commit was answered.
    Committed(Commit),
    /// Where partitions of an assignment begin, as far as that is known now; those whose trouble is to be told; and how
    /// the rest is looked for.
    Begins {
        epoch: AssignmentEpoch,
        begins: Vec<(TopicPartition, Begin)>,
        errors: Vec<(TopicPartition, String)>,
        searches: Vec<Search>,
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

/// Looks for where partitions of one assignment begin. The coordinator is asked about all at once, and then each leader
/// about those without a commit, all leaders at the same time: what one of them answers is told at once.
///
/// Each partition is in one search at a time. One that could not be found leaves with its error, for another search.
#[derive(Debug)]
pub(super) struct Search {
    consumer: Consumer,
    epoch: AssignmentEpoch,
    /// Those that are not found yet, each with whether it begins late if nothing is committed.
    open: BTreeMap<TopicPartition, bool>,
    asking: Asking,
    /// When it is told that some are not found; never if their alarms are raised.
    patience: Option<Instant>,
    /// How long it waits first: an error came just now.
    pause: Duration,
}

/// What a search has found.
#[derive(Debug, Default)]
struct Found {
    begins: Vec<(TopicPartition, Begin)>,
    /// Why others can't be, to be told.
    errors: Vec<(TopicPartition, String)>,
    /// Those that the coordinator is to be asked about again, told or not.
    unsettled: Vec<TopicPartition>,
}

/// Who is asked next.
#[derive(Debug)]
enum Asking {
    Coordinator,
    /// Nothing is committed, and while the partitions are held nobody else commits: the coordinator isn't asked again.
    Leaders,
    /// Leaders have been asked, and not all have answered.
    Answers(OffsetListing),
}

impl Search {
    /// A search for partitions, each with whether it begins late if nothing is committed.
    pub(super) fn new(consumer: Consumer, epoch: AssignmentEpoch, open: BTreeMap<TopicPartition, bool>) -> Self {
        let patience = Some(Instant::now() + PATIENCE);
        Self { consumer, epoch, open, asking: Asking::Coordinator, patience, pause: Duration::ZERO }
    }

    /// Looks no longer for those that are not `wanted`. Returns whether any is left.
    pub(super) fn retain(&mut self, mut wanted: impl FnMut(&TopicPartition) -> bool) -> bool {
        self.open.retain(|partition, _| wanted(partition));
        !self.open.is_empty()
    }

    /// Goes on until something is found, or is to be told.
    pub(super) async fn step(mut self) -> Background {
        if !self.pause.is_zero() {
            tokio::time::sleep(std::mem::take(&mut self.pause)).await;
        }
        let step = match self.patience {
            Some(at) => tokio::time::timeout_at(at, self.find()).await,
            None => Ok(self.find().await),
        };
        let Found { begins, errors, unsettled } =
            step.unwrap_or_else(|_| self.fail_all("where it begins is not known yet"));
        for (partition, _) in &begins {
            self.open.remove(partition);
        }
        let unsettled = self.split_off(&mut unsettled.iter(), Asking::Coordinator);
        let asking = if matches!(self.asking, Asking::Coordinator) { Asking::Coordinator } else { Asking::Leaders };
        let failed = self.split_off(&mut errors.iter().map(|(partition, _)| partition), asking);
        let unsettled = Self { pause: if self.patience.is_some() { MOMENT } else { PAUSE }, ..unsettled };
        let failed = Self { patience: None, ..failed };
        let epoch = self.epoch;
        let searches = [self, unsettled, failed].into_iter().filter(|search| !search.open.is_empty()).collect();
        Background::Begins { epoch, begins, errors, searches }
    }

    /// A search for some of these, who are then not looked for here, after a pause.
    fn split_off(&mut self, partitions: &mut dyn Iterator<Item = &TopicPartition>, asking: Asking) -> Self {
        let open = partitions.filter_map(|partition| self.open.remove_entry(partition)).collect();
        let (consumer, epoch, patience) = (self.consumer.clone(), self.epoch, self.patience);
        Self { consumer, epoch, open, asking, patience, pause: PAUSE }
    }

    fn fail_all(&self, error: &str) -> Found {
        let errors = self.open.keys().map(|partition| (partition.clone(), error.to_owned())).collect();
        Found { errors, ..Found::default() }
    }

    /// What is found next, and what can't be.
    async fn find(&mut self) -> Found {
        loop {
            match &mut self.asking {
                Asking::Coordinator => {
                    // One coordinator answers for the whole group, so its trouble is everybody's; not that of a partition.
                    let answers = match self.consumer.committed_each(self.open.keys().cloned()).await {
                        Ok(answers) => answers,
                        Err(error) => return self.fail_all(&describe(&error)),
                    };
                    self.asking = Asking::Leaders;
                    let mut found = Found::default();
                    for (partition, answer) in answers {
                        match answer {
                            Ok(Some(at)) => found.begins.push((partition, Begin::Committed(at.offset))),
                            Ok(None) => {}
                            Err(error) => {
                                if !error.class().is_retriable() {
                                    found.errors.push((partition.clone(), describe(&error)));
                                }
                                found.unsettled.push(partition);
                            }
                        }
                    }
                    if !found.begins.is_empty() || !found.unsettled.is_empty() {
                        return found;
                    }
                }
                Asking::Leaders => {
                    let open = self.open.iter().map(|(partition, is_late)| (partition.clone(), *is_late));
                    self.asking = Asking::Answers(self.consumer.list_offsets(open));
                }
                Asking::Answers(listing) => {
                    let Some(listed) = listing.next().await else {
                        return self.fail_all("the broker named no offset");
                    };
                    let mut found = Found::default();
                    for (partition, offset) in listed {
                        match (self.open.get(&partition), offset) {
                            // It is not looked for any more.
                            (None, _) => {}
                            (Some(true), Ok(offset)) => found.begins.push((partition, Begin::End(offset))),
                            (Some(false), Ok(offset)) => found.begins.push((partition, Begin::Oldest(offset))),
                            (Some(_), Err(error)) => found.errors.push((partition, describe(&error))),
                        }
                    }
                    if !found.begins.is_empty() || !found.errors.is_empty() {
                        return found;
                    }
                }
            }
        }
    }
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
