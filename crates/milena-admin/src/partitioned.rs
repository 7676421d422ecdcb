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
    /// One result per question, in the order asked, also when several are about one partition. `build` makes the request
    /// for the partitions of one leader, `read` takes its answer apart.
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
        let mut results: Vec<Option<Result<T, RequestError>>> = asked.iter().map(|_| None).collect();
        let mut is_first = true;
        loop {
            let open: Vec<usize> = (0..asked.len()).filter(|place| is_open(results[*place].as_ref())).collect();
            if open.is_empty() || (!is_first && clock.now() + PAUSE >= deadline) {
                break;
            }
            if !is_first {
                tokio::time::sleep(PAUSE).await;
                self.client.refresh_metadata().await?;
            }
            is_first = false;
            for ((leader, _), places) in self.by_leader(asked, open, &mut results).await {
                let partitions: Vec<_> = places.iter().map(|place| &asked[*place]).collect();
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
                for place in places {
                    let (partition, _) = &asked[place];
                    let subject =
                        || format!("{doing} partition {} of topic `{}`", partition.partition, partition.topic);
                    let result = match (answers.remove(partition), &failed) {
                        (Some((code, value)), _) => {
                            code.ok().map(|()| value).map_err(|code| RequestError::from_code(subject(), code.0, None))
                        }
                        (None, Some(error)) => Err(error.clone()),
                        (None, None) => Err(unanswered(subject())),
                    };
                    results[place] = Some(result);
                }
            }
        }
        let answer = |((partition, _), result): (&(TopicPartition, Q), Option<_>)| {
            let late = || Err(unanswered(format!("{doing} partition {partition}")));
            (partition.clone(), result.unwrap_or_else(late))
        };
        Ok(asked.iter().zip(results).map(answer).collect())
    }

    /// Requests by leader, each a list of places in `asked`; partitions without a leader get their result at once.
    ///
    /// A partition asked about again goes into a further request: Kafka refuses one that names a partition twice, and
    /// its answers could not be told apart.
    async fn by_leader<Q, T>(
        &self,
        asked: &[(TopicPartition, Q)],
        open: Vec<usize>,
        results: &mut [Option<Result<T, RequestError>>],
    ) -> BTreeMap<(i32, usize), Vec<usize>> {
        let mut topics: BTreeMap<&str, Result<Vec<Partition>, RequestError>> = BTreeMap::new();
        let mut seen: BTreeMap<&TopicPartition, usize> = BTreeMap::new();
        let mut requests: BTreeMap<(i32, usize), Vec<usize>> = BTreeMap::new();
        for place in open {
            let (partition, _) = &asked[place];
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
                Ok(leader) => {
                    let again = seen.entry(partition).or_default();
                    requests.entry((leader, *again)).or_default().push(place);
                    *again += 1;
                }
                Err(error) => results[place] = Some(Err(error)),
            }
        }
        requests
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
