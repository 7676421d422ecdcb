//! Making topics and partitions: Kafka's checks (`ReplicationControlManager`) and where replicas go.

use std::{collections::BTreeMap, sync::Arc};

use milena_protocol::{ErrorCode, NodeId, TopicName};

use super::{
    Cluster, Partition, Topic,
    config::{self, TOPIC_KEYS, TopicConfigs},
    names::{check_topic_name, collide},
};

/// No more partitions than this in one request; Kafka's own limit (`MAX_PARTITIONS_PER_BATCH`).
const MAX_PARTITIONS: i32 = 10_000;

/// A topic to be.
#[derive(Debug, Clone, Default)]
pub(crate) struct NewTopic {
    pub(crate) name: TopicName,
    /// -1 for the broker's default.
    pub(crate) partitions: i32,
    /// -1 for the broker's default.
    pub(crate) replication_factor: i16,
    /// Replicas by partition; when given, the two numbers above must be -1.
    pub(crate) assignments: BTreeMap<i32, Vec<NodeId>>,
    pub(crate) configs: BTreeMap<String, String>,
}

/// Why something wasn't done: the code and the message a client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl Cluster {
    /// Creates a topic, or with `validate_only` finds out whether it could.
    pub(crate) fn create_topic(&self, new: &NewTopic, validate_only: bool) -> Result<Arc<Topic>, Refusal> {
        check_topic_name(&new.name).map_err(|message| Refusal::new(ErrorCode::INVALID_TOPIC_EXCEPTION, message))?;
        self.check_not_taken(&new.name)?;
        check_topic_configs(&new.configs)?;
        let replicas = self.place(new)?;
        // The name is a slice of a request's frame, which would live as long as the topic.
        let name = TopicName(new.name.0.to_detached());
        let partitions = replicas
            .into_iter()
            .zip(0..)
            .map(|(replicas, index)| Arc::new(Partition::new(index, replicas, |node| self.is_running(node))))
            .collect();
        let configs = TopicConfigs::new(new.configs.clone(), Arc::clone(&self.config));
        let topic = Arc::new(Topic::new(name, self.new_topic_id(), configs, partitions));
        if !validate_only {
            let mut topics = self.topics.write();
            if topics.by_name.contains_key(&topic.name) {
                return Err(already_exists(&topic.name));
            }
            topics.by_id.insert(*topic.id.as_bytes(), Arc::clone(&topic));
            topics.by_name.insert(topic.name.clone(), Arc::clone(&topic));
        }
        Ok(topic)
    }

    fn check_not_taken(&self, name: &TopicName) -> Result<(), Refusal> {
        let topics = self.topics.read();
        if topics.by_name.contains_key(name) {
            return Err(already_exists(name));
        }
        // Only such names can collide, and most have neither character.
        if name.contains(['.', '_'])
            && let Some(other) = topics.by_name.keys().find(|other| collide(name, other))
        {
            let message = format!("Topic '{name}' collides with existing topic: {other}");
            return Err(Refusal::new(ErrorCode::INVALID_TOPIC_EXCEPTION, message));
        }
        Ok(())
    }

    fn place(&self, new: &NewTopic) -> Result<Vec<Vec<NodeId>>, Refusal> {
        if !new.assignments.is_empty() {
            if new.replication_factor != -1 {
                let message = "A manual partition assignment was specified, but replication factor was not set to -1.";
                return Err(Refusal::new(ErrorCode::INVALID_REQUEST, message));
            }
            if new.partitions != -1 {
                let message = "A manual partition assignment was specified, but numPartitions was not set to -1.";
                return Err(Refusal::new(ErrorCode::INVALID_REQUEST, message));
            }
            return self.check_assignments(&new.assignments);
        }
        let partitions = if new.partitions == -1 { self.config.int("num.partitions") } else { new.partitions };
        if partitions <= 0 {
            let message = "Number of partitions was set to an invalid non-positive value.";
            return Err(Refusal::new(ErrorCode::INVALID_PARTITIONS, message));
        }
        if partitions > MAX_PARTITIONS {
            let message = "Excessively large number of partitions per request.";
            return Err(Refusal::new(ErrorCode::POLICY_VIOLATION, message));
        }
        let factor = match new.replication_factor {
            -1 => self.config.int("default.replication.factor"),
            factor => i32::from(factor),
        };
        (0..partitions).map(|index| self.replicas_for(index, factor)).collect()
    }

    fn check_assignments(&self, assignments: &BTreeMap<i32, Vec<NodeId>>) -> Result<Vec<Vec<NodeId>>, Refusal> {
        let refuse = |message: String| Err(Refusal::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, message));
        if !assignments.keys().copied().eq(0..i32::try_from(assignments.len()).unwrap_or(i32::MAX)) {
            return refuse("partitions should be a consecutive 0-based integer sequence".to_owned());
        }
        let factor = assignments.values().next().map_or(0, Vec::len);
        for replicas in assignments.values() {
            self.check_replicas(replicas)?;
            if replicas.len() != factor {
                return refuse(
                    "The manual partition assignment has partitions of different replica counts.".to_owned(),
                );
            }
        }
        Ok(assignments.values().cloned().collect())
    }

    fn check_replicas(&self, replicas: &[NodeId]) -> Result<(), Refusal> {
        let refuse = |message: String| Err(Refusal::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, message));
        if replicas.is_empty() {
            return refuse("The manual partition assignment includes an empty replica list.".to_owned());
        }
        for (position, node) in replicas.iter().enumerate() {
            if replicas[..position].contains(node) {
                return refuse(format!("The manual partition assignment includes the broker {node} more than once."));
            }
            if !self.nodes.contains(node) {
                return refuse(format!(
                    "The manual partition assignment includes broker {node}, but no such broker is registered."
                ));
            }
        }
        Ok(())
    }

    /// Replicas go round the nodes, one further for each partition.
    fn replicas_for(&self, index: i32, factor: i32) -> Result<Vec<NodeId>, Refusal> {
        let running = self.running_nodes();
        let wanted = usize::try_from(factor).unwrap_or(0);
        if wanted == 0 {
            let message = "Replication factor must be larger than 0, or -1 to use the default value.";
            return Err(Refusal::new(ErrorCode::INVALID_REPLICATION_FACTOR, message));
        }
        if wanted > running.len() {
            let message = format!(
                "Unable to replicate the partition {factor} time(s): The target replication factor of {factor} cannot \
                 be reached because only {} broker(s) are registered or some brokers have all their log directories \
                 cordoned.",
                running.len()
            );
            return Err(Refusal::new(ErrorCode::INVALID_REPLICATION_FACTOR, message));
        }
        let first = usize::try_from(index).unwrap_or(0);
        Ok((first..first + wanted).map(|position| running[position % running.len()]).collect())
    }

    /// Adds partitions until there are `count` (CreatePartitions).
    pub(crate) fn create_partitions(
        &self,
        name: &str,
        count: i32,
        assignments: Option<&[Vec<NodeId>]>,
        validate_only: bool,
    ) -> Result<(), Refusal> {
        let topic = self.topic(name).ok_or_else(|| Refusal::new(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, ""))?;
        let existing = topic.partitions();
        let current = i32::try_from(existing.len()).unwrap_or(i32::MAX);
        let refuse = |message: String| Err(Refusal::new(ErrorCode::INVALID_PARTITIONS, message));
        if count == current {
            return refuse(format!("Topic already has {current} partition(s)."));
        }
        if count < current {
            return refuse(format!(
                "The topic {name} currently has {current} partition(s); {count} would not be an increase."
            ));
        }
        if count - current > MAX_PARTITIONS {
            return refuse(format!("Excessively large number of partitions per request: {}", count - current));
        }
        let factor = existing.first().map_or(1, |partition| partition.lock().replicas.len());
        let replicas: Vec<Vec<NodeId>> = match assignments {
            None => {
                let factor = i32::try_from(factor).unwrap_or(i32::MAX);
                (current..count).map(|index| self.replicas_for(index, factor)).collect::<Result<_, _>>()?
            }
            Some(assignments) => {
                if i32::try_from(assignments.len()) != Ok(count - current) {
                    let message = format!(
                        "Attempted to add {} additional partition(s), but only {} assignment(s) were specified.",
                        count - current,
                        assignments.len()
                    );
                    return Err(Refusal::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, message));
                }
                assignments.iter().try_for_each(|replicas| self.check_replicas(replicas))?;
                assignments.to_vec()
            }
        };
        if !validate_only {
            let more = replicas.into_iter().zip(current..);
            topic.add_partitions(
                more.map(|(replicas, index)| Arc::new(Partition::new(index, replicas, |node| self.is_running(node)))),
            );
        }
        Ok(())
    }
}

fn already_exists(name: &TopicName) -> Refusal {
    Refusal::new(ErrorCode::TOPIC_ALREADY_EXISTS, format!("Topic '{name}' already exists."))
}

/// Whether each is a known topic config with a legal value.
pub(crate) fn check_topic_configs(configs: &BTreeMap<String, String>) -> Result<(), Refusal> {
    for (name, value) in configs {
        let known = config::find(TOPIC_KEYS, name)
            .ok_or_else(|| Refusal::new(ErrorCode::INVALID_CONFIG, format!("Unknown topic config name: {name}")))?;
        config::validate(known, value).map_err(|message| Refusal::new(ErrorCode::INVALID_CONFIG, message))?;
    }
    Ok(())
}
