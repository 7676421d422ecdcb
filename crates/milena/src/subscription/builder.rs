//! What can be said about a subscription before it begins, and the order in which it begins: names are checked, topics
//! and dead-letter topics are there, the starting position is committed, and only then does the consumer join.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, watch};

use super::consumer::subscribed_consumer;
use super::driver::{Driver, DriverSettings};
use super::engine::{Engine, EngineSettings, Order};
use super::handle::Subscription;
use super::status::{StopReason, SubscriptionState, SubscriptionStatus};
use super::workers::DeadLetterWriter;
use crate::bus::{Bus, Inner, SubscribeError, registry};
use crate::handler::{FromDelivery, IntoOutcome, Routes, UnknownTypes, catch_panic};
use crate::lanes::Budget;
use crate::policy::{DeadLetter, FailurePolicy, panic_message};
use crate::topic::{TopicDeclaration, check_topic_name};

/// Events that wait for a slow reader of a subscription's events before the oldest are missed.
const EVENT_BUFFER: usize = 1_024;
/// Commands that wait for the driver; more wait at the caller.
const COMMAND_BUFFER: usize = 16;

/// Where a group begins that has no committed offsets for a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StartAt {
    /// With the oldest event there is.
    #[default]
    Earliest,
    /// With the first event published after [`ready`](Subscription::ready) has resolved, at the latest. The end of each
    /// partition is committed before `ready` resolves, so a restart does not skip what came in between. Partitions added
    /// later begin with their oldest event.
    Latest,
}

/// A subscription that has not begun. Await it to begin.
#[must_use = "a subscription begins when it is awaited"]
pub struct Subscribe {
    bus: Bus,
    policy: FailurePolicy,
    routes: Routes,
    duplicate: Option<&'static str>,
    topics: Vec<TopicDeclaration>,
    group: Option<String>,
    start_at: StartAt,
    order: Order,
    concurrency: usize,
    records: usize,
    bytes: usize,
    commit_interval: Duration,
    commit_records: u64,
    revoke_timeout: Duration,
    settings: Vec<(String, String)>,
}

impl Subscribe {
    pub(crate) fn new(bus: Bus, policy: FailurePolicy) -> Self {
        Self {
            bus,
            policy,
            routes: Routes::default(),
            duplicate: None,
            topics: Vec::new(),
            group: None,
            start_at: StartAt::default(),
            order: Order::default(),
            concurrency: 256,
            records: 20_000,
            bytes: 64 << 20,
            commit_interval: Duration::from_millis(100),
            commit_records: 1_000,
            revoke_timeout: Duration::from_secs(30),
            settings: Vec::new(),
        }
    }

    /// Adds a handler for another event type, on its topic. Each event goes to the handler of its type; one of
    /// envelopes gets those that no other wants.
    pub fn on<A, F, Fut>(mut self, handler: F) -> Self
    where
        A: FromDelivery,
        F: Fn(A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoOutcome> + Send + 'static,
    {
        if let Err(event_type) = self.routes.add(handler) {
            self.duplicate = Some(event_type);
        }
        if let Some(topic) = A::declaration() {
            self.add_topic(topic);
        }
        self
    }

    /// Reads another topic too.
    pub fn topic(mut self, name: impl Into<String>) -> Self {
        self.add_topic(TopicDeclaration::new(name));
        self
    }

    fn add_topic(&mut self, topic: TopicDeclaration) {
        if !self.topics.iter().any(|known| known.name() == topic.name()) {
            self.topics.push(topic);
        }
    }

    /// Names the group. Subscriptions of one group share the events; `MILENA_GROUP` is used when none is named here.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Where the group begins when it has no committed offsets. Default: earliest.
    pub fn start_at(mut self, start_at: StartAt) -> Self {
        self.start_at = start_at;
        self
    }

    /// What stays in order. Default: the events of one aggregate.
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// What happens to events of a type that no handler wants. Default: they are passed over.
    pub fn unknown_types(mut self, unknown: UnknownTypes) -> Self {
        self.routes.unknown = unknown;
        self
    }

    /// How many handlers may run at once; 0 counts as 1. Default: 256.
    ///
    /// A handler of a partition that was lost counts until it ends, since it does use what the number is to bound: one
    /// that runs for long should heed its [`Cancellation`](crate::Cancellation).
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers.max(1);
        self
    }

    /// How much may be in memory: records, and their bytes. When either is used up, fetching pauses until half is free;
    /// heartbeats go on. It is one budget for all partitions together, and each of them may use up to all of it.
    /// Default: 20,000 records, 64 MiB.
    ///
    /// A partition is also paused when the records from its oldest unfinished one to its newest, finished ones included,
    /// are four times as many as `records`: a crash would handle them all again.
    pub fn budget(mut self, records: usize, bytes: usize) -> Self {
        self.records = records.max(1);
        self.bytes = bytes.max(1);
        self
    }

    /// How often handled events are committed: after `interval`, or as soon as `records` are handled. A crash handles
    /// again what was handled since the last commit. Default: 100 ms, 1,000 records.
    pub fn commit_every(mut self, interval: Duration, records: u64) -> Self {
        self.commit_interval = interval;
        self.commit_records = records.max(1);
        self
    }

    /// How long a rebalance waits at most for what was begun on partitions that are taken away. What is not finished
    /// by then is handled again by their next owner. Default: 30 s.
    pub fn revoke_timeout(mut self, limit: Duration) -> Self {
        self.revoke_timeout = limit;
        self
    }

    /// A setting of the consumer, by Kafka's name, such as `session.timeout.ms`. An unknown one is an error when the
    /// subscription begins, and so is one that the bus decides: `group.id`, `auto.offset.reset`, `isolation.level`.
    ///
    /// `partition.assignment.strategy` is `cooperative-sticky`, so that a rebalance stops only the partitions that move.
    /// An eager one keeps every promise as well, but stops all of them each time; members of a group must share one.
    pub fn set(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((key.into(), value.into()));
        self
    }

    async fn begin(self) -> Result<Subscription, SubscribeError> {
        if let Some(event_type) = self.duplicate {
            return Err(SubscribeError::DuplicateHandler { event_type });
        }
        let inner = Arc::clone(self.bus.inner());
        let group = self.group.clone().or_else(|| inner.settings.group.clone());
        let group: Arc<str> = group.filter(|group| !group.trim().is_empty()).ok_or(SubscribeError::NoGroup)?.into();
        if self.topics.is_empty() {
            return Err(SubscribeError::NoTopic);
        }
        let names = self.check_topics()?;
        let claim = inner.registry.claim(&group, &names).map_err(|refused| match refused {
            registry::Refused::Closed => SubscribeError::Closed,
            registry::Refused::Taken(topic) => SubscribeError::AlreadySubscribed { topic, group: group.to_string() },
        })?;

        for topic in &self.topics {
            inner.topics.ensure(topic).await?;
            if let Some(name) = self.policy.dead_letter_topic_of(topic.name()) {
                inner.topics.ensure_dead_letters(topic, name).await?;
            }
        }
        let late = match self.start_at {
            StartAt::Earliest => BTreeMap::new(),
            StartAt::Latest => inner.topics.commit_ends(&group, &names).await?,
        };

        let consumer = subscribed_consumer(&inner.client, &group, &names, &self.settings)?;
        let (commands, command_queue) = mpsc::channel(COMMAND_BUFFER);
        let events = broadcast::Sender::new(EVENT_BUFFER);
        let status = watch::Sender::new(SubscriptionStatus::default());
        let subscription =
            Subscription::new(Arc::clone(&group), names.clone(), commands, status.subscribe(), events.downgrade());
        let engine = Engine::new(
            self.engine_settings(&group),
            self.routes,
            dead_letter_writer(&inner),
            inner.client.time().clone(),
            inner.fork_rng(),
            events,
        );
        let settings = DriverSettings {
            bus: Arc::downgrade(&inner),
            group: group.to_string(),
            topics: names,
            commit_interval: self.commit_interval,
            commit_records: self.commit_records,
            revoke_timeout: self.revoke_timeout,
            late,
        };
        let driver = Driver::new(settings, inner.client.clone(), consumer, engine, command_queue, status.clone());
        tokio::spawn(supervise(Box::pin(driver.run()), status));
        match claim.fulfil(subscription.clone()) {
            Ok(()) => Ok(subscription),
            Err(subscription) => {
                let _ = subscription.close(Duration::from_secs(5)).await;
                Err(SubscribeError::Closed)
            }
        }
    }

    fn check_topics(&self) -> Result<Vec<String>, SubscribeError> {
        for topic in &self.topics {
            topic.check()?;
            let Some(dead_letters) = self.policy.dead_letter_topic_of(topic.name()) else { continue };
            check_topic_name(&dead_letters)?;
            if self.topics.iter().any(|read| read.name() == dead_letters) {
                return Err(SubscribeError::DeadLetterLoop { topic: dead_letters });
            }
        }
        Ok(self.topics.iter().map(|topic| topic.name().to_owned()).collect())
    }

    fn engine_settings(&self, group: &Arc<str>) -> EngineSettings {
        EngineSettings {
            group: Arc::clone(group),
            policy: self.policy.clone(),
            order: self.order,
            concurrency: self.concurrency,
            budget: Budget {
                records: self.records,
                bytes: self.bytes,
                // Finished records beyond a stuck one cost 8 bytes and a bit each, but a crash would replay them all.
                span: self.records.saturating_mul(4),
            },
            total_records: self.records,
            total_bytes: self.bytes,
        }
    }
}

impl IntoFuture for Subscribe {
    type Output = Result<Subscription, SubscribeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    /// Begins the subscription. It resolves when everything is in place for it; wait for
    /// [`ready`](Subscription::ready) to know that its partitions are assigned.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.begin())
    }
}

impl fmt::Debug for Subscribe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribe")
            .field("group", &self.group)
            .field("topics", &self.topics)
            .field("policy", &self.policy)
            .field("routes", &self.routes)
            .finish_non_exhaustive()
    }
}

/// Runs a driver to its end. One that panics must not leave its handles waiting, nor look as if it had closed.
async fn supervise(driver: Pin<Box<dyn Future<Output = ()> + Send>>, status: watch::Sender<SubscriptionStatus>) {
    if let Err(panic) = catch_panic(driver).await {
        let message = panic_message(panic.as_ref());
        tracing::error!(message, "the task of a subscription panicked");
        let state = SubscriptionState::Stopped(StopReason::Panicked { message });
        status
            .send_modify(|status| *status = SubscriptionStatus { state, counts: status.counts, ..Default::default() });
    }
}

/// Writes dead letters through the bus's producer for them.
fn dead_letter_writer(inner: &Inner) -> DeadLetterWriter {
    let dead_letters = Arc::clone(&inner.dead_letters);
    Arc::new(move |letter: DeadLetter| {
        let dead_letters = Arc::clone(&dead_letters);
        Box::pin(async move { dead_letters.write(letter).await })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscription::SubscriptionError;

    #[tokio::test]
    async fn a_driver_that_panics_has_stopped_and_is_never_complete() {
        let (commands, queue) = mpsc::channel(1);
        let status = watch::Sender::new(SubscriptionStatus::default());
        let events = broadcast::Sender::new(1);
        let handle = Subscription::new("workers".into(), Vec::new(), commands, status.subscribe(), events.downgrade());
        supervise(
            Box::pin(async move {
                let _owned = queue;
                panic!("boom");
            }),
            status,
        )
        .await;
        let reason = StopReason::Panicked { message: "boom".to_owned() };
        assert_eq!(handle.status().state, SubscriptionState::Stopped(reason.clone()));
        assert_eq!(handle.ready().await, Err(SubscriptionError::Stopped(reason)));
        let report = handle.close(Duration::from_secs(5)).await;
        assert_eq!((report.unclosed, report.is_complete()), (1, false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_driver_that_does_not_answer_holds_a_close_up_no_longer_than_its_deadline() {
        let (commands, _queue) = mpsc::channel(1);
        let status = watch::Sender::new(SubscriptionStatus::default());
        let events = broadcast::Sender::new(1);
        let handle = Subscription::new("workers".into(), Vec::new(), commands, status.subscribe(), events.downgrade());
        let report = tokio::time::timeout(Duration::from_secs(6), handle.close(Duration::from_secs(5))).await;
        assert_eq!(report.map(|report| report.unclosed), Ok(1));
    }
}
