//! `milena topics`: list, create, describe, delete.

use milena_admin::{Admin, ConfigResource, ConfigSource, NewTopic, OffsetSpec, TopicDescription, TopicPartition};
use serde_json::json;

use super::table::table;
use crate::args::{TopicsArgs, TopicsCommand};
use crate::connect;
use crate::failure::{Failure, Trying as _};
use crate::stdout;

pub(crate) async fn run(args: TopicsArgs) -> Result<(), Failure> {
    let client = connect::client(args.bootstrap.servers()?).await?;
    let admin = Admin::new(&client);
    let outcome = match args.command {
        TopicsCommand::List => list(&admin, args.json).await,
        TopicsCommand::Create { name, partitions, replication, configs } => {
            let mut topic = NewTopic::new(&name).partitions(partitions);
            if let Some(replication) = replication {
                topic = topic.replication_factor(replication);
            }
            for (key, value) in configs {
                topic = topic.config(key, value);
            }
            create(&admin, &name, topic, args.json).await
        }
        TopicsCommand::Describe { name } => describe(&admin, &name, args.json).await,
        TopicsCommand::Delete { name } => delete(&admin, &name, args.json).await,
    };
    connect::close(&client).await;
    outcome
}

async fn list(admin: &Admin, as_json: bool) -> Result<(), Failure> {
    let topics = admin.list_topics().await.trying("cannot list topics")?;
    if as_json {
        let topics: Vec<_> = topics
            .iter()
            .map(|topic| json!({"name": topic.name, "partitions": topic.partitions, "internal": topic.is_internal}))
            .collect();
        return stdout::line(json!(topics));
    }
    let names: String = topics.into_iter().flat_map(|topic| [topic.name, "\n".to_owned()]).collect();
    stdout::text(&names)
}

async fn create(admin: &Admin, name: &str, topic: NewTopic, as_json: bool) -> Result<(), Failure> {
    let created = admin.create_topic(topic).await.trying(format_args!("cannot create topic {name}"))?;
    if as_json {
        return stdout::line(json!({
            "created": name, "id": created.id, "partitions": created.partitions, "replication": created.replication_factor,
        }));
    }
    match created.partitions {
        Some(1) => stdout::line(format_args!("created {name} with 1 partition")),
        Some(partitions) => stdout::line(format_args!("created {name} with {partitions} partitions")),
        None => stdout::line(format_args!("created {name}")),
    }
}

async fn delete(admin: &Admin, name: &str, as_json: bool) -> Result<(), Failure> {
    admin.delete_topic(name).await.trying(format_args!("cannot delete topic {name}"))?;
    if as_json {
        return stdout::line(json!({ "deleted": name }));
    }
    stdout::line(format_args!("deleted {name}"))
}

async fn describe(admin: &Admin, name: &str, as_json: bool) -> Result<(), Failure> {
    let what = format!("cannot describe topic {name}");
    let mut described = admin.describe_topics(&[name]).await.trying(&what)?;
    let Some((_, topic)) = described.pop() else { return Err(Failure::Failed(what)) };
    let topic = topic.trying(&what)?;
    let offsets = offsets(admin, &topic).await.trying(&what)?;
    let mut configs = admin.describe_configs(&[ConfigResource::Topic(name.to_owned())]).await.trying(&what)?;
    let configs = match configs.pop() {
        Some((_, configs)) => configs.trying(&what)?,
        None => Vec::new(),
    };
    let own = configs.iter().filter(|config| config.source == ConfigSource::Topic);
    let own: Vec<(&str, &str)> = own.map(|config| (&*config.name, config.value.as_deref().unwrap_or(""))).collect();
    if as_json {
        let partitions: Vec<_> = topic
            .partitions
            .iter()
            .zip(&offsets)
            .map(|(partition, (start, end))| {
                json!({
                    "partition": partition.index, "leader": partition.leader, "leader_epoch": partition.leader_epoch,
                    "replicas": partition.replicas, "isr": partition.isr, "start_offset": start, "end_offset": end,
                })
            })
            .collect();
        let configs: serde_json::Map<_, _> = own.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        return stdout::line(json!({"name": topic.name, "id": topic.id, "partitions": partitions, "configs": configs}));
    }
    let mut text = format!("{}  {}\n", topic.name, topic.id.as_deref().unwrap_or("(no id)"));
    for (key, value) in own {
        text.extend(["  ", key, "=", value, "\n"]);
    }
    let rows: Vec<Vec<String>> = topic
        .partitions
        .iter()
        .zip(&offsets)
        .map(|(partition, (start, end))| {
            vec![
                partition.index.to_string(),
                number(partition.leader.map(i64::from)),
                number(partition.leader_epoch.map(i64::from)),
                numbers(&partition.replicas),
                numbers(&partition.isr),
                number(*start),
                number(*end),
            ]
        })
        .collect();
    text.push_str(&table(&["PARTITION", "LEADER", "EPOCH", "REPLICAS", "ISR", "START", "END"], &rows));
    stdout::text(&text)
}

/// Start and end of each partition; none where its leader did not tell.
async fn offsets(
    admin: &Admin,
    topic: &TopicDescription,
) -> Result<Vec<(Option<i64>, Option<i64>)>, milena_admin::RequestError> {
    let ask = |spec| {
        let partitions = topic.partitions.iter();
        partitions
            .map(|partition| (TopicPartition::new(topic.name.as_str(), partition.index), spec))
            .collect::<Vec<_>>()
    };
    let starts = admin.list_offsets(&ask(OffsetSpec::Earliest)).await?;
    let ends = admin.list_offsets(&ask(OffsetSpec::Latest)).await?;
    let offset = |listed: Result<milena_admin::ListedOffset, _>| listed.ok().and_then(|listed| listed.offset);
    Ok(starts.into_iter().zip(ends).map(|((_, start), (_, end))| (offset(start), offset(end))).collect())
}

fn number(number: Option<i64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn numbers(numbers: &[i32]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
