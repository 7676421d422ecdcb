//! Offsets by time, whoever leads: all leaders are asked at once, each with one request at a time, and what one answers
//! is told without waiting for another. What can be tried again is, until the api timeout.
//!
//! Starts no task: whoever waits for the next answer moves the requests along, and dropping the listing ends them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use milena_core::consumer::TopicPartition;
use milena_protocol::ApiKey;

use super::config::Isolation;
use super::offsets::{self, Answers, Listed};
use crate::BoxFuture;
use crate::client::ClientInner;
use crate::error::RequestError;

/// Partitions with where they were found, or with why they will not be.
type Found<T> = Vec<(TopicPartition, Result<T, RequestError>)>;

/// What one of the requests brought.
enum Answer {
    Listed { node: i32, targets: Vec<(TopicPartition, i64)>, answers: Result<Answers<Listed>, RequestError> },
    Topic { topic: Arc<str>, known: Result<(), RequestError> },
}

/// A partition that nobody is asked about now.
struct Waiting {
    timestamp: i64,
    /// Why it was not found so far.
    error: Option<RequestError>,
}

pub(super) struct Listing {
    client: Arc<ClientInner>,
    isolation: Isolation,
    begun: Instant,
    waiting: BTreeMap<TopicPartition, Waiting>,
    /// One for each leader that is asked and each topic that is looked up.
    asked: Vec<BoxFuture<'static, Answer>>,
    /// The leaders that are asked now.
    busy: BTreeSet<i32>,
    /// The topics that are looked up now.
    looked_up: BTreeSet<Arc<str>>,
    /// When those that wait are tried again; at once if it isn't said.
    retry_at: Option<Instant>,
    attempts: u32,
}

impl Listing {
    pub(super) fn new(client: Arc<ClientInner>, isolation: Isolation, targets: Vec<(TopicPartition, i64)>) -> Self {
        let wait = |(partition, timestamp)| (partition, Waiting { timestamp, error: None });
        Self {
            begun: client.clock.now(),
            client,
            isolation,
            waiting: targets.into_iter().map(wait).collect(),
            asked: Vec::new(),
            busy: BTreeSet::new(),
            looked_up: BTreeSet::new(),
            retry_at: None,
            attempts: 0,
        }
    }

    /// All that is found. A partition that its leader did not mention is left out.
    ///
    /// # Errors
    /// The first.
    pub(super) async fn all(mut self) -> Result<BTreeMap<TopicPartition, Listed>, RequestError> {
        let mut known = BTreeMap::new();
        while let Some(found) = self.next().await {
            for (partition, listed) in found {
                known.insert(partition, listed?);
            }
        }
        Ok(known)
    }

    /// What is known next; `None` when everything has been told. Nothing is lost when it is dropped.
    pub(super) async fn next(&mut self) -> Option<Found<Listed>> {
        loop {
            if self.retry_at.is_none() {
                let refused = self.ask();
                if !refused.is_empty() {
                    return Some(refused);
                }
            }
            if self.asked.is_empty() && self.waiting.is_empty() {
                return None;
            }
            let retry_at = self.retry_at;
            let retry = async {
                match retry_at {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                answer = first(&mut self.asked) => {
                    let found = self.take(answer);
                    if !found.is_empty() {
                        return Some(found);
                    }
                }
                () = retry => self.retry_at = None,
            }
        }
    }

    /// Asks every leader that has something to tell and isn't asked already. Returns those for which there is nobody.
    fn ask(&mut self) -> Found<Listed> {
        let snapshot = self.client.metadata.snapshot();
        let mut by_leader: BTreeMap<i32, Vec<(TopicPartition, i64)>> = BTreeMap::new();
        let mut unknown = BTreeSet::new();
        let mut refused = Vec::new();
        for (partition, waiting) in &mut self.waiting {
            if let Some((leader, _)) = snapshot.leader(&partition.topic, partition.partition) {
                by_leader.entry(leader).or_default().push((partition.clone(), waiting.timestamp));
                continue;
            }
            let topic = partition.topic.to_string();
            match snapshot.topic(&topic).filter(|known| known.error.is_ok() && !known.partitions.is_empty()) {
                None => {
                    unknown.insert(Arc::clone(&partition.topic));
                }
                Some(known) if known.partition(partition.partition).is_none() => {
                    let (partitions, index) = (known.partitions.len(), partition.partition);
                    let error = RequestError::UnknownPartition { topic, partition: index, partitions };
                    refused.push((partition.clone(), Err(error)));
                }
                Some(_) => {
                    waiting.error = Some(RequestError::NoLeader { topic, partition: partition.partition });
                    self.client.metadata.request_refresh();
                }
            }
        }
        for (partition, _) in &refused {
            self.waiting.remove(partition);
        }
        for topic in unknown {
            self.look_up(topic);
        }
        for (node, targets) in by_leader {
            if self.busy.insert(node) {
                self.ask_leader(node, targets);
            }
        }
        if !self.waiting.is_empty() {
            refused.extend(self.wait());
        }
        refused
    }

    fn ask_leader(&mut self, node: i32, targets: Vec<(TopicPartition, i64)>) {
        for (partition, _) in &targets {
            self.waiting.remove(partition);
            self.client.metadata.want(&partition.topic);
        }
        let (client, isolation) = (Arc::clone(&self.client), self.isolation);
        self.asked.push(Box::pin(async move {
            let answers = offsets::list(&client, node, isolation, targets.clone()).await;
            Answer::Listed { node, targets, answers }
        }));
    }

    fn look_up(&mut self, topic: Arc<str>) {
        if !self.looked_up.insert(Arc::clone(&topic)) {
            return;
        }
        let client = Arc::clone(&self.client);
        let left = client.config.api_timeout.saturating_sub(client.clock.now().saturating_duration_since(self.begun));
        self.asked.push(Box::pin(async move {
            let known = client.metadata.topic(&topic, left).await.map(drop);
            Answer::Topic { topic, known }
        }));
    }

    fn take(&mut self, answer: Answer) -> Found<Listed> {
        let (node, targets, answers) = match answer {
            Answer::Listed { node, targets, answers } => (node, targets, answers),
            Answer::Topic { topic, known } => {
                self.looked_up.remove(&topic);
                self.retry_at = None;
                let Err(error) = known else { return Vec::new() };
                let of_topic = self.waiting.extract_if(.., |partition, _| partition.topic == topic);
                return of_topic.map(|(partition, _)| (partition, Err(error.clone()))).collect();
            }
        };
        self.busy.remove(&node);
        let mut targets: BTreeMap<TopicPartition, i64> = targets.into_iter().collect();
        let mut found = Vec::new();
        let mut failed = Vec::new();
        match answers {
            Ok(answers) => {
                for (partition, answer) in answers {
                    let Some(timestamp) = targets.remove(&partition) else { continue };
                    match answer {
                        Ok(listed) => found.push((partition, Ok(listed))),
                        Err(error) => {
                            let error = RequestError::broker(format!("offsets of {partition}"), error, None);
                            failed.push((partition, timestamp, error));
                        }
                    }
                }
            }
            Err(error) => {
                let fail = |(partition, timestamp)| (partition, timestamp, error.clone());
                failed.extend(targets.into_iter().map(fail));
            }
        }
        for (partition, timestamp, error) in failed {
            if error.class().is_retriable() {
                self.waiting.insert(partition, Waiting { timestamp, error: Some(error) });
                self.client.metadata.request_refresh();
            } else {
                found.push((partition, Err(error)));
            }
        }
        if !self.waiting.is_empty() && self.retry_at.is_none() {
            found.extend(self.wait());
        }
        found
    }

    /// Lets what waits wait for the next attempt; when that would be too late, returns it.
    fn wait(&mut self) -> Found<Listed> {
        let limit = self.client.config.api_timeout;
        let backoff = self.client.retry_backoff();
        let at = self.client.clock.now() + self.client.chance.with(|rng| backoff.delay(self.attempts, rng));
        self.attempts += 1;
        if at < self.begun + limit {
            self.retry_at = Some(at);
            return Vec::new();
        }
        let (api, attempts) = (ApiKey::ListOffsets.name(), self.attempts);
        let exhausted = |(partition, waiting): (TopicPartition, Waiting)| {
            let (topic, index) = (partition.topic.to_string(), partition.partition);
            let error = waiting.error.unwrap_or(RequestError::NoLeader { topic, partition: index });
            let error = RequestError::Exhausted { api, timeout: limit, attempts, source: Box::new(error) };
            (partition, Err(error))
        };
        std::mem::take(&mut self.waiting).into_iter().map(exhausted).collect()
    }
}

/// The first of them to end; never if there is none.
async fn first(asked: &mut Vec<BoxFuture<'static, Answer>>) -> Answer {
    poll_fn(|context| {
        for index in 0..asked.len() {
            if let Poll::Ready(answer) = asked[index].as_mut().poll(context) {
                drop(asked.swap_remove(index));
                return Poll::Ready(answer);
            }
        }
        Poll::Pending
    })
    .await
}

/// Offsets that are looked for: [`Consumer::list_offsets`](super::Consumer::list_offsets). Dropping it ends that.
#[must_use = "nobody is asked before `next` is"]
pub struct OffsetListing(pub(super) Listing);

impl OffsetListing {
    /// The offsets that are known next, of one leader usually; `None` when everything has been told. A partition that its
    /// leader does not mention is left out. An error is the last word about its partition: what can be tried again is
    /// tried for `default.api.timeout.ms`.
    ///
    /// # Cancel safety
    /// Nothing is lost: what was asked goes on with the next call.
    pub async fn next(&mut self) -> Option<Vec<(TopicPartition, Result<i64, RequestError>)>> {
        let found = self.0.next().await?;
        Some(found.into_iter().map(|(partition, listed)| (partition, listed.map(|listed| listed.offset))).collect())
    }
}

impl fmt::Debug for OffsetListing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OffsetListing").field("asked", &self.0.asked.len()).finish_non_exhaustive()
    }
}
