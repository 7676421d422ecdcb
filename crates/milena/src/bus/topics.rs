//! What must exist in the cluster before an event is published or a subscription begins: topics, dead-letter topics that
//! take dead letters, and for a late start the group's committed position. Asks for a topic once per bus for each way in
//! which it is declared, and once more as one that takes dead letters, however many ask at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use milena_admin::{Admin, ConfigChange, ConfigEntry, ConfigResource, ConfigSource, GroupOffset, NewTopic, OffsetSpec};
use milena_client::{Client, RequestError, TopicPartition};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::error::{StartError, TopicError};
use crate::policy::DEAD_LETTER_SUFFIX;
use crate::subscription::describe;
use crate::topic::{TopicDeclaration, TopicStrategy};

/// Kafka's error code for a topic that the broker has not heard of.
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
/// Kafka's error code for a topic that exists already.
const TOPIC_ALREADY_EXISTS: i16 = 36;
/// Kafka's error code for a commit to a group that has members.
const UNKNOWN_MEMBER_ID: i16 = 25;
/// Kafka's name for the size limit of a topic.
const MAX_MESSAGE_BYTES: &str = "max.message.bytes";

/// How long a broker may take to hear of a topic that others know.
const SPREADING: Duration = Duration::from_secs(5);
/// How long to wait before it is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// Asks again for as long as a broker may not have heard of a topic that is known to be there.
async fn once_heard_of<T, F>(ask: impl Fn() -> F) -> Result<T, RequestError>
where
    F: Future<Output = Result<T, RequestError>>,
{
    let until = Instant::now() + SPREADING;
    loop {
        match ask().await {
            Err(error) if error.error_code() == Some(UNKNOWN_TOPIC_OR_PARTITION) && Instant::now() < until => {
                tokio::time::sleep(PAUSE).await;
            }
            result => return result,
        }
    }
}

/// What is found out once for each key, by whoever comes first.
type Cells<K, T> = HashMap<K, Arc<OnceCell<T>>>;

fn cell_of<K: Clone + Eq + Hash, T>(cells: &Mutex<Cells<K, T>>, key: &K) -> Arc<OnceCell<T>> {
    let mut cells = cells.lock().unwrap_or_else(PoisonError::into_inner);
    match cells.get(key) {
        Some(cell) => Arc::clone(cell),
        None => Arc::clone(cells.entry(key.clone()).or_default()),
    }
}

/// How a topic came to be as it is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    /// It was there.
    Found,
    /// This bus has created it, with the limit that it asked for, if any.
    Created(Option<usize>),
}

/// Looks after the topics of one bus.
#[derive(Debug)]
pub(crate) struct Topics {
    client: Client,
    admin: Admin,
    strategy: TopicStrategy,
    /// Declarations that were found true or made so.
    known: Mutex<Cells<TopicDeclaration, Made>>,
    /// Dead-letter topics that are there and were looked at for their limit.
    dead_letters: Mutex<Cells<String, ()>>,
    /// What a dead-letter topic must take, in bytes.
    dead_letter_bytes: usize,
    /// Partitions of topics that were published to.
    counts: Mutex<HashMap<String, usize>>,
}

impl Topics {
    pub(crate) fn new(client: Client, strategy: TopicStrategy, dead_letter_bytes: usize) -> Self {
        let admin = Admin::new(&client);
        Self {
            client,
            admin,
            strategy,
            known: Mutex::default(),
            dead_letters: Mutex::default(),
            dead_letter_bytes,
            counts: Mutex::default(),
        }
    }

    /// Makes sure that a topic is as the strategy wants it.
    pub(crate) async fn ensure(&self, topic: &TopicDeclaration) -> Result<(), TopicError> {
        if self.strategy == TopicStrategy::Ignore {
            return Ok(());
        }
        // Whoever reads a dead-letter topic may be here before those whose dead letters it takes.
        let is_for_dead_letters = topic.name().ends_with(DEAD_LETTER_SUFFIX);
        self.ensure_once(topic, self.strategy, is_for_dead_letters.then_some(self.dead_letter_bytes)).await.map(drop)
    }

    /// Makes sure that the dead-letter topic `name` of `source` exists, with the source's number of partitions if that
    /// is declared, and takes its dead letters. It must exist under any strategy: without it, what fails could neither go
    /// on nor be dropped.
    pub(crate) async fn ensure_dead_letters(&self, source: &TopicDeclaration, name: String) -> Result<(), TopicError> {
        let cell = cell_of(&self.dead_letters, &name);
        cell.get_or_try_init(|| self.find_dead_letters(source, name)).await.copied()
    }

    async fn find_dead_letters(&self, source: &TopicDeclaration, name: String) -> Result<(), TopicError> {
        let mut topic = TopicDeclaration::new(name);
        if let Some(partitions) = source.partition_count() {
            topic = topic.partitions(partitions);
        }
        if let Some(replication) = source.replication_factor() {
            topic = topic.replication(replication);
        }
        match self.strategy {
            TopicStrategy::Create => {
                let limit = Some(self.dead_letter_bytes);
                if self.ensure_once(&topic, TopicStrategy::Create, limit).await? == Made::Created(limit) {
                    return Ok(());
                }
            }
            TopicStrategy::Validate | TopicStrategy::Ignore => {
                if self.partitions_of(topic.name()).await?.is_none() {
                    return Err(TopicError::Missing { topic: topic.name().to_owned() });
                }
            }
        }
        self.make_room(topic.name()).await;
        Ok(())
    }

    /// Sees that a dead-letter topic takes dead letters whoever made it: its reader may have, who can't know from a name
    /// what it is for.
    ///
    /// A limit that somebody has set is left alone, and so is every topic where the bus is not to create any. Then it is
    /// said here, not with the first dead letter that does not fit; that one is held, so the subscription may begin.
    async fn make_room(&self, name: &str) {
        let wanted = self.dead_letter_bytes;
        let (limit, is_set) = match once_heard_of(|| self.limit_of(name)).await {
            Ok(Some(entry)) => {
                let limit = entry.value.and_then(|value| value.parse::<usize>().ok());
                (limit.unwrap_or(usize::MAX), entry.source == ConfigSource::Topic)
            }
            Ok(None) => return,
            Err(error) => {
                let error = describe(&error);
                tracing::warn!(topic = name, wanted, error, "the size limit of a dead-letter topic is not known");
                return;
            }
        };
        if limit >= wanted {
            return;
        }
        let mut error = None;
        if self.strategy == TopicStrategy::Create && !is_set {
            match once_heard_of(|| self.raise_limit(name)).await {
                Ok(()) => {
                    return tracing::info!(topic = name, limit, wanted, "raised the limit of a dead-letter topic");
                }
                Err(refused) => error = Some(describe(&refused)),
            }
        }
        tracing::warn!(
            topic = name,
            limit,
            wanted,
            error,
            "a dead letter may be larger than its topic takes, and is then held: raise the topic's max.message.bytes"
        );
    }

    async fn limit_of(&self, name: &str) -> Result<Option<ConfigEntry>, RequestError> {
        let described = self.admin.describe_configs(&[ConfigResource::Topic(name.to_owned())]).await?.pop();
        let Some((_, entries)) = described else { return Ok(None) };
        Ok(entries?.into_iter().find(|entry| entry.name == MAX_MESSAGE_BYTES))
    }

    async fn raise_limit(&self, name: &str) -> Result<(), RequestError> {
        let change = ConfigChange::Set(self.dead_letter_bytes.to_string());
        let changes = vec![(MAX_MESSAGE_BYTES.to_owned(), change)];
        let altered = self.admin.alter_configs(&[(ConfigResource::Topic(name.to_owned()), changes)]).await?;
        altered.into_iter().try_for_each(|(_, result)| result)
    }

    async fn ensure_once(
        &self,
        topic: &TopicDeclaration,
        strategy: TopicStrategy,
        message_bytes: Option<usize>,
    ) -> Result<Made, TopicError> {
        let cell = cell_of(&self.known, topic);
        cell.get_or_try_init(|| self.find_or_create(topic, strategy, message_bytes)).await.copied()
    }

    async fn find_or_create(
        &self,
        topic: &TopicDeclaration,
        strategy: TopicStrategy,
        message_bytes: Option<usize>,
    ) -> Result<Made, TopicError> {
        let name = topic.name();
        match (self.partitions_of(name).await?, strategy) {
            (Some(found), TopicStrategy::Validate) => match topic.partition_count() {
                Some(declared) if usize::try_from(declared) != Ok(found) => {
                    Err(TopicError::Partitions { topic: name.to_owned(), found, declared })
                }
                _ => Ok(Made::Found),
            },
            (Some(_), _) => Ok(Made::Found),
            (None, TopicStrategy::Create) => self.create(topic, message_bytes).await,
            (None, _) => Err(TopicError::Missing { topic: name.to_owned() }),
        }
    }

    async fn create(&self, topic: &TopicDeclaration, message_bytes: Option<usize>) -> Result<Made, TopicError> {
        let name = topic.name();
        let mut new = NewTopic::new(name);
        if let Some(partitions) = topic.partition_count() {
            new = new.partitions(partitions);
        }
        if let Some(replication) = topic.replication_factor() {
            new = new.replication_factor(replication);
        }
        if let Some(bytes) = message_bytes {
            new = new.config(MAX_MESSAGE_BYTES, bytes.to_string());
        }
        let made = match self.admin.create_topic(new).await {
            Ok(_) => {
                tracing::info!(topic = name, "created a topic as its event declares it");
                Made::Created(message_bytes)
            }
            // Somebody else was faster.
            Err(error) if error.error_code() == Some(TOPIC_ALREADY_EXISTS) => Made::Found,
            Err(source) => return Err(TopicError::Create { topic: name.to_owned(), source }),
        };
        // Brokers hear of a new topic one after the other: wait until it can be used.
        let partitions = self.client.partitions(name).await;
        partitions.map(|_| made).map_err(|source| TopicError::LookUp { topic: name.to_owned(), source })
    }

    /// How many partitions a topic has; `None` if it does not exist.
    async fn partitions_of(&self, name: &str) -> Result<Option<usize>, TopicError> {
        let look_up = |source| TopicError::LookUp { topic: name.to_owned(), source };
        let mut described = self.admin.describe_topics(&[name]).await.map_err(look_up)?;
        match described.pop().map(|(_, result)| result) {
            Some(Ok(topic)) => Ok(Some(topic.partitions.len())),
            None | Some(Err(RequestError::UnknownTopic { .. })) => Ok(None),
            Some(Err(source)) => Err(look_up(source)),
        }
    }

    /// Commits the ends of `topics` for a group that has no offsets for them, before anybody joins it.
    ///
    /// A topic with any committed offset is left alone: the group has begun there, and partitions without an offset
    /// are newer than that, so they are read from their start. A group that has members takes no commits but theirs:
    /// topics that it has no offsets for are returned, with their partitions, for the subscription to commit the ends of
    /// as a member.
    pub(crate) async fn commit_ends(
        &self,
        group: &str,
        topics: &[String],
    ) -> Result<BTreeMap<String, usize>, StartError> {
        let failed = |source| StartError { group: group.to_owned(), source };
        let mut counts = BTreeMap::new();
        let mut ends = Vec::new();
        for topic in self.not_begun(group, topics).await? {
            match self.client.partitions(&topic).await {
                Ok(partitions) => {
                    let partition_of = |index| TopicPartition::new(topic.as_str(), index);
                    ends.extend(partitions.iter().map(|it| (partition_of(it.index), OffsetSpec::Latest)));
                    counts.insert(topic, partitions.len());
                }
                // It has no records yet, so its start is its end.
                Err(RequestError::UnknownTopic { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        if ends.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut offsets = Vec::with_capacity(ends.len());
        for (partition, listed) in self.admin.list_offsets(&ends).await.map_err(failed)? {
            let offset = listed.map_err(failed)?.offset.unwrap_or_default();
            offsets.push((partition, GroupOffset::new(offset)));
        }
        let mut has_members = false;
        for (_, result) in self.admin.alter_group_offsets(group, &offsets).await.map_err(failed)? {
            match result {
                Ok(()) => {}
                Err(error) if error.error_code() == Some(UNKNOWN_MEMBER_ID) => has_members = true,
                Err(error) => return Err(failed(error)),
            }
        }
        if !has_members {
            return Ok(BTreeMap::new());
        }
        // Whoever joined first may have begun them meanwhile.
        let names: Vec<String> = counts.keys().cloned().collect();
        let not_begun = self.not_begun(group, &names).await?;
        counts.retain(|topic, _| not_begun.contains(topic));
        Ok(counts)
    }

    /// Those of `topics` that the group has no committed offset for.
    async fn not_begun(&self, group: &str, topics: &[String]) -> Result<Vec<String>, StartError> {
        let failed = |source| StartError { group: group.to_owned(), source };
        let committed = self.admin.list_group_offsets(group).await.map_err(failed)?;
        let begun: BTreeSet<&str> = committed.iter().map(|(partition, _)| &*partition.topic).collect();
        Ok(topics.iter().filter(|topic| !begun.contains(topic.as_str())).cloned().collect())
    }

    /// Takes note of where an event was published: in a partition that was not there before, its topic has grown.
    pub(crate) fn note_published(&self, topic: &str, partition: i32) {
        let at_least = usize::try_from(partition).unwrap_or_default() + 1;
        let count = || {
            let cluster = self.client.metadata();
            let known = cluster.topics.iter().find(|known| known.name == topic);
            known.map_or(0, |known| known.partitions.len()).max(at_least)
        };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(topic) {
            Some(known) if at_least <= *known => {}
            Some(known) => {
                let (before, now) = (*known, count());
                *known = now;
                tracing::warn!(
                    topic,
                    before,
                    now,
                    "a topic has more partitions now: aggregates move, and events before and after are not in order"
                );
            }
            None => {
                counts.insert(topic.to_owned(), count());
            }
        }
    }
}
