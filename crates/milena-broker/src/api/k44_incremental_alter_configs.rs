//! IncrementalAlterConfigs (44), versions 0–1: sets, deletes, appends to and subtracts from configs.
//!
//! As Kafka for topics and brokers. A broker's configs are those of all nodes.

use std::collections::{BTreeMap, BTreeSet};

use milena_protocol::{
    ErrorCode, VersionRange,
    messages::{
        IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
        incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
        incremental_alter_configs_response::AlterConfigsResourceResponse,
    },
};

use super::{
    NoReply, RequestContext, Subject,
    k32_describe_configs::{BROKER, TOPIC},
};
use crate::{
    cluster::{
        Refusal, check_topic_name,
        config::{self, BROKER_KEYS, ConfigKey, ConfigType, TOPIC_KEYS, split_list},
    },
    fault::Touched,
};

pub(crate) const VERSIONS: VersionRange = VersionRange::new(0, 1);

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

impl Subject for IncrementalAlterConfigsRequest {
    fn touched(&self, _cx: &RequestContext<'_>) -> Touched {
        let topics = self.resources.iter().filter(|resource| resource.resource_type == TOPIC);
        Touched { partitions: topics.map(|topic| (topic.resource_name.to_string(), -1)).collect(), key: None }
    }
}

pub(crate) async fn handle(
    cx: &RequestContext<'_>,
    request: IncrementalAlterConfigsRequest,
) -> Result<IncrementalAlterConfigsResponse, NoReply> {
    let validate_only = request.validate_only;
    let responses = request.resources.into_iter().map(|resource| {
        let (error_code, error_message) = match alter(cx, &resource, validate_only) {
            Ok(()) => (ErrorCode::NONE, None),
            Err(refusal) => (refusal.code, Some(refusal.message.into())),
        };
        let AlterConfigsResource { resource_type, resource_name, .. } = resource;
        AlterConfigsResourceResponse { error_code, error_message, resource_type, resource_name }
    });
    Ok(IncrementalAlterConfigsResponse { responses: responses.collect(), ..Default::default() })
}

fn alter(cx: &RequestContext<'_>, resource: &AlterConfigsResource, validate_only: bool) -> Result<(), Refusal> {
    let name = &*resource.resource_name;
    match resource.resource_type {
        TOPIC => {
            if let Some(code) = cx.effects.partition_error(name, -1, false) {
                return Err(Refusal::new(code, code.to_string()));
            }
            check_topic_name(name).map_err(|message| Refusal::new(ErrorCode::INVALID_TOPIC_EXCEPTION, message))?;
            let topic = cx.core.cluster.topic(name);
            let topic = topic.ok_or_else(|| {
                let message = format!("The topic '{name}' does not exist.");
                Refusal::new(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, message)
            })?;
            let mut configs = topic.configs.write();
            let changed = changed(TOPIC_KEYS, configs.set_values().clone(), &resource.configs)?;
            if !validate_only {
                configs.replace(changed);
            }
            Ok(())
        }
        BROKER => {
            let known = name.is_empty() || cx.core.cluster.nodes.iter().any(|node| node.to_string() == name);
            if !known {
                let message = format!("No such broker: {name}");
                return Err(Refusal::new(ErrorCode::INVALID_REQUEST, message));
            }
            let broker = &cx.core.cluster.config;
            let changed = changed(BROKER_KEYS, broker.set_values(), &resource.configs)?;
            if !validate_only {
                broker.replace(changed);
            }
            Ok(())
        }
        kind => Err(Refusal::new(ErrorCode::INVALID_REQUEST, format!("Unsupported resource type: {kind}"))),
    }
}

/// What is set after the changes; nothing is, if one of them is refused.
fn changed(
    keys: &'static [ConfigKey],
    mut set: BTreeMap<String, String>,
    changes: &[AlterableConfig],
) -> Result<BTreeMap<String, String>, Refusal> {
    let refusal = |message: String| Refusal::new(ErrorCode::INVALID_CONFIG, message);
    for change in changes {
        let Some(key) = config::find(keys, &change.name) else {
            return Err(refusal(format!("Unknown topic config name: {}", change.name)));
        };
        if change.config_operation == DELETE {
            set.remove(key.name);
            continue;
        }
        let Some(value) = change.value.as_deref() else {
            return Err(Refusal::new(
                ErrorCode::INVALID_REQUEST,
                format!("Null value not supported for : {}", key.name),
            ));
        };
        let current = set.get(key.name).map_or(key.default, String::as_str);
        let value = match change.config_operation {
            SET => value.to_owned(),
            APPEND | SUBTRACT if key.kind != ConfigType::List => {
                let verb = if change.config_operation == APPEND { "APPEND to" } else { "SUBTRACT from" };
                return Err(refusal(format!("Can't {verb} key {} because its type is not LIST.", key.name)));
            }
            APPEND => {
                let mut items = split_list(current);
                let held: BTreeSet<_> = items.iter().copied().collect();
                items.extend(split_list(value).into_iter().filter(|item| !held.contains(item)));
                items.join(",")
            }
            SUBTRACT => {
                let gone: BTreeSet<_> = split_list(value).into_iter().collect();
                split_list(current).into_iter().filter(|item| !gone.contains(item)).collect::<Vec<_>>().join(",")
            }
            operation => {
                let message = format!("Unknown config operation {operation}");
                return Err(Refusal::new(ErrorCode::INVALID_REQUEST, message));
            }
        };
        config::validate(key, &value).map_err(refusal)?;
        set.insert(key.name.to_owned(), value);
    }
    Ok(set)
}
