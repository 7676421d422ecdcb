//! `milena groups`: list, describe, delete.

use std::collections::BTreeMap;

use milena_admin::{Admin, OffsetSpec, TopicPartition};
use serde_json::json;

use super::table::table;
use crate::args::{GroupsArgs, GroupsCommand};
use crate::connect;
use crate::failure::{Failure, Trying as _};
use crate::stdout;

pub(crate) async fn run(args: GroupsArgs) -> Result<(), Failure> {
    let client = connect::client(args.bootstrap.servers()?).await?;
    let admin = Admin::new(&client);
    let outcome = match args.command {
        GroupsCommand::List => list(&admin, args.json).await,
        GroupsCommand::Describe { name } => describe(&admin, &name, args.json).await,
        GroupsCommand::Delete { name } => delete(&admin, &name, args.json).await,
    };
    connect::close(&client).await;
    outcome
}

async fn list(admin: &Admin, as_json: bool) -> Result<(), Failure> {
    let groups = admin.list_groups().await.trying("cannot list groups")?;
    if as_json {
        let groups: Vec<_> = groups
            .iter()
            .map(|group| {
                json!({
                    "group": group.group, "state": group.state, "type": group.kind,
                    "protocol_type": group.protocol_type,
                })
            })
            .collect();
        return stdout::line(json!(groups));
    }
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let rows: Vec<Vec<String>> =
        groups.into_iter().map(|group| vec![group.group, or_dash(group.state), or_dash(group.kind)]).collect();
    if rows.is_empty() {
        return Ok(());
    }
    stdout::text(&table(&["GROUP", "STATE", "TYPE"], &rows))
}

/// A partition that the group reads, or has read.
struct Progress {
    partition: TopicPartition,
    committed: Option<i64>,
    end: Option<i64>,
    member: Option<String>,
}

impl Progress {
    fn lag(&self) -> Option<i64> {
        Some((self.end? - self.committed?).max(0))
    }
}

async fn describe(admin: &Admin, name: &str, as_json: bool) -> Result<(), Failure> {
    let what = format!("cannot describe group {name}");
    let mut described = admin.describe_groups(&[name]).await.trying(&what)?;
    let Some((_, group)) = described.pop() else { return Err(Failure::Failed(what)) };
    let group = group.trying(&what)?;
    if group.state == "Dead" {
        return Err(Failure::Failed(format!("{what}: there is no such group")));
    }
    let mut partitions: BTreeMap<TopicPartition, (Option<i64>, Option<String>)> = BTreeMap::new();
    for (partition, offset) in admin.list_group_offsets(name).await.trying(&what)? {
        partitions.insert(partition, (Some(offset.offset), None));
    }
    for member in &group.members {
        for partition in member.partitions() {
            partitions.entry(partition).or_default().1 = Some(member.member_id.clone());
        }
    }
    let asked: Vec<_> = partitions.keys().map(|partition| (partition.clone(), OffsetSpec::Latest)).collect();
    let ends = admin.list_offsets(&asked).await.trying(&what)?;
    let progress: Vec<Progress> = partitions
        .into_iter()
        .zip(ends)
        .map(|((partition, (committed, member)), (_, end))| Progress {
            partition,
            committed,
            end: end.ok().and_then(|end| end.offset),
            member,
        })
        .collect();
    if as_json {
        let members: Vec<_> = group
            .members
            .iter()
            .map(|member| {
                json!({
                    "member_id": member.member_id, "group_instance_id": member.group_instance_id,
                    "client_id": member.client_id, "client_host": member.client_host,
                })
            })
            .collect();
        let partitions: Vec<_> = progress
            .iter()
            .map(|row| {
                json!({
                    "topic": &*row.partition.topic, "partition": row.partition.partition,
                    "committed": row.committed, "end_offset": row.end, "lag": row.lag(), "member_id": row.member,
                })
            })
            .collect();
        return stdout::line(json!({
            "group": group.group, "state": group.state, "protocol": group.protocol, "members": members,
            "partitions": partitions,
        }));
    }
    let mut text = format!("{}  {}  {} members  {}\n", group.group, group.state, group.members.len(), group.protocol);
    let dash = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let rows: Vec<Vec<String>> = progress
        .iter()
        .map(|row| {
            vec![
                row.partition.topic.to_string(),
                row.partition.partition.to_string(),
                dash(row.committed),
                dash(row.end),
                dash(row.lag()),
                row.member.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        })
        .collect();
    if !rows.is_empty() {
        text.push_str(&table(&["TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "MEMBER"], &rows));
    }
    stdout::text(&text)
}

async fn delete(admin: &Admin, name: &str, as_json: bool) -> Result<(), Failure> {
    let what = format!("cannot delete group {name}");
    let mut deleted = admin.delete_groups(&[name]).await.trying(&what)?;
    match deleted.pop() {
        Some((_, outcome)) => outcome.trying(&what)?,
        None => return Err(Failure::Failed(what)),
    }
    if as_json {
        return stdout::line(json!({ "deleted": name }));
    }
    stdout::line(format_args!("deleted {name}"))
}
