//! Settings of topics, brokers and groups: read, and change one by one (KIP-339).

use milena_client::RequestError;
use milena_client::raw::Target;
use milena_protocol::ErrorCode;
use milena_protocol::messages::describe_configs_request::DescribeConfigsResource;
use milena_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use milena_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use milena_protocol::messages::{DescribeConfigsRequest, IncrementalAlterConfigsRequest};

use crate::Admin;
use crate::topics::{check, unanswered};

/// Whose settings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConfigResource {
    /// A topic's.
    Topic(String),
    /// A broker's, by node id.
    Broker(i32),
    /// A group's.
    Group(String),
}

impl ConfigResource {
    /// Kafka's number of the kind, and the name.
    fn write(&self) -> (i8, String) {
        match self {
            Self::Topic(name) => (2, name.clone()),
            Self::Broker(node) => (4, node.to_string()),
            Self::Group(group) => (32, group.clone()),
        }
    }

    /// A broker answers for its own settings only.
    fn target(&self) -> Target {
        match self {
            Self::Broker(node) => Target::Node(*node),
            Self::Topic(_) | Self::Group(_) => Target::Any,
        }
    }

    fn subject(&self, doing: &str) -> String {
        match self {
            Self::Topic(name) => format!("{doing} configs of topic `{name}`"),
            Self::Broker(node) => format!("{doing} configs of broker {node}"),
            Self::Group(group) => format!("{doing} configs of group `{group}`"),
        }
    }
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigEntry {
    /// Its name.
    pub name: String,
    /// Its value; absent where it is secret or unset.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// Whether it cannot be changed.
    pub is_read_only: bool,
    /// Whether it is secret.
    pub is_sensitive: bool,
}

/// Where a setting's value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConfigSource {
    /// Set on the topic.
    Topic,
    /// Set on the broker at run time.
    DynamicBroker,
    /// Set for all brokers at run time.
    DynamicDefaultBroker,
    /// From the broker's configuration file.
    StaticBroker,
    /// Kafka's default.
    Default,
    /// Set on the group.
    Group,
    /// Some other, by Kafka's number.
    Other(i8),
}

/// A change to one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigChange {
    /// Gives it a value.
    Set(String),
    /// Takes its value back, so that the default holds.
    Reset,
    /// Adds to a setting that is a list.
    Append(String),
    /// Takes away from a setting that is a list.
    Subtract(String),
}

impl ConfigChange {
    fn write(&self) -> (i8, Option<&str>) {
        match self {
            Self::Set(value) => (0, Some(value)),
            Self::Reset => (1, None),
            Self::Append(value) => (2, Some(value)),
            Self::Subtract(value) => (3, Some(value)),
        }
    }
}

impl Admin {
    /// All settings of each resource, by name; one result for each.
    ///
    /// # Errors
    /// When the cluster could not be asked.
    pub async fn describe_configs(
        &self,
        resources: &[ConfigResource],
    ) -> Result<Vec<(ConfigResource, Result<Vec<ConfigEntry>, RequestError>)>, RequestError> {
        let mut results = Vec::with_capacity(resources.len());
        for resource in resources {
            results.push((resource.clone(), self.describe_config(resource).await?));
        }
        Ok(results)
    }

    async fn describe_config(
        &self,
        resource: &ConfigResource,
    ) -> Result<Result<Vec<ConfigEntry>, RequestError>, RequestError> {
        let (resource_type, name) = resource.write();
        let asked = DescribeConfigsResource {
            resource_type,
            resource_name: name.into(),
            configuration_keys: None,
            ..DescribeConfigsResource::default()
        };
        let request = DescribeConfigsRequest { resources: vec![asked], ..DescribeConfigsRequest::default() };
        let response = self
            .raw
            .send_checked(resource.target(), request, |response| {
                retriable(response.results.first().map(|result| result.error_code))
            })
            .await?;
        let subject = || resource.subject("describing");
        let Some(result) = response.results.into_iter().next() else { return Ok(Err(unanswered(subject()))) };
        Ok(check(subject, result.error_code, result.error_message.as_deref()).map(|()| {
            let mut entries = result.configs.into_iter().map(read_entry).collect::<Vec<_>>();
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            entries
        }))
    }

    /// Changes settings of each resource, and leaves all others as they are; one result for each. Per resource all
    /// changes are made or none.
    ///
    /// # Errors
    /// When the cluster could not be asked.
    pub async fn alter_configs(
        &self,
        changes: &[(ConfigResource, Vec<(String, ConfigChange)>)],
    ) -> Result<Vec<(ConfigResource, Result<(), RequestError>)>, RequestError> {
        let mut results = Vec::with_capacity(changes.len());
        for (resource, changes) in changes {
            results.push((resource.clone(), self.alter_config(resource, changes).await?));
        }
        Ok(results)
    }

    async fn alter_config(
        &self,
        resource: &ConfigResource,
        changes: &[(String, ConfigChange)],
    ) -> Result<Result<(), RequestError>, RequestError> {
        let (resource_type, name) = resource.write();
        let config = |(name, change): &(String, ConfigChange)| {
            let (config_operation, value) = change.write();
            AlterableConfig {
                name: name.as_str().into(),
                config_operation,
                value: value.map(Into::into),
                ..AlterableConfig::default()
            }
        };
        let asked = AlterConfigsResource {
            resource_type,
            resource_name: name.into(),
            configs: changes.iter().map(config).collect(),
            ..AlterConfigsResource::default()
        };
        let request =
            IncrementalAlterConfigsRequest { resources: vec![asked], ..IncrementalAlterConfigsRequest::default() };
        let response = self
            .raw
            .send_checked(resource.target(), request, |response| {
                retriable(response.responses.first().map(|result| result.error_code))
            })
            .await?;
        let subject = || resource.subject("changing");
        let Some(result) = response.responses.into_iter().next() else { return Ok(Err(unanswered(subject()))) };
        Ok(check(subject, result.error_code, result.error_message.as_deref()))
    }
}

/// The error for which a request is sent again. That a resource does not exist is an answer: to wait for one to appear
/// is not what was asked.
fn retriable(code: Option<ErrorCode>) -> ErrorCode {
    code.filter(|code| *code != ErrorCode::UNKNOWN_TOPIC_OR_PARTITION).unwrap_or_default()
}

fn read_entry(entry: DescribeConfigsResourceResult) -> ConfigEntry {
    ConfigEntry {
        name: entry.name.to_string(),
        value: entry.value.map(|value| value.to_string()),
        source: match entry.config_source {
            1 => ConfigSource::Topic,
            2 => ConfigSource::DynamicBroker,
            3 => ConfigSource::DynamicDefaultBroker,
            4 => ConfigSource::StaticBroker,
            5 => ConfigSource::Default,
            8 => ConfigSource::Group,
            other => ConfigSource::Other(other),
        },
        is_read_only: entry.read_only,
        is_sensitive: entry.is_sensitive,
    }
}
