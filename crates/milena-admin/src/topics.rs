//! Topics: create, list, describe, delete, and give more partitions.

use std::collections::BTreeMap;

use milena_client::RequestError;
use milena_client::raw::Target;
use milena_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use milena_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use milena_protocol::messages::create_topics_response::CreatableTopicResult;
use milena_protocol::messages::delete_topics_request::DeleteTopicState;
use milena_protocol::messages::metadata_request::MetadataRequestTopic;
use milena_protocol::messages::metadata_response::MetadataResponseTopic;
use milena_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, MetadataRequest, MetadataResponse,
};
use milena_protocol::{ErrorCode, Uuid};

use crate::Admin;

/// The first version of DeleteTopics that names topics in a list of their own.
const DELETE_BY_STATE: i16 = 6;

/// A topic to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    name: String,
    partitions: Option<i32>,
    replication_factor: Option<i16>,
    configs: BTreeMap<String, String>,
}

impl NewTopic {
    /// A topic with the broker's defaults.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), partitions: None, replication_factor: None, configs: BTreeMap::new() }
    }

    /// How many partitions it shall have. Default: the broker's `num.partitions`.
    #[must_use]
    pub fn partitions(mut self, partitions: i32) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// How many replicas each partition shall have. Default: the broker's `default.replication.factor`.
    #[must_use]
    pub fn replication_factor(mut self, replicas: i16) -> Self {
        self.replication_factor = Some(replicas);
        self
    }

    /// A setting of the topic, such as `retention.ms`.
    #[must_use]
    pub fn config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.insert(key.into(), value.into());
        self
    }

    fn write(&self) -> CreatableTopic {
        let config = |(name, value): (&String, &String)| CreatableTopicConfig {
            name: name.as_str().into(),
            value: Some(value.as_str().into()),
            ..CreatableTopicConfig::default()
        };
        CreatableTopic {
            name: self.name.as_str().into(),
            num_partitions: self.partitions.unwrap_or(-1),
            replication_factor: self.replication_factor.unwrap_or(-1),
            configs: self.configs.iter().map(config).collect(),
            ..CreatableTopic::default()
        }
    }
}

/// A topic that was created.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CreatedTopic {
    /// Its name.
    pub name: String,
    /// Its id, as Kafka prints it; absent where the broker is too old to tell.
    pub id: Option<String>,
    /// How many partitions it got, if the broker tells.
    pub partitions: Option<i32>,
    /// How many replicas each of them got, if the broker tells.
    pub replication_factor: Option<i16>,
}

/// A topic in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicListing {
    /// Its name.
    pub name: String,
    /// Its id, as Kafka prints it.
    pub id: Option<String>,
    /// Whether Kafka keeps it for itself.
    pub is_internal: bool,
    /// How many partitions it has.
    pub partitions: usize,
}

/// A topic and its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicDescription {
    /// Its name.
    pub name: String,
    /// Its id, as Kafka prints it.
    pub id: Option<String>,
    /// Whether Kafka keeps it for itself.
    pub is_internal: bool,
    /// By rising index.
    pub partitions: Vec<PartitionDescription>,
}

/// A partition and its replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionDescription {
    /// Its index.
    pub index: i32,
    /// Node id of its leader, if it has one.
    pub leader: Option<i32>,
    /// The leader's epoch, if the broker tells.
    pub leader_epoch: Option<i32>,
    /// Node ids of its replicas, the preferred leader first.
    pub replicas: Vec<i32>,
    /// Node ids of the replicas in sync.
    pub isr: Vec<i32>,
    /// Node ids of the replicas that are offline.
    pub offline: Vec<i32>,
}

impl Admin {
    /// Creates a topic.
    ///
    /// # Errors
    /// [`RequestError::Broker`] with the broker's reason, such as `TOPIC_ALREADY_EXISTS` (36) or
    /// `INVALID_REPLICATION_FACTOR` (38); otherwise what kept it from being asked.
    pub async fn create_topic(&self, topic: NewTopic) -> Result<CreatedTopic, RequestError> {
        let mut results = self.create_topics(&[topic]).await?;
        results.pop().map_or(Err(RequestError::NoBroker), |(_, result)| result)
    }

    /// Creates topics; one result for each.
    ///
    /// # Errors
    /// When the cluster could not be asked.
    pub async fn create_topics(
        &self,
        topics: &[NewTopic],
    ) -> Result<Vec<(String, Result<CreatedTopic, RequestError>)>, RequestError> {
        self.ask_to_create(topics, false).await
    }

    /// Asks whether topics could be created, without creating them.
    ///
    /// # Errors
    /// When the cluster could not be asked.
    pub async fn validate_topics(
        &self,
        topics: &[NewTopic],
    ) -> Result<Vec<(String, Result<CreatedTopic, RequestError>)>, RequestError> {
        self.ask_to_create(topics, true).await
    }

    async fn ask_to_create(
        &self,
        topics: &[NewTopic],
        validate_only: bool,
    ) -> Result<Vec<(String, Result<CreatedTopic, RequestError>)>, RequestError> {
        let request = CreateTopicsRequest {
            topics: topics.iter().map(NewTopic::write).collect(),
            timeout_ms: self.timeout_ms(),
            validate_only,
            ..CreateTopicsRequest::default()
        };
        let not_controller = |response: &milena_protocol::messages::CreateTopicsResponse| {
            controller_error(response.topics.iter().map(|topic| topic.error_code))
        };
        let response = self.raw.send_checked(Target::Controller, request, not_controller).await?;
        let results = response.topics.into_iter().map(|topic| (topic.name.to_string(), read_created(topic)));
        let mut results = results.collect::<BTreeMap<_, _>>();
        let answer = |topic: &NewTopic| {
            let subject = || format!("creating topic `{}`", topic.name);
            let result = results.remove(&topic.name).unwrap_or_else(|| Err(unanswered(subject())));
            (topic.name.clone(), result)
        };
        Ok(topics.iter().map(answer).collect())
    }

    /// All topics of the cluster, by name, those included that Kafka keeps for itself.
    ///
    /// # Errors
    /// When the cluster could not be asked.
    pub async fn list_topics(&self) -> Result<Vec<TopicListing>, RequestError> {
        let response = self.metadata(None).await?;
        let listing = |topic: MetadataResponseTopic| TopicListing {
            name: topic.name.map(|name| name.to_string()).unwrap_or_default(),
            id: read_id(topic.topic_id),
            is_internal: topic.is_internal,
            partitions: topic.partitions.len(),
        };
        let mut topics = response.topics.into_iter().map(listing).collect::<Vec<_>>();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// Topics with their partitions; one result for each.
    ///
    /// # Errors
    /// When the cluster could not be asked.
    pub async fn describe_topics(
        &self,
        topics: &[&str],
    ) -> Result<Vec<(String, Result<TopicDescription, RequestError>)>, RequestError> {
        let response = self.metadata(Some(topics)).await?;
        let named = response.topics.into_iter().filter_map(|topic| Some((topic.name.as_deref()?.to_owned(), topic)));
        let mut found = named.collect::<BTreeMap<_, _>>();
        let answer = |name: &&str| {
            let subject = || format!("describing topic `{name}`");
            let result = match found.remove(*name) {
                None => Err(unanswered(subject())),
                Some(topic) if topic.error_code == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => {
                    Err(RequestError::UnknownTopic { topic: (*name).to_owned() })
                }
                Some(topic) => check(subject, topic.error_code, None).map(|()| read_description(topic)),
            };
            ((*name).to_owned(), result)
        };
        Ok(topics.iter().map(answer).collect())
    }

    async fn metadata(&self, topics: Option<&[&str]>) -> Result<MetadataResponse, RequestError> {
        let topic =
            |name: &&str| MetadataRequestTopic { name: Some((*name).into()), ..MetadataRequestTopic::default() };
        let request = MetadataRequest {
            topics: topics.map(|topics| topics.iter().map(topic).collect()),
            allow_auto_topic_creation: false,
            ..MetadataRequest::default()
        };
        self.raw.send_checked(Target::Any, request, |response| response.error_code).await
    }

    /// Deletes a topic with all its records.
    ///
    /// # Errors
    /// [`RequestError::UnknownTopic`], [`RequestError::Broker`] with the broker's reason, or what kept it from being
    /// asked.
    pub async fn delete_topic(&self, topic: &str) -> Result<(), RequestError> {
        let mut results = self.delete_topics(&[topic]).await?;
        results.pop().map_or(Err(RequestError::NoBroker), |(_, result)| result)
    }

    /// Deletes topics with all their records; one result for each.
    ///
    /// # Errors
    /// When the cluster could not be asked.
    pub async fn delete_topics(
        &self,
        topics: &[&str],
    ) -> Result<Vec<(String, Result<(), RequestError>)>, RequestError> {
        let build = |version| {
            let mut request = DeleteTopicsRequest { timeout_ms: self.timeout_ms(), ..DeleteTopicsRequest::default() };
            if version >= DELETE_BY_STATE {
                let state =
                    |name: &&str| DeleteTopicState { name: Some((*name).into()), ..DeleteTopicState::default() };
                request.topics = topics.iter().map(state).collect();
            } else {
                request.topic_names = topics.iter().map(|name| (*name).into()).collect();
            }
            request
        };
        let not_controller = |_, response: &milena_protocol::messages::DeleteTopicsResponse| {
            controller_error(response.responses.iter().map(|topic| topic.error_code))
        };
        let response = self.raw.send_versioned(Target::Controller, i16::MAX, build, not_controller).await?;
        let named = response.responses.into_iter().filter_map(|topic| Some((topic.name.as_deref()?.to_owned(), topic)));
        let mut results = named.collect::<BTreeMap<_, _>>();
        let answer = |name: &&str| {
            let subject = || format!("deleting topic `{name}`");
            let result = match results.remove(*name) {
                None => Err(unanswered(subject())),
                Some(topic) if topic.error_code == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => {
                    Err(RequestError::UnknownTopic { topic: (*name).to_owned() })
                }
                Some(topic) => check(subject, topic.error_code, topic.error_message.as_deref()),
            };
            ((*name).to_owned(), result)
        };
        Ok(topics.iter().map(answer).collect())
    }

    /// Gives topics more partitions: `total` is how many each shall have afterwards. Keys move to other partitions.
    ///
    /// # Errors
    /// When the cluster could not be asked.
    pub async fn create_partitions(
        &self,
        topics: &[(&str, i32)],
    ) -> Result<Vec<(String, Result<(), RequestError>)>, RequestError> {
        let topic = |(name, total): &(&str, i32)| CreatePartitionsTopic {
            name: (*name).into(),
            count: *total,
            // The broker chooses; an empty list would mean that we had chosen none.
            assignments: None,
            ..CreatePartitionsTopic::default()
        };
        let request = CreatePartitionsRequest {
            topics: topics.iter().map(topic).collect(),
            timeout_ms: self.timeout_ms(),
            ..CreatePartitionsRequest::default()
        };
        let not_controller = |response: &milena_protocol::messages::CreatePartitionsResponse| {
            controller_error(response.results.iter().map(|topic| topic.error_code))
        };
        let response = self.raw.send_checked(Target::Controller, request, not_controller).await?;
        let results = response.results.into_iter().map(|topic| (topic.name.to_string(), topic));
        let mut results = results.collect::<BTreeMap<_, _>>();
        let answer = |(name, _): &(&str, i32)| {
            let subject = || format!("adding partitions to topic `{name}`");
            let result = match results.remove(*name) {
                None => Err(unanswered(subject())),
                Some(topic) => check(subject, topic.error_code, topic.error_message.as_deref()),
            };
            ((*name).to_owned(), result)
        };
        Ok(topics.iter().map(answer).collect())
    }
}

/// The broker's error for one thing.
pub(crate) fn check(
    subject: impl FnOnce() -> String,
    code: ErrorCode,
    detail: Option<&str>,
) -> Result<(), RequestError> {
    code.ok().map_err(|code| RequestError::from_code(subject(), code.0, detail))
}

/// The broker's answer left a thing out that it was asked about.
pub(crate) fn unanswered(subject: String) -> RequestError {
    RequestError::from_code(subject, ErrorCode::UNKNOWN_SERVER_ERROR.0, Some("the answer leaves it out"))
}

/// An answer from a broker that is not the controller says so of every item.
fn controller_error(codes: impl Iterator<Item = ErrorCode>) -> ErrorCode {
    let moved = |code: &ErrorCode| *code == ErrorCode::NOT_CONTROLLER;
    codes.into_iter().find(moved).unwrap_or(ErrorCode::NONE)
}

fn read_id(id: Uuid) -> Option<String> {
    (!id.is_zero()).then(|| id.to_string())
}

fn read_created(topic: CreatableTopicResult) -> Result<CreatedTopic, RequestError> {
    let subject = || format!("creating topic `{}`", topic.name);
    check(subject, topic.error_code, topic.error_message.as_deref())?;
    Ok(CreatedTopic {
        name: topic.name.to_string(),
        id: read_id(topic.topic_id),
        partitions: Some(topic.num_partitions).filter(|partitions| *partitions > 0),
        replication_factor: Some(topic.replication_factor).filter(|replicas| *replicas > 0),
    })
}

fn read_description(topic: MetadataResponseTopic) -> TopicDescription {
    let nodes = |nodes: &[milena_protocol::NodeId]| nodes.iter().map(|node| node.0).collect();
    let partitions = topic.partitions.iter().map(|partition| PartitionDescription {
        index: partition.partition_index,
        leader: Some(partition.leader_id.0).filter(|node| *node >= 0),
        leader_epoch: Some(partition.leader_epoch).filter(|epoch| *epoch >= 0),
        replicas: nodes(&partition.replica_nodes),
        isr: nodes(&partition.isr_nodes),
        offline: nodes(&partition.offline_replicas),
    });
    let mut partitions = partitions.collect::<Vec<_>>();
    partitions.sort_by_key(|partition| partition.index);
    TopicDescription {
        name: topic.name.map(|name| name.to_string()).unwrap_or_default(),
        id: read_id(topic.topic_id),
        is_internal: topic.is_internal,
        partitions,
    }
}
