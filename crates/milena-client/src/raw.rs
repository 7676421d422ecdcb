//! Requests of Kafka's protocol as they are: routed, versioned and retried, but not interpreted. For administration
//! and tests. Exempt from semantic versioning, since it shows protocol messages.

use std::time::{Duration, Instant};

use milena_net::{Broker, Purpose};
use milena_protocol::{ErrorCode, Request};
use tokio::time::{sleep, timeout};

use crate::client::Client;
use crate::error::RequestError;

/// Which broker a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// Any broker: the least loaded one.
    Any,
    /// The broker that stands for the controller.
    Controller,
    /// A broker by node id.
    Node(i32),
    /// The leader of a partition.
    Leader {
        /// Its topic.
        topic: String,
        /// Its index.
        partition: i32,
    },
    /// The coordinator of a group.
    GroupCoordinator(String),
    /// The coordinator of a transactional id.
    TransactionCoordinator(String),
}

/// Sends raw requests.
#[derive(Debug, Clone)]
pub struct RawClient {
    client: Client,
    timeout: Duration,
}

impl RawClient {
    pub(crate) fn new(client: Client) -> Self {
        let timeout = client.config().api_timeout;
        Self { client, timeout }
    }

    /// With another limit than `default.api.timeout.ms`.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The limit of one operation with all its retries.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Sends a request and returns the broker's answer, whatever error codes it carries. What fails on the way is
    /// tried again, at another broker where that makes sense.
    ///
    /// # Errors
    /// [`RequestError`], within the limit.
    ///
    /// # Cancel safety
    /// The broker may still act on the request.
    pub async fn send<R: Request>(&self, target: Target, request: R) -> Result<R::Response, RequestError> {
        self.send_checked(target, request, |_| ErrorCode::NONE).await
    }

    /// As [`Self::send`]; `error_of` says which error an answer carries as a whole, and a retriable one is tried again
    /// after a new look at the metadata or the coordinator. At the limit the last answer is returned as it is.
    ///
    /// # Errors
    /// As [`Self::send`].
    ///
    /// # Cancel safety
    /// As [`Self::send`].
    pub async fn send_checked<R: Request>(
        &self,
        target: Target,
        request: R,
        error_of: impl Fn(&R::Response) -> ErrorCode,
    ) -> Result<R::Response, RequestError> {
        self.send_versioned(target, i16::MAX, |_| request.clone(), |_, response| error_of(response)).await
    }

    /// As [`Self::send_checked`], for requests whose shape depends on their version: `build` makes one for the version
    /// that the broker at hand and we speak, at most `max_version`. `error_of` is told that version too.
    ///
    /// # Errors
    /// As [`Self::send`].
    ///
    /// # Cancel safety
    /// As [`Self::send`].
    pub async fn send_versioned<R: Request>(
        &self,
        target: Target,
        max_version: i16,
        build: impl Fn(i16) -> R,
        error_of: impl Fn(i16, &R::Response) -> ErrorCode,
    ) -> Result<R::Response, RequestError> {
        let inner = self.client.inner();
        let start = inner.clock.now();
        let backoff = inner.retry_backoff();
        let mut attempts = 0;
        loop {
            let failed = match self.attempt(&target, self.left(start), max_version, &build, &error_of).await {
                Attempt::Answered(response) => return Ok(response),
                Attempt::Failed(error) if !is_worth_a_retry(&error) => return Err(error),
                failed => failed,
            };
            let wait = inner.chance.with(|rng| backoff.delay(attempts, rng));
            attempts += 1;
            if wait < self.left(start) {
                sleep(wait).await;
                continue;
            }
            return match failed {
                Attempt::Answered(response) | Attempt::Refused(response) => Ok(response),
                Attempt::Failed(source) => {
                    let (api, timeout, source) = (R::API_KEY.name(), self.timeout, Box::new(source));
                    Err(RequestError::Exhausted { api, timeout, attempts, source })
                }
            };
        }
    }

    fn left(&self, start: Instant) -> Duration {
        self.timeout.saturating_sub(self.client.inner().clock.now().saturating_duration_since(start))
    }

    async fn attempt<R: Request>(
        &self,
        target: &Target,
        limit: Duration,
        max_version: i16,
        build: &impl Fn(i16) -> R,
        error_of: &impl Fn(i16, &R::Response) -> ErrorCode,
    ) -> Attempt<R::Response> {
        let inner = self.client.inner();
        let mut broker = None;
        match self.exchange(target, limit, max_version, build, &mut broker).await {
            Ok((version, response)) if error_of(version, &response).is_retriable() => {
                inner.reconsider(target, broker.as_ref());
                Attempt::Refused(response)
            }
            Ok((_, response)) => Attempt::Answered(response),
            Err(error) => {
                inner.reconsider(target, broker.as_ref());
                Attempt::Failed(error)
            }
        }
    }

    /// Routes, connects, asks; notes in `chosen` whom it asked.
    async fn exchange<R: Request>(
        &self,
        target: &Target,
        limit: Duration,
        max_version: i16,
        build: &impl Fn(i16) -> R,
        chosen: &mut Option<Broker>,
    ) -> Result<(i16, R::Response), RequestError> {
        let inner = self.client.inner();
        let start = inner.clock.now();
        let left = || limit.saturating_sub(inner.clock.now().saturating_duration_since(start));
        let broker = inner.route(target, limit).await?;
        let broker = &*chosen.insert(broker);
        // Not the group's connection: a JoinGroup holds up whatever follows it there.
        let wait = left();
        let connection = match timeout(wait, inner.pool.get(broker, Purpose::General)).await {
            Ok(connection) => connection?,
            Err(_) => return Err(inner.metadata.no_connection(broker, wait)),
        };
        let Some(version) = connection.versions().highest_up_to(R::API_KEY, max_version) else {
            let (address, api) = (connection.address().to_string(), R::API_KEY.name());
            return Err(RequestError::UnsupportedVersion { address, api });
        };
        let wait = left().min(inner.config.request_timeout);
        Ok((version, connection.request(&build(version), Some(version), wait).await?))
    }
}

enum Attempt<T> {
    /// An answer, without an error that a retry could mend.
    Answered(T),
    /// An answer with such an error.
    Refused(T),
    /// No answer.
    Failed(RequestError),
}

/// What a broken connection, an absent leader or a coordinator on the move says is not the last word.
fn is_worth_a_retry(error: &RequestError) -> bool {
    match error {
        // The metadata has already waited for it to appear.
        RequestError::UnknownTopic { .. } | RequestError::Exhausted { .. } => false,
        error => error.class().is_retriable(),
    }
}
