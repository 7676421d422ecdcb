//! DescribeConfigs (32), versions 1–4: the configs in force of topics and brokers.
//!
//! As Kafka for those two kinds of resource, with synonyms; without documentation texts, and with the broker keys that
//! this broker knows rather than all of Kafka's. Other kinds of resource are refused.

use milena_protocol::{
    ErrorCode, StrBytes, VersionRange,
    messages::{
        DescribeConfigsRequest, DescribeConfigsResponse,
        describe_configs_request::DescribeConfigsResource,
        describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym},
    },
};

use super::{NoReply, RequestContext, Subject};
use crate::{
    cluster::{
        Refusal, check_topic_name,
        config::{BROKER_KEYS, ConfigKey, EffectiveConfig, source},
    },
    fault::Touched,
};

pub(crate) const VERSIONS: VersionRange = VersionRange::new(1, 4);

/// `ConfigResource.Type` of a topic.
pub(super) const TOPIC: i8 = 2;
/// `ConfigResource.Type` of a broker.
pub(super) const BROKER: i8 = 4;

impl Subject for DescribeConfigsRequest {
    fn touched(&self, _cx: &RequestContext<'_>) -> Touched {
        let topics = self.resources.iter().filter(|resource| resource.resource_type == TOPIC);
        Touched { partitions: topics.map(|topic| (topic.resource_name.to_string(), -1)).collect(), key: None }
    }
}

pub(crate) async fn handle(
    cx: &RequestContext<'_>,
    request: DescribeConfigsRequest,
) -> Result<DescribeConfigsResponse, NoReply> {
    let synonyms = request.include_synonyms;
    let results = request.resources.into_iter().map(|resource| {
        let described = describe(cx, &resource);
        let DescribeConfigsResource { resource_type, resource_name, configuration_keys, .. } = resource;
        let asked = |key: &ConfigKey| {
            configuration_keys
                .as_ref()
                .is_none_or(|keys| keys.is_empty() || keys.iter().any(|name| **name == *key.name))
        };
        let (error_code, error_message, configs) = match described {
            // An empty message, not none, is what Kafka sends.
            Ok(configs) => (ErrorCode::NONE, StrBytes::default(), configs),
            Err(refusal) => (refusal.code, StrBytes::from(refusal.message), Vec::new()),
        };
        let configs = configs.into_iter().filter(|config| asked(config.key));
        let configs = configs.map(|config| result(config, resource_type, synonyms)).collect();
        let error_message = Some(error_message);
        DescribeConfigsResult { error_code, error_message, resource_type, resource_name, configs }
    });
    Ok(DescribeConfigsResponse { results: results.collect(), ..Default::default() })
}

fn describe(cx: &RequestContext<'_>, resource: &DescribeConfigsResource) -> Result<Vec<EffectiveConfig>, Refusal> {
    let name = &*resource.resource_name;
    match resource.resource_type {
        TOPIC => {
            if let Some(code) = cx.effects.partition_error(name, -1, false) {
                return Err(Refusal::new(code, code.to_string()));
            }
            check_topic_name(name).map_err(|message| Refusal::new(ErrorCode::INVALID_TOPIC_EXCEPTION, message))?;
            let topic = cx.core.cluster.topic(name);
            let topic = topic.ok_or_else(|| Refusal::new(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, ""))?;
            let configs = topic.configs.read().effective();
            Ok(configs)
        }
        BROKER => {
            if !name.is_empty() && name.parse() != Ok(cx.node.0) {
                let message = if name.parse::<i32>().is_ok() {
                    format!("Unexpected broker id, expected {} or empty string, but received {name}", cx.node)
                } else {
                    format!("Broker id must be an integer, but it is: {name}")
                };
                return Err(Refusal::new(ErrorCode::INVALID_REQUEST, message));
            }
            let set = cx.core.cluster.config.set_values();
            // No name means the defaults that were set for all brokers, and those alone.
            let keys = BROKER_KEYS.iter().filter(|key| !name.is_empty() || set.contains_key(key.name));
            let keys = keys.map(|key| match set.get(key.name) {
                Some(value) => EffectiveConfig { key, value: value.clone(), source: source::STATIC_BROKER },
                None => EffectiveConfig { key, value: key.default.to_owned(), source: source::DEFAULT },
            });
            Ok(keys.collect())
        }
        kind => Err(Refusal::new(ErrorCode::INVALID_REQUEST, format!("Unsupported resource type: {kind}"))),
    }
}

fn result(config: EffectiveConfig, resource_type: i8, with_synonyms: bool) -> DescribeConfigsResourceResult {
    let EffectiveConfig { key, value, source } = config;
    let mut synonyms = Vec::new();
    if with_synonyms {
        if source != source::DEFAULT {
            let name = if source == source::TOPIC { key.name } else { key.broker_name.unwrap_or(key.name) };
            let value = Some(StrBytes::from(&*value));
            synonyms.push(DescribeConfigsSynonym { name: name.into(), value, source });
        }
        // The default goes by the broker's name for it; a topic key without one has no synonym.
        let default_name = if resource_type == BROKER { Some(key.name) } else { key.broker_name };
        synonyms.extend(default_name.map(|name| DescribeConfigsSynonym {
            name: name.into(),
            value: Some(key.default.into()),
            source: source::DEFAULT,
        }));
    }
    DescribeConfigsResourceResult {
        name: key.name.into(),
        value: Some(value.into()),
        read_only: false,
        config_source: source,
        is_sensitive: false,
        synonyms,
        config_type: key.kind as i8,
        documentation: None,
    }
}
