//! Asks the leaders about partitions: groups them by leader, asks each once, and asks again for those whose leader
//! has moved.

use std::collections::BTreeMap;
use std::time::Duration;

use milena_client::raw::Target;
use milena_client::{Partition, RequestError, TopicPartition};
use milena_protocol::{ErrorCode, Request};

use crate::Admin;
use crate::topics::unanswered;

/// Wait before partitions whose leader moved are asked for again.
const PAUSE: Duration = Duration::from_millis(100);

impl Admin {
    /// One result per partition, in the order asked for. `build` makes the request for the partitions of one leader,
    /// `read` takes its answer apart.
    pub(crate) async fn ask_leaders<Q, R, T>(
        &self,
        doing: &str,
        asked: &[(TopicPartition, Q)],
        build: impl Fn(&[&(TopicPartition, Q)]) -> R,
        read: impl Fn(R::Response) -> Vec<(TopicPartition, ErrorCode, T)>,
    ) -> Result<Vec<(TopicPartition, Result<T, RequestError>)>, RequestError>
    where
        R: Request,
    {
        let clock = self.client.time().clone();
        let deadline = clock.now() + self.raw.timeout();
        let mut results = BTreeMap::new();
        loop {
            let open = asked.iter().filter(|(partition, _)| is_open(results.get(partition))).collect::<Vec<_>>();
            if open.is_empty() || (!results.is_empty() && clock.now() + PAUSE >= deadline) {
                break;
            }
            if !results.is_empty() {
                tokio::time::sleep(PAUSE).await;
                self.client.refresh_metadata().await?;
            }
            for (leader, partitions) in self.by_leader(open, &mut results).await {
                let response = self.raw.send(Target::Node(leader), build(&partitions)).await;
                let mut answers = BTreeMap::new();
                let failed = match response {
                    Ok(response) => {
                        let read = read(response).into_iter();
                        answers.extend(read.map(|(partition, code, value)| (partition, (code, value))));
                        None
                    }
                    Err(error) => Some(error),
                };
                for (partition, _) in partitions {
                    let subject =
                        || format!("{doing} partition {} of topic `{}`", partition.partition, partition.topic);
                    let result = match (answers.remove(partition), &failed) {
                        (Some((code, value)), _) => {
                            code.ok().map(|()| value).map_err(|code| RequestError::from_code(subject(), code.0, None))
                        }
                        (None, Some(error)) => Err(error.clone()),
                        (None, None) => Err(unanswered(subject())),
                    };
                    results.insert(partition.clone(), result);
                }
            }
        }
        let answer = |(partition, _): &(TopicPartition, Q)| {
            let late = || Err(unanswered(format!("{doing} partition {partition}")));
            (partition.clone(), results.remove(partition).unwrap_or_else(late))
        };
        Ok(asked.iter().map(answer).collect())
    }

    /// Partitions by leader; those without one get their result at once.
    async fn by_leader<'a, Q, T>(
        &self,
        open: Vec<&'a (TopicPartition, Q)>,
        results: &mut BTreeMap<TopicPartition, Result<T, RequestError>>,
    ) -> BTreeMap<i32, Vec<&'a (TopicPartition, Q)>> {
        let mut topics: BTreeMap<&str, Result<Vec<Partition>, RequestError>> = BTreeMap::new();
        let mut by_leader: BTreeMap<i32, Vec<_>> = BTreeMap::new();
        for asked in open {
            let (partition, _) = asked;
            if !topics.contains_key(&*partition.topic) {
                topics.insert(&partition.topic, self.client.partitions(&partition.topic).await);
            }
            let found = topics[&*partition.topic].as_ref().map_err(RequestError::clone).and_then(|partitions| {
                let topic = || partition.topic.to_string();
                let found = partitions.iter().find(|found| found.index == partition.partition);
                let found = found.ok_or_else(|| RequestError::UnknownPartition {
                    topic: topic(),
                    partition: partition.partition,
                    partitions: partitions.len(),
                })?;
                found.leader.ok_or_else(|| RequestError::NoLeader { topic: topic(), partition: partition.partition })
            });
            match found {
                Ok(leader) => by_leader.entry(leader).or_default().push(asked),
                Err(error) => drop(results.insert(partition.clone(), Err(error))),
            }
        }
        by_leader
    }
}

/// Whether asking again may help.
fn is_open<T>(result: Option<&Result<T, RequestError>>) -> bool {
    match result {
        None => true,
        Some(Ok(_)) => false,
        // The client has waited for those to appear.
        Some(Err(RequestError::UnknownTopic { .. } | RequestError::Exhausted { .. })) => false,
        Some(Err(error)) => error.class().is_retriable(),
    }
}
