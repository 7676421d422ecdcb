//! What must hold on every cluster. Each check makes its own topics and groups and removes them.

use std::time::Duration;

use milena_admin::{
    Admin, ConfigChange, ConfigResource, ConfigSource, ErrorClass, GroupOffset, NewTopic, OffsetSpec, RequestError,
    TopicPartition,
};
use milena_client::Client;
use milena_client::producer::{Producer, Record};

use crate::cluster::unique;

/// Waits until every broker knows what has just been changed: a cluster takes a moment to tell all of them.
async fn until<T, F: Future<Output = Option<T>>>(mut look: impl FnMut() -> F) -> T {
    for _ in 0..200 {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it did not come about within ten seconds");
}

async fn describe(admin: &Admin, topic: &str, partitions: usize) -> milena_admin::TopicDescription {
    until(async || {
        let mut described = admin.describe_topics(&[topic]).await.expect("an answer");
        described.pop().and_then(|(_, found)| found.ok()).filter(|found| found.partitions.len() == partitions)
    })
    .await
}

pub(crate) async fn topics(client: &Client) {
    let admin = Admin::new(client);
    let (first, second) = (unique("topics-1"), unique("topics-2"));
    let new = [
        NewTopic::new(&first).partitions(3).replication_factor(1).config("retention.ms", "3600000"),
        NewTopic::new("not/a name"),
        NewTopic::new(&second).partitions(1),
    ];
    let tried = admin.validate_topics(&new).await.expect("an answer");
    assert!(tried[0].1.is_ok() && tried[1].1.is_err(), "{tried:?}");
    let created = admin.create_topics(&new).await.expect("an answer");
    assert_eq!(created.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), [&*first, "not/a name", &second]);
    let made = created[0].1.as_ref().expect("validation created nothing, so it was free");
    assert_eq!((made.partitions, made.replication_factor), (Some(3), Some(1)));
    let refused = created[1].1.as_ref().expect_err("an illegal name");
    assert_eq!(refused.error_code(), Some(17), "{refused}");
    assert_eq!(refused.class(), ErrorClass::InvalidConfiguration);
    assert!(created[2].1.is_ok());

    let again = admin.create_topic(NewTopic::new(&first)).await.expect_err("it is there");
    assert_eq!(again.error_code(), Some(36), "{again}");
    assert!(again.to_string().starts_with(&format!("creating topic `{first}`")), "{again}");

    let described = describe(&admin, &first, 3).await;
    assert_eq!(described.id, made.id);
    assert_eq!(described.partitions.iter().map(|p| p.index).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(described.partitions.iter().all(|p| p.leader.is_some() && p.replicas == p.isr));
    let listed = admin.list_topics().await.expect("an answer");
    assert!(listed.iter().any(|topic| topic.name == first && topic.partitions == 3));
    assert!(listed.windows(2).all(|pair| pair[0].name < pair[1].name));

    let grown = admin.create_partitions(&[(&first, 5), (&second, 1)]).await.expect("an answer");
    assert!(grown[0].1.is_ok(), "{grown:?}");
    assert_eq!(grown[1].1.as_ref().expect_err("it has one already").error_code(), Some(37));
    describe(&admin, &first, 5).await;

    let deleted = admin.delete_topics(&[&first, "milena-nonesuch", &second]).await.expect("an answer");
    assert!(deleted[0].1.is_ok() && deleted[2].1.is_ok(), "{deleted:?}");
    let unknown = deleted[1].1.as_ref().expect_err("there is none");
    assert!(matches!(unknown, RequestError::UnknownTopic { .. }), "{unknown:?}");
    until(async || {
        let described = admin.describe_topics(&[&first]).await.expect("an answer");
        matches!(described[0].1, Err(RequestError::UnknownTopic { .. })).then_some(())
    })
    .await;
}

pub(crate) async fn configs(client: &Client) {
    let admin = Admin::new(client);
    let topic = unique("configs");
    admin.create_topic(NewTopic::new(&topic).partitions(1).config("retention.ms", "3600000")).await.expect("created");
    describe(&admin, &topic, 1).await;
    let resource = ConfigResource::Topic(topic.clone());
    let read = async |name: &str| {
        let described = admin.describe_configs(std::slice::from_ref(&resource)).await.expect("an answer");
        let entries = described.into_iter().next().expect("one result").1.expect("the topic is there");
        entries.into_iter().find(|entry| entry.name == name).expect("a known setting")
    };
    let entry = read("retention.ms").await;
    assert_eq!((entry.value.as_deref(), entry.source), (Some("3600000"), ConfigSource::Topic));

    let change = |name: &str, change| vec![(resource.clone(), vec![(name.to_owned(), change)])];
    let set = change("retention.ms", ConfigChange::Set("7200000".to_owned()));
    admin.alter_configs(&set).await.expect("an answer")[0].1.as_ref().expect("changed");
    until(async || (read("retention.ms").await.value.as_deref() == Some("7200000")).then_some(())).await;
    admin.alter_configs(&change("retention.ms", ConfigChange::Reset)).await.expect("an answer")[0]
        .1
        .as_ref()
        .expect("changed");
    until(async || (read("retention.ms").await.source != ConfigSource::Topic).then_some(())).await;

    let unknown = change("no.such.setting", ConfigChange::Set("1".to_owned()));
    let refused = admin.alter_configs(&unknown).await.expect("an answer");
    let refused = refused[0].1.as_ref().expect_err("no such setting");
    assert_eq!(refused.class(), ErrorClass::InvalidConfiguration, "{refused}");

    let missing = admin.describe_configs(&[ConfigResource::Topic("milena-nonesuch".to_owned())]).await;
    assert!(missing.expect("an answer")[0].1.is_err());
    admin.delete_topic(&topic).await.expect("deleted");
}

pub(crate) async fn broker_configs(client: &Client) {
    let admin = Admin::new(client);
    let cluster = admin.describe_cluster().await.expect("an answer");
    assert!(cluster.nodes.iter().any(|node| Some(node.id) == cluster.controller));
    assert_eq!(client.metadata().cluster_id, Some(cluster.cluster_id));
    let brokers = cluster.nodes.iter().map(|node| ConfigResource::Broker(node.id)).collect::<Vec<_>>();
    for (broker, entries) in admin.describe_configs(&brokers).await.expect("an answer") {
        let entries = entries.expect("a broker answers for itself");
        assert!(entries.iter().any(|entry| entry.name == "auto.create.topics.enable"), "{broker:?}");
        assert!(entries.windows(2).all(|pair| pair[0].name < pair[1].name));
    }
}

pub(crate) async fn offsets(client: &Client) {
    let admin = Admin::new(client);
    let topic = unique("offsets");
    admin.create_topic(NewTopic::new(&topic).partitions(3)).await.expect("created");
    describe(&admin, &topic, 3).await;
    let asked = [
        (TopicPartition::new(&*topic, 0), OffsetSpec::Earliest),
        (TopicPartition::new(&*topic, 2), OffsetSpec::Latest),
        (TopicPartition::new(&*topic, 1), OffsetSpec::AtTimestamp(1)),
        (TopicPartition::new(&*topic, 9), OffsetSpec::Latest),
    ];
    let listed = admin.list_offsets(&asked).await.expect("an answer");
    assert_eq!(listed.iter().map(|(p, _)| p.partition).collect::<Vec<_>>(), [0, 2, 1, 9]);
    for index in [0, 1] {
        assert_eq!(listed[index].1.as_ref().expect("there").offset, Some(0));
    }
    assert_eq!(listed[2].1.as_ref().expect("there").offset, None, "no record has such a timestamp");
    let missing = listed[3].1.as_ref().expect_err("no such partition");
    assert!(matches!(missing, RequestError::UnknownPartition { partition: 9, partitions: 3, .. }), "{missing:?}");

    let before = [(TopicPartition::new(&*topic, 0), -1), (TopicPartition::new(&*topic, 1), 50)];
    let deleted = admin.delete_records(&before).await.expect("an answer");
    assert_eq!(*deleted[0].1.as_ref().expect("nothing to delete"), 0);
    assert_eq!(deleted[1].1.as_ref().expect_err("beyond the end").error_code(), Some(1));
    admin.delete_topic(&topic).await.expect("deleted");
}

pub(crate) async fn several_offsets_of_one_partition(client: &Client) {
    let admin = Admin::new(client);
    let topic = unique("offsets-again");
    admin.create_topic(NewTopic::new(&topic).partitions(2)).await.expect("created");
    describe(&admin, &topic, 2).await;
    let producer = Producer::builder(client).build().expect("nothing is set");
    for timestamp in [1_000, 2_000, 3_000] {
        let record = Record { partition: Some(0), timestamp: Some(timestamp), ..Record::to(&topic).value(b"x") };
        producer.send(record).await.expect("taken").await.expect("acknowledged");
    }
    let (full, empty) = (TopicPartition::new(&*topic, 0), TopicPartition::new(&*topic, 1));
    let asked = [
        (full.clone(), OffsetSpec::Earliest),
        (empty.clone(), OffsetSpec::Latest),
        (full.clone(), OffsetSpec::Latest),
        (full.clone(), OffsetSpec::AtTimestamp(1_500)),
        (full.clone(), OffsetSpec::Latest),
    ];
    let listed = admin.list_offsets(&asked).await.expect("an answer");
    assert_eq!(listed.iter().map(|(of, _)| of).collect::<Vec<_>>(), asked.iter().map(|(of, _)| of).collect::<Vec<_>>());
    let offsets = listed.into_iter().map(|(of, listed)| listed.unwrap_or_else(|error| panic!("{of}: {error}")).offset);
    assert_eq!(offsets.collect::<Vec<_>>(), [Some(0), Some(0), Some(3), Some(1), Some(3)]);

    let deleted = admin.delete_records(&[(full.clone(), 1), (full.clone(), 2)]).await.expect("an answer");
    let left = deleted.into_iter().map(|(of, left)| left.unwrap_or_else(|error| panic!("{of}: {error}")));
    assert_eq!(left.collect::<Vec<_>>(), [1, 2]);
    admin.delete_topic(&topic).await.expect("deleted");
}

pub(crate) async fn groups(client: &Client) {
    let admin = Admin::new(client);
    let (topic, group) = (unique("groups"), unique("group"));
    admin.create_topic(NewTopic::new(&topic).partitions(2)).await.expect("created");
    describe(&admin, &topic, 2).await;
    let (zero, one) = (TopicPartition::new(&*topic, 0), TopicPartition::new(&*topic, 1));
    assert_eq!(admin.list_group_offsets(&group).await.expect("an answer"), []);

    let noted = GroupOffset { offset: 7, leader_epoch: Some(0), metadata: Some("noted".to_owned()) };
    let set = [(zero.clone(), noted.clone()), (one.clone(), GroupOffset::new(0))];
    for (partition, result) in admin.alter_group_offsets(&group, &set).await.expect("an answer") {
        result.unwrap_or_else(|error| panic!("{partition}: {error}"));
    }
    let offsets = admin.list_group_offsets(&group).await.expect("an answer");
    assert_eq!(offsets, [(zero.clone(), noted), (one.clone(), GroupOffset::new(0))]);

    let listed = admin.list_groups().await.expect("an answer");
    let found = listed.iter().find(|listed| listed.group == group).expect("it has offsets, so it is there");
    assert_eq!(found.state.as_deref(), Some("Empty"));
    let described = admin.describe_groups(&[&group]).await.expect("an answer");
    let described = described[0].1.as_ref().expect("it is there");
    assert_eq!((&*described.state, described.members.len()), ("Empty", 0));

    let deleted = admin.delete_group_offsets(&group, std::slice::from_ref(&one)).await.expect("an answer");
    deleted[0].1.as_ref().expect("deleted");
    assert_eq!(admin.list_group_offsets(&group).await.expect("an answer").len(), 1);

    let deleted = admin.delete_groups(&[&group, "milena-nonesuch"]).await.expect("an answer");
    deleted[0].1.as_ref().expect("deleted");
    assert_eq!(deleted[1].1.as_ref().expect_err("there is none").error_code(), Some(69));
    assert_eq!(admin.list_group_offsets(&group).await.expect("an answer"), []);
    admin.delete_topic(&topic).await.expect("deleted");
}
